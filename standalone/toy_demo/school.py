"""What the demo trains, in order: a base on stills, then the three stages, each on what came before it."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...core.tensor_files import read_tensor_file
from ...motion_modules.module import MotionModule
from ...sampling.beta_schedules import BETA_SCHEDULES
from ...training.cache.cache_writer import cache_clips
from ...training.cache.cached_clips import CachedClips
from ...training.data.clips import TrainingClips
from ...training.noise_schedule import signal_shares
from ...training.stages import new_motion_module
from ...training.trainee import DOMAIN_ADAPTER, MOTION_LORA, MOTION_MODULE
from ..diffusers_base import DiffusersBase
from ..diffusers_stages import prepare_domain_adapter, prepare_motion_lora, prepare_motion_module
from ..motion_files import load_domain_adapter, load_motion_module, with_domain_adapter
from ..toy_world.drawn_clips import camera_clips, still_clips, video_clips
from ..toy_world.toy_encoder import ToyEncoder
from ..toy_world.waves import NUM_FRAMES
from .plan import DemoPlan
from .runs import TrainedRun, hash_of, train
from .terminal import Terminal
from .toy_base import BASE, CPU, prepare_base, toy_base_from

LAYOUT = "v3"
PARTS = ("Drawing and caching clips", "Training the base", "Training the domain adapter", "Training the motion module")
LAST_PART = "Training the MotionLoRA"


@dataclass(frozen=True)
class Graduates:
    """Everything that was trained."""

    base: TrainedRun
    adapter: TrainedRun
    module: TrainedRun
    motion_lora: TrainedRun
    widths: tuple[int, ...]

    def load_base(self) -> DiffusersBase:
        return toy_base_from(read_tensor_file(self.base.path).tensors, self.widths)

    def load_base_with_adapter(self) -> DiffusersBase:
        return with_domain_adapter(self.load_base(), load_domain_adapter(self.adapter.path))

    def load_module(self) -> MotionModule:
        return load_motion_module(self.module.path)


class School:
    """Trains into a folder. What was finished there by the same plan is kept, what was stopped goes on."""

    def __init__(self, folder: Path, plan: DemoPlan, seed: int, terminal: Terminal):
        self.folder, self.plan, self.seed, self.terminal = folder, plan, seed, terminal
        self.runs = folder / "runs"

    def teach(self) -> Graduates:
        """All four runs, one after the other."""
        with self.terminal.part(PARTS[0]):
            stills, videos, camera = self._cache()
        with self.terminal.part(PARTS[1]):
            base = self._train_base(stills)
        with self.terminal.part(PARTS[2]):
            adapter = self._train_adapter(videos, base)
        with self.terminal.part(PARTS[3]):
            module = self._train_module(videos, base, adapter)
        with self.terminal.part(LAST_PART):
            motion_lora = self._train_motion_lora(camera, base, module)
        return Graduates(base, adapter, module, motion_lora, self.plan.widths)

    def _cache(self) -> tuple[CachedClips, CachedClips, CachedClips]:
        plan = self.plan
        return (
            self._cached("stills", still_clips(plan.num_videos, self.seed)),
            self._cached("videos", video_clips(plan.num_videos, self.seed + 1)),
            self._cached("camera", camera_clips(plan.num_camera_clips, self.seed + 2)),
        )

    def _cached(self, name: str, clips: TrainingClips) -> CachedClips:
        return cache_clips(clips, ToyEncoder(), self.folder / "caches" / f"{name}-{len(clips.clips)}-{self.seed}")

    def _train_base(self, stills: CachedClips) -> TrainedRun:
        widths, seed = self.plan.widths, self.seed
        return train(
            self.runs, BASE, stills, self.plan.base, {"widths": list(widths)}, lambda: prepare_base(widths, seed)
        )

    def _train_adapter(self, videos: CachedClips, base: TrainedRun) -> TrainedRun:
        rank = self.plan.adapter_rank
        structure = {"rank": rank, "base": hash_of(base.path)}
        return train(
            self.runs,
            DOMAIN_ADAPTER,
            videos,
            self.plan.adapter,
            structure,
            lambda: prepare_domain_adapter(self._base(base), CPU, torch.float32, rank, self.seed),
        )

    def _train_module(self, videos: CachedClips, base: TrainedRun, adapter: TrainedRun) -> TrainedRun:
        """With the domain adapter at α = 1, as the paper trains. Source: arXiv 2307.04725 section 4.2."""
        structure = {"layout": LAYOUT, "base": hash_of(base.path), "domain_adapter": hash_of(adapter.path)}

        def prepare():
            adapted = with_domain_adapter(self._base(base), load_domain_adapter(adapter.path))
            return prepare_motion_module(adapted, CPU, torch.float32, _untrained_module(adapted, self.seed))

        return train(self.runs, MOTION_MODULE, videos, self.plan.module, structure, prepare)

    def _train_motion_lora(self, camera: CachedClips, base: TrainedRun, module: TrainedRun) -> TrainedRun:
        """Without the domain adapter: its clips are clean."""
        rank = self.plan.motion_lora_rank
        structure = {"rank": rank, "base": hash_of(base.path), "motion_module": hash_of(module.path)}

        def prepare():
            plain = self._base(base)
            motion = load_motion_module(module.path)
            return prepare_motion_lora(plain, CPU, torch.float32, motion, module.path.parent.name, rank, self.seed)

        return train(self.runs, MOTION_LORA, camera, self.plan.motion_lora, structure, prepare)

    def _base(self, run: TrainedRun) -> DiffusersBase:
        return toy_base_from(read_tensor_file(run.path).tensors, self.plan.widths)


def motion_shares() -> Tensor:
    """ᾱ of the schedule that motion modules train on. Shapes: -> `t`, float64"""
    return signal_shares(BETA_SCHEDULES["animatediff"])


def _untrained_module(base: DiffusersBase, seed: int) -> MotionModule:
    return new_motion_module(base.shape, LAYOUT, NUM_FRAMES, seed)
