"""The stage of a job on a UNet of diffusers: from the files that the job names to what the training loop takes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..core.errors import RunError
from ..core.tensor_files import read_tensor_file
from ..motion_modules.module import MotionModule
from ..training import stages
from ..training.cache.cached_clips import CachedClips
from ..training.runs.job import Job
from ..training.runs.job_files import BASE, NOISE_SCHEDULE
from ..training.runs.job_files import DOMAIN_ADAPTER as ADAPTER_FILE
from ..training.runs.job_files import MOTION_MODULE as MODULE_FILE
from ..training.start import check_clip_lengths, check_clips_fit_base
from ..training.trainee import DOMAIN_ADAPTER, MOTION_LORA, MOTION_MODULE
from .diffusers_base import DiffusersBase, load_base
from .diffusers_stages import Prepared, prepare_domain_adapter, prepare_motion_lora, prepare_motion_module
from .motion_files import load_domain_adapter, load_motion_module, with_domain_adapter

LATENT_CHANNELS = 4


def prepare_stage(job: Job, places: Mapping[str, Path], clips: CachedClips, device: torch.device) -> Prepared:
    """What a job trains, in its base on a device; starts at what the editor starts at.

    Raises: MotionError for files that do not fit each other; RunError for a job of no stage that is known here.
    """
    base = _base(job, places)
    check_clips_fit_base(clips, LATENT_CHANNELS, base.text_width, base.pooled_width)
    settings, name = job.settings, MOTION_MODULE
    if job.stage == DOMAIN_ADAPTER:
        return prepare_domain_adapter(base, device, settings.dtype, _said(job, "rank"), settings.seed)
    module = _module(job, places, clips, base)
    check_clip_lengths(clips, module.spec.num_positions)
    if job.stage == MOTION_MODULE:
        return prepare_motion_module(base, device, settings.dtype, module, name)
    if job.stage == MOTION_LORA:
        return prepare_motion_lora(base, device, settings.dtype, module, name, _said(job, "rank"), settings.seed)
    raise RunError(
        f"the job is of the stage {job.stage!r}, which this version of MotionGraft does not know. Update it."
    )


def _base(job: Job, places: Mapping[str, Path]) -> DiffusersBase:
    """The base with the noise schedule that it had in the editor, and the domain adapter in place."""
    base = load_base(places[BASE])
    if NOISE_SCHEDULE in places:
        schedule = read_tensor_file(places[NOISE_SCHEDULE])
        base = replace(base, alphas=schedule.tensors["alphas"], predicts=schedule.metadata["predicts"])
    if ADAPTER_FILE in places:
        base = with_domain_adapter(base, load_domain_adapter(places[ADAPTER_FILE]))
    return base


def _module(job: Job, places: Mapping[str, Path], clips: CachedClips, base: DiffusersBase) -> MotionModule:
    """The motion module that training starts from, or adds a MotionLoRA to."""
    if MODULE_FILE in places:
        return load_motion_module(places[MODULE_FILE])
    frames = max(bucket.num_frames for bucket in clips.buckets)
    check_clip_lengths(clips, max(frames, 2))
    return stages.new_motion_module(base.shape, _said(job, "layout"), frames, job.settings.seed)


def _said(job: Job, name: str) -> Any:
    """What the job's structure says of a name. Raises: RunError if it says nothing."""
    if name not in job.structure:
        raise RunError(f"the job of a {job.stage} lacks {name}. Restore its job.json, or start a new run.")
    return job.structure[name]
