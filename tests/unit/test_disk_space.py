"""A disk that is too small or takes nothing is named before a run starts."""

import errno
import shutil
import tempfile
from types import SimpleNamespace

import pytest

from motiongraft.core.errors import RunError
from motiongraft.training.runs.disk_space import check_free_space, check_writable, size, write_errors_in_words

GIB = 1 << 30


def test_room_that_is_missing_is_named_with_both_numbers(tmp_path):
    with pytest.raises(RunError, match=r"Checkpoints needs? about 1,000,000\.0 GiB, [\d.,]+ GiB are free at .*lower"):
        check_free_space(tmp_path / "not" / "yet", 1_000_000 * GIB, "Checkpoints", "Free some space or lower the rank")
    check_free_space(tmp_path / "not" / "yet", 1, "Checkpoints")


def test_a_file_system_that_does_not_know_its_room_stops_nobody(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=0, used=0, free=0))
    check_free_space(tmp_path, GIB, "Checkpoints")
    assert "is not known" in caplog.text


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="could not be written to"):
        check_writable(tmp_path / "file" / "runs")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full. Free some space"),
        (errno.EROFS, "the file system is read-only. Use a folder"),
        (errno.EACCES, "writing is not permitted. Allow"),
        (errno.EIO, "odd.* Check the disk"),
    ],
)
def test_what_the_system_says_becomes_words(tmp_path, monkeypatch, number, words):
    def refuse(**_):
        raise OSError(number, "odd")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(RunError, match=words):
        check_writable(tmp_path)


def test_other_errors_keep_their_kind(tmp_path):
    with pytest.raises(KeyboardInterrupt), write_errors_in_words("A file", tmp_path):
        raise KeyboardInterrupt


def test_sizes_are_read_easily():
    assert [size(number) for number in (800, 2048, 12 << 20, int(5.4 * GIB))] == [
        "800 bytes",
        "2.0 KiB",
        "12.0 MiB",
        "5.4 GiB",
    ]
