"""One new file in the right folder, or none at all."""

import errno
import shutil
import threading

import pytest
import torch

from motiongraft.core.errors import RunError, SettingsError
from motiongraft.core.tensor_files import read_tensor_file
from motiongraft.tests.helpers.empty_model_folders import empty_model_folders

pytestmark = pytest.mark.host

LORAS = "loras"
TENSORS = {"a": torch.arange(6.0), "b": torch.ones(2, 3)}


@pytest.fixture
def folder(host, tmp_path, monkeypatch):
    return empty_model_folders(host, tmp_path, monkeypatch)[LORAS]


@pytest.fixture
def new_files(folder):
    from motiongraft.host import new_files

    return new_files


@pytest.fixture
def save(new_files):
    """Save two tensors under a prefix."""
    return lambda prefix: new_files.write_new_file(LORAS, prefix, TENSORS, {"kind": "toy"})


def test_the_file_holds_tensors_and_metadata_and_nothing_lies_beside_it(save, folder):
    path = save("mine")
    file = read_tensor_file(path)
    assert list(folder.rglob("*")) == [path]
    assert file.metadata == {"kind": "toy"}
    assert all(torch.equal(file.tensors[name], tensor) for name, tensor in TENSORS.items())


def test_no_file_is_ever_replaced(save):
    paths = [save("mine") for _ in range(3)]
    assert [path.name for path in paths] == ["mine.safetensors", "mine_2.safetensors", "mine_3.safetensors"]
    paths[0].write_text("own")
    paths[2].unlink()
    assert save("mine") == paths[2]
    assert paths[0].read_text() == "own"


def test_a_file_in_another_folder_of_the_kind_is_not_hidden(host, save, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.safetensors").write_text("older")
    host.module("folder_paths").folder_names_and_paths[LORAS][0].append(str(other))
    assert save("mine").name == "mine_2.safetensors"


def test_a_name_taken_at_the_last_moment_is_left_alone(save, new_files, monkeypatch):
    """Looking for a free name is not what protects a file."""
    monkeypatch.setattr(new_files.folder_paths, "get_full_path", lambda *_: None)
    first = save("mine")
    first.write_text("own")
    assert save("mine").name == "mine_2.safetensors"
    assert first.read_text() == "own"


def test_savers_at_once_get_a_whole_file_each(save, folder):
    found, start = [], threading.Barrier(6)

    def save_together():
        start.wait()
        found.append(save("mine"))

    threads = [threading.Thread(target=save_together) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 6
    assert {len(read_tensor_file(path).tensors) for path in found} == {2}
    assert set(folder.rglob("*")) == set(found)


def test_an_unfinished_file_is_in_no_list(host, save, folder, new_files, monkeypatch):
    listed = []
    write = new_files.write_tensor_file

    def write_and_look(*arguments):
        write(*arguments)
        listed.extend(host.module("folder_paths").get_filename_list(LORAS))

    monkeypatch.setattr(new_files, "write_tensor_file", write_and_look)
    save("mine")
    assert listed == []
    assert host.module("folder_paths").get_filename_list(LORAS) == ["mine.safetensors"]


@pytest.mark.parametrize(
    "prefix",
    ["../x", "a/../../x", "/etc/x", "a\0b", "..\\x", "C:\\x", "C:x", "\\\\server\\share\\x", "a\\..\\..\\x", "a/.."],
)
def test_names_that_lead_outside_are_refused(save, folder, prefix):
    with pytest.raises(SettingsError, match="leads out of the model folder"):
        save(prefix)
    assert not folder.exists()


@pytest.mark.parametrize("prefix", ["", "  ", "a/", "a\\", ".safetensors"])
def test_no_name_is_asked_for(save, folder, prefix):
    with pytest.raises(SettingsError, match="has no file name"):
        save(prefix)
    assert not folder.exists()


@pytest.mark.parametrize("prefix", [".", "xx:y", "a?/b", "a./b", "a /b", "a\nb", '"a"', "a|b"])
def test_names_that_some_system_cannot_write_are_refused(save, folder, prefix):
    with pytest.raises(SettingsError, match="is not a file name on every system"):
        save(prefix)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("prefix", "path"),
    [("camera/zoom", "camera/zoom"), ("camera\\zoom", "camera/zoom"), ("zoom.safetensors", "zoom"),
     ("ünïcode 動き", "ünïcode 動き"), ("v1.5", "v1.5"), (" zoom ", "zoom"), ("a//b", "a/b")],
)  # fmt: skip
def test_subfolders_and_unusual_names_are_made_and_listed(host, save, folder, prefix, path):
    assert save(prefix) == folder / f"{path}.safetensors"
    assert host.module("folder_paths").get_filename_list(LORAS) == [f"{path}.safetensors"]


@pytest.mark.parametrize("written", [0, 1000])
def test_a_disk_that_fills_up_leaves_nothing_and_says_where(save, folder, new_files, monkeypatch, written):
    def write(path, *_):
        path.write_bytes(bytes(written))
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    kept = save("mine")
    monkeypatch.setattr(new_files, "write_tensor_file", write)
    with pytest.raises(RunError, match=rf"{folder}.*No space left.*Free disk space"):
        save("mine")
    assert list(folder.rglob("*")) == [kept]


@pytest.mark.parametrize("step", ["fsync", "copymode"])
def test_a_disk_that_refuses_late_leaves_nothing(save, folder, new_files, monkeypatch, step):
    def fail(*_):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(new_files.os if step == "fsync" else new_files.shutil, step, fail)
    with pytest.raises(RunError, match="quota"):
        save("mine")
    assert list(folder.rglob("*")) == []


def test_an_interrupted_save_leaves_nothing(save, folder, new_files, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(new_files.shutil, "copymode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save("mine")
    assert list(folder.rglob("*")) == []


def test_too_little_space_is_said_before_anything_is_written(save, folder, new_files, monkeypatch):
    full = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(new_files.shutil, "disk_usage", lambda _: full)
    monkeypatch.setattr(new_files, "write_tensor_file", lambda *_: pytest.fail("written"))
    with pytest.raises(RunError, match=rf"the file takes 1 MiB, and {folder} has 0 MiB free"):
        save("mine")


def test_a_folder_that_cannot_be_made_is_named(save, folder):
    folder.write_text("a file where a folder should be")
    with pytest.raises(RunError, match=str(folder)):
        save("mine")


def test_others_may_read_the_file_as_any_new_file(save, tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    assert save("mine").stat().st_mode == plain.stat().st_mode
