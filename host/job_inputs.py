"""What a run was given, written into its folder, so that it can go on where there is no graph and no ComfyUI."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import CheckpointError, IncompatibleModelError
from ..core.file_kinds import DOMAIN_ADAPTER as ADAPTER_KIND
from ..core.file_kinds import UNET
from ..core.shard_files import ShardFile
from ..core.tensor_files import write_tensor_file
from ..lora.saved_forms import domain_adapter_form
from ..motion_modules.keys import published
from ..motion_modules.load import saved_form
from ..training.cache.clip_identity import ContentDigests
from ..training.runs.disk_space import check_free_space, write_errors_in_words
from ..training.runs.durable_files import flush_file
from ..training.runs.job_files import (
    BASE,
    DOMAIN_ADAPTER,
    MOTION_MODULE,
    NOISE_SCHEDULE,
    file_record,
    input_path,
)
from ..training.runs.run_folder import RunFolder
from .denoiser import ComfyDenoiser
from .motion_modules import LoadedMotionModule
from .saving import baked_weights
from .training_base import TrainingBase, prediction_of, with_adapter

Content = tuple[Mapping[str, Tensor], Mapping[str, Any]]
UNET_PREFIX, CHECKPOINT_PREFIX = "diffusion_model.", "model.diffusion_model."
"""Of the UNet's weights in a loaded model, and in a checkpoint. Source: comfy/supported_models_base.py."""
FIRST_LAYER = "input_blocks.0.0.weight"


@dataclass(frozen=True)
class JobInputs:
    """What a stage is trained with, besides clips and settings."""

    base: TrainingBase
    """Before the domain adapter is applied."""
    motion: LoadedMotionModule | None = None
    adapter: Mapping[str, Tensor] | None = None

    @property
    def paths(self) -> dict[str, str | None]:
        """Where each lies, as job.json says it: the base where ComfyUI found it, if that file is all there is to it."""
        base = self.base.path if self._base_is_its_file else input_path(BASE)
        return {BASE: base} | {
            name: input_path(name) if name in self._contents else None
            for name in (NOISE_SCHEDULE, MOTION_MODULE, DOMAIN_ADAPTER)
        }

    def write(self, run: RunFolder) -> None:
        """Write what is not in the run's folder yet, and record sizes and hashes in its job.

        Raises: RunError if the disk does not take it.
        """
        digests = ContentDigests(run.path)
        files = {name: self._written(run, name, make, digests) for name, make in self._contents.items()}
        if self._base_is_its_file:
            files[BASE] = file_record(Path(str(self.base.path)), digests)
        run.record_files(files)

    @property
    def _contents(self) -> dict[str, Callable[[], Content]]:
        """What has to be written, by name, made when it is."""
        contents: dict[str, Callable[[], Content]] = {NOISE_SCHEDULE: self._noise_schedule}
        if not self._base_is_its_file:
            contents[BASE] = self._base
        if self.motion is not None:
            contents[MOTION_MODULE] = partial(_module, self.motion)
        if self._published_adapter is not None:
            contents[DOMAIN_ADAPTER] = lambda: (self._published_adapter or {}, {"kind": ADAPTER_KIND.name})
        return contents

    @property
    def _base_is_its_file(self) -> bool:
        patcher = self.base.patcher
        is_plain = not patcher.patches and not patcher.weight_wrapper_patches
        has_adapter_in_it = self.adapter is not None and self._published_adapter is None
        return is_plain and not has_adapter_in_it and _holds_unet(self.base.path)

    @cached_property
    def _published_adapter(self) -> Mapping[str, Tensor] | None:
        """The adapter in AnimateDiff's layout; one that this layout cannot hold is written as part of the base."""
        try:
            return domain_adapter_form(self.adapter or {})[0]
        except IncompatibleModelError:
            return None

    def _base(self) -> Content:
        """The UNet with its patches in it, under the names of a checkpoint, in the types that it has."""
        base = self.base
        if self.adapter is not None and self._published_adapter is None:
            base = with_adapter(base, self.adapter, "the domain adapter")
        own = base.unet.state_dict()
        merged = {
            key.removeprefix(UNET_PREFIX): weight
            for key, weight in baked_weights(base.patcher)
            if key.startswith(UNET_PREFIX)
        }
        tensors = {f"{CHECKPOINT_PREFIX}{name}": merged[name].to(own[name].dtype) for name in own}
        return tensors, {"kind": UNET.name, "num_heads": base.unet.num_heads if base.unet.num_heads > 0 else None}

    def _noise_schedule(self) -> Content:
        """ᾱ of the base's own noise schedule, which a node may have changed, and what it predicts."""
        alphas = ComfyDenoiser(self.base, torch.float32).base_alphas
        return {"alphas": alphas}, {"predicts": prediction_of(self.base)}

    def _written(
        self, run: RunFolder, name: str, make: Callable[[], Content], digests: ContentDigests
    ) -> dict[str, Any]:
        path, recorded = run.path / input_path(name), run.job.files.get(name)
        if recorded and path.is_file() and file_record(path, digests) == recorded:
            return dict(recorded)
        tensors, metadata = make()
        with torch.no_grad():
            own = {key: tensor.detach().to("cpu", copy=True) for key, tensor in tensors.items()}
        check_free_space(run.path, sum(tensor.nbytes for tensor in own.values()), f"its {name.replace('_', ' ')}")
        with write_errors_in_words("An input of the run", run.path):
            path.parent.mkdir(exist_ok=True)
            write_tensor_file(path, own, metadata)
            flush_file(path)
        return file_record(path, digests)


def _module(motion: LoadedMotionModule) -> Content:
    """A motion module in the published layout, MotionLoRAs that were applied to it included."""
    _, metadata = saved_form(motion.patcher.model)
    return published(dict(baked_weights(motion.patcher))), metadata


def _holds_unet(path: str | None) -> bool:
    """Whether a file is there and names the UNet's weights as checkpoints do."""
    if path is None or not Path(path).is_file():
        return False
    if Path(path).suffix.lower() != ".safetensors":
        return True
    try:
        names = ShardFile(Path(path)).shapes
    except CheckpointError:
        return False
    return FIRST_LAYER in names or f"{CHECKPOINT_PREFIX}{FIRST_LAYER}" in names
