"""The three stages, for any host: which weights each trains, on which noise schedule, and what is published of them.

A host brings its own base model: the widths of its levels, and its linear layers by published name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..core import file_kinds
from ..core.errors import SettingsError
from ..lora.adapters import LowRankAdapters, low_rank_changes
from ..lora.motion_lora import MotionLoRA
from ..lora.saved_forms import domain_adapter_tensors, motion_lora_tensors
from ..motion_modules.keys import published
from ..motion_modules.module import MotionModule
from ..motion_modules.spec import MotionModuleSpec
from ..sampling.beta_schedules import BETA_SCHEDULES, BetaSchedule
from .noise_schedule import signal_shares
from .trainee import DOMAIN_ADAPTER, MOTION_LORA, MOTION_MODULE, Trainee

LAYOUTS = ("v3", "v2")
NUM_POSITIONS = 32
"""Source: guoyww/AnimateDiff configs/inference/inference-v2.yaml, `temporal_position_encoding_max_len`."""
SDXL = "SDXL"


@dataclass(frozen=True)
class BaseShape:
    """What a stage must know of a base model."""

    family: str
    """`SD 1.5` or `SDXL`."""
    channels: tuple[int, ...]
    """Width at each level of the UNet's down path."""


def new_motion_module(base: BaseShape, layout: str, trained_frames: int, seed: int) -> MotionModule:
    """A motion module for a base that adds nothing yet. SDXL's takes its own norm over all frames, as published.

    Source: arXiv 2307.04725 section 4.2 (zero output); guoyww/AnimateDiff, branch `sdxl`, for SDXL's norm and schedule.
    """
    is_sdxl = base.family == SDXL
    spec = MotionModuleSpec(
        generation="sdxl-beta" if is_sdxl else layout,
        down_channels=base.channels,
        up_channels=base.channels[::-1],
        middle_channels=base.channels[-1] if layout == "v2" else None,
        num_positions=max(NUM_POSITIONS, trained_frames),
        trained_frames=trained_frames,
        beta_schedule="sdxl-beta" if is_sdxl else "animatediff",
        motion_norm_over_frames=is_sdxl,
    )
    random = cast(Any, torch.random)
    with random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone; a GPU's goes on as it was
        module = MotionModule(spec)
    module.zero_outputs()
    return module


def domain_adapter_trainee(
    base: BaseShape, shares: Tensor, layers: Mapping[str, nn.Module], rank: int, seed: int
) -> Trainee:
    """Stage 1: low-rank changes of every self- and cross-attention of the base, on the base's own noise schedule.

    `layers` are the base's linear layers by published stem, such as
    `down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q`, all on the device of the run.
    Source: arXiv 2307.04725 section 4.1.
    """
    adapters = LowRankAdapters(layers, {}, rank, seed)
    stems = {stem: stem for stem in layers}
    return Trainee(
        DOMAIN_ADAPTER,
        adapters,
        shares,
        lambda weights: domain_adapter_tensors(low_rank_changes(adapters.targets, weights), stems),
        {"kind": file_kinds.DOMAIN_ADAPTER.name, "base": base.family, "rank": rank},
        single_frames=True,
    )


def motion_module_trainee(base: BaseShape, module: MotionModule, shares: Tensor | None = None) -> Trainee:
    """Stage 2: all weights of the motion module, on the motion schedule. Source: arXiv 2307.04725 section 4.2.

    `shares` are those of a base that changes the schedule, as one with zero terminal SNR.
    """
    module.requires_grad_(True)
    positions = {name: table.cpu() for name, table in module.named_buffers()}
    return Trainee(
        MOTION_MODULE,
        module,
        motion_shares(module.spec) if shares is None else shares,
        lambda weights: published({**positions, **weights}),
        {"kind": file_kinds.MOTION_MODULE.name, "base": base.family, "spec": asdict(module.spec)},
    )


def motion_lora_trainee(
    base: BaseShape, module: MotionModule, rank: int, seed: int, shares: Tensor | None = None
) -> Trainee:
    """Stage 3: low-rank changes of the motion module's attentions, the module itself frozen. `shares` as in stage 2.

    Source: arXiv 2307.04725 section 4.3.
    """
    module.requires_grad_(False)
    named: Iterable[tuple[str, nn.Module]] = cast(Any, module).named_modules()
    layers = {f"{name}.weight": layer for name, layer in named if _is_attention(name)}
    parts = {name: 3 for name in layers if name.endswith(".to_qkv.weight")}
    adapters = LowRankAdapters(layers, parts, rank, seed)

    def publish(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return motion_lora_tensors(MotionLoRA("trained", tuple(low_rank_changes(adapters.targets, weights))))

    metadata = {"kind": file_kinds.MOTION_LORA.name, "base": base.family, "rank": rank}
    return Trainee(MOTION_LORA, adapters, motion_shares(module.spec) if shares is None else shares, publish, metadata)


def motion_shares(spec: MotionModuleSpec) -> Tensor:
    """ᾱ by timestep of the schedule that a motion module is trained on. Raises: as `schedule_of` does."""
    return signal_shares(schedule_of(spec))


def schedule_of(spec: MotionModuleSpec) -> BetaSchedule:
    """The schedule that a motion module is trained on. Raises: SettingsError if its file names an unknown one."""
    schedule = BETA_SCHEDULES.get(spec.beta_schedule)
    if schedule is None:
        raise SettingsError(
            f"the motion module names the noise schedule {spec.beta_schedule}; known are {', '.join(BETA_SCHEDULES)}. "
            "It comes from a newer MotionGraft, or its metadata was edited: get the file again."
        )
    return schedule


def _is_attention(name: str) -> bool:
    return ".attention_blocks." in name and name.endswith((".to_qkv", ".to_out.0"))
