"""Camera motions: what rendered frames show is the path that the clip declares, measured on dots."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from motiongraft.core.errors import SettingsError, TrainingDataError
from motiongraft.tests.helpers import toy_videos as toys
from motiongraft.training.data.camera_motion import MOTIONS, camera_path, with_camera_motion
from motiongraft.training.data.camera_path import CameraPath, SourceSize, still_path, views
from motiongraft.training.data.clip_check import find_training_clips
from motiongraft.training.data.clip_settings import ClipSettings
from motiongraft.training.data.clips import TrainingClips

FRAMES = 9
WIDTH, HEIGHT = 192, 128
SOURCE_WIDTH, SOURCE_HEIGHT = 512, 384
AMOUNT = 0.25
TOLERANCE = 0.001
"""Of the whole motion; what is measured is a tenth of it. Dots are found within some thousandths of a pixel."""
MARGIN = 10
"""Pixels that a dot must keep from the edge of the frame to be measured."""
REACH = 7


def dots(index: int) -> np.ndarray:
    """Smooth dots on a jittered grid, the same in every frame. Shapes: `h w 3`, uint8"""
    generator = np.random.default_rng(7)
    rows, columns = np.mgrid[0:SOURCE_HEIGHT, 0:SOURCE_WIDTH]
    picture = np.zeros((SOURCE_HEIGHT, SOURCE_WIDTH))
    for y in range(32, SOURCE_HEIGHT, 64):
        for x in range(32, SOURCE_WIDTH, 64):
            down, right = generator.uniform(-8, 8, 2)
            picture += 230 * np.exp(-((rows - y - down) ** 2 + (columns - x - right) ** 2) / (2 * 5.0**2))
    return np.repeat(picture.clip(0, 255).round().astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> TrainingClips:
    """A clip of dots that stand still, from a folder of frames."""
    folder = tmp_path_factory.mktemp("clips")
    picture = dots(0)
    toys.caption(toys.write_frames(folder / "dots", FRAMES, paint=lambda index: picture))
    return load(folder)


def load(folder: Path) -> TrainingClips:
    settings = ClipSettings(num_frames=FRAMES, frame_stride=1, width=WIDTH, height=HEIGHT, flip=True)
    return find_training_clips(folder, settings)[0]


def centroid(frame: np.ndarray, x: float, y: float) -> np.ndarray:
    """The middle of the brightness around a point, found again around itself. Units: pixels from the upper left"""
    top, left = max(0, int(y) - 2 * REACH), max(0, int(x) - 2 * REACH)
    part = frame[top : top + 4 * REACH, left : left + 4 * REACH]
    rows, columns = np.mgrid[0 : part.shape[0], 0 : part.shape[1]] + [[[top + 0.5]], [[left + 0.5]]]
    for _ in range(12):
        weight = part * ((rows - y) ** 2 + (columns - x) ** 2 < REACH**2)
        x, y = (weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()
    return np.array([x, y])


def first_dots(frame: np.ndarray) -> list[np.ndarray]:
    """The dots of a frame: where it is brightest for some pixels around."""
    inner = frame[MARGIN:-MARGIN, MARGIN:-MARGIN]
    bright = [(y + MARGIN, x + MARGIN) for y, x in np.argwhere(inner > 0.4)]
    peaks = [(y, x) for y, x in bright if frame[y, x] == frame[y - 4 : y + 5, x - 4 : x + 5].max()]
    found = [centroid(frame, x + 0.5, y + 0.5) for y, x in peaks]
    return [dot for number, dot in enumerate(found) if all(np.abs(dot - other).max() > 2 for other in found[:number])]


def tracks(frames: torch.Tensor) -> list[list[np.ndarray | None]]:
    """For each frame the places of the dots of frame 0, None once one has come near the edge."""
    brightness = frames[..., 0].double().numpy()
    places: list[list[np.ndarray | None]] = [list(first_dots(brightness[0]))]
    for frame in brightness[1:]:
        places.append([None if dot is None else followed(frame, dot) for dot in places[-1]])
    return places


def followed(frame: np.ndarray, dot: np.ndarray) -> np.ndarray | None:
    place = centroid(frame, *dot)
    size = np.array([frame.shape[1], frame.shape[0]])
    return place if (place > MARGIN).all() and (place < size - MARGIN).all() else None


def measured_path(frames: torch.Tensor) -> CameraPath:
    """Zoom, shift and angle of each frame by least squares over the dots seen in it and in frame 0."""
    places = tracks(frames)
    middle = np.array([WIDTH / 2, HEIGHT / 2])
    poses = []
    for frame in places:
        both = [(then, now) for then, now in zip(places[0], frame, strict=True) if then is not None and now is not None]
        pairs = [(then - middle, now - middle) for then, now in both]
        assert len(pairs) >= 4
        poses.append(similarity(pairs))
    return CameraPath(*zip(*poses, strict=True))


def similarity(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float, float, float]:
    """The zoom, shift and angle that carry the first points to the second, where now = zoom R (then - shift)."""
    rows = [row for (x, y), _ in pairs for row in ([x, -y, 1, 0], [y, x, 0, 1])]
    a, b, right, down = np.linalg.lstsq(np.array(rows), np.concatenate([now for _, now in pairs]), rcond=None)[0]
    shift = np.linalg.solve(np.array([[a, -b], [b, a]]), [-right, -down])
    return float(np.hypot(a, b)), shift[0] / WIDTH, shift[1] / HEIGHT, math.degrees(math.atan2(b, a))


def span(motion: str, path: CameraPath) -> float:
    """How far a path goes in the value that the motion changes."""
    values = {"zoom": path.zoom, "pan": path.shift_x, "tilt": path.shift_y, "roll": path.angle}[motion.split()[0]]
    return abs(values[-1] - values[0])


def check_measured(clips: TrainingClips, motion: str) -> None:
    (clip,) = with_camera_motion(clips, motion, AMOUNT).clips
    declared, measured = clip.camera, measured_path(clip.read())
    assert declared is not None
    worst = {
        name: np.abs(np.subtract(getattr(declared, name), getattr(measured, name))).max()
        for name in ("zoom", "shift_x", "shift_y", "angle")
    }
    limits = {
        "zoom": TOLERANCE * AMOUNT,
        "shift_x": TOLERANCE * AMOUNT,
        "shift_y": TOLERANCE * AMOUNT,
        "angle": TOLERANCE * 22.5,
    }
    assert span(motion, declared) > 0.9 * (22.5 if "roll" in motion else 0.2)
    for name, limit in limits.items():
        assert worst[name] <= limit, (name, worst)


@pytest.mark.parametrize("motion", MOTIONS)
def test_rendered_frames_follow_the_declared_path(still, motion):
    check_measured(still, motion)


@pytest.mark.parametrize("motion", ["zoom in", "roll anticlockwise", "pan left"])
def test_frames_of_an_encoded_video_follow_it_too(tmp_path, motion):
    picture = dots(0)
    toys.caption(toys.write_video(tmp_path / "dots.mp4", FRAMES, paint=lambda index: picture, options={"crf": "8"}))
    check_measured(load(tmp_path), motion)


def test_a_clip_without_camera_motion_stands_still(still):
    measured = measured_path(still.clips[0].read())
    assert np.ptp([measured.zoom, measured.shift_x, measured.shift_y, measured.angle], axis=1).max() < 1e-6


@pytest.mark.parametrize(
    ("motion", "point", "goes"),
    [
        ("zoom in", (30, 20), (1, 1)),
        ("zoom out", (30, 20), (-1, -1)),
        ("pan right", (0, 0), (-1, 0)),
        ("pan left", (0, 0), (1, 0)),
        ("tilt up", (0, 0), (0, 1)),
        ("tilt down", (0, 0), (0, -1)),
        ("roll clockwise", (40, 0), (0, 1)),
        ("roll anticlockwise", (40, 0), (0, -1)),
    ],
)
def test_content_goes_the_way_that_the_name_says(tmp_path, motion, point, goes):
    """A single dot, to the right of and below the middle of frame 0 by `point`."""
    target = np.array([WIDTH, HEIGHT]) / 2 + point
    view = views(camera_path(motion, 0.1, FRAMES), SourceSize(SOURCE_HEIGHT, SOURCE_WIDTH), HEIGHT, WIDTH)[0]
    x, y = view.centre_x + view.scale_x * point[0], view.centre_y + view.scale_y * point[1]
    rows, columns = np.mgrid[0:SOURCE_HEIGHT, 0:SOURCE_WIDTH] + 0.5
    dot = (230 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 50)).astype(np.uint8)[..., None].repeat(3, axis=2)
    toys.caption(toys.write_frames(tmp_path / "dot", FRAMES, paint=lambda index: dot))
    (clip,) = with_camera_motion(load(tmp_path), motion, 0.1).clips
    frames = clip.read()[..., 0].double().numpy()
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    places = [np.array([(frame * columns).sum(), (frame * rows).sum()]) / frame.sum() for frame in frames]
    assert np.abs(places[0] - target).max() < 0.1
    for earlier, later in pairwise(places):
        for axis in (0, 1):
            moved = (later - earlier)[axis]
            assert (moved * goes[axis] > 0.1) if goes[axis] else (abs(moved) < 0.7)


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_rate_is_constant(motion):
    path = camera_path(motion, 0.5, 16)
    values = [np.log(path.zoom), path.shift_x, path.shift_y, path.angle]
    for steps in map(np.diff, values):
        assert np.ptp(steps) < 1e-12
    assert sum(bool(np.abs(np.diff(value)).max() > 0) for value in values) == 1
    assert (path.zoom[0], path.shift_x[0], path.shift_y[0], path.angle[0]) == (1, 0, 0, 0)


def test_amounts_are_what_they_are_called():
    assert camera_path("zoom in", 0.25, 16).zoom[-1] == pytest.approx(1.25)
    assert camera_path("zoom out", 0.25, 16).zoom[-1] == pytest.approx(0.8)
    assert camera_path("pan right", 0.5, 16).shift_x[-1] == pytest.approx(0.5)
    assert camera_path("tilt up", 0.5, 16).shift_y[-1] == pytest.approx(-0.5)
    assert camera_path("roll clockwise", 0.25, 16).angle[-1] == pytest.approx(22.5)


def corner_places(view, height, width):
    """Where the corners of a target frame lie in the source."""
    angle = math.radians(view.angle)
    for x in (-width / 2, width / 2):
        for y in (-height / 2, height / 2):
            along, down = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
            yield view.centre_x + view.scale_x * along, view.centre_y + view.scale_y * down


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("amount", [0.01, 0.25, 1.0])
@pytest.mark.parametrize("source", [SourceSize(360, 640), SourceSize(640, 360), SourceSize(480, 720, 8 / 9)])
def test_the_window_stays_inside_the_source_and_is_as_large_as_it_can_be(motion, amount, source):
    for height, width in ((256, 256), (192, 320)):
        cut = views(camera_path(motion, amount, 16), source, height, width)
        places = np.array([place for view in cut for place in corner_places(view, height, width)])
        room = np.array([source.width, source.height])
        assert places.min() >= -1e-9
        assert (places <= room + 1e-9).all()
        touched = (places.min(axis=0) < 1e-6) & (places.max(axis=0) > room - 1e-6)
        assert touched.any()


def test_a_still_path_is_the_centred_crop():
    (view, *others) = views(still_path(4), SourceSize(360, 640), 256, 256)
    assert (view.centre_x, view.centre_y, view.angle) == (320, 180, 0)
    assert view.scale_x == view.scale_y == 360 / 256
    assert others == [view] * 3


def test_captions_stay_and_mirroring_is_off(still):
    moved = with_camera_motion(still, "pan left", 0.3)
    assert (still.flip, moved.flip, moved.camera_motion) == (True, False, "pan left")
    assert [clip.caption for clip in moved.clips] == ["a cat"]
    assert [clip.name for clip in moved.clips] == ["dots (pan left)"]
    assert moved.clips[0].content_files() == still.clips[0].content_files()


def test_each_path_has_a_transform_key_of_its_own(still):
    keys = {
        with_camera_motion(still, motion, amount).clips[0].transform_key()
        for motion in MOTIONS
        for amount in (0.1, 0.2)
    }
    assert len(keys | {still.clips[0].transform_key()}) == 2 * len(MOTIONS) + 1


def test_one_motion_on_another_is_refused(still):
    with pytest.raises(TrainingDataError, match="found clips with the camera motion zoom in"):
        with_camera_motion(with_camera_motion(still, "zoom in", 0.2), "pan left", 0.2)


@pytest.mark.parametrize(
    ("motion", "amount", "reason"),
    [
        ("dolly", 0.25, "motion should be one of zoom in, .*found dolly"),
        ("zoom in", 0.0, "amount should be from 0.01 to 1, found 0.0"),
        ("zoom in", 1.5, "found 1.5"),
        ("zoom in", float("nan"), "found nan"),
    ],
)
def test_settings_out_of_range_are_refused(still, motion, amount, reason):
    with pytest.raises(SettingsError, match=reason):
        with_camera_motion(still, motion, amount)


def test_a_single_frame_cannot_move():
    with pytest.raises(SettingsError, match="needs clips of 2 frames or more, found 1"):
        camera_path("zoom in", 0.2, 1)


def test_enlarging_is_said_aloud(still, caplog):
    with_camera_motion(still, "zoom in", 0.25)
    assert not caplog.records
    large = tuple(replace(clip, width=512, height=384) for clip in still.clips)
    with_camera_motion(replace(still, clips=large), "zoom in", 0.25)
    assert "1 of 1 clips are enlarged up to 1.25 times for zoom in" in caplog.text


def test_sharpness_does_not_jump_where_a_zoom_crosses_the_sources_own_size(tmp_path):
    folder = tmp_path / "noise"
    noise = np.random.default_rng(0).integers(0, 255, (140, 210, 3), dtype=np.uint8)
    toys.caption(toys.write_frames(folder, FRAMES, paint=lambda index: noise))
    (clip,) = with_camera_motion(load(tmp_path), "zoom in", 0.25).clips
    scales = [view.scale for view in clip.views]
    assert scales[0] > 1 > scales[-1]
    detail = [float(frame.std()) for frame in clip.read()]
    assert max(abs(later - earlier) for earlier, later in pairwise(detail)) < 0.02
