"""What makes two clips or captions the same: content and transform, never a path, a name or a place in a list."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...core.errors import TrainingDataError
from ..data.clips import TrainingClip
from ..runs.disk_space import write_errors_in_words
from ..runs.durable_files import file_hash

DIGESTS = "digests.jsonl"


class ContentDigests:
    """Hashes of source files, remembered by path, size and time of change, so that each is read once.

    Kept as lines that are only ever added; a line that a crash cut short is passed over.
    """

    def __init__(self, folder: Path):
        self._path = folder / DIGESTS
        self._known: dict[str, tuple[int, int, str]] = {}
        if self._path.is_file():
            for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
                self._remember(line)

    def of(self, path: Path) -> str:
        """The sha256 of a file's content. Raises: OSError if it cannot be read; RunError if it cannot be remembered."""
        stat = path.stat()
        known = self._known.get(str(path))
        if known and known[:2] == (stat.st_size, stat.st_mtime_ns):
            return known[2]
        digest = file_hash(path)
        self._known[str(path)] = (stat.st_size, stat.st_mtime_ns, digest)
        line = json.dumps([str(path), stat.st_size, stat.st_mtime_ns, digest])
        # The line break comes first: it ends whatever a crash left.
        with write_errors_in_words("The hash of a source file", self._path.parent), self._path.open("a") as file:
            file.write(f"\n{line}")
        return digest

    def _remember(self, line: str) -> None:
        try:
            path, size, changed, digest = json.loads(line)
        except (ValueError, TypeError):
            return
        self._known[path] = (size, changed, digest)


def clip_fingerprint(clip: TrainingClip, digest_of: Callable[[Path], str]) -> str:
    """The sha256 of a clip's content and of what is done to it.

    Raises: TrainingDataError naming the clip if a file of it cannot be read.
    """
    try:
        digests = [digest_of(path) for path in clip.content_files()]
    except OSError as error:
        raise TrainingDataError(
            f"{clip.name}: a file of this clip cannot be read ({error}). Restore it, or load the clips again."
        ) from error
    return hashed([digests, clip.transform_key()])


def caption_hash(caption: str) -> str:
    """The sha256 of a caption."""
    return hashlib.sha256(caption.encode("utf-8", "surrogatepass")).hexdigest()


def encoding_seed(fingerprint: str, mirrored: bool) -> int:
    """The seed of whatever is random in encoding a clip, so that it belongs to the clip. Units: 0 to 2^63 - 1"""
    return int(hashed([fingerprint, mirrored])[:16], 16) >> 1


def hashed(value: Any) -> str:
    """The sha256 of JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
