"""Motion modules as ComfyUI's own model patchers, so that it loads, offloads, casts and patches them."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor, nn

from ..core.tensor_files import TensorFile, read_tensor_file
from ..lora.low_rank import LowRank
from ..motion_modules.generations import AUTO
from ..motion_modules.load import build, log_identity, read_motion_file
from ..motion_modules.spec import MotionModuleSpec
from ..sampling.percent_schedule import PercentSchedule

APPLIED = "applied"
"""The entry of a loaded module's metadata that lists the MotionLoRAs in its patches."""


@dataclass(frozen=True)
class ScheduledLoRA:
    """Changes of a motion module, each with its own strength, and all with one that depends on the step."""

    name: str
    changes: tuple[tuple[LowRank, float], ...]
    schedule: PercentSchedule


@dataclass(frozen=True)
class LoadedMotionModule:
    """What travels on MOTION_MODULE. ComfyUI's caches see its memory through `patcher`."""

    patcher: comfy.model_patcher.ModelPatcher
    name: str
    metadata: Mapping[str, Any] = field(default_factory=lambda: {}, compare=False)
    """What the file says about itself, and the MotionLoRAs that were applied since."""
    scheduled: tuple["ScheduledLoRA", ...] = ()
    """MotionLoRAs whose strength depends on the step, and which are no patches therefore."""
    image: Any = None
    """The ConditionImage that it animates; only a module with an input for one has it."""

    @property
    def spec(self) -> MotionModuleSpec:
        return self.patcher.model.spec

    def with_own_weights(self) -> "LoadedMotionModule":
        """The same module on a copy of the weights, with the same patches."""
        patcher = self.patcher.clone(force_deepcopy=True)
        patcher.clone_base_uuid = uuid.uuid4()  # by which ComfyUI tells models apart on several GPUs
        return replace(self, patcher=patcher)


def load_motion_module(path: Path, generation: str = AUTO) -> LoadedMotionModule:
    """The motion module of a file, ready for ComfyUI to load. `generation` overrules what the file shows.

    Raises: CheckpointError if the file is not a whole, sound motion module; SettingsError if it cannot be of the
    generation.
    """
    file = read_tensor_file(path)
    said = {key: value for key, value in file.metadata.items() if key != APPLIED}  # nothing is applied yet
    return LoadedMotionModule(_patcher_of(file, generation), file.name, said)


def create_patcher(path: str, generation: str, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """A fresh patcher around a file's weights; ComfyUI calls this again for copies on other devices."""
    return _patcher_of(read_tensor_file(Path(path)), generation, disable_dynamic)


def _patcher_of(file: TensorFile, generation: str, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    motion = read_motion_file(file, generation)
    log_identity(motion)
    dtype = _best_dtype(motion.tensors)
    module = build(motion.spec, motion.tensors, file.name, comfy.ops.manual_cast, dtype)
    patcher = patcher_around(module, disable_dynamic)
    patcher.cached_patcher_init = (create_patcher, (str(file.path), generation))
    return patcher


def patcher_around(module: nn.Module, disable_dynamic: bool) -> comfy.model_patcher.ModelPatcher:
    """A module of ours as a model of ComfyUI's, frozen."""
    module.requires_grad_(False).eval()
    comfy.model_management.archive_model_dtypes(module)
    # Read at call time: ComfyUI rebinds CoreModelPatcher when it turns dynamic memory on.
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    return patcher_class(
        module,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def _best_dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The type that ComfyUI would choose for a UNet of this size."""
    num_parameters = sum(tensor.numel() for tensor in tensors.values())
    choices = [torch.float16, torch.bfloat16, torch.float32]
    chosen = comfy.model_management.unet_dtype(model_params=num_parameters, supported_dtypes=choices)
    # An option of ComfyUI for large models may ask for 8 bits; motion weights are small, and norms need more.
    return chosen if chosen in choices else torch.float16
