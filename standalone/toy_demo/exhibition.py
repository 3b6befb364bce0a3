"""What each stage changed: clips and measures before and after it, beside the true ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...motion_modules.module import MotionModule
from ...training.data.clips import TrainingClips
from ..diffusers_base import DiffusersBase
from ..diffusers_denoiser import DiffusersDenoiser
from ..motion_files import add_motion_lora, load_motion_lora
from ..toy_world.drawn_clips import camera_clips, still_clips, video_clips
from ..toy_world.measures import ClipMeasures, measure
from ..toy_world.picture_codec import as_levels
from ..toy_world.waves import NUM_FRAMES, Waves, scene
from .animation import animate
from .plan import DemoPlan
from .school import Graduates, motion_shares

CLIPS_SEED = 1000
"""Of scenes that no run has seen."""


@dataclass(frozen=True)
class Exhibit:
    """Some clips under a heading."""

    title: str
    captions: tuple[str, ...]
    levels: Tensor
    """Shapes: `b f h w`"""
    measures: tuple[ClipMeasures, ...]


@dataclass(frozen=True)
class Exhibition:
    """Everything that is shown."""

    scenes: tuple[Waves, ...]
    true_stills: Exhibit
    true_videos: Exhibit
    true_camera: Exhibit
    base: Exhibit
    base_with_adapter: Exhibit
    without_module: Exhibit
    with_module: Exhibit
    with_motion_lora: Exhibit


class Curator:
    """Makes the clips of an exhibition, all under the same captions and from the same noise."""

    def __init__(self, graduates: Graduates, plan: DemoPlan, seed: int):
        self.graduates, self.plan, self.seed = graduates, plan, seed
        self.scenes = tuple(scene(number, seed + CLIPS_SEED) for number in range(plan.num_measured))

    def exhibit(self) -> Exhibition:
        base, module = self.graduates.load_base(), self.graduates.load_module()
        moved = self.graduates.load_module()
        add_motion_lora(moved, load_motion_lora(self.graduates.motion_lora.path), 1.0)
        count, seed = self.plan.num_measured, self.seed + CLIPS_SEED
        own, motion = base.alphas, motion_shares()
        return Exhibition(
            self.scenes,
            true_stills=self._true("true clips, clean", still_clips(count, seed)),
            true_videos=self._true("true videos", video_clips(count, seed)),
            true_camera=self._true("true clips under the camera", camera_clips(count, seed)),
            base=self._made("the base alone", base, None, own),
            base_with_adapter=self._made("after: with the adapter", self.graduates.load_base_with_adapter(), None, own),
            without_module=self._made("before: frame by frame", base, None, motion),
            with_module=self._made("after: with the motion module", base, module, motion),
            with_motion_lora=self._made("after: with the MotionLoRA", base, moved, motion),
        )

    def _made(self, title: str, base: DiffusersBase, motion: MotionModule | None, shares: Tensor) -> Exhibit:
        denoiser = DiffusersDenoiser(base, torch.device("cpu"), torch.float32, motion)
        captions = [each.caption for each in self.scenes]
        return self._measured(title, animate(denoiser, shares, captions, NUM_FRAMES, self.plan.sample_steps, self.seed))

    def _true(self, title: str, clips: TrainingClips) -> Exhibit:
        return self._measured(title, torch.stack([as_levels(clip.read()) for clip in clips.clips]))

    def _measured(self, title: str, levels: Tensor) -> Exhibit:
        captions = tuple(each.caption for each in self.scenes)
        return Exhibit(title, captions, levels, measured(levels, self.scenes))


def measured(levels: Tensor, scenes: Sequence[Waves]) -> tuple[ClipMeasures, ...]:
    """Shapes: levels `b f h w`"""
    return tuple(measure(clip, told) for clip, told in zip(levels, scenes, strict=True))
