"""Motion modules as ComfyUI's own model patchers, so that it loads, offloads, casts and patches them."""

from dataclasses import dataclass, replace
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor

from ..core.tensor_files import read_tensor_file
from ..motion_modules.load import build, motion_tensors, read_spec
from ..motion_modules.spec import MotionModuleSpec


@dataclass(frozen=True)
class LoadedMotionModule:
    """What travels on MOTION_MODULE. ComfyUI's caches see its memory through `patcher`."""

    patcher: comfy.model_patcher.ModelPatcher
    name: str

    @property
    def spec(self) -> MotionModuleSpec:
        return self.patcher.model.spec

    def with_own_weights(self) -> "LoadedMotionModule":
        """The same module on a copy of the weights, with the same patches."""
        return replace(self, patcher=self.patcher.clone(force_deepcopy=True))


def load_motion_module(path: Path) -> LoadedMotionModule:
    """The motion module of a file, ready for ComfyUI to load.

    Raises: CheckpointError if the file is not a whole, sound motion module.
    """
    return LoadedMotionModule(create_patcher(str(path)), path.name)


def create_patcher(path: str, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """A fresh patcher around a file's weights; ComfyUI calls this again for copies on other devices."""
    file = read_tensor_file(Path(path))
    tensors = motion_tensors(file)
    spec = read_spec(tensors, file.metadata, file.name)
    module = build(spec, _in_best_dtype(tensors), file.name, comfy.ops.manual_cast)
    module.requires_grad_(False).eval()
    comfy.model_management.archive_model_dtypes(module)
    # Read at call time: ComfyUI rebinds CoreModelPatcher when it turns dynamic memory on.
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = patcher_class(
        module,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    patcher.cached_patcher_init = (create_patcher, (path,))
    return patcher


def _in_best_dtype(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights in the type that ComfyUI would choose for a UNet of this size; position tables as they are."""
    num_parameters = sum(tensor.numel() for tensor in tensors.values())
    dtype = comfy.model_management.unet_dtype(
        model_params=num_parameters, supported_dtypes=[torch.float16, torch.bfloat16, torch.float32]
    )
    return {name: tensor if name.endswith(".pe") else tensor.to(dtype) for name, tensor in tensors.items()}
