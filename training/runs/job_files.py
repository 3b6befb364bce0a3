"""The files that a job names: recorded when it is written, and checked before it runs anywhere else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.errors import RunError
from ..cache.clip_identity import ContentDigests
from .job import Job

INPUTS = "inputs"
"""The folder, inside a run's, of what the run was given and no other file holds."""
BASE, NOISE_SCHEDULE, MOTION_MODULE, DOMAIN_ADAPTER = "base", "noise_schedule", "motion_module", "domain_adapter"
CLIPS = "clips"
"""What the entries of `paths` are called. All but the clips are files."""


def input_path(name: str) -> str:
    """Where an input lies, relative to the run's folder."""
    return f"{INPUTS}/{name}.safetensors"


def file_record(path: Path, digests: ContentDigests) -> dict[str, Any]:
    """Size and sha256 of a file, as `Job.files` keeps them. Units: `bytes` in bytes"""
    return {"bytes": path.stat().st_size, "sha256": digests.of(path)}


def find_files(job: Job, run: Path, elsewhere: Mapping[str, Path]) -> dict[str, Path]:
    """Where each part of a job lies: where the job says, seen from the run's folder, or `elsewhere`.

    Raises: RunError naming the first that is not there.
    """
    places = {name: run / path for name, path in job.paths.items() if path is not None} | dict(elsewhere)
    for name, place in places.items():
        if not place.exists():
            raise RunError(
                f"the {_words(name)} of this run is not at {place}. Put it there, or say where it is{_option(name)}."
            )
    return places


def check_unchanged(job: Job, places: Mapping[str, Path], digests: ContentDigests | None) -> None:
    """Compare files with what the job recorded: their sizes, and with `digests` their content as well.

    Raises: RunError naming the first that is another one.
    """
    for name, place in places.items():
        if name == CLIPS or place.is_dir():
            continue  # clips are known by the fingerprint in their index, and nothing was recorded of a folder
        record = job.files.get(name)
        if record is None:
            raise RunError(
                f"the job does not say what the {_words(name)} contained: it was written by an earlier version of "
                "MotionGraft. Queue it once in the editor, which records it."
            )
        size = place.stat().st_size
        if size != record.get("bytes"):
            raise RunError(_changed(name, place, f"{record.get('bytes'):,} bytes", f"{size:,}"))
        if digests is not None and (found := digests.of(place)) != record.get("sha256"):
            raise RunError(_changed(name, place, f"sha256 {str(record.get('sha256'))[:12]}…", f"{found[:12]}…"))


def _changed(name: str, place: Path, expected: str, found: str) -> str:
    return (
        f"the {_words(name)} at {place} is not the one that this run was begun with: expected {expected}, found "
        f"{found}. Put the right file there, say where it is{_option(name)}, or start a new run."
    )


def _words(name: str) -> str:
    return {BASE: "base model", CLIPS: "folder of cached clips"}.get(name, name.replace("_", " "))


def _option(name: str) -> str:
    return f" (--{name} PATH)" if name in (BASE, CLIPS) else ""
