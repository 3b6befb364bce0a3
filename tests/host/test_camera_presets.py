"""The eight camera motions by name: the installed file, or an error that names it."""

import pytest

from motiongraft.core.errors import CheckpointError, SettingsError
from motiongraft.core.tensor_files import read_tensor_file
from motiongraft.lora.motion_lora import read_motion_lora
from motiongraft.tests.helpers.empty_model_folders import empty_model_folders
from motiongraft.tests.tiny_sd_pack.checkpoints import write_motion_lora

pytestmark = pytest.mark.host


@pytest.fixture
def folder(host, tmp_path, monkeypatch):
    folder = empty_model_folders(host, tmp_path, monkeypatch)["animatediff_motion_lora"]
    (folder / "camera").mkdir(parents=True)
    return folder


@pytest.fixture
def presets(folder):
    from motiongraft.host import camera_presets

    return camera_presets


def test_there_are_the_eight_published_ones(presets):
    assert len(presets.PRESETS) == len(set(presets.PRESETS.values())) == 8


@pytest.mark.parametrize("name", ["v2_lora_ZoomIn.safetensors", "camera/V2_LoRA_zoomin.safetensors"])
def test_the_installed_file_is_found_wherever_it_lies(presets, folder, name):
    write_motion_lora(folder / name)
    write_motion_lora(folder / "v2_lora_ZoomInAgain.safetensors")
    assert presets.find_camera_motion("zoom in") == folder / name


def test_a_file_that_is_not_installed_is_named(presets):
    with pytest.raises(CheckpointError, match=r"tilt up needs v2_lora_TiltUp\.ckpt in models/animatediff_motion_lora"):
        presets.find_camera_motion("tilt up")
    with pytest.raises(SettingsError, match="expected one of zoom in"):
        presets.find_camera_motion("fly")


def test_the_node_applies_it_as_apply_motion_lora_does(presets, folder, scene):
    from motiongraft.host.loras import apply_motion_lora
    from motiongraft.nodes.camera_motion import CameraMotion

    lora = read_motion_lora(read_tensor_file(write_motion_lora(folder / "v2_lora_PanLeft.safetensors")))
    motion = scene.motion("v3")
    (found,) = CameraMotion.execute(motion, "pan left", 0.8).args
    expected = apply_motion_lora(motion, lora, 0.8)
    assert found.metadata == expected.metadata
    assert found.patcher.patches.keys() == expected.patcher.patches.keys()
    (scheduled,) = CameraMotion.execute(motion, "pan left", 0.8, "0: 1, 1: 0").args
    assert len(scheduled.scheduled) == 1


def test_a_file_that_comes_changes_the_stamp(presets, folder):
    before = presets.camera_motion_stamp("zoom out")
    write_motion_lora(folder / "v2_lora_ZoomOut.safetensors")
    assert presets.camera_motion_stamp("zoom out") != before
