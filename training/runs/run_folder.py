"""The folder of a run: what it is, what it measured, where it can go on, and its result."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from ...core.errors import RunError
from .checkpoints import Checkpoint, CheckpointFolder, read_checkpoint, step_of
from .disk_space import check_writable, write_errors_in_words
from .durable_files import (
    file_records,
    find_damage,
    flush_folder,
    is_temporary,
    read_json_object,
    remove,
    temporary_name,
    write_json,
    write_text,
)
from .finite_tensors import write_finite_tensors
from .job import Job, in_words, outer_differences, setting_differences
from .metrics import MetricsLog
from .run_choice import JOB, FoundRun, check_run_name, choose_run, make_run_folder
from .run_lock import RunLock
from .tensorboard_scalars import TensorBoardScalars

SCHEMA = 1
FINAL, FINAL_MANIFEST = "final.safetensors", "final.json"


def open_run(root: Path, name: str, job: Job) -> "RunFolder":
    """The folder that the job runs in, by the rules of its setting `resume`; locked until it is closed.

    Raises: SettingsError for an impossible name; RunError if the job must go on and cannot, the folder cannot be
    written, or another process uses it.
    """
    check_run_name(name)
    check_writable(root)
    choice = choose_run(root, name, job)
    if choice.run is None:
        return _start(make_run_folder(root, name), job, choice.messages)
    return _go_on(choice.run, job, choice.messages)


def reopen_run(path: Path) -> "RunFolder":
    """A run that is there already, with the job that its folder says, to go on wherever it stands; locked until closed.

    Raises: RunError if the folder is no run, cannot be written, or another process uses it.
    """
    job = read_job(path)
    check_writable(path)
    return _go_on(FoundRun(path, 1, job), replace(job, settings=replace(job.settings, resume="auto")), ())


def read_job(path: Path) -> Job:
    """The job of a run's folder. Raises: RunError if there is none."""
    try:
        text = (path / JOB).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RunError(
            f"expected a run with its {JOB} in {path}, found none ({error}). Give the folder of a run that a training "
            "node has begun."
        ) from error
    return Job.from_json(text, str(path / JOB))


def has_final(path: Path, job: Job) -> bool:
    """Whether a run's folder holds the result of a job, whole."""
    manifest = read_json_object(path / FINAL_MANIFEST)
    is_of_this_job = bool(manifest) and manifest.get("identity") == job.identity
    return is_of_this_job and find_damage(path, manifest) is None


class RunFolder:
    """A run of this process. Close it, or use it in a `with`, so that others may open it."""

    def __init__(self, path: Path, job: Job, lock: RunLock):
        self.path, self.job, self.final_path = path, job, path / FINAL
        self.messages: tuple[str, ...] = ()
        """What was decided, in words for the log."""
        self.samples = path / "samples"
        """For sample clips."""
        self.metrics = MetricsLog(path / "metrics.jsonl", TensorBoardScalars(path / "tensorboard"))
        self._lock = lock
        self._checkpoints = CheckpointFolder(path / "checkpoints")
        with write_errors_in_words("A folder of the run", path):
            self.samples.mkdir(exist_ok=True)
            self._checkpoints.path.mkdir(exist_ok=True)
            if lock.is_held:
                self._clean_up()
        self.is_finished = has_final(path, job)
        """Whether the result is there, whole, and of this job."""
        self._found: Path | None = None
        """A checkpoint whose hashes were just checked."""

    def load_checkpoint(self) -> Checkpoint | None:
        """The newest whole checkpoint, its tensors on the CPU, or None at the start of a run.

        Later metrics are cut, since those steps come again; so this is also the way back from a step gone wrong.
        """
        path, self._found = self._found or self._checkpoints.find_newest(), None
        checkpoint = read_checkpoint(path) if path else None
        if not self.is_finished:
            self.metrics.cut_after(checkpoint.step if checkpoint else -1)
        return checkpoint

    def checkpoint_path(self, step: int) -> Path:
        """Where the checkpoint of a step lies, if it was kept."""
        return self._checkpoints.path_of(step)

    def load_best(self) -> Checkpoint | None:
        """The whole checkpoint that was saved as the best, or None; metrics stay as they are."""
        return self._checkpoints.load_best()

    def save_checkpoint(self, checkpoint: Checkpoint, is_best: bool = False) -> Path:
        """Write a checkpoint; the last two and the best are kept.

        Raises: RunError if a tensor is not finite or the disk does not take it; earlier ones stay whole.
        """
        self._found = None
        return self._checkpoints.save(checkpoint, self.job.identity, is_best)

    def write_final(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Path:
        """Write the result, whole or not at all; with it the run is finished.

        Raises: RunError if a tensor is not finite or the disk does not take it.
        """
        temporary = self.path / temporary_name("final")
        try:
            with write_errors_in_words("The result of the run", self.path):
                temporary.mkdir(exist_ok=True)
                write_finite_tensors(temporary / FINAL, tensors, metadata, self.job.stage)
                manifest = {"schema": SCHEMA, "identity": self.job.identity, "files": file_records(temporary, [FINAL])}
                (temporary / FINAL).replace(self.final_path)
                flush_folder(self.path)
                write_json(self.path / FINAL_MANIFEST, manifest)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self.is_finished = True
        return self.final_path

    def close(self) -> None:
        """Let another process open the run."""
        self.metrics.close()
        self._lock.close()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def num_bytes(self) -> int:
        """What its checkpoints and its result take on the disk now."""
        files = [*self._checkpoints.path.rglob("*"), self.final_path]
        return sum(path.stat().st_size for path in files if path.is_file())

    def find_start(self) -> int | None:
        """The step that `load_checkpoint` will go on from; None at the start of a run."""
        self._found = self._checkpoints.find_newest()
        return step_of(self._found) if self._found else None

    def record_files(self, files: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep sizes and hashes of the job's files in job.json."""
        if self.job.files != files:
            self.job = replace(self.job, files=files)
            self.write_job()

    def write_job(self, stored: Job | None = None) -> None:
        """Write job.json, and keep what stood there under the next number.

        Raises: RunError if the disk does not take it.
        """
        with write_errors_in_words(JOB, self.path):
            if stored:
                taken = [path.stem for path in self.path.glob("job-*.json")]
                number = next(number for number in range(1, len(taken) + 2) if f"job-{number}" not in taken)
                write_text(self.path / f"job-{number}.json", stored.to_json())
            write_text(self.path / JOB, self.job.to_json())

    def _clean_up(self) -> None:
        self._checkpoints.clean_up()
        for path in self.path.iterdir():
            if is_temporary(path.name):
                remove(path)


def _start(path: Path, job: Job, messages: tuple[str, ...]) -> RunFolder:
    lock = RunLock(path)
    try:
        run = RunFolder(path, job, lock)
        run.write_job()
    except BaseException:
        lock.close()
        shutil.rmtree(path, ignore_errors=True)  # made a moment ago, and nothing came of it
        raise
    run.messages = (*messages, f"starts the new run {path}")
    return run


def _go_on(found: FoundRun, job: Job, messages: tuple[str, ...]) -> RunFolder:
    lock = RunLock(found.path)
    try:
        run = RunFolder(found.path, replace(job, files=found.job.files if found.job else {}), lock)
        run.messages = (*messages, *_settle(run, found))
    except BaseException:
        lock.close()
        raise
    return run


def _settle(run: RunFolder, found: FoundRun) -> list[str]:
    """Find out where a run goes on and keep its job; what was decided, in words."""
    if run.is_finished:
        return [f"the run {run.path} is finished, and its result is used"]
    start = run.find_start()
    if start is None and run.job.settings.resume == "must":
        raise RunError(
            f"`resume` is `must`, and {run.path} is not finished and has no whole checkpoint. "
            "Set `resume` to `new` to start again."
        )
    messages = [f"continues at step {start} of {run.path}" if start else f"starts over in {run.path}: no checkpoint"]
    if start and start > run.job.settings.steps:
        messages.append(f"the run has taken {start} steps, more than the {run.job.settings.steps} that are set")
    assert found.job is not None
    outer = outer_differences(found.job, run.job)
    if outer:
        messages.append(f"paths or versions differ: {in_words(outer)}")
    if outer or setting_differences(found.job, run.job):
        run.write_job(found.job)
    return messages
