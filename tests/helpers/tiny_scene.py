"""A tiny SD 1.5 with motion modules of every generation, loaded in a real ComfyUI, for tests to sample with."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from motiongraft.core.tensor_files import write_tensor_file
from motiongraft.motion_modules.load import saved_form
from motiongraft.motion_modules.module import MotionModule
from motiongraft.tests.helpers.random_modules import random_module, toy_spec
from motiongraft.tests.tiny_sd_pack import checkpoints

FRAMES = 16
GENERATIONS = ("v1", "v2", "v3")


class TinyScene:
    """Everything a test needs to sample a clip; models load when first asked for."""

    def __init__(self, host: Any, folder: Path):
        self.host = host
        self.folder = folder

    @cached_property
    def checkpoint(self) -> Any:
        return self.host.load_checkpoint(checkpoints.write_tiny_sd15(self.folder / "tiny.safetensors"))

    @cached_property
    def second_checkpoint(self) -> Any:
        """The tiny model once more, loaded as another file would be."""
        return self.host.load_checkpoint(self.folder / "tiny.safetensors").model

    @cached_property
    def sdxl(self) -> Any:
        return self.host.load_checkpoint(checkpoints.write_tiny_sdxl(self.folder / "tiny_sdxl.safetensors"))

    @property
    def model(self) -> Any:
        return self.checkpoint.model

    @cached_property
    def positive(self) -> list[Any]:
        return self.host.encode(self.checkpoint.clip, "a cat on the moon")

    @cached_property
    def negative(self) -> list[Any]:
        return self.host.encode(self.checkpoint.clip, "blurry")

    def save(self, module: MotionModule, name: str) -> Path:
        """The file of a module, as MotionGraft writes it."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            write_tensor_file(path, *saved_form(module))
        return path

    def motion(self, generation: str = "v3", zero: bool = False, seed: int = 0, **changes: Any) -> Any:
        """A loaded motion module with random weights, or with the zeroed outputs that training starts from."""
        from motiongraft.host.motion_modules import load_motion_module

        module = random_module(toy_spec(generation, **changes), seed)
        if zero:
            module.zero_outputs()
        details = "-".join(f"{name}{value}" for name, value in changes.items())
        return load_motion_module(self.save(module, f"{generation}-{zero}-{seed}-{details}"))

    def inflated(self, generation: str = "v3", beta_schedule: str = "auto", model: Any = None, **changes: Any) -> Any:
        """The tiny model with such a motion module."""
        from motiongraft.host.inflate import inflate_model

        return inflate_model(model or self.model, self.motion(generation, **changes), beta_schedule)

    def latent(self, frames: int = FRAMES, height: int = 8, width: int = 8) -> Tensor:
        """An empty clip. Shapes: `f 4 h w`"""
        return torch.zeros(frames, 4, height, width)

    def sample(self, model: Any, frames: int = FRAMES, **settings: Any) -> Tensor:
        """The clip after KSampler, two steps unless told otherwise. Shapes: `f 4 8 8`"""
        positive = settings.pop("positive", self.positive)
        negative = settings.pop("negative", self.negative)
        latent = settings.pop("latent", None)
        latent = self.latent(frames) if latent is None else latent
        return self.host.sample(model, positive, negative, latent, **settings)
