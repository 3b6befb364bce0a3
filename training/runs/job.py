"""What a run is: its stage, the structure of what it trains and its settings. Kept as job.json in the run's folder."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, cast

from ...core.errors import RunError, SettingsError, shown, some
from ..settings import TrainingSettings
from .json_values import plain

SCHEMA = 1
"""Grows when the meaning of a field changes."""
_FIELDS = ("schema", "stage", "structure", "settings", "paths", "versions")
_OPTIONAL = ("files",)
_ABSENT = "nothing"


@dataclass(frozen=True)
class Difference:
    """A field in which two jobs differ, with both values in words."""

    field: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.field} {self.before} → {self.after}"


@dataclass(frozen=True)
class Job:
    """What a run is, in paths, hashes and numbers; never tensors.

    Raises: RunError if a value is no JSON.
    """

    stage: str
    structure: Mapping[str, Any]
    """What decides shapes and meaning of the trained tensors, such as rank, layout and hash of the base model."""
    settings: TrainingSettings
    paths: Mapping[str, str | None]
    """Where the parts lie. A moved file changes no run: not part of the identity. Those inside the run's folder are
    relative to it, so that the folder can be moved."""
    versions: Mapping[str, str]
    """Of the software. Not part of the identity."""
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {})
    """Size and sha256 of the files among `paths`, as they were. Not part of the identity."""

    def __post_init__(self):
        for name in ("structure", "paths", "versions", "files"):
            object.__setattr__(self, name, plain(getattr(self, name), name))

    @property
    def identity(self) -> str:
        """Equal for two jobs that train the same; a sha256 in hexadecimal.

        The same bit for bit in one process. Processes that share a step change no more than the order of its sums, so
        that a run may go on in another number of them, as long as their batches make up the same step.
        """
        settings = {name: value for name, value in _setting_values(self.settings).items() if name != "resume"}
        settings["batch_size"] *= settings.pop("processes")
        parts = {"stage": self.stage, "structure": self.structure, "settings": settings}
        return hashlib.sha256(_canonical(parts).encode()).hexdigest()

    def provenance(self, run: str) -> dict[str, Any]:
        """What the file that a run ends with says of how it was made."""
        return {"run": run, **self.structure, "settings": asdict(self.settings)}

    def to_json(self) -> str:
        """The text of job.json, for reading too."""
        values = {name: getattr(self, name) for name in (*_FIELDS[1:], *_OPTIONAL)}
        values["settings"] = _setting_values(self.settings)
        return json.dumps({"schema": SCHEMA, **values}, indent=2, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str, source: str = "job.json") -> "Job":
        """The job that `to_json` wrote.

        Raises: RunError naming what is unknown, missing or of another type.
        """
        content = _parsed(text, source)
        if content.get("schema") != SCHEMA:
            raise RunError(
                f"{source} should have schema {SCHEMA}, found {content.get('schema', _ABSENT)}. "
                "It was written by another version of MotionGraft; go on with that version, or start a new run."
            )
        _check_fields(content, source)
        settings = _settings(content["settings"], source)
        files = content.get("files", {})
        return Job(content["stage"], content["structure"], settings, content["paths"], content["versions"], files)


def structural_differences(before: Job, after: Job) -> list[Difference]:
    """Differences with which one cannot go on where the other stopped."""
    stages = _differences({"stage": before.stage}, {"stage": after.stage})
    return [*stages, *_differences(before.structure, after.structure)]


def setting_differences(before: Job, after: Job) -> list[Difference]:
    """Settings that differ; `resume`, which is about folders alone, is none of them."""
    changed = _differences(_setting_values(before.settings), _setting_values(after.settings))
    return [difference for difference in changed if difference.field != "resume"]


def outer_differences(before: Job, after: Job) -> list[Difference]:
    """Differences in paths and versions, which are not part of the identity."""
    return [*_differences(before.paths, after.paths), *_differences(before.versions, after.versions)]


def in_words(differences: list[Difference]) -> str:
    """At most five of the differences, in one line."""
    return some([str(difference) for difference in differences])


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    names = [*before, *(name for name in after if name not in before)]
    all_fields = [Difference(name, _in_words(before, name), _in_words(after, name)) for name in names]
    return [each for each in all_fields if each.before != each.after]


def _in_words(values: Mapping[str, Any], name: str) -> str:
    return _canonical(values[name]) if name in values else _ABSENT


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _setting_values(settings: TrainingSettings) -> dict[str, Any]:
    """Settings as JSON, in which a rate of 1 and one of 1.0 are the same."""
    values = ((each, getattr(settings, each.name)) for each in fields(settings))
    return {each.name: float(value) if isinstance(each.default, float) else value for each, value in values}


def _parsed(text: str, source: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise RunError(f"{source} should be a JSON object and is not. Restore the file, or start a new run.")
    return cast(dict[str, Any], content)


def _check_fields(content: Mapping[str, Any], source: str) -> None:
    missing = [name for name in _FIELDS if name not in content]
    unknown = [name for name in content if name not in (*_FIELDS, *_OPTIONAL)]
    wrong = [name for name in (*_FIELDS[2:], *_OPTIONAL) if name in content and not isinstance(content[name], dict)]
    wrong += [] if isinstance(content.get("stage", ""), str) else ["stage"]
    for names, fault in ((missing, "lacks"), (unknown, "has unknown fields"), (wrong, "has odd values for")):
        if names:
            raise RunError(f"{source} {fault} {some(names)}. Restore the file, or start a new run.")


def _settings(values: Mapping[str, Any], source: str) -> TrainingSettings:
    faults = list(_setting_faults(values))
    if faults:
        raise RunError(f"{source}: {some(faults)}. Restore the file, or start a new run.")
    try:
        return TrainingSettings(**values)
    except SettingsError as error:
        raise RunError(f"{source}: {error}") from error


def _setting_faults(values: Mapping[str, Any]) -> Iterator[str]:
    kinds = {each.name: type(cast(object, each.default)) for each in fields(TrainingSettings)}
    for name, value in values.items():
        if name not in kinds:
            yield f"the setting {shown(name)} is unknown"
        elif not isinstance(value, (int, float) if kinds[name] is float else kinds[name]):
            yield f"the setting {name} should be of type {kinds[name].__name__}, found {value!r}"
