"""Runs as a training node leaves them, without the node: a job, its inputs, a toy base and clips that never moved."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from motiongraft.core.tensor_files import write_tensor_file
from motiongraft.motion_modules.load import saved_form
from motiongraft.tests.helpers.cached_sets import write_toy_cache
from motiongraft.tests.helpers.random_modules import random_module, toy_spec
from motiongraft.tests.helpers.training_runs import quick_settings
from motiongraft.tests.tiny_sd_pack.checkpoints import write_tiny_sd15
from motiongraft.training.cache.clip_identity import ContentDigests
from motiongraft.training.runs.job import Job
from motiongraft.training.runs.job_files import BASE, CLIPS, MOTION_MODULE, file_record, input_path
from motiongraft.training.trainee import MOTION_LORA

COMMAND = Path(__file__).resolve().parents[2] / "standalone" / "__main__.py"
CLIP_FRAMES = 2


def write_toy_job(folder: Path, stage: str = MOTION_LORA, **settings: Any) -> Path:
    """The folder of a run that was begun and has taken no step; base and clips lie beside it."""
    run = folder / "run"
    run.mkdir(parents=True)
    base = folder / "base.safetensors"
    if not base.exists():
        write_tiny_sd15(base)
    clips = write_toy_cache(folder / "clips", num_clips=5, frames=CLIP_FRAMES)
    digests = ContentDigests(run)
    files, paths = {BASE: file_record(base, digests)}, {BASE: str(base), CLIPS: str(clips.folder)}
    structure: dict[str, Any] = {"base": "toy", "clips": clips.fingerprint, "domain_adapter": None, "rank": 4}
    if stage == MOTION_LORA:
        paths[MOTION_MODULE] = input_path(MOTION_MODULE)
        (run / "inputs").mkdir()
        write_tensor_file(run / paths[MOTION_MODULE], *saved_form(random_module(toy_spec("v3"))))
        files[MOTION_MODULE] = file_record(run / paths[MOTION_MODULE], digests)
    else:
        structure |= {"layout": "v3", "motion_module": None}
    job = Job(stage, structure, quick_settings(**settings), paths, {"torch": torch.__version__}, files)
    (run / "job.json").write_text(job.to_json(), encoding="utf-8")
    return run


def train(*arguments: Any, processes: int = 1, **options: Any) -> "subprocess.CompletedProcess[str]":
    """What the command `train` says and ends with."""
    command, environment = train_command(*arguments, processes=processes)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False, **options)


def train_command(*arguments: Any, processes: int = 1, command: Path = COMMAND) -> tuple[list[str], dict[str, str]]:
    """The command line, under torchrun for several processes, and its environment."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    start = [sys.executable, *(torchrun if processes > 1 else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return [*start, str(command), "train", *map(str, arguments), "--device", "cpu"], environment
