"""WebDataset shards: tar files that hold the files of a clip next to each other, read in place, never unpacked.

`0001.mp4` and `0001.txt` are video and caption of the sample with the key 0001; its caption may also stand in
`0001.json`. What lies in a shard is known from its headers alone.
Source: webdataset's README, "The WebDataset Format": a key reaches to the first dot of a file's name.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from ...core.errors import TrainingDataError, shown

SHARD_SUFFIX = ".tar"
CAPTION_KEYS = ("caption", "text", "prompt")
MOST_CAPTION_BYTES = 1 << 20
_TEXT, _JSON = "txt", "json"
_IS_LAST = "after it the shard cannot be read on"


@dataclass(frozen=True)
class ShardPart:
    """Where the bytes of one member lie. Units: bytes"""

    shard: Path
    offset: int
    size: int

    def open(self) -> "PartOfFile":
        return PartOfFile(self)


@dataclass(frozen=True)
class ShardVideo:
    """A video in a shard, with its caption; `fault` says why it cannot be used, and is empty if it can."""

    name: str
    """Path inside the shard."""
    part: ShardPart
    caption: str
    fault: str = ""


class PartOfFile(io.RawIOBase):
    """A part of a file as a file of its own. Raises: OSError if the file is gone."""

    def __init__(self, part: ShardPart):
        self._part, self._place = part, 0
        self._file = part.shard.open("rb")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._part.size}[whence]
        if start + offset < 0:
            raise ValueError(f"expected a place in the file, found {start + offset}")
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._part.size - self._place)
        count = left if size is None or size < 0 else min(size, left)
        self._file.seek(self._part.offset + self._place)
        data = self._file.read(count)
        self._place += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def videos_in_shard(shard: Path, suffixes: tuple[str, ...]) -> list[ShardVideo]:
    """The videos of a shard in its order, each under the caption of its key; what is wrong with one is said of it.

    Raises: TrainingDataError for a file that is no tar, or a caption that is not text.
    """
    videos: list[tarfile.TarInfo] = []
    captions: dict[str, str] = {}
    fault = ""
    with _opened(shard) as tar:
        for member in _members(tar):
            if member is None:
                fault = f"the shard is cut off, and {_IS_LAST}; get it again"
                break
            if PurePosixPath(member.name).suffix.lower() in suffixes:
                videos.append(member)
            elif member.isfile():
                _note_caption(shard, member, captions)
    return _described(shard, videos, captions, fault)


def _described(shard: Path, members: list[tarfile.TarInfo], captions: dict[str, str], fault: str) -> list[ShardVideo]:
    """The videos with captions and faults. A shard that is cut off is a fault of its own, under its own name."""
    size = shard.stat().st_size
    seen: set[str] = set()
    found: list[ShardVideo] = []
    for member in members:
        part = ShardPart(shard, member.offset_data, member.size)
        own_fault = _fault(member, size, member.name in seen)
        seen.add(member.name)
        found.append(ShardVideo(_text_of(member.name), part, captions.get(_key(member.name)[0], ""), own_fault))
    if fault and not any(video.fault for video in found):
        found.append(ShardVideo("", ShardPart(shard, 0, 0), "", fault))
    return found


def _fault(member: tarfile.TarInfo, shard_size: int, is_second: bool) -> str:
    if not member.isfile():
        return "it is a link or a folder inside the shard, not a file; write the shard anew with the file itself"
    if member.offset_data + member.size > shard_size:
        return f"the shard is cut off in it, and {_IS_LAST}; get the shard again"
    return "the shard holds two members of this name; give each clip a key of its own" if is_second else ""


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo | None]:
    """The members from their headers, then None if the file ends too early or with something else."""
    try:
        while (member := tar.next()) is not None:
            yield member
            cast(Any, tar).members = []  # ten thousand samples need not stay in memory twice
    except (tarfile.TarError, OSError, EOFError):
        yield None


def _opened(shard: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(shard, "r:")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise TrainingDataError(
            f"{shard.name}: expected a WebDataset shard, a plain tar file, which this is not ({error}). Get it again; "
            "unpack it first if it is compressed."
        ) from error


def _note_caption(shard: Path, member: tarfile.TarInfo, captions: dict[str, str]) -> None:
    """A plain text comes before what JSON says."""
    key, extension = _key(member.name)
    if extension == _TEXT:
        captions[key] = _one_line(_read_text(shard, member))
    elif extension == _JSON and key not in captions:
        captions[key] = _one_line(_caption_in_json(shard, member))


def _read_text(shard: Path, member: tarfile.TarInfo) -> str:
    if member.size > MOST_CAPTION_BYTES:
        raise TrainingDataError(
            f"{shard.name}: expected a caption of at most {MOST_CAPTION_BYTES:,} bytes in {shown(member.name)}, found "
            f"{member.size:,}. Put the caption alone into it."
        )
    with ShardPart(shard, member.offset_data, member.size).open() as file:
        data = file.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TrainingDataError(
            f"{shard.name}: expected text in UTF-8 in {shown(member.name)}, found the byte "
            f"0x{data[error.start]:02X} at {error.start:,}. Write the shard anew with captions in UTF-8."
        ) from error


def _caption_in_json(shard: Path, member: tarfile.TarInfo) -> str:
    try:
        content: Any = json.loads(_read_text(shard, member))
    except ValueError as error:
        raise TrainingDataError(
            f"{shard.name}: expected JSON in {shown(member.name)}, which it is not ({error}). Write the shard anew."
        ) from error
    values: dict[str, Any] = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    return next((value for name in CAPTION_KEYS if isinstance(value := values.get(name), str)), "")


def _key(name: str) -> tuple[str, str]:
    """The key of a sample, and what its file is in it."""
    path = PurePosixPath(name)
    stem, _, extension = path.name.partition(".")
    return str(path.parent / stem), extension.lower()


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _text_of(name: str) -> str:
    """A name that can be sent anywhere."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
