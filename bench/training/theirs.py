"""A training step as one writes it with diffusers: its UNetMotionModel, its noise schedule, peft, torch's AdamW.

Frozen weights are kept in the type that is computed in, trained ones in float32 under autocast, as diffusers' own
training scripts keep them. Imports ComfyUI: open it first.
"""

from collections.abc import Mapping
from typing import Any

import comfy.utils
import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from ...host.training import TYPES
from ...host.training_base import TrainingBase
from ...sampling.beta_schedules import BETA_SCHEDULES
from ...training.batches import Batch, stacked_states
from ...training.settings import TrainingSettings
from ..random_models import topology
from ..settings import Settings
from .diffusers_names import base_names, motion_lora_names, motion_names
from .ours import loop_settings
from .settings import RANK, Case, TrainingCostSettings
from .weights import device_of, motion_lora_tensors, motion_tensors, num_positions

NUM_HEADS = 8
"""Of SD 1.5's spatial attentions and of every motion module."""
LORA_TARGETS = r".*motion_modules\..*\.attn[12]\.to_(q|k|v|out\.0)"


class DiffusersTrainer:
    """Model, optimizer and batch of a plain loop."""

    def __init__(self, base: TrainingBase, batch: Batch, case: Case, settings: TrainingCostSettings):
        self._precision = TYPES[settings.precision]
        self._unet = diffusers_unet(base, settings.clip, case.stage, self._precision)
        if case.checkpointing:
            self._unet.enable_gradient_checkpointing()
        self._latents = as_clips(batch.latents, batch.num_frames)
        self._noise = as_clips(batch.noise, batch.num_frames)
        self._timesteps, self._num_frames = batch.timesteps, batch.num_frames
        self._states = stacked_states(batch.conditioning.texts).to(self._precision)
        self._schedule = noise_schedule()
        self._settings = loop_settings(case, settings)
        self.parameters = [weight for weight in self._unet.parameters() if weight.requires_grad]
        self._optimizer = adamw(self.parameters, self._settings)

    def step(self) -> Tensor:
        """The loss of a whole training step."""
        loss = self._loss()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self._settings.gradient_clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def loss_and_gradient(self) -> tuple[float, float]:
        """Loss and gradient norm; the weights stay as they are."""
        loss = self._loss()
        loss.backward()
        norm = nn.utils.get_total_norm([weight.grad for weight in self.parameters if weight.grad is not None])
        self._optimizer.zero_grad(set_to_none=True)
        return float(loss.detach()), float(norm)

    def _loss(self) -> Tensor:
        noisy = self._schedule.add_noise(self._latents, self._noise, self._timesteps).to(self._precision)
        states = self._states.repeat_interleave(self._num_frames, dim=0)
        with torch.autocast(noisy.device.type, self._precision, enabled=self._precision != torch.float32):
            predicted = self._unet(noisy, self._timesteps, states).sample
        return F.mse_loss(predicted.float(), self._noise)


def as_clips(frames: Tensor, num_frames: int) -> Tensor:
    """Shapes: `(b f) c h w` -> `b c f h w`."""
    return frames.unflatten(0, (-1, num_frames)).transpose(1, 2).contiguous()


def adamw(parameters: list[nn.Parameter], settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW, fused, with torch's usual moments, which are AnimateDiff's too."""
    return torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def noise_schedule() -> Any:
    """Diffusers' name for AnimateDiff's noise schedule, whose betas lie evenly, is `linear`."""
    motion = BETA_SCHEDULES["animatediff"]
    return DDPMScheduler(beta_start=motion.first, beta_end=motion.last, beta_schedule="linear")


def diffusers_unet(base: TrainingBase, clip: Settings, stage: int, precision: torch.dtype) -> Any:
    """Their UNet around the frozen weights of our base, with motion modules or adapters of its own to train."""
    unet = _empty_unet(clip)
    kept = device_of(base), torch.float32 if stage == 2 else precision
    motion = {name: tensor.to(*kept) for name, tensor in motion_names(motion_tensors(clip)).items()}
    unet.load_state_dict({**_frozen_tensors(base), **motion}, assign=True)
    unet.requires_grad_(False)
    if stage == 2:
        _train(unet, motion)
    else:
        _add_adapters(unet, motion_lora_names(motion_lora_tensors(clip)))
    return unet.train()


def _frozen_tensors(base: TrainingBase) -> dict[str, Tensor]:
    """The base's own tensors, not copies, so that the machine holds the base once."""
    config = base.patcher.model.model_config.unet_config
    return base_names(base.unet.state_dict(), comfy.utils.unet_to_diffusers(config))


def _empty_unet(clip: Settings) -> Any:
    size = topology(clip)
    with torch.device("meta"):
        return UNetMotionModel(
            block_out_channels=size.channels,
            cross_attention_dim=size.context_width,
            num_attention_heads=NUM_HEADS,
            motion_num_attention_heads=NUM_HEADS,
            motion_max_seq_length=num_positions(clip),
            use_motion_mid_block=False,
        )


def _train(unet: nn.Module, motion: Mapping[str, Tensor]) -> None:
    for name, weight in unet.named_parameters():
        weight.requires_grad_(name in motion)


@torch.no_grad()
def _add_adapters(unet: Any, factors: Mapping[str, Tensor]) -> None:
    """Low-rank adapters in every temporal attention, with these factors."""
    from peft import LoraConfig  # stage 2 is measured without it

    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LORA_TARGETS))
    weights = dict(unet.named_parameters())
    for name, factor in factors.items():
        weights[name].copy_(factor)
