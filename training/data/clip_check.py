"""The check before anything trains: every clip of a folder is found, cut, tried and reported."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from ...core.errors import MAX_EXAMPLES, TrainingDataError, shown
from .captions import TABLE, Captions, read_captions
from .clip_cutting import cut_clips, open_source
from .clip_files import ClipFile, ClipFolder, find_clip_files
from .clip_report import CheckedFile, report
from .clip_settings import ClipSettings
from .clips import TrainingClips
from .frame_source import BadClipError

OnClip = Callable[[int, int], None]
MOST_WORKERS = 8


def find_training_clips(
    folder: Path, settings: ClipSettings, on_clip: OnClip | None = None
) -> tuple[TrainingClips, str]:
    """The clips of a folder, each decoded at its first, middle and last frame, and a report on every file.

    `on_clip` is told after each file how many of how many are done; what it raises ends the check.

    Raises: TrainingDataError if there is nothing to train on, or more of it is bad than may be skipped.
    """
    contents = find_clip_files(folder)
    captions = read_captions(contents)
    checked = list(_checked(contents, captions, settings, on_clip or (lambda done, total: None)))
    _check_share(folder, checked, settings)
    clips = tuple(clip for file in checked for clip in file.clips)
    return TrainingClips(clips, settings.flip, settings.frame_stride), report(checked, _notes(contents, captions))


def _checked(
    contents: ClipFolder, captions: Captions, settings: ClipSettings, on_clip: OnClip
) -> Iterator[CheckedFile]:
    """The files in order, several at work at once: most of the time goes into FFmpeg, which lets others run."""
    pool = ThreadPoolExecutor(min(MOST_WORKERS, os.cpu_count() or 1))
    try:
        tasks = [pool.submit(_check, clip, captions.by_name[clip.name], settings) for clip in contents.clips]
        for done, task in enumerate(tasks, start=1):
            yield task.result()
            on_clip(done, len(tasks))
    finally:
        pool.shutdown(cancel_futures=True)


def _check(file: ClipFile, caption: str, settings: ClipSettings) -> CheckedFile:
    checked = CheckedFile(file.name, caption)
    try:
        source = open_source(file)
        checked = replace(checked, num_frames=len(source.times), rate=source.rate)
        clips = cut_clips(source, file.name, caption, settings)
    except BadClipError as error:
        return replace(checked, reason=error.reason)
    is_shorter = clips[0].num_frames < settings.num_frames
    return replace(checked, clips=clips, shortened=settings.num_frames if is_shorter else None)


def _check_share(folder: Path, checked: Sequence[CheckedFile], settings: ClipSettings) -> None:
    bad = [file for file in checked if file.reason is not None]
    if len(bad) <= settings.skip_at_most * len(checked):
        return
    reasons = [f"- {shown(file.name)}: {file.reason}" for file in bad[:MAX_EXAMPLES]]
    reasons += [f"- and {len(bad) - MAX_EXAMPLES} more"] if len(bad) > MAX_EXAMPLES else []
    raise TrainingDataError(
        f"{folder.name}: {len(bad)} of {len(checked)} files cannot be trained on, expected at most "
        f"{settings.skip_at_most:.0%} (skip_at_most):\n" + "\n".join(reasons) + "\nMend or remove them"
        f"{_enough_to_skip(len(bad), len(checked))}."
    )


def _enough_to_skip(bad: int, total: int) -> str:
    share = -(-bad * 100 // total) / 100
    return f", or set skip_at_most to {share:g} to train without them" if share <= 0.5 else ""


def _notes(contents: ClipFolder, captions: Captions) -> list[str]:
    notes = [f"pictures beside videos, not used: {contents.unused_pictures}"] if contents.unused_pictures else []
    rows = captions.rows_without_clip
    return notes + ([f"rows of {TABLE} without a video: {rows}"] if rows else [])
