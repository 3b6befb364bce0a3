"""The three training nodes' one function each: check, copy the base, train in its own run folder, load the result."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfyui_version
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..core.errors import SettingsError
from ..core.tensor_files import read_tensor_file
from ..lora.domain_adapter import DomainAdapter, read_domain_adapter
from ..lora.motion_lora import MotionLoRA, read_motion_lora
from ..motion_modules.load import build
from ..motion_modules.module import MotionModule
from ..training.batches import TrainingData
from ..training.cache.cached_clips import CachedClips
from ..training.loop import TrainingLoop
from ..training.runs.job import Job
from ..training.runs.job_files import CLIPS
from ..training.runs.run_choice import find_runs
from ..training.runs.run_folder import FINAL, RunFolder, open_run
from ..training.settings import TYPES as TYPES
from ..training.settings import TrainingSettings
from ..training.stages import LAYOUTS, new_motion_module
from ..training.start import advice, check_clip_lengths
from ..training.trainee import DOMAIN_ADAPTER, MOTION_LORA, MOTION_MODULE
from .fingerprints import fingerprint_tensors
from .job_inputs import JobInputs
from .launch import check_can_launch, train_in_processes
from .motion_modules import LoadedMotionModule, load_motion_module
from .saving import baked_weights
from .stages import Prepared, prepare_domain_adapter, prepare_motion_lora, prepare_motion_module, shape_of
from .training_base import TrainingBase, copy_base, place_on_device, with_adapter
from .training_checks import check_clips, check_parts, check_precision
from .training_progress import NodeObserver

log = logging.getLogger(__name__)

RUNS = "motiongraft"
"""The folder of runs under ComfyUI's output folder."""
LossMap = dict[str, list[float]]


@dataclass(frozen=True)
class TrainingRequest:
    """What all three training nodes are given."""

    model: ModelPatcher
    cached_clips: CachedClips
    settings: TrainingSettings
    run_name: str
    vae: Any = None
    node_id: str | None = None


@dataclass(frozen=True)
class Stage:
    """One stage as `_train` carries it out."""

    name: str
    structure: Mapping[str, Any]
    """What decides the shape and meaning of the result, beside base and data."""
    prepare: Callable[[TrainingBase], Prepared]
    """Puts the trainable weights into a base on its device."""
    adapter: Mapping[str, Tensor] | None = None
    motion: LoadedMotionModule | None = None


def train_domain_adapter(request: TrainingRequest, rank: int) -> tuple[DomainAdapter, LossMap]:
    """Stage 1: a LoRA of the base's attention that takes on the look of the clips, and the loss of every step.

    Raises: MotionError for what cannot be trained, within seconds; whatever stopped the run, after it was saved.
    """

    def prepare(base: TrainingBase) -> Prepared:
        return prepare_domain_adapter(base, request.settings.dtype, rank, request.settings.seed)

    _check_rank(rank)
    path, losses = _train(request, Stage(DOMAIN_ADAPTER, {"rank": rank}, prepare))
    return read_domain_adapter(read_tensor_file(path)), losses


def train_motion_module(
    request: TrainingRequest, layout: str, adapter: Mapping[str, Tensor] | None, start: LoadedMotionModule | None
) -> tuple[LoadedMotionModule, LossMap]:
    """Stage 2: a motion module for the base, from nothing or from one that exists, and the loss of every step."""
    frames = max(bucket.num_frames for bucket in request.cached_clips.buckets)

    def prepare(base: TrainingBase) -> Prepared:
        module = _own_copy(start) if start else new_motion_module(shape_of(base), layout, frames, request.settings.seed)
        return prepare_motion_module(base, request.settings.dtype, module, start.name if start else MOTION_MODULE)

    if layout not in LAYOUTS:
        raise SettingsError(f"layout should be one of {', '.join(LAYOUTS)}, found {layout}. Choose one of these.")
    check_clip_lengths(request.cached_clips, start.spec.num_positions if start else max(frames, 2))
    structure = {"layout": start.spec.generation if start else layout, "motion_module": _hash_of(start)}
    path, losses = _train(request, Stage(MOTION_MODULE, structure, prepare, adapter, start))
    return replace(load_motion_module(path), name=path.parent.name), losses


def train_motion_lora(
    request: TrainingRequest, motion: LoadedMotionModule, rank: int, adapter: Mapping[str, Tensor] | None
) -> tuple[MotionLoRA, LossMap]:
    """Stage 3: a MotionLoRA for a motion module, and the loss of every step."""

    def prepare(base: TrainingBase) -> Prepared:
        module, seed = _own_copy(motion), request.settings.seed
        return prepare_motion_lora(base, request.settings.dtype, module, motion.name, rank, seed)

    _check_rank(rank)
    check_clip_lengths(request.cached_clips, motion.spec.num_positions)
    structure = {"rank": rank, "motion_module": _hash_of(motion)}
    path, losses = _train(request, Stage(MOTION_LORA, structure, prepare, adapter, motion))
    return replace(read_motion_lora(read_tensor_file(path)), name=path.parent.name), losses


def runs_folder() -> Path:
    """Where runs live."""
    return Path(folder_paths.get_output_directory()) / RUNS


def run_stamp(run_name: str) -> str:
    """A text that changes when a result of this name goes away, and not when one appears.

    So a graph that is queued again trains once, and trains anew if its result was deleted.
    """
    if not run_name:
        return ""  # it comes over a link, and is not known yet
    finals = {run.path / FINAL for run in find_runs(runs_folder(), run_name)}
    present = {path for path in finals if path.is_file()}
    seen, gone = _stamps.get(run_name, (present, 0))
    _stamps[run_name] = (present, gone + len(seen - present))
    return f"{run_name}:{_stamps[run_name][1]}"


_stamps: dict[str, tuple[set[Path], int]] = {}
"""For each name the results when last seen, and how many have gone since."""


def _train(request: TrainingRequest, stage: Stage) -> tuple[Path, LossMap]:
    """The file that a run ends with, and its losses; a run that is finished already is not repeated."""
    check_parts(request.model, stage.motion, stage.adapter)
    check_clips(request.model, request.cached_clips, request.vae)
    check_precision(request.model, request.settings)
    check_can_launch(request.settings.processes)
    with _training_mode():
        inputs = JobInputs(copy_base(request.model), stage.motion, stage.adapter)
        with open_run(runs_folder(), request.run_name, _job(request, stage, inputs)) as run:
            observer = _observer(request, stage, inputs, run)
            for text in (*run.messages, *advice(request.cached_clips, stage.name == MOTION_LORA)):
                observer.say(text)
            if not run.is_finished:
                inputs.write(run)
                if request.settings.processes == 1:
                    _run(request, stage, inputs.base, run, observer)
    if not run.is_finished:
        del inputs  # the processes load a base of their own
        train_in_processes(run.path, run.job, observer)
    losses = [line["loss"] for line in run.metrics.read() if line["kind"] == "step"]
    return run.final_path, {"loss": losses}


def _observer(request: TrainingRequest, stage: Stage, inputs: JobInputs, run: RunFolder) -> NodeObserver:
    """Whoever watches for the node. While other processes fill the GPUs, samples are sketched and not decoded."""
    is_elsewhere = request.settings.processes > 1
    base = replace(inputs.base, patcher=request.model) if is_elsewhere else inputs.base
    vae = None if is_elsewhere else request.vae
    return NodeObserver(base, vae, request.node_id, run.path, stage.name, request.settings.steps)


def _run(request: TrainingRequest, stage: Stage, base: TrainingBase, run: RunFolder, observer: NodeObserver) -> None:
    if stage.adapter is not None:
        base = with_adapter(base, stage.adapter, "the domain adapter")
    place_on_device(base, request.settings.dtype)
    trainee, denoiser = stage.prepare(base)
    data = TrainingData(request.cached_clips, request.settings, trainee.single_frames)
    log.info(
        "%s: %d trainable weights in %d tensors, %d clips, %s",
        run.path.name,
        sum(weight.numel() for weight in trainee.parameters.values()),
        len(trainee.parameters),
        len(request.cached_clips),
        request.settings.precision,
    )
    TrainingLoop(denoiser, trainee, data, request.settings, run, observer).finish()


@contextmanager
def _training_mode() -> Iterator[None]:
    """Nodes run without gradients; training needs them, and ComfyUI's kernels that know none must step aside."""
    was_training = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        comfy.model_management.in_training = was_training
        comfy.model_management.soft_empty_cache()


def _job(request: TrainingRequest, stage: Stage, inputs: JobInputs) -> Job:
    return Job(
        stage=stage.name,
        structure={
            **stage.structure,
            "base": inputs.base.fingerprint,
            "clips": request.cached_clips.fingerprint,
            "domain_adapter": None if stage.adapter is None else fingerprint_tensors(stage.adapter),
        },
        settings=request.settings,
        paths={CLIPS: str(request.cached_clips.folder.absolute()), **inputs.paths},
        versions={"comfyui": comfyui_version.__version__, "torch": torch.__version__},
    )


def _own_copy(motion: LoadedMotionModule) -> MotionModule:
    """A plain module in float32 with the weights of a loaded one, MotionLoRAs that were applied to it included."""
    tensors = {name: tensor.clone() for name, tensor in baked_weights(motion.patcher)}
    return build(motion.spec, tensors, motion.name, dtype=torch.float32)


def _hash_of(motion: LoadedMotionModule | None) -> str | None:
    return None if motion is None else fingerprint_tensors(dict(baked_weights(motion.patcher)))


def _check_rank(rank: int) -> None:
    if rank < 1:
        raise SettingsError(f"rank should be 1 or more, found {rank}. 64 and 128 are those of the published files.")
