"""What the editor sees of a run: progress, time left, losses, sample clips; and its cancel button."""

import logging
import math
import time
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ..sampling.latent_preview import latent_to_rgb
from ..training.progress import StepReport, ValidationReport
from .editor import is_watched, send, show_text
from .preview import AnimatedPreview, write_animation
from .training_base import TrainingBase

log = logging.getLogger(__name__)

EVENT = "motiongraft.training"
"""Documented in docs/events.md."""
SECONDS_BETWEEN = 0.25
"""Between two messages; what comes faster goes out together."""


class NodeObserver:
    """Watches a run for the node that started it."""

    def __init__(self, base: TrainingBase, vae: Any, node_id: str | None, run: Path, stage: str, total_steps: int):
        self._base, self._vae, self._node_id = base, vae, node_id
        self._about = {"run": run.name, "stage": stage, "total_steps": total_steps}
        self._bar = comfy.utils.ProgressBar(total_steps, node_id=node_id)
        self._preview = AnimatedPreview(base.patcher, node_id)
        self._total_steps = total_steps
        self._waiting: list[tuple[int, float]] = []
        self._next = 0.0

    def check_cancelled(self) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()

    def on_step(self, report: StepReport) -> None:
        self._bar.update_absolute(report.step, report.total_steps)
        if math.isfinite(report.loss):  # JSON knows no other number
            self._waiting.append((report.step, report.loss))
        is_last = report.step == report.total_steps
        if not is_last and time.monotonic() < self._next:
            return
        self._send(
            losses=self._waiting,
            step=report.step,
            learning_rate=report.learning_rate,
            gradient_norm=report.gradient_norm if math.isfinite(report.gradient_norm) else None,
            seconds_left=round(report.seconds_left, 1),
        )
        show_text(self._node_id, f"step {report.step} of {report.total_steps}, {in_words(report.seconds_left)} left")
        self._waiting = []
        self._next = time.monotonic() + SECONDS_BETWEEN

    def on_validation(self, report: ValidationReport) -> None:
        log.info("step %d: validation loss %.5f", report.step, report.loss)
        self._send(step=report.step, validation={"loss": report.loss, "by_timestep": report.by_timestep})

    def on_sample(self, latents: Tensor, step: int, folder: Path) -> None:
        frames = self._pictures(latents)
        path = folder / f"step-{step:08}.webp"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_animation(path, frames)
        except OSError as error:
            self.say(f"no sample clip at step {step}: {error}")
            return
        self._preview.send(frames, step, self._total_steps)

    def say(self, text: str) -> None:
        log.warning("%s: %s", self._about["run"], text)
        self._send(text=text)
        show_text(self._node_id, text)

    def _pictures(self, latents: Tensor) -> Tensor:
        """Decoded by the VAE, or one pixel for each latent pixel. Shapes: `f c h w` -> `f h w 3`, uint8"""
        if self._vae is None:
            latent_format = self._base.patcher.get_model_object("latent_format")
            return latent_to_rgb(latents, latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias)
        with torch.no_grad():
            images = self._vae.decode(self._base.patcher.model.process_latent_out(latents))
        pictures = (images.float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
        comfy.model_management.unload_all_models()  # training needs the room; its own model is not among them
        return pictures

    def _send(self, **message: Any) -> None:
        if is_watched(self._node_id):
            send(EVENT, self._node_id, {**self._about, **message})


def in_words(seconds: float) -> str:
    """A duration as people say it."""
    minutes, hours = round(seconds / 60), seconds / 3600
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{hours:.1f} h"
