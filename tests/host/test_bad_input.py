"""What users really do wrong: a clear error within seconds, with the file's name, in three sentences at most."""

import pytest
import torch

from motiongraft.core.errors import CheckpointError, IncompatibleModelError
from motiongraft.tests.helpers.random_modules import toy_spec
from motiongraft.tests.tiny_sd_pack import checkpoints

pytestmark = pytest.mark.host

WIDER = {"down_channels": (64, 64, 128, 128), "up_channels": (128, 128, 64, 64)}


def three_sentences(error):
    text = str(error.value)
    assert len(text) < 600, text
    assert text.count(". ") <= 2, text
    return text


@pytest.fixture
def load(host):
    from motiongraft.host.motion_modules import load_motion_module

    return load_motion_module


@pytest.fixture
def inflate(host):
    from motiongraft.host.inflate import inflate_model

    return lambda model, motion: inflate_model(model, motion, "auto")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (checkpoints.write_domain_adapter, "Apply Domain Adapter"),
        (checkpoints.write_motion_lora, "ApplyMotionLoRA"),
        (checkpoints.write_controlnet, "ControlNetLoader"),
        (checkpoints.write_tiny_sd15, "CheckpointLoaderSimple"),
        (checkpoints.write_tiny_sdxl, "CheckpointLoaderSimple"),
    ],
)
def test_another_kind_of_file_is_named_with_the_node_that_takes_it(load, tmp_path, write, words):
    with pytest.raises(CheckpointError, match=rf"wrong\.safetensors: expected a motion module.*{words}") as error:
        load(write(tmp_path / "wrong.safetensors"))
    three_sentences(error)


def test_a_module_for_the_other_base_names_both(scene, inflate):
    with pytest.raises(IncompatibleModelError, match=r"is for SDXL, this model is SD 1\.5") as error:
        inflate(scene.model, scene.motion("sdxl-beta"))
    three_sentences(error)
    with pytest.raises(IncompatibleModelError, match=r"is for SD 1\.5, this model is SDXL") as error:
        inflate(scene.sdxl.model, scene.motion("v3"))
    three_sentences(error)


def test_other_widths_name_the_block_and_both_widths(scene, inflate, load):
    from motiongraft.tests.helpers.random_modules import random_module

    spec = toy_spec("v3")
    wide = random_module(type(spec)(**{**vars(spec), **WIDER}))
    path = scene.save(wide, "wide")
    with pytest.raises(
        IncompatibleModelError, match=r"wide\.safetensors is 64 wide at down_blocks\.0.*has 32"
    ) as error:
        inflate(scene.model, load(path))
    three_sentences(error)


@pytest.mark.parametrize("name", ["Flux", "SD3"])
def test_models_without_such_a_unet_are_named(scene, inflate, name):
    class Transformer(torch.nn.Module):
        pass

    model = scene.model.clone()
    config = type(name, (), {})()
    model.add_object_patch("diffusion_model", Transformer())
    model.model.model_config, own = config, model.model.model_config
    try:
        with pytest.raises(IncompatibleModelError, match=f"this model is {name}") as error:
            inflate(model, scene.motion("v3"))
    finally:
        model.model.model_config = own
    three_sentences(error)


def test_a_v1_module_on_sdxl_depth_is_refused_before_its_norms_are_asked_for(scene, inflate):
    with pytest.raises(IncompatibleModelError, match="this model is SDXL"):
        inflate(scene.sdxl.model, scene.motion("v1"))


class TestFolders:
    """Only files inside the model folders are ever opened."""

    @pytest.fixture
    def folders(self, host, tmp_path, monkeypatch):
        from motiongraft.host import folders

        paths = host.module("folder_paths")
        inside = tmp_path / "animatediff_models"
        inside.mkdir()
        (tmp_path / "secret.safetensors").write_text("secret")
        (inside / "ünïcode 動き.safetensors").write_text("x")
        (inside / "sub").mkdir()
        (inside / "sub" / "mm.ckpt").write_text("x")
        (inside / "notes.txt").write_text("x")
        entry = ([str(inside)], set(paths.supported_pt_extensions))
        monkeypatch.setitem(paths.folder_names_and_paths, folders.MOTION_MODULES, entry)
        monkeypatch.setattr(paths, "filename_list_cache", {})
        return folders

    @pytest.mark.parametrize(
        "name",
        ["../secret.safetensors", "sub/../../secret.safetensors", "/etc/passwd", "a\0b", "..\\secret.safetensors",
         "C:\\secret.safetensors", "C:secret.safetensors", "\\\\server\\share\\x"],
    )  # fmt: skip
    def test_names_that_lead_outside_are_refused(self, folders, name):
        with pytest.raises(CheckpointError, match="leads out of the model folder"):
            folders.find_file(folders.MOTION_MODULES, name)

    @pytest.mark.parametrize("name", ["ünïcode 動き.safetensors", "sub/mm.ckpt"])
    def test_unusual_names_and_subfolders_are_found(self, folders, name):
        assert folders.find_file(folders.MOTION_MODULES, name).read_text() == "x"

    def test_only_weight_files_are_listed(self, folders):
        assert folders.list_files(folders.MOTION_MODULES) == ["sub/mm.ckpt", "ünïcode 動き.safetensors"]

    def test_a_file_removed_after_listing_says_so(self, folders):
        with pytest.raises(CheckpointError, match=r"gone\.ckpt: not in .* any more"):
            folders.find_file(folders.MOTION_MODULES, "gone.ckpt")

    def test_a_stamp_changes_with_the_file_and_never_fails(self, folders):
        before = folders.file_stamp(folders.MOTION_MODULES, "sub/mm.ckpt")
        folders.find_file(folders.MOTION_MODULES, "sub/mm.ckpt").write_text("longer")
        assert folders.file_stamp(folders.MOTION_MODULES, "sub/mm.ckpt") != before
        assert folders.file_stamp(folders.MOTION_MODULES, "gone") == "gone"

    def test_an_empty_folder_lists_one_entry_that_says_where_files_go(self, folders, host, monkeypatch, tmp_path):
        empty = tmp_path / "empty"
        empty.mkdir()
        paths = host.module("folder_paths")
        monkeypatch.setitem(paths.folder_names_and_paths, folders.MOTION_MODULES, ([str(empty)], {".ckpt"}))
        (entry,) = folders.list_files(folders.MOTION_MODULES)
        assert str(empty) in entry
        assert folders.list_optional_files(folders.MOTION_MODULES) == ["none"]
        with pytest.raises(CheckpointError, match=r"Put one there.*refresh"):
            folders.find_file(folders.MOTION_MODULES, entry)

    def test_registration_appends_and_keeps_what_the_user_configured(self, folders, host, monkeypatch):
        paths = host.module("folder_paths")
        own = (["/mine"], set())
        monkeypatch.setitem(paths.folder_names_and_paths, folders.MOTION_LORAS, own)
        folders.register_folders()
        folders.register_folders()
        assert own[0][0] == "/mine"
        assert len(own[0]) == 2
        assert ".safetensors" in own[1]


@pytest.mark.parametrize(("version", "ok"), [("0.24.9", False), ("0.25.0", True), ("0.33.0", True), ("1.0", True)])
def test_an_old_host_is_told_what_is_needed(host, version, ok):
    from motiongraft.core.errors import HostError
    from motiongraft.host.version import check_host_version

    if ok:
        check_host_version(version)
        return
    with pytest.raises(HostError, match=r"needs ComfyUI 0\.25\.0 or newer, this is 0\.24\.9"):
        check_host_version(version)


def test_the_declared_floor_is_the_checked_one(host):
    from pathlib import Path

    import tomllib

    from motiongraft.host.version import MINIMUM

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["tool"]["comfy"]["requires-comfyui"] == ">=" + ".".join(map(str, MINIMUM))
