"""One run of the demo: the engine's own loop, in a run folder that goes on where it was stopped."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...core.tensor_files import read_tensor_file
from ...training.batches import TrainingData
from ...training.cache.cached_clips import CachedClips
from ...training.loop import TrainingLoop
from ...training.runs.job import Job
from ...training.runs.run_folder import RunFolder, open_run
from ...training.settings import TrainingSettings
from .terminal import TerminalObserver
from .toy_base import Prepared


@dataclass(frozen=True)
class TrainedRun:
    """A finished run."""

    path: Path
    """Of its result."""
    losses: list[float]
    """Of each step."""
    validations: list[tuple[int, float]]
    """Step and loss at fixed noise, on clips that were held out."""
    seconds: float
    """Its steps took, in however many calls."""
    num_weights: int
    news: tuple[str, ...]
    """Whether it started, went on or was finished already, in words."""


def train(
    root: Path,
    stage: str,
    cached: CachedClips,
    settings: TrainingSettings,
    structure: Mapping[str, Any],
    prepare: Callable[[], Prepared],
) -> TrainedRun:
    """The run of this stage, trained to its end unless it was.

    Raises: RunError if its folder cannot be used.
    """
    job = Job(stage, {**structure, "clips": cached.fingerprint}, settings, {}, {"torch": torch.__version__})
    observer = TerminalObserver()
    with open_run(root, stage.replace(" ", "-"), job) as run:
        for text in run.messages:
            observer.say(text)
        if not run.is_finished:
            _finish(run, cached, settings, prepare(), observer)
        return _trained(run)


def hash_of(path: Path) -> str:
    """The sha256 of the tensors in a file: the order of a file's metadata is nobody's, and differs from run to run."""
    digest = hashlib.sha256()
    for name, tensor in sorted(read_tensor_file(path).tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _finish(
    run: RunFolder, cached: CachedClips, settings: TrainingSettings, prepared: Prepared, observer: TerminalObserver
) -> None:
    trainee, denoiser = prepared
    data = TrainingData(cached, settings, trainee.single_frames)
    result = TrainingLoop(denoiser, trainee, data, settings, run, observer).run()
    run.write_final(result.tensors, dict(trainee.metadata))


def _trained(run: RunFolder) -> TrainedRun:
    lines = run.metrics.read()
    tensors = read_tensor_file(run.final_path).tensors
    return TrainedRun(
        path=run.final_path,
        losses=[line["loss"] for line in lines if line["kind"] == "step"],
        validations=[(line["step"], line["loss"]) for line in lines if line["kind"] == "validation"],
        seconds=sum(line["seconds"] for line in lines if line["kind"] == "step"),
        num_weights=sum(tensor.numel() for name, tensor in tensors.items() if not name.endswith("pos_encoder.pe")),
        news=run.messages,
    )
