"""Which folder a job runs in: the names of runs, what lies there already, and what `resume` makes of it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import RunError, SettingsError
from .disk_space import write_errors_in_words
from .durable_files import flush_folder, is_temporary
from .job import Job, in_words, setting_differences, structural_differences
from .run_lock import LOCK

JOB = "job.json"
MAX_NAME = 80
RESERVED = {"caches", "con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
"""`caches` lies beside the runs; the others are devices of Windows."""
_NUMBER = re.compile(r"-([1-9]\d{0,3})")


@dataclass(frozen=True)
class FoundRun:
    """A folder of a run's name; where it is none of our runs, `problem` says why."""

    path: Path
    number: int
    job: Job | None
    problem: str = ""


@dataclass(frozen=True)
class Choice:
    """The run to go on with, or None for a new one, and why."""

    run: FoundRun | None
    messages: tuple[str, ...] = ()


def check_run_name(name: str) -> None:
    """Raises: SettingsError unless the name is a plain folder name on every system."""
    plain = all(letter.isalnum() or letter in " ._-" for letter in name)
    if not plain or not name or name != name.strip() or name[0] == "." or name[-1] == "." or len(name) > MAX_NAME:
        raise SettingsError(
            f"The name of a run should be up to {MAX_NAME} letters, digits, spaces, dots, _ and -, without a dot or "
            f"space at its ends, found {name!r}. Choose another name."
        )
    if name.partition(".")[0].lower() in RESERVED:
        raise SettingsError(f"The name {name!r} is reserved for other things. Choose another name for the run.")


def choose_run(root: Path, name: str, job: Job) -> Choice:
    """Where the job's `resume` lets it run.

    Raises: RunError if it must go on with a run, and the newest of the name is none that it fits.
    """
    if job.settings.resume == "new":
        return Choice(None)
    found = find_runs(root, name)
    return _run_that_must_be(root, name, found, job) if job.settings.resume == "must" else _equal_run(found, job)


def find_runs(root: Path, name: str) -> list[FoundRun]:
    """The folders of this name, oldest first, ours or not; those without content are left out."""
    return [_read(path, number) for number, path in sorted(_numbered(root, name)) if not _is_empty(path)]


def make_run_folder(root: Path, name: str) -> Path:
    """A new folder: of this name, or with the number after the last. Two processes never get the same.

    Raises: RunError if it cannot be made.
    """
    number = max((number for number, _ in _numbered(root, name)), default=0) + 1
    with write_errors_in_words("The folder of a run", root):
        while True:
            path = root / (name if number == 1 else f"{name}-{number}")
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                number += 1
            else:
                flush_folder(root)
                return path


def _numbered(root: Path, name: str) -> Iterator[tuple[int, Path]]:
    for path in root.iterdir() if root.is_dir() else ():
        number = _NUMBER.fullmatch(path.name.removeprefix(name))
        if path.name == name:
            yield 1, path
        elif number and path.name.startswith(name) and int(number[1]) > 1:
            yield int(number[1]), path


def _is_empty(path: Path) -> bool:
    """Whether nothing came of a folder: a process ended between making it and saying what it is."""
    files = (entry.name for entry in path.rglob("*") if not entry.is_dir())
    return path.is_dir() and all(name == LOCK or is_temporary(name) for name in files)


def _read(path: Path, number: int) -> FoundRun:
    try:
        return FoundRun(path, number, Job.from_json((path / JOB).read_text(encoding="utf-8"), str(path / JOB)))
    except (OSError, ValueError):
        return FoundRun(path, number, None, f"{path} is no run: it has no {JOB} that can be read")
    except RunError as error:
        return FoundRun(path, number, None, str(error))


def _equal_run(found: list[FoundRun], job: Job) -> Choice:
    """The newest run of the same job, else a new one."""
    runs = [(run, run.job) for run in found if run.job]
    equal = [run for run, stored in runs if stored.identity == job.identity]
    if equal:
        return Choice(equal[-1])
    passed_over = tuple(f"passed over: {run.problem}" for run in found if run.problem)
    return Choice(None, (*passed_over, *(_why_new(run, stored, job) for run, stored in runs[-1:])))


def _why_new(run: FoundRun, stored: Job, job: Job) -> str:
    differences = [*structural_differences(stored, job), *setting_differences(stored, job)]
    return f"not the run {run.path.name}, which differs: {in_words(differences)}"


def _run_that_must_be(root: Path, name: str, found: list[FoundRun], job: Job) -> Choice:
    if not found:
        raise RunError(
            f"`resume` is `must`, and there is no run {name} in {root}. Set `resume` to `auto` or `new`, "
            "or give the name of a run that is there."
        )
    run = found[-1]
    if run.job is None:
        raise RunError(f"`resume` is `must`, and the newest run of this name cannot go on. {run.problem}")
    differences = structural_differences(run.job, job)
    if differences:
        there_and_here = "; ".join(f"{one.field} is {one.before} there and {one.after} here" for one in differences)
        raise RunError(
            f"`resume` is `must`, and {run.path} was started with another structure: {there_and_here}. "
            "Set these as they were, or set `resume` to `new`."
        )
    changed = setting_differences(run.job, job)
    return Choice(run, (f"settings differ: {in_words(changed)}",) if changed else ())
