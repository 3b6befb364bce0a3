"""ComfyUI inside the test process, without its server: the tests' door to `comfy`."""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What CheckpointLoaderSimple hands to a graph."""

    model: Any
    clip: Any
    vae: Any


@dataclass(frozen=True)
class InProcessHost:
    """A ComfyUI whose modules can be imported, with both toy models registered."""

    path: Path
    base_directory: Path
    version: str

    def module(self, name: str) -> ModuleType:
        """A module of ComfyUI, such as `comfy.samplers`, `nodes` or `folder_paths`."""
        return importlib.import_module(name)

    def load_checkpoint(self, path: Path) -> LoadedCheckpoint:
        """MODEL, CLIP and VAE of a checkpoint, loaded as the graph's loader loads them."""
        model, clip, vae, _ = self.module("comfy.sd").load_checkpoint_guess_config(str(path))
        return LoadedCheckpoint(model, clip, vae)

    def encode(self, clip: Any, text: str) -> list[Any]:
        """CONDITIONING of a prompt, as CLIPTextEncode makes it."""
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    def sample(
        self,
        model: Any,
        positive: list[Any],
        negative: list[Any],
        latent: Tensor,
        *,
        seed: int = 0,
        steps: int = 2,
        cfg: float = 7.5,
        sampler: str = "euler",
        scheduler: str = "normal",
        denoise: float = 1.0,
    ) -> Tensor:
        """Latents after KSampler. Shapes: `f c h w`, with f the number of frames."""
        sample = self.module("comfy.sample")
        noise = sample.prepare_noise(latent, seed)
        return sample.sample(
            *(model, noise, steps, cfg, sampler, scheduler, positive, negative, latent),
            denoise=denoise,
            disable_pbar=True,
            seed=seed,
        )


def open_host(path: Path, base_directory: Path) -> InProcessHost:
    """The ComfyUI at this path, on the CPU, reading models from `base_directory`/models.

    Only the first call of a process chooses path and folder: ComfyUI reads its settings while it is imported.
    """
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))
    arguments = importlib.import_module("comfy.cli_args").args
    arguments.cpu = True
    arguments.use_pytorch_cross_attention = True
    arguments.base_directory = str(base_directory)
    arguments.database_url = "sqlite:///:memory:"  # otherwise a file in ComfyUI's own folder
    # Before `nodes`, which puts comfy/ on sys.path (0.25), where comfy/utils.py hides the package `utils`; after the
    # arguments, because it imports `folder_paths`, which reads them.
    importlib.import_module("utils.extra_config")
    from .models import register

    register()
    return InProcessHost(path, base_directory, importlib.import_module("comfyui_version").__version__)
