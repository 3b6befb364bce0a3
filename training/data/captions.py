"""Captions: a text file beside each clip, or one table for all."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...core.errors import TrainingDataError
from .clip_files import ClipFile, ClipFolder

TABLE = "metadata.csv"
FOLDER_CAPTION = "caption.txt"
FILE_COLUMNS = ("file_name", "file", "path", "video")
CAPTION_COLUMNS = ("caption", "text", "prompt")
WEBVID_COLUMNS = ("videoid", "page_dir", "name")
"""Source: WebVid-10M, as read by guoyww/AnimateDiff animatediff/data/dataset.py."""


@dataclass(frozen=True)
class Captions:
    """The captions of a folder's clips, by name; a clip without one has an empty one."""

    by_name: Mapping[str, str]
    rows_without_clip: int
    """Rows of the table whose video does not lie in the folder."""

    @property
    def missing(self) -> int:
        """Clips without a caption."""
        return sum(not caption for caption in self.by_name.values())


def read_captions(folder: ClipFolder) -> Captions:
    """The caption of each clip: from its own text file, else from the table `metadata.csv`.

    Raises: TrainingDataError for a file that is not UTF-8, a table without the right columns or that contradicts
        itself, or if no clip has a caption.
    """
    table, rows_without_clip = _table(folder.path / TABLE, {clip.name for clip in folder.clips})
    by_name = {clip.name: _own_text(clip, folder.path) or table.get(clip.name, "") for clip in folder.clips}
    if not any(by_name.values()):
        raise TrainingDataError(
            f"{folder.path.name}: none of the {len(by_name)} clips has a caption. Put a text file beside each "
            f"({_caption_file(folder.clips[0])}), or a {TABLE} with the columns file_name and caption into the folder."
        )
    return Captions(by_name, rows_without_clip)


def _caption_file(clip: ClipFile) -> str:
    return clip.path.with_suffix(".txt").name if not clip.frames else f"{clip.path.name}/{FOLDER_CAPTION}"


def _own_text(clip: ClipFile, folder: Path) -> str:
    """The text of the first of the clip's caption files that there is, or what its shard says."""
    if clip.part is not None:
        return clip.caption
    if not clip.frames:
        places = (clip.path.with_suffix(".txt"),)
    elif clip.path == folder:
        places = (clip.path / FOLDER_CAPTION,)
    else:
        places = (clip.path.parent / f"{clip.path.name}.txt", clip.path / FOLDER_CAPTION)
    return next((_text(place) for place in places if place.is_file()), "")


def _text(path: Path) -> str:
    try:
        return _one_line(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from error


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _table(path: Path, names: set[str]) -> tuple[dict[str, str], int]:
    """Captions by clip name, and how many rows belong to no clip."""
    captions: dict[str, str] = {}
    without_clip = 0
    for places, caption in _rows(path) if path.is_file() else ():
        name = next((place for place in places if place in names), None)
        without_clip += name is None
        if name is not None and captions.setdefault(name, caption) != caption:
            raise TrainingDataError(
                f"{path.name}: two rows give {name} different captions. Expected one row for each video; remove one."
            )
    return captions, without_clip


def _rows(path: Path) -> Iterator[tuple[list[str], str]]:
    """Each row as the places where its video may lie, and its caption."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = {(name or "").strip().casefold(): name for name in reader.fieldnames or ()}
            file_column = _column(columns, FILE_COLUMNS)
            caption_column = _column(columns, CAPTION_COLUMNS)
            if file_column and caption_column:
                for row in reader:
                    yield [_place(row[file_column] or "")], _one_line(row[caption_column] or "")
            elif all(name in columns for name in WEBVID_COLUMNS):
                for row in reader:
                    video, page, caption = (row[columns[name]] or "" for name in WEBVID_COLUMNS)
                    yield _webvid_places(video.strip(), page.strip()), _one_line(caption)
            else:
                raise _unknown_columns(path, columns)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from error
    except csv.Error as error:
        raise TrainingDataError(
            f"{path.name}: not a table of comma-separated values ({error}). Save it again."
        ) from error


def _column(columns: Mapping[str, str], names: Iterable[str]) -> str | None:
    return next((columns[name] for name in names if name in columns), None)


def _place(text: str) -> str:
    return PurePosixPath(text.strip().replace("\\", "/")).as_posix()


def _webvid_places(video: str, page: str) -> list[str]:
    return [_place(f"{page}/{video}.mp4"), _place(f"videos/{page}/{video}.mp4"), f"{video}.mp4"]


def _unknown_columns(path: Path, columns: Iterable[str]) -> TrainingDataError:
    return TrainingDataError(
        f"{path.name}: expected the columns file_name and caption (or {', '.join(WEBVID_COLUMNS)}), "
        f"found {', '.join(columns) or 'none'}. Name the columns in the first row."
    )


def _not_utf8(path: Path, error: UnicodeDecodeError) -> TrainingDataError:
    return TrainingDataError(
        f"{path}: expected text in UTF-8, found the byte 0x{error.object[error.start]:02X} at {error.start:,}. "
        "Save the file with the encoding UTF-8."
    )
