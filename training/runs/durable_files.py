"""Files that survive a power cut: on the disk before they get their name, and known by their hash ever after."""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

log = logging.getLogger(__name__)

CHUNK = 1 << 20
_NO_FOLDER_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}


def temporary_name(name: str) -> str:
    """What a file or folder of this name is called until it is whole."""
    return f".{name}.tmp-{os.getpid()}"


def is_temporary(name: str) -> bool:
    return name.startswith(".") and ".tmp-" in name


def write_json(path: Path, value: object) -> None:
    """Write readable JSON as `write_text` writes."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text; whoever reads sees the old file or the whole new one, also after a power cut."""
    temporary = path.with_name(temporary_name(path.name))
    try:
        temporary.write_text(text, encoding="utf-8")
        flush_file(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def read_json_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if the file is missing or holds anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return cast(dict[str, Any], value) if isinstance(value, dict) else None


def flush_file(path: Path) -> None:
    """Wait until the file's content is on the disk."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can do that."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FLUSH:  # some network file systems flush files alone
            raise
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file or folder, under a temporary name so that no part of it is taken for the whole.

    What resists is named in the log, and tried again when the run is opened.
    """
    doomed = path if is_temporary(path.name) else path.with_name(temporary_name(f"{path.name.lstrip('.')}-old"))
    try:
        path.rename(doomed)
        if doomed.is_dir():
            shutil.rmtree(doomed)
        else:
            doomed.unlink()
    except OSError as error:
        log.warning("%s could not be removed (%s) and will be tried again.", path, error)


def file_records(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Size and sha256 of files, as a manifest lists them.

    Units: `bytes` in bytes
    """
    return {name: {"bytes": (folder / name).stat().st_size, "sha256": file_hash(folder / name)} for name in names}


def find_damage(folder: Path, manifest: Mapping[str, Any] | None) -> str | None:
    """In words, what is not as the manifest lists it; None if every file is whole."""
    records = (manifest or {}).get("files")
    if not isinstance(records, dict) or not records:
        return "its manifest is missing or damaged"
    for name, record in cast(dict[str, Any], records).items():
        damage = _damage(folder / name, record)
        if damage:
            return damage
    return None


def file_hash(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _damage(path: Path, record: object) -> str | None:
    expected = cast(dict[str, Any], record) if isinstance(record, dict) else {}
    try:
        size = path.stat().st_size
        if size != expected.get("bytes"):
            return f"{path.name} has {size:,} bytes, and its manifest lists {expected.get('bytes')}"
        return None if file_hash(path) == expected.get("sha256") else f"the content of {path.name} has changed"
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
