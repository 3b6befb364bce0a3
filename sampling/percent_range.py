"""A part of the sampling, by shares of it as ComfyUI counts them."""

from dataclasses import dataclass

from ..core.errors import SettingsError


@dataclass(frozen=True)
class PercentRange:
    """From one share of the sampling to another, 0 at the highest noise and 1 without any.

    The end belongs to what comes after, so that two parts that meet leave no gap; the end of all belongs to the last.
    Raises: SettingsError for a part that is none.
    """

    start: float = 0.0
    end: float = 1.0

    def __post_init__(self):
        if not 0 <= self.start < self.end <= 1:
            raise SettingsError(
                f"start_percent {self.start:g} and end_percent {self.end:g} are no part of the "
                "sampling; expected 0 to 1, the start first."
            )

    def holds(self, percent: float) -> bool:
        """Whether a share of the sampling lies in it."""
        return self.start <= percent < self.end or percent == self.end == 1

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the sampling."""
        return (self.start, self.end) == (0, 1)
