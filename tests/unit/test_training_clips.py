"""From a folder to exact tensors of frames: cut, size, checks, reports and errors."""

import json
import re
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from motiongraft.core.errors import SettingsError, TrainingDataError
from motiongraft.tests.helpers import toy_videos as toys
from motiongraft.training.data.buckets import bucket_size
from motiongraft.training.data.clip_check import find_training_clips
from motiongraft.training.data.clip_settings import ClipSettings
from motiongraft.training.data.resample import View, mirrored, resampled, samples_for

IDENTITY = 1e-6
"""Float32's rounding of values up to 1."""
SMALL = {"num_frames": 4, "frame_stride": 2, "width": 128, "height": 96}


def clips_of(folder: Path, **changes):
    clips, _ = find_training_clips(folder, ClipSettings(**{**SMALL, **changes}))
    return clips.clips


def report_of(folder: Path, **changes) -> str:
    return find_training_clips(folder, ClipSettings(**{**SMALL, **changes}))[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One video of 24 frames that is as large as a small clip."""
    toys.caption(toys.write_video(tmp_path / "clips" / "a.mp4", 24))
    return tmp_path / "clips"


# --- what a clip is


def test_a_clip_reads_the_frames_in_the_middle_of_its_video(folder):
    (clip,) = clips_of(folder)
    frames = clip.read()
    assert (clip.name, clip.caption, clip.camera) == ("a.mp4", "a cat", None)
    assert (clip.num_frames, clip.height, clip.width) == (4, 96, 128)
    assert (tuple(frames.shape), frames.dtype) == ((4, 96, 128, 3), torch.float32)
    assert toys.frame_indices(frames) == [8, 10, 12, 14]
    assert torch.equal(frames, clip.read())
    assert clip.content_files() == (folder / "a.mp4",)


def test_frames_at_their_own_size_are_the_source_exactly(tmp_path):
    folder = tmp_path / "clips"
    toys.caption(toys.write_frames(folder / "walk", 7, paint=toys.noise_frame))
    (clip,) = clips_of(folder)
    source = torch.stack([torch.from_numpy(toys.noise_frame(index)) for index in (0, 2, 4, 6)]).float() / 255
    assert (clip.read() - source).abs().max() <= IDENTITY
    assert clip.content_files() == tuple(folder / "walk" / f"frame{index}.png" for index in (0, 2, 4, 6))


def test_several_clips_of_a_video_have_names_of_their_own(folder):
    clips = clips_of(folder, clips_per_video=0)
    assert [clip.name for clip in clips] == ["a.mp4", "a.mp4#2", "a.mp4#3"]
    assert [toys.frame_indices(clip.read()) for clip in clips] == [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18, 20, 22]]
    assert len(clips_of(folder, clips_per_video=2)) == 2
    assert len(clips_of(folder, clips_per_video=99)) == 3


def test_the_set_carries_what_training_must_know(folder):
    clips, _ = find_training_clips(folder, ClipSettings(**SMALL, flip=True))
    assert (clips.flip, clips.frame_stride, clips.camera_motion) == (True, 2, None)


def test_mirrored_frames_exchange_left_and_right():
    frames = torch.rand(2, 3, 4, 3)
    assert torch.equal(mirrored(frames)[:, :, 0], frames[:, :, 3])
    assert torch.equal(mirrored(mirrored(frames)), frames)


def test_the_transform_key_follows_the_cut_and_nothing_else(folder, tmp_path):
    (clip,) = clips_of(folder)
    toys.caption(toys.write_video(tmp_path / "others" / "b.mp4", 24, paint=toys.noise_frame), "another caption")
    (other,) = clips_of(tmp_path / "others")
    assert other.transform_key() == clip.transform_key()
    json.loads(clip.transform_key())
    changes = ({"frame_stride": 1}, {"num_frames": 5}, {"width": 64}, {"height": 64}, {"clips_per_video": 2})
    keys = {clips_of(folder, **change)[0].transform_key() for change in changes}
    assert len(keys | {clip.transform_key()}) == len(changes) + 1


def test_a_file_that_changed_its_size_after_the_check_is_refused(folder):
    (clip,) = clips_of(folder)
    toys.write_video(folder / "a.mp4", 24, paint=lambda index: toys.index_frame(index, 160, 96))
    with pytest.raises(TrainingDataError, match=r"a.mp4: expected frames of 128×96, found one of 160×96"):
        clip.read()


# --- size and aspect


def gradient(height: int, width: int) -> torch.Tensor:
    """A picture whose red is the column and green the row. Shapes: `h w 3`, uint8"""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack((columns, rows, rows * 0), dim=-1).to(torch.uint8)


def whole(height: int, width: int, scale: float) -> View:
    return View(width / 2, height / 2, scale, scale)


@pytest.mark.parametrize(("height", "width"), [(96, 128), (97, 131), (256, 256), (64, 64)])
def test_scale_one_is_the_source(height, width):
    picture = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)
    out = resampled(picture, whole(height, width, 1.0), height, width, samples_for(1.0))
    assert (out - picture.float() / 255).abs().max() <= IDENTITY


@pytest.mark.parametrize("times", [2, 3, 4])
def test_whole_scales_average_the_pixels_underneath(times):
    picture = torch.randint(0, 256, (24 * times, 32 * times, 3), dtype=torch.uint8)
    out = resampled(picture, whole(24 * times, 32 * times, times), 24, 32, samples_for(times))
    blocks = picture.double().reshape(24, times, 32, times, 3).mean(dim=(1, 3)) / 255
    assert (out - blocks).abs().max() <= IDENTITY


@pytest.mark.parametrize("scale", [0.7, 1.3, 2.9, 7.7])
def test_a_gradient_keeps_its_places_at_any_scale_and_shift(scale):
    picture = gradient(250, 250)
    view = View(120.3, 127.8, scale, scale)
    out = resampled(picture, view, 24, 16, samples_for(scale)) * 255
    columns = 120.3 + (torch.arange(16) + 0.5 - 8) * scale - 0.5
    rows = 127.8 + (torch.arange(24) + 0.5 - 12) * scale - 0.5
    assert (out[..., 0] - columns).abs().max() < 1e-3
    assert (out[..., 1] - rows[:, None]).abs().max() < 1e-3


def test_no_source_pixel_is_stepped_over():
    assert [samples_for(scale) for scale in (0.4, 1.0, 1.01, 2.0, 5.2)] == [1, 1, 2, 2, 6]


def test_a_fine_pattern_leaves_no_moire_when_made_small():
    stripes = (torch.arange(1000)[None, :, None] % 2 * 255).expand(1000, 1000, 3).to(torch.uint8)
    out = resampled(stripes, whole(1000, 1000, 1000 / 192), 192, 192, samples_for(1000 / 192))
    assert (out - 0.5).abs().max() < 0.11  # one stripe of the five or six under a pixel
    nearest = resampled(stripes, whole(1000, 1000, 1000 / 192), 192, 192, 1)
    assert (nearest - 0.5).abs().max() > 0.4  # else the test would not see a picture without averaging


def test_the_short_side_fits_and_the_middle_is_kept(tmp_path):
    folder = tmp_path / "clips"

    def paint(index):
        frame = np.zeros((96, 192, 3), dtype=np.uint8)
        frame[:, 48:144] = 255
        return frame

    toys.caption(toys.write_frames(folder / "walk", 7, paint=paint))
    (clip,) = clips_of(folder, width=96, height=96)
    assert clip.read().min() == 1.0
    (clip,) = clips_of(folder, width=192, height=64)
    assert clip.read()[0, :, :, 0].mean() == pytest.approx(0.5, abs=0.01)


def test_pixels_that_are_not_square_are_evened_out(tmp_path):
    def widen(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    folder = tmp_path / "clips"
    toys.caption(toys.write_video(folder / "a.mp4", 24, prepare=widen))  # 128×96, shown as 170.7×96
    (clip,) = clips_of(folder, width=96, height=96)
    (view, *_) = clip.views
    assert view.scale_y == pytest.approx(1.0)
    assert view.scale_x == pytest.approx(0.75)
    assert clips_of(folder, width=128, height=128, aspect_buckets=True)[0].width == 168


def test_buckets_keep_area_and_aspect():
    for area, step in ((256, 64), (512, 64), (128, 8)):
        for aspect in (0.4, 9 / 16, 3 / 4, 1.0, 4 / 3, 16 / 9, 2.4):
            width, height = bucket_size(area, area, aspect)
            assert width % step == height % step == 0
            assert width * height == pytest.approx(area * area, rel=0.15)
            assert max(width / height / aspect, aspect * height / width) < (1.3 if area == 256 else 1.15)
    assert bucket_size(512, 512, 16 / 9) == (704, 384)
    assert bucket_size(256, 256, 16 / 9) == (320, 192)
    assert bucket_size(320, 200, 1.6) == (320, 200)


def test_each_clip_goes_into_the_bucket_of_its_aspect(tmp_path):
    folder = tmp_path / "clips"
    for name, width, height in (("wide", 192, 108), ("tall", 108, 192), ("even", 128, 128)):
        toys.caption(toys.write_video(folder / f"{name}.mp4", 24, paint=toys.solid((9, 9, 9), width, height)))
    sizes = {clip.name: (clip.width, clip.height) for clip in clips_of(folder, height=128, aspect_buckets=True)}
    assert sizes == {"even.mp4": (128, 128), "tall.mp4": (96, 168), "wide.mp4": (168, 96)}
    report = report_of(folder, height=128, aspect_buckets=True)
    assert "bucket 168×96, 4 frames: 1" in report


# --- short videos


def test_a_short_video_is_refused_with_what_would_do(tmp_path):
    folder = tmp_path / "clips"
    toys.caption(toys.write_video(folder / "a.mp4", 5))
    with pytest.raises(TrainingDataError) as caught:
        find_training_clips(folder, ClipSettings())
    message = str(caught.value)
    assert "a.mp4: 16 frames at stride 4 need 61 frames of video, found 5" in message
    assert "lower num_frames to 2, or lower frame_stride to 1 and num_frames to 5" in message
    with pytest.raises(TrainingDataError, match="lower frame_stride to 1, or lower num_frames to 3"):
        find_training_clips(folder, ClipSettings(num_frames=4, frame_stride=2))
    assert len(clips_of(folder, num_frames=4, frame_stride=1)) == 1
    assert len(clips_of(folder, num_frames=3)) == 1


def test_a_gif_of_one_frame_is_refused(tmp_path):
    folder = tmp_path / "clips"
    toys.caption(toys.write_animation(folder / "a.gif", 1))
    with pytest.raises(TrainingDataError, match="found 1; remove it, or use a longer one"):
        clips_of(folder)


def test_shorter_clips_are_multiples_of_four_frames(folder):
    (clip,) = clips_of(folder, num_frames=16, min_frames=4)
    assert clip.num_frames == 12  # 24 frames at stride 2
    assert toys.frame_indices(clip.read()) == list(range(0, 23, 2))
    assert "ok (12 of 16 frames)" in report_of(folder, num_frames=16, min_frames=12)
    with pytest.raises(TrainingDataError, match="16 frames at stride 2 need 31 frames of video, found 24"):
        clips_of(folder, num_frames=16, min_frames=13)


def test_no_frame_is_repeated_where_a_video_stands_still(tmp_path):
    folder = tmp_path / "clips"
    times = [40 * index for index in range(12)] + [2000 + 40 * index for index in range(12)]
    toys.caption(toys.write_video(folder / "a.mkv", 24, times=times))
    with pytest.raises(TrainingDataError, match=r"a.mkv: the picture at 0.44 s would be used twice"):
        clips_of(folder, frame_stride=1, num_frames=24)


# --- checks and reports


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two good clips and two bad ones."""
    folder = tmp_path / "mixed"
    toys.caption(
        toys.write_video(folder / "good.mp4", 24), "a cat that walks over the moon and looks down on the earth"
    )
    toys.write_video(folder / "small.webm", 24, codec="libvpx-vp9", paint=toys.solid((9, 9, 9), 64, 48))
    (folder / "text.mp4").write_text("no video")
    toys.cut_off(toys.write_video(folder / "torn.mkv", 60, paint=toys.noise_frame))
    return folder


def test_bad_clips_stop_everything_with_their_reasons(mixed):
    with pytest.raises(TrainingDataError) as caught:
        find_training_clips(mixed, ClipSettings(**SMALL, skip_at_most=0.49))
    message = str(caught.value)
    assert "mixed: 2 of 4 files cannot be trained on, expected at most 49%" in message
    assert re.search(r"- text.mp4: not a video that can be read \(Invalid data", message)
    assert re.search(r"- torn.mkv: the file is cut off after 1.\d+ of 2.00 seconds", message)
    assert "set skip_at_most to 0.5" in message


def test_bad_clips_within_the_share_are_left_out_and_reported(mixed):
    clips, report = find_training_clips(mixed, ClipSettings(**SMALL, skip_at_most=0.5))
    assert [clip.name for clip in clips.clips] == ["good.mp4", "small.webm"]
    lines = report.splitlines()
    assert re.match(r"torn.mkv +– +– +– +\(none\) +bad: the file is cut off after 1.\d+ of 2.00 seconds", lines.pop(4))
    assert lines == [
        "file        frames    fps    size  caption                                   verdict",
        "good.mp4        24     30  128×96  a cat that walks over the moon and look…  ok",
        "small.webm      24  29.99   64×48  (none)                                    ok (enlarged from 64×48)",
        "text.mp4         –      –       –  (none)                                    bad: not a video that can be "
        "read (Invalid data found when processing input); get the file again",
        "",
        "clips: 2, from 2 of 4 files",
        "bad: 2",
        "without caption: 3",
        "bucket 128×96, 4 frames: 2",
    ]


def test_more_than_five_bad_clips_are_counted(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.mp4").write_text("no video")
    toys.caption(toys.write_video(folder / "good.mp4", 24))
    with pytest.raises(TrainingDataError, match="8 of 9 files") as caught:
        clips_of(folder, skip_at_most=0.5)
    assert str(caught.value).count("\n- ") == 6
    assert "and 3 more" in str(caught.value)
    assert "skip_at_most to" not in str(caught.value)


@pytest.mark.parametrize("frame", [0, 4, 6])
def test_damage_at_the_first_middle_or_last_frame_is_found(tmp_path, frame):
    folder = tmp_path / "clips"
    toys.caption(toys.write_frames(folder / "walk", 7, paint=toys.noise_frame))
    toys.cut_off(folder / "walk" / f"frame{frame}.png", 0.8)
    with pytest.raises(TrainingDataError, match=rf"walk: frame{frame}.png cannot be read"):
        clips_of(folder)


def test_progress_counts_files_and_can_stop_the_check(mixed):
    seen = []
    find_training_clips(mixed, ClipSettings(**SMALL, skip_at_most=0.5), lambda *progress: seen.append(progress))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]

    class Stop(BaseException):
        pass

    def stop(done, total):
        raise Stop

    with pytest.raises(Stop):
        find_training_clips(mixed, ClipSettings(**SMALL), stop)
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_a_video_that_changes_its_size_is_refused(tmp_path):
    folder = tmp_path / "clips"
    parts = [
        toys.write_video(tmp_path / "1.ts", 12),
        toys.write_video(
            tmp_path / "2.ts",
            12,
            times=[400 + 33 * index for index in range(12)],
            paint=lambda index: toys.index_frame(index, 160, 96),
        ),
    ]
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"".join(part.read_bytes() for part in parts))
    toys.caption(folder / "a.mp4")
    with pytest.raises(TrainingDataError, match=r"a.mp4: expected frames of 128×96, found one of 160×96"):
        clips_of(folder, num_frames=8, frame_stride=3)


def test_rows_and_pictures_without_use_are_mentioned(folder):
    toys.write_frames(folder, 2)
    (folder / "metadata.csv").write_text("file,text\nother.mp4,b\n")
    report = report_of(folder)
    assert "pictures beside videos, not used: 2" in report
    assert "rows of metadata.csv without a video: 1" in report


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_frames", 1),
        ("frame_stride", 0),
        ("width", 100),
        ("height", 56),
        ("width", 5000),
        ("clips_per_video", -1),
        ("min_frames", 17),
        ("skip_at_most", 0.6),
        ("skip_at_most", float("nan")),
    ],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(SettingsError, match=f"{name} should be .*found"):
        ClipSettings(**{name: value})
