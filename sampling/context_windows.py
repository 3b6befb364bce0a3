"""Settings of overlapping context windows, by which a clip of any length is sampled in pieces."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.errors import SettingsError

SCHEDULES = ("uniform", "static", "looped", "batched", "composite")
FUSE_METHODS = ("pyramid", "flat", "overlap-linear", "relative", "gaussian")


@dataclass(frozen=True)
class ContextWindowSettings:
    """A checked set of window settings.

    Raises: SettingsError where two settings exclude each other.
    """

    length: int = 16
    """Frames in a window; a clip that is no longer runs whole."""
    overlap: int = 4
    """Frames that a window shares with the next."""
    stride: int = 1
    """1: neighbouring frames only; n: also windows that take every 2nd, 4th, … up to every 2^(n-1)th frame."""
    schedule: str = "uniform"
    fuse: str = "pyramid"
    closed_loop: bool = False
    """The last frame meets the first."""
    freenoise: bool = True
    """Later windows get the first window's noise, shuffled, so that they stay one scene (arXiv 2310.15169)."""
    start_percent: float = 0.0
    """Where in the sampling these windows take over from those before them. `composite` shuffles in the first tenth of
    the sampling alone."""

    def __post_init__(self):
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check_choice("fuse", self.fuse, FUSE_METHODS)
        if self.length < 2 or self.stride < 1 or self.overlap < 0:
            raise SettingsError(
                "a context window needs length 2 or more, stride 1 or more, overlap 0 or more; found length "
                f"{self.length}, stride {self.stride}, overlap {self.overlap}. "
                "Length 16, overlap 4, stride 1 suit most modules."
            )
        if not 0 <= self.start_percent < 1:
            raise SettingsError(
                f"start_percent {self.start_percent:g} is no share of the sampling; expected 0 to less than 1. "
                "0 is its beginning."
            )
        if self.overlap >= self.length:
            raise SettingsError(
                f"overlap {self.overlap} must be smaller than length {self.length}, or the windows never advance. "
                f"Set overlap to {self.length // 4}."
            )
        if self.closed_loop and self.schedule != "looped":
            raise SettingsError(
                f"closed_loop needs windows that run over the end, and schedule {self.schedule} has none. "
                "Set schedule to looped, or closed_loop to false."
            )
        if self.fuse == "relative" and self.schedule == "looped":
            raise SettingsError(
                "fuse relative measures the distance to a window's middle, which a window over the end does not have. "
                "With schedule looped, set fuse to pyramid or flat."
            )
        if self.fuse == "overlap-linear" and self.schedule == "composite":
            raise SettingsError(
                "fuse overlap-linear ramps where windows overlap, and the shuffled windows of composite do not. "
                "With schedule composite, set fuse to pyramid, flat or gaussian."
            )


def followed_by(earlier: Sequence[ContextWindowSettings], later: ContextWindowSettings) -> list[ContextWindowSettings]:
    """Settings that follow one another over the sampling, with one more; windows from the beginning replace them all.

    Raises: SettingsError if nothing comes before windows that start later.
    """
    if later.start_percent == 0:
        return [later]
    if not earlier:
        raise SettingsError(
            f"windows that start at {later.start_percent:g} of the sampling follow on those of another ContextWindow, "
            "and there is none before. Put one with start_percent 0 in front, or set start_percent to 0."
        )
    kept = [settings for settings in earlier if settings.start_percent != later.start_percent]
    return sorted([*kept, later], key=lambda settings: settings.start_percent)


def settings_at(spans: Sequence[ContextWindowSettings], percent: float) -> ContextWindowSettings:
    """The settings that hold at a share of the sampling."""
    return [settings for settings in spans if settings.start_percent <= percent][-1]


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SettingsError(f"{name} should be one of {', '.join(choices)}, found {value}. Choose one of these.")
