"""MotionGraft's training step, carried out by its own loop. Imports ComfyUI: open it first."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ...host.stages import Prepared, prepare_motion_lora, prepare_motion_module, shape_of
from ...host.training import TYPES
from ...host.training_base import TrainingBase
from ...lora.adapters import LowRankAdapters
from ...lora.motion_lora import MotionLoRA
from ...motion_modules.keys import fuse_qkv
from ...motion_modules.module import MotionModule
from ...training.batches import Batch
from ...training.loop import TrainingLoop
from ...training.progress import StepReport, ValidationReport
from ...training.settings import TrainingSettings
from ...training.stages import new_motion_module
from ..random_models import SEED
from .clips import ClipsOnDevice
from .settings import OURS, RANK, Case, TrainingCostSettings
from .weights import motion_lora, motion_tensors

LAYOUT = "v3"


class OurTrainer:
    """A training loop that was never started, and takes one step after the other when asked."""

    def __init__(self, base: TrainingBase, batch: Batch, case: Case, settings: TrainingCostSettings):
        self._module = new_motion_module(shape_of(base), LAYOUT, settings.clip.frames, SEED)
        self._module.load_state_dict(fuse_qkv(motion_tensors(settings.clip)))
        trainee, denoiser = _prepared(base, self._module, case, settings)
        denoiser.checkpointing = case.checkpointing
        clips, run = cast(Any, ClipsOnDevice(batch)), cast(Any, None)
        self._draws = clips.draws(0)
        self._loop = TrainingLoop(denoiser, trainee, clips, loop_settings(case, settings), run, Silence())
        self.parameters = list(self._loop.parameters.values())

    def step(self) -> Tensor:
        """The loss of a whole training step."""
        loss, _ = self._loop._update(self._draws, self._loop.settings.learning_rate)
        return torch.tensor(loss)

    def loss_and_gradient(self) -> tuple[float, float]:
        """Loss and gradient norm, with the motion module's norms taken over all frames, as diffusers takes them."""
        with norms_over_frames(self._module):
            loss = self._loop._backward(self._draws)
        norm = torch.nn.utils.get_total_norm([cast(Tensor, weight.grad) for weight in self.parameters])
        self._loop.optimizer.zero_grad(set_to_none=True)
        return loss, float(norm)


class Silence:
    """An observer that watches nothing."""

    def check_cancelled(self) -> None: ...

    def on_step(self, report: StepReport) -> None: ...

    def on_validation(self, report: ValidationReport) -> None: ...

    def on_sample(self, latents: Tensor, step: int, folder: Path) -> None: ...

    def say(self, text: str) -> None: ...


def loop_settings(case: Case, settings: TrainingCostSettings) -> TrainingSettings:
    """Steps and nothing between them."""
    return TrainingSettings(
        batch_size=case.batch,
        precision=settings.precision,
        checkpointing="on" if case.checkpointing else "off",
        validate_every=0,
        save_every=0,
        sample_every=0,
    )


@contextmanager
def norms_over_frames(module: MotionModule) -> Iterator[None]:
    """Within it, a motion module's GroupNorms take their statistics over all frames of each clip."""
    transformers = [module.at(address) for address, _ in module.spec.sites()]
    before = [transformer.norm_over_frames for transformer in transformers]
    for transformer in transformers:
        transformer.norm_over_frames = True
    try:
        yield
    finally:
        for transformer, was_over_frames in zip(transformers, before, strict=True):
            transformer.norm_over_frames = was_over_frames


def _prepared(base: TrainingBase, module: MotionModule, case: Case, settings: TrainingCostSettings) -> Prepared:
    precision = TYPES[settings.precision]
    if case.stage == 2:
        return prepare_motion_module(base, precision, module, OURS)
    trainee, denoiser = prepare_motion_lora(base, precision, module, OURS, RANK, SEED)
    _fill(cast(LowRankAdapters, trainee.module), motion_lora(settings.clip))
    return trainee, denoiser


@torch.no_grad()
def _fill(adapters: LowRankAdapters, lora: MotionLoRA) -> None:
    for change in lora.changes:
        adapter: Any = adapters.adapters[adapters.targets.index(change.target)]
        part = (change.first_row or 0) // change.num_rows
        adapter.down[part].copy_(change.down)
        adapter.up[part].copy_(change.up)
