"""Training clips in ComfyUI: folders of its input directory, progress, interruption, and the two nodes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from motiongraft.core.errors import TrainingDataError
from motiongraft.tests.helpers import toy_videos as toys
from motiongraft.training.data.clip_settings import ClipSettings

pytestmark = pytest.mark.host

SMALL = {"num_frames": 4, "frame_stride": 2, "width": 128, "height": 96}


@pytest.fixture
def inputs(host: Any, tmp_path: Path) -> Iterator[Path]:
    """An input directory of its own for ComfyUI."""
    folder_paths = host.module("folder_paths")
    before = folder_paths.get_input_directory()
    folder = tmp_path / "input"
    folder.mkdir()
    folder_paths.set_input_directory(str(folder))
    yield folder
    folder_paths.set_input_directory(before)


@pytest.fixture
def cats(inputs: Path) -> Path:
    toys.caption(toys.write_video(inputs / "cats" / "a.mp4"))
    return inputs / "cats"


def test_folders_are_listed_down_to_the_third_level_without_hidden_ones_and_links(inputs, tmp_path):
    from motiongraft.host.input_folders import list_input_folders

    for name in ("b/c/d/e", "a", ".hidden"):
        (inputs / name).mkdir(parents=True)
    (inputs / "link").symlink_to(tmp_path)
    (inputs / "picture.png").touch()
    assert list_input_folders() == ["a", "b", "b/c", "b/c/d"]


def test_an_input_directory_without_folders_says_where_they_go(inputs):
    from motiongraft.host.input_folders import find_input_folder, list_input_folders

    (only,) = list_input_folders()
    assert str(inputs) in only
    with pytest.raises(TrainingDataError, match="There are no folders in"):
        find_input_folder(only)


@pytest.mark.parametrize("name", ["..", "../x", "/etc", "C:\\x", "a/../../x", "", "link", "a\0b"])
def test_names_that_lead_outside_are_refused(inputs, tmp_path, name):
    from motiongraft.host.input_folders import find_input_folder

    (inputs / "link").symlink_to(tmp_path)
    with pytest.raises(TrainingDataError, match="leads out of ComfyUI's input directory"):
        find_input_folder(name)


def test_a_folder_that_is_gone_is_named(inputs):
    from motiongraft.host.input_folders import find_input_folder, folder_stamp

    with pytest.raises(TrainingDataError, match=r"cats: not in .*input any more"):
        find_input_folder("cats")
    assert folder_stamp("cats") == "cats"


def test_the_stamp_follows_every_file_of_the_folder(cats):
    from motiongraft.host.input_folders import folder_stamp

    stamps = [folder_stamp("cats"), folder_stamp("cats")]
    assert stamps[0] == stamps[1]
    (cats / "deep").mkdir()
    (cats / "deep" / "b.txt").write_text("one")
    stamps.append(folder_stamp("cats"))
    (cats / "deep" / "b.txt").write_text("two")
    os.utime(cats / "deep" / "b.txt", ns=(1, 1))
    stamps.append(folder_stamp("cats"))
    (cats / "a.mp4").unlink()
    stamps.append(folder_stamp("cats"))
    assert len(set(stamps)) == 4


def test_an_interrupted_check_ends(host, cats):
    from motiongraft.host.training_clips import load_training_clips

    management = host.module("comfy.model_management")
    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        load_training_clips("cats", ClipSettings(**SMALL))


def test_the_nodes_load_clips_and_move_a_camera_through_them(cats):
    from motiongraft.nodes.camera_motion_clips import CameraMotionClips
    from motiongraft.nodes.load_training_clips import LoadTrainingClips

    with torch.inference_mode():
        clips, report = LoadTrainingClips.execute("cats", **SMALL, flip=True).args
        (moved,) = CameraMotionClips.execute(clips, "roll clockwise", 0.1).args
        frames = moved.clips[0].read()
    assert clips.flip
    assert "a.mp4" in report
    assert frames.shape == (4, 96, 128, 3)
    assert moved.camera_motion == "roll clockwise"


def test_the_widgets_are_the_settings_with_their_defaults(inputs):
    from motiongraft.nodes.load_training_clips import LoadTrainingClips

    widgets = {
        widget.id: widget.default for widget in LoadTrainingClips.define_schema().inputs if widget.id != "folder"
    }
    assert widgets == {name: getattr(ClipSettings(), name) for name in ClipSettings.__dataclass_fields__}
