"""The preview that moves: ComfyUI sends single pictures, so a small WEBP goes out as a temporary file."""

import logging
import time
import uuid
from collections import deque
from pathlib import Path

import folder_paths
from comfy.model_patcher import ModelPatcher
from PIL import Image
from torch import Tensor

from ..sampling.latent_preview import latent_to_rgb
from .editor import is_watched, send

log = logging.getLogger(__name__)

EVENT = "motiongraft.preview"
"""Documented in docs/events.md; web/ listens to it."""
SUBFOLDER = "motiongraft"
FRAMES_PER_SECOND = 8
"""Source: guoyww/AnimateDiff saves its samples at 8 frames a second."""
SECONDS_BETWEEN = 0.5
"""At most two pictures a second; encoding one takes some ten milliseconds."""
FILES_KEPT = 3
"""An editor may still be fetching the last ones."""


class AnimatedPreview:
    """Sends a node's clip, as it stands, to the editor that queued it. Without an editor it does nothing."""

    def __init__(self, model: ModelPatcher, node_id: str | None):
        self._format = model.get_model_object("latent_format")
        self._node_id = node_id
        self._next = 0.0
        self._run = uuid.uuid4().hex[:12]
        self._files: deque[Path] = deque()

    def show(self, x0: Tensor, step: int, total_steps: int) -> None:
        """Send the denoised clip of a step, unless one went out a moment ago and this is not the last.

        Shapes: x0 `f c h w`
        """
        is_early = time.monotonic() < self._next and step < total_steps
        if is_early or self._format.latent_rgb_factors is None or not is_watched(self._node_id):
            return
        self.send(
            latent_to_rgb(x0, self._format.latent_rgb_factors, self._format.latent_rgb_factors_bias), step, total_steps
        )

    def send(self, frames: Tensor, step: int, total_steps: int) -> None:
        """Send a clip of finished pictures, to whoever watches. Shapes: frames `f h w 3`, uint8"""
        if not is_watched(self._node_id):
            return
        try:
            path = self._save(frames, step)
        except OSError as error:
            log.warning("no animated preview: %s", error)  # a full disk must not cost the clip itself
            return
        finally:
            self._next = time.monotonic() + SECONDS_BETWEEN
        file = {"filename": path.name, "subfolder": SUBFOLDER, "type": "temp"}
        clip = {"frames": frames.shape[0], "frames_per_second": FRAMES_PER_SECOND}
        send(EVENT, self._node_id, {**file, **clip, "step": step, "total_steps": total_steps})

    def _save(self, frames: Tensor, step: int) -> Path:
        folder = Path(folder_paths.get_temp_directory()) / SUBFOLDER
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self._run}_{step:04}.webp"
        write_animation(path, frames)
        self._forget_old(path)
        return path

    def _forget_old(self, newest: Path) -> None:
        self._files.append(newest)
        while len(self._files) > FILES_KEPT:
            self._files.popleft().unlink(missing_ok=True)


def write_animation(path: Path, frames: Tensor) -> None:
    """A looping WEBP. Shapes: frames `f h w 3`, uint8"""
    images = [Image.fromarray(frame) for frame in frames.numpy()]
    duration_ms = 1000 // FRAMES_PER_SECOND
    images[0].save(path, save_all=True, append_images=images[1:], duration=duration_ms, loop=0, quality=80)
