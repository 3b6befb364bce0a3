"""The same random weights for both sides, each side with tensors of its own. Imports ComfyUI: open it first."""

from pathlib import Path

import torch
from torch import Tensor

from ...core.tensor_files import TensorFile
from ...host.training import TYPES
from ...host.training_base import TrainingBase, place_on_device
from ...lora.motion_lora import MotionLoRA, read_motion_lora
from ...tests.tiny_sd_pack.motion_weights import add_motion_lora, add_motion_modules
from ...tests.tiny_sd_pack.random_weights import RandomWeights
from ...training.stages import NUM_POSITIONS
from ..random_models import SEED, random_base, topology
from ..settings import Settings
from .settings import RANK, TrainingCostSettings


def frozen_base(settings: TrainingCostSettings) -> TrainingBase:
    """The base model as a training run freezes and places it. Nobody else's model, it need not be copied first."""
    base = TrainingBase(random_base(settings.clip), "random", None)
    place_on_device(base, TYPES[settings.precision])
    return base


def num_positions(clip: Settings) -> int:
    """Length of the position tables."""
    return max(NUM_POSITIONS, clip.frames)


def motion_tensors(clip: Settings) -> dict[str, Tensor]:
    """A motion module in the v3 layout, under the published names."""
    weights = RandomWeights(SEED + 1)
    add_motion_modules(weights, topology(clip).channels, num_positions(clip), middle=False)
    return weights.tensors


def motion_lora_tensors(clip: Settings) -> dict[str, Tensor]:
    """A MotionLoRA for it, under the published names. Both factors are random, so that neither gradient is zero."""
    weights = RandomWeights(SEED + 2)
    add_motion_lora(weights, topology(clip).channels, RANK, middle=False)
    return weights.tensors


def motion_lora(clip: Settings) -> MotionLoRA:
    """The same MotionLoRA, read as its file would be."""
    return read_motion_lora(TensorFile(Path("random"), motion_lora_tensors(clip)))


def device_of(base: TrainingBase) -> torch.device:
    """Where both sides train."""
    return base.patcher.load_device
