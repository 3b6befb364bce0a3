"""The command `train`: a run that a training node has begun goes on here, in one process or in many under torchrun.

python standalone train RUN
torchrun --nproc-per-node 4 standalone/__main__.py train RUN
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch

from ..core.errors import MotionError, RunError, some
from ..training.batches import TrainingData
from ..training.cache.cached_clips import CachedClips, open_cached_clips
from ..training.cache.clip_identity import ContentDigests
from ..training.loop import TrainingLoop
from ..training.ranks import OneRank, ProcessGroup, Ranks, is_one_of_many, together
from ..training.runs.job import Job
from ..training.runs.job_files import BASE, CLIPS, check_unchanged, find_files
from ..training.runs.run_choice import JOB
from ..training.runs.run_folder import RunFolder, read_job, reopen_run
from ..training.shared_gradient import StoppedByAnotherError
from ..training.start import advice
from ..training.trainee import MOTION_LORA
from .console_observer import ConsoleObserver, parents_live
from .devices import AUTO, device_called
from .job_stage import prepare_stage
from .stop_signals import NotedSignal, Stopped, stop_signals_noted

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "diffusers", "safetensors")
"""Those whose versions must be the same in every process."""
TIMEOUT_MINUTES = 10.0
"""Longer than the first process takes for a validation, a sample clip and a checkpoint, while the others wait."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("run", type=Path, help="the folder of a run that a training node has begun, or its job.json")
    parser.add_argument("--base", type=Path, help="where the base model lies on this machine")
    parser.add_argument("--clips", type=Path, help="where the cached clips lie on this machine")
    parser.add_argument("--device", default=AUTO, help="cpu, cuda or mps; auto is the GPU if there is one")
    parser.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT_MINUTES,
        metavar="MINUTES",
        help="how long processes wait for each other before they give up (default: %(default)g)",
    )
    parser.add_argument("--while-process", type=int, metavar="ID", help="stop when this process has ended")


def main(options: argparse.Namespace) -> int:
    """The exit status: 0 when the run is finished, 1 with one sentence on stderr, 128 + the signal when stopped."""
    is_first = os.environ.get("RANK", "0") == "0"
    with stop_signals_noted() as stop:
        try:
            with ExitStack() as stack:
                ranks = _ranks(options, stack)
                _train(options, ranks, stop)
        except Stopped as stopped:
            return stopped.exit_status
        except MotionError as error:
            if stop.number is not None and isinstance(error, StoppedByAnotherError):
                return Stopped(stop.number).exit_status
            if is_first:
                sys.stderr.write(f"{error}\n")
            return 1
    return 0


def _train(options: argparse.Namespace, ranks: Ranks, stop: NotedSignal) -> None:
    _check_versions(ranks)
    with together(ranks):
        device = _device(options.device)
    is_first = ranks.rank == 0
    folder = (options.run.parent if options.run.name == JOB else options.run).absolute()
    with ExitStack() as stack:
        run: RunFolder | None = None
        with together(ranks):
            job = read_job(folder)
            places = find_files(job, folder, _elsewhere(options))
            if is_first:
                run = stack.enter_context(reopen_run(folder))
            clips = _clips(job, places)
            check_unchanged(job, places, ContentDigests(folder) if is_first else None)
        observer = ConsoleObserver(stop, is_first, parents_live(options.while_process))
        for text in (*(run.messages if run else ()), *advice(clips, job.stage == MOTION_LORA)):
            observer.say(text)
        if ranks.any(run is not None and run.is_finished):
            return
        loop = _loop(job, places, clips, device, run, observer, ranks)
        observer.say(_about(job, ranks, device))
        loop.finish()
        observer.say(f"finished: {run.final_path if run else ''}")


def _loop(
    job: Job,
    places: Mapping[str, Path],
    clips: CachedClips,
    device: torch.device,
    run: RunFolder | None,
    observer: ConsoleObserver,
    ranks: Ranks,
) -> TrainingLoop:
    with together(ranks):
        trainee, denoiser = prepare_stage(job, places, clips, device)
        data = TrainingData(clips, job.settings, trainee.single_frames)
        return TrainingLoop(denoiser, trainee, data, job.settings, run, observer, ranks)


def _about(job: Job, ranks: Ranks, device: torch.device) -> str:
    batch = job.settings.global_batch
    clips = "1 clip" if batch == 1 else f"{batch} clips"
    processes = "1 process" if ranks.count == 1 else f"{ranks.count} processes"
    return f"{job.stage}: {clips} a step in {processes} on {device.type}, {job.settings.precision}"


def _device(name: str) -> torch.device:
    """This process's device. Raises: SettingsError if this machine lacks it; RunError if another process has it."""
    device = device_called(name)
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type != "cuda" or device.index is not None:
        return device
    if local >= torch.cuda.device_count():
        raise RunError(
            f"process {local + 1} of this machine found {torch.cuda.device_count()} GPUs, and each takes its own. "
            "Start as many processes as there are GPUs (--nproc-per-node)."
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _ranks(options: argparse.Namespace, stack: ExitStack) -> Ranks:
    if not is_one_of_many():
        return OneRank()
    uses_cuda = options.device == AUTO or options.device.startswith("cuda")
    group = ProcessGroup(uses_cuda and torch.cuda.is_available(), options.timeout * 60)
    stack.callback(group.close)
    return group


def _check_versions(ranks: Ranks) -> None:
    """Raises: RunError naming the first process whose software is not that of the first."""
    own = {name: importlib.metadata.version(name) for name in PACKAGES}
    told = [json.loads(words) for words in ranks.gather(json.dumps({**own, "motiongraft": _version()}))]
    for rank, theirs in enumerate(told):
        differences = [
            f"{name} {told[0][name]} and {theirs[name]}" for name in told[0] if theirs[name] != told[0][name]
        ]
        if differences:
            raise RunError(
                f"the processes of a run must have the same software, and 0 and {rank} have {some(differences)}. "
                "Install the same versions on every machine."
            )


def _version() -> str:
    """A hash of the code that all processes must share."""
    digest = hashlib.sha256()
    for path in sorted(ROOT.glob("training/**/*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _clips(job: Job, places: Mapping[str, Path]) -> CachedClips:
    """Raises: TrainingDataError if they are no finished cache; RunError if it is another one."""
    clips = open_cached_clips(places[CLIPS])
    if clips.fingerprint != job.structure.get("clips"):
        raise RunError(
            f"the cached clips in {places[CLIPS]} are not those that this run was begun with. Copy these here "
            "(--clips PATH), or start a new run."
        )
    return clips


def _elsewhere(options: argparse.Namespace) -> dict[str, Path]:
    given = {BASE: options.base, CLIPS: options.clips}
    return {name: path.absolute() for name, path in given.items() if path is not None}
