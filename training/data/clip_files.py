"""What a folder holds: videos, folders of frames, and shards of videos."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import TrainingDataError, shown, some
from .picture_files import is_animated_webp
from .webdataset import SHARD_SUFFIX, ShardPart, videos_in_shard

VIDEO_SUFFIXES = (".mp4", ".mov", ".webm", ".mkv", ".m4v", ".gif")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""A picture is a frame of its folder, unless it is an animated WEBP, which is a video."""
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx"}
_NUMBER = re.compile(r"(\d+)")


@dataclass(frozen=True)
class ClipFile:
    """A video file, a video in a shard, or a folder with the frames of one clip."""

    name: str
    """Path from the chosen folder, with forward slashes."""
    path: Path
    frames: tuple[Path, ...] = ()
    """Empty for a video file."""
    part: ShardPart | None = None
    """Where a video lies in a shard; its path then leads through the shard and is there for messages."""
    caption: str = ""
    """What the shard says of it."""
    fault: str = ""
    """Why it cannot be used, as far as the shard's headers tell."""


@dataclass(frozen=True)
class ClipFolder:
    """The clips of a folder and of those in it, in natural order, and what lies there besides."""

    path: Path
    clips: tuple[ClipFile, ...]
    unused_pictures: int
    """Pictures beside videos; they are no frames."""


def find_clip_files(folder: Path) -> ClipFolder:
    """The videos and folders of frames in a folder, at any depth; hidden and system files do not count.

    Raises: TrainingDataError if there are none, or a link leads out of the folder.
    """
    if not folder.is_dir():
        raise TrainingDataError(f"{folder}: there is no such folder. Choose a folder with videos in it.")
    clips: list[ClipFile] = []
    found: list[str] = []
    unused = 0
    for parent, files in _folders(folder):
        videos = [path for path in files if _is_video(path)]
        shards = [path for path in files if _suffix(path) == SHARD_SUFFIX]
        pictures = tuple(path for path in files if _suffix(path) in PICTURE_SUFFIXES and path not in videos)
        clips += [ClipFile(_name(path, folder), path) for path in videos]
        clips += [clip for shard in shards for clip in _clips_in_shard(shard, folder)]
        has_videos = bool(videos or shards)
        clips += [ClipFile(_name(parent, folder), parent, pictures)] if pictures and not has_videos else []
        unused += len(pictures) if has_videos else 0
        found += [_name(path, folder) for path in files]
    if not clips:
        raise TrainingDataError(_nothing(folder, found))
    return ClipFolder(folder, tuple(clips), unused)


def natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """A sort key by which frame2 comes before frame10, whatever the case."""
    parts = _NUMBER.split(name.casefold())
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts)


def _folders(folder: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Each folder with its visible files, both in natural order."""
    for place, subfolders, files in os.walk(folder):
        parent = Path(place)
        subfolders[:] = sorted(filter(_is_visible, subfolders), key=natural)
        visible = sorted(filter(_is_visible, files), key=natural)
        for name in (*subfolders, *visible):
            _check_inside(parent / name, folder)
        yield parent, [parent / name for name in visible]


def _clips_in_shard(shard: Path, folder: Path) -> list[ClipFile]:
    name = _name(shard, folder)
    return [
        ClipFile(f"{name}/{video.name}", shard / video.name, (), video.part, video.caption, video.fault)
        if video.name
        else ClipFile(name, shard, (), video.part, "", video.fault)
        for video in videos_in_shard(shard, VIDEO_SUFFIXES)
    ]


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name.casefold() not in _SYSTEM_FILES


def _check_inside(path: Path, folder: Path) -> None:
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise TrainingDataError(
            f"{_name(path, folder)}: this link leads out of {folder.name}, to {path.resolve()}. "
            "Expected files that lie in the folder; put a copy there, or choose the other folder."
        )


def _is_video(path: Path) -> bool:
    return _suffix(path) in VIDEO_SUFFIXES or (_suffix(path) == ".webp" and is_animated_webp(path))


def _suffix(path: Path) -> str:
    return path.suffix.lower()


def _name(path: Path, folder: Path) -> str:
    """The path from the folder, as text that can be sent anywhere even where the file's name cannot."""
    name = folder.name if path == folder else path.relative_to(folder).as_posix()
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _nothing(folder: Path, found: list[str]) -> str:
    contents = f"found {len(found)} other files ({some([shown(name) for name in found])})" if found else "it is empty"
    return (
        f"{folder}: no videos and no folders of frames in it, {contents}. Expected videos "
        f"({', '.join((*VIDEO_SUFFIXES, '.webp'))}), frames ({', '.join(PICTURE_SUFFIXES)}), or WebDataset shards "
        f"({SHARD_SUFFIX}); put some there."
    )
