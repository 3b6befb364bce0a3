"""What was found in a folder of clips, as a table for people."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .clips import TrainingClip

MAX_NAME, MAX_CAPTION = 48, 40
HEADINGS = ("file", "frames", "fps", "size", "caption", "verdict")


@dataclass(frozen=True)
class CheckedFile:
    """One video or folder of frames: its clips, or the reason why it has none.

    Units: rate in frames per second, None where there is no clock; size in pixels.
    """

    name: str
    caption: str
    clips: tuple[TrainingClip, ...] = ()
    num_frames: int | None = None
    rate: float | None = None
    reason: str | None = None
    shortened: int | None = None
    """Frames that the settings ask for, where the clips have fewer."""

    @property
    def verdict(self) -> str:
        """`ok`, with what should be known about it, or `bad` and why."""
        if self.reason is not None:
            return f"bad: {self.reason}"
        notes = [*self._enlarged(), *self._shorter()]
        return f"ok ({', '.join(notes)})" if notes else "ok"

    @property
    def size(self) -> str:
        """Width and height of the source."""
        source = self.clips[0].cut.size if self.clips else None
        return f"{source.width}×{source.height}" if source else "–"

    def _enlarged(self) -> list[str]:
        return [f"enlarged from {self.size}"] if any(clip.enlargement > 1 for clip in self.clips) else []

    def _shorter(self) -> list[str]:
        return [f"{self.clips[0].num_frames} of {self.shortened} frames"] if self.shortened else []


def report(files: Sequence[CheckedFile], notes: Sequence[str] = ()) -> str:
    """A table with a row for each file, then the totals."""
    rows = [HEADINGS, *map(_row, files)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = [_aligned(row, widths) for row in rows]
    return "\n".join([*lines, "", *_summary(files), *notes])


def _row(file: CheckedFile) -> tuple[str, ...]:
    frames = "–" if file.num_frames is None else str(file.num_frames)
    rate = "–" if file.rate is None else f"{file.rate:.2f}".rstrip("0").rstrip(".")
    caption = _shortened(file.caption, MAX_CAPTION) or "(none)"
    return (_shortened(file.name, MAX_NAME), frames, rate, file.size, caption, file.verdict)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    """Numbers to the right, text to the left."""
    cells = [
        cell.rjust(width) if heading in ("frames", "fps", "size") else cell.ljust(width)
        for cell, width, heading in zip(row, widths, HEADINGS, strict=True)
    ]
    return "  ".join(cells).rstrip()


def _summary(files: Sequence[CheckedFile]) -> list[str]:
    clips = [clip for file in files for clip in file.clips]
    bad = sum(file.reason is not None for file in files)
    without_caption = sum(not file.caption for file in files)
    buckets = Counter((clip.width, clip.height, clip.num_frames) for clip in clips)
    lines = [
        f"clips: {len(clips)}, from {len(files) - bad} of {len(files)} files",
        f"bad: {bad}",
        f"without caption: {without_caption}",
    ]
    return lines + [
        f"bucket {width}×{height}, {num_frames} frames: {count}"
        for (width, height, num_frames), count in sorted(buckets.items())
    ]


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
