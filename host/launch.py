"""Training in processes of its own, one for each GPU: started, watched, cancelled, believed only by the result."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import torch

from ..core.errors import HostError, RunError, SettingsError
from ..core.tensor_files import read_tensor_file
from ..training.progress import Observer, StepClock, StepReport, ValidationReport
from ..training.runs.checkpoints import step_of
from ..training.runs.job import Job
from ..training.runs.metrics_tail import MetricsTail
from ..training.runs.run_folder import has_final

COMMAND = Path(__file__).resolve().parents[1] / "standalone" / "__main__.py"
LOG = "log.txt"
LOG_TAIL_LINES = 50
POLL_S = 0.25
STOP_GRACE_S = 60.0
"""From the request to stop until the processes are killed; torchrun gives its own 30 s to save."""
SAMPLES = "samples"


def check_can_launch(processes: int) -> None:
    """Raises: HostError or SettingsError if this machine cannot train in so many processes, before anything starts."""
    if processes == 1:
        return
    if importlib.util.find_spec("diffusers") is None:
        raise HostError(
            f"processes is {processes}, and processes of their own need the package diffusers, which is not installed. "
            f"Install it with `{sys.executable} -m pip install diffusers`, or set processes to 1."
        )
    if _device() == "cuda" and torch.cuda.device_count() < processes:
        raise SettingsError(
            f"processes is {processes}, each takes a GPU of its own, and this machine has {torch.cuda.device_count()}. "
            "Set processes to that number or less."
        )


def train_in_processes(run: Path, job: Job, observer: Observer) -> None:
    """Train a run to its end in the processes that its settings ask for; ComfyUI's models make room first.

    Raises: RunError with the end of the log if they fail, or leave no result; whatever `check_cancelled` raises, once
    they have saved and ended.
    """
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
    observer.say(f"trains in {job.settings.processes} processes, whose log is {run / LOG}")
    watch = _watch(run, job, observer)
    with (run / LOG).open("ab") as log:
        process = _start(_command(run, job.settings.processes), run, log)
        try:
            while process.poll() is None:
                watch()
                observer.check_cancelled()
                time.sleep(POLL_S)
        finally:
            _stop(process)
    watch()
    if process.returncode != 0:
        raise RunError(f"the training processes ended with status {process.returncode}. {_end_of_log(run)}")
    if not has_final(run, job):
        raise RunError(f"the training processes ended without a result in {run}. {_end_of_log(run)}")


def _command(run: Path, processes: int) -> list[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    watched = ["--device", _device(), "--while-process", str(os.getpid())]
    return [*torchrun, str(COMMAND), "train", str(run), *watched]


def _device() -> str:
    return "cuda" if comfy.model_management.get_torch_device().type == "cuda" else "cpu"


def _start(command: list[str], run: Path, log: Any) -> subprocess.Popen[bytes]:
    """A group of its own: an interrupt of ComfyUI reaches ComfyUI alone, which then stops it."""
    return subprocess.Popen(
        command,
        cwd=run,  # where nothing lies that Python could take for a module
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Let the processes save and end; those that do not are killed."""
    if process.poll() is not None:
        return
    _signal_group(process, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_GRACE_S)
    _signal_group(process, getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, number)
        else:
            process.kill()


def _watch(run: Path, job: Job, observer: Observer) -> Callable[[], None]:
    """Tells the observer what is new in a run's folder, whenever it is called."""
    start = max(map(step_of, (run / "checkpoints").glob("step-*")), default=-1)
    tail = MetricsTail(run / "metrics.jsonl", after=start)
    seen, clock = set((run / SAMPLES).glob("*.safetensors")), StepClock()

    def watch() -> None:
        for record in tail.new():
            if record["kind"] == "step":
                observer.on_step(_step_report(record, job.settings.steps, clock))
            elif record["kind"] == "validation":
                by_timestep = {int(timestep): float(loss) for timestep, loss in record["by_timestep"].items()}
                observer.on_validation(ValidationReport(record["step"], float(record["loss"]), by_timestep))
        for path in sorted(set((run / SAMPLES).glob("*.safetensors")) - seen):
            seen.add(path)
            step = int(path.stem.removeprefix("step-"))
            observer.on_sample(read_tensor_file(path).tensors["latents"], step, path.parent)

    return watch


def _step_report(record: dict[str, Any], steps: int, clock: StepClock) -> StepReport:
    left = clock.seconds_left(record["seconds"], steps - record["step"])
    loss, rate, norm = (float(record[name]) for name in ("loss", "learning_rate", "gradient_norm"))
    return StepReport(record["step"], steps, loss, rate, norm, left)


def _end_of_log(run: Path) -> str:
    lines = (run / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    return f"Their log, {run / LOG}, ends with:\n" + "\n".join(lines[-LOG_TAIL_LINES:])
