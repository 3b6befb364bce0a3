"""Files that are whole, and files that are not."""

import errno
import os
import pickle

import pytest
import torch

from motiongraft.core.errors import CheckpointError, some
from motiongraft.core.tensor_files import read_tensor_file, write_tensor_file


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch should-never-exist",))


def test_safetensors_come_back_with_their_metadata(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensor_file(path, {"x": torch.arange(4.0)}, {"kind": "toy", "n": 3})
    file = read_tensor_file(path)
    assert torch.equal(file.tensors["x"], torch.arange(4.0))
    assert file.metadata == {"kind": "toy", "n": 3}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: tensors,
        lambda tensors: {"state_dict": tensors},
        lambda tensors: {"epoch": 1, "global_step": 2, "state_dict": tensors},
        lambda tensors: {"module": tensors},
        lambda tensors: {**tensors, "animatediff_config": {"a": 1}},
    ],
    ids=["bare", "state_dict", "trainer", "module", "config"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_tensors_come_out_of_their_containers(tmp_path, wrap, zipped):
    path = tmp_path / "a.ckpt"
    torch.save(wrap({"x": torch.arange(4.0)}), path, _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_tensor_file(path).tensors["x"], torch.arange(4.0))
    assert list(read_tensor_file(path).tensors) == ["x"]


def truncated_safetensors(path):
    write_tensor_file(path, {"x": torch.zeros(1000)}, {})
    path.write_bytes(path.read_bytes()[:2000])


def text(path):
    path.write_text("<html>404</html>" * 10)


def empty(path):
    path.write_bytes(b"")


def truncated_pickle(path):
    torch.save({"x": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("damage", [truncated_safetensors, text, empty, truncated_pickle])
def test_damaged_files_are_refused_with_their_name(tmp_path, damage, suffix):
    path = tmp_path / f"damaged{suffix}"
    damage(path)
    with pytest.raises(CheckpointError, match=r"damaged.*download"):
        read_tensor_file(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bomb.ckpt"
    if zipped:
        torch.save({"x": Bomb()}, path)
    else:
        path.write_bytes(pickle.dumps({"x": Bomb()}, protocol=2))
    with pytest.raises(CheckpointError, match="code that would run"):
        read_tensor_file(path)
    assert not (tmp_path / "should-never-exist").exists()


@pytest.mark.parametrize("content", [torch.zeros(3), {"a": 1}, [1, 2]], ids=["tensor", "numbers", "list"])
def test_pickles_without_named_tensors_are_refused(tmp_path, content):
    path = tmp_path / "odd.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"odd\.pt"):
        read_tensor_file(path)


@pytest.mark.parametrize("content", [b"\x80\x02.", b"a.", b"b.", b"0.", b"\x80\x02N\x85R."])
def test_bytes_that_are_hardly_a_pickle_are_refused(tmp_path, content):
    (tmp_path / "odd.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"odd\.ckpt"):
        read_tensor_file(tmp_path / "odd.ckpt")


def test_a_file_that_holds_itself_is_refused(tmp_path):
    content = {}
    content["state_dict"] = content
    torch.save(content, tmp_path / "self.ckpt")
    with pytest.raises(CheckpointError, match="found none"):
        read_tensor_file(tmp_path / "self.ckpt")


def test_tensors_beside_an_inner_container_are_the_ones_that_count(tmp_path):
    torch.save({"state_dict": {"x": torch.ones(1), "model": {"y": torch.ones(1)}}}, tmp_path / "a.ckpt")
    assert list(read_tensor_file(tmp_path / "a.ckpt").tensors) == ["x"]


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(CheckpointError, match="no longer at"):
        read_tensor_file(tmp_path / "gone.safetensors")


def test_foreign_metadata_is_ignored_and_broken_metadata_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors", {"ss_network": "lora"})
    assert read_tensor_file(tmp_path / "foreign.safetensors").metadata == {}
    save_file({"x": torch.zeros(1)}, tmp_path / "broken.safetensors", {"motiongraft": "[1"})
    with pytest.raises(CheckpointError, match="metadata"):
        read_tensor_file(tmp_path / "broken.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "deep.safetensors", {"motiongraft": "[" * 100_000})
    with pytest.raises(CheckpointError, match="metadata"):
        read_tensor_file(tmp_path / "deep.safetensors")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensor_file(path, {"x": torch.ones(1)}, {})
    with pytest.raises(TypeError):
        write_tensor_file(path, {"x": torch.zeros(1)}, {"not json": object()})
    assert read_tensor_file(path).tensors["x"].item() == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_long_lists_are_cut():
    assert some(["a", "b"]) == "a, b"
    assert some(list("abcdefgh")) == "a, b, c, d, e and 3 more"
    assert len(some(["x" * 10_000])) < 200


def test_a_written_file_can_be_read_by_whoever_reads_other_new_files(tmp_path):
    (tmp_path / "plain").write_text("")
    write_tensor_file(tmp_path / "a.safetensors", {"x": torch.ones(1)}, {})
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_disk_that_takes_no_more_is_the_systems_own_error(tmp_path):
    resource = pytest.importorskip("resource", reason="file sizes cannot be limited here")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match=r"a\.safetensors") as caught:
            write_tensor_file(tmp_path / "a.safetensors", {"x": torch.ones(1000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []
