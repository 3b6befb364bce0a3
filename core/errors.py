"""The errors that users meet.

MotionError
├── CheckpointError          a file is not what it was taken for, or is damaged
├── IncompatibleModelError   two sound models that do not fit together
├── SettingsError            a widget or argument outside its range
├── ShapeError               a tensor whose shape cannot be what the caller meant
├── TrainingDataError        clips, captions or a cache that cannot be trained on
├── RunError                 a run that cannot start, go on, or be written
└── HostError                ComfyUI is missing, too old, or called us in an unforeseen way

Every message says what was expected, what was found, where, and what to do.
"""

from collections.abc import Sequence

MAX_EXAMPLES = 5
MAX_NAME = 140


class MotionError(Exception):
    """Anything MotionGraft refuses, in words for the person at the graph."""


class CheckpointError(MotionError):
    """A file that is damaged, unsafe, or of another kind than the node takes."""


class IncompatibleModelError(MotionError):
    """A motion module, LoRA or base model that does not fit its partner."""


class SettingsError(MotionError):
    """A setting outside its range, or two settings that exclude each other."""


class ShapeError(MotionError):
    """A tensor whose shape contradicts the number of frames or channels."""


class TrainingDataError(MotionError):
    """Clips, captions or a cache of them that nothing can be trained on."""


class RunError(MotionError):
    """A training run that cannot start, go on or be written."""


class HostError(MotionError):
    """A ComfyUI that is absent, too old, or that called a splice outside sampling."""


def shown(name: str) -> str:
    """A name from a file, cut to what a message has room for."""
    return name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}…"


def some(names: Sequence[str]) -> str:
    """At most five of the names, then how many more there are: `a, b and 3 more`."""
    examples = ", ".join(map(shown, names[:MAX_EXAMPLES]))
    hidden = len(names) - MAX_EXAMPLES
    return f"{examples} and {hidden} more" if hidden > 0 else examples
