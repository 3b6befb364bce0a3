"""Videos: frames chosen by timestamp and decoded exactly, and files that are not what they seem."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from motiongraft.tests.helpers import toy_videos as toys
from motiongraft.training.data.decoded_frames import upright
from motiongraft.training.data.frame_source import BadClipError
from motiongraft.training.data.frame_times import clip_starts, frames_needed, shown_frames
from motiongraft.training.data.picture_files import probe_animated_picture
from motiongraft.training.data.video import Video, probe_video

KINDS = [
    ("a.mp4", "libx264", {"bf": "3", "g": "12"}),
    ("a.mov", "libx264", {"g": "2", "bf": "2", "sc_threshold": "0"}),
    ("refresh.mp4", "libx264", {"x264-params": "keyint=20:intra-refresh=1"}),
    ("open.mp4", "libx265", {"x265-params": "log-level=none:keyint=12:min-keyint=12:open-gop=1:bframes=4"}),
    ("a.mkv", "libx265", {}),
    ("a.webm", "libvpx-vp9", {"g": "16", "deadline": "realtime"}),
    ("vp8.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
    ("av1.mp4", "libsvtav1", {"preset": "12"}),
    ("av1.mkv", "libaom-av1", {"cpu-used": "8"}),
    ("old.mp4", "mpeg4", {"qscale": "2"}),
]
FRAMES = 60
OPEN_FILES = Path("/proc/self/fd")


def read_indices(source: Video, frames: list[int]) -> list[int]:
    return [toys.index_of(picture.pixels) for picture in source.pictures(frames)]


@pytest.fixture
def h264(tmp_path: Path) -> Path:
    return toys.write_video(tmp_path / "a.mp4", FRAMES, options={"g": "12"})


@pytest.mark.parametrize(("name", "codec", "options"), KINDS, ids=[kind[0] + "-" + kind[1] for kind in KINDS])
def test_constant_rate_gives_exactly_every_fourth_frame(tmp_path, name, codec, options):
    video = probe_video(toys.write_video(tmp_path / name, 70, codec=codec, options=options))
    assert len(video.times) == 70
    assert video.rate == pytest.approx(toys.RATE, rel=1e-3)
    frames = shown_frames(video.times, 4, 16, 4)
    assert frames == tuple(range(4, 68, 4))
    assert read_indices(video, list(frames)) == list(frames)
    assert [read_indices(video, [frame]) for frame in (0, 33, 69)] == [[0], [33], [69]]


def test_gif_and_animated_webp_give_exactly_every_second_frame(tmp_path):
    for source in (
        probe_video(toys.write_animation(tmp_path / "a.gif", 20)),
        probe_animated_picture(toys.write_animation(tmp_path / "a.webp", 20)),
    ):
        assert source.rate == pytest.approx(20)
        frames = shown_frames(source.times, 1, 8, 2)
        assert [toys.index_of(picture.pixels) for picture in source.pictures(frames)] == list(range(1, 17, 2))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_frames_of_a_variable_rate_are_those_shown_at_the_time(tmp_path, name):
    times = [500 + 40 * index + 9 * (index % 3) for index in range(20)] + [1340 + 20 * index for index in range(20)]
    video = probe_video(toys.write_video(tmp_path / name, 40, times=times))
    assert video.times[0] == 0
    assert video.times[-1] == pytest.approx((times[-1] - times[0]) / 1000, abs=1e-3)
    period = (times[-1] - times[0]) / 39
    targets = [times[0] + (2 + 3 * step + 0.5) * period for step in range(10)]
    expected = [max(index for index, time in enumerate(times) if time <= target) for target in targets]
    frames = shown_frames(video.times, 2, 10, 3)
    assert read_indices(video, list(frames)) == expected
    assert np.diff(expected).min() < np.diff(expected).max()  # else the test would not see frames counted instead


def test_a_pause_names_one_frame_twice():
    times = [0.0, 1.0, 2.0, 9.0, 10.0, 11.0]
    frames = shown_frames(times, 0, 6, 1)
    assert len(set(frames)) < 6


@pytest.mark.parametrize("needed", [1, 4, 7])
@pytest.mark.parametrize("clips", [0, 1, 3])
def test_clips_lie_inside_the_video_apart_and_centred(needed, clips):
    for total in range(needed, 40):
        starts = clip_starts(total, needed, clips)
        assert starts[0] >= 0
        assert starts[-1] + needed <= total
        assert all(later - earlier >= needed for earlier, later in pairwise(starts))
        assert abs(starts[0] - (total - needed - starts[-1])) <= 1
        assert len(starts) == (min(clips, total // needed) if clips else total // needed)


def test_a_clip_needs_its_first_and_last_frame_and_what_is_between():
    assert frames_needed(16, 4) == 61


def test_reading_starts_at_the_keyframe_before(tmp_path):
    """Proven by damage at the beginning: a frame in a later group of pictures is whole nevertheless."""
    path = toys.write_video(tmp_path / "a.mp4", 60, paint=toys.noise_frame, options={"g": "12", "bf": "0"})
    whole = next(probe_video(path).pictures([50])).pixels
    toys.damage(path, 0.1, 60_000)
    video = probe_video(path)
    assert torch.equal(next(video.pictures([50])).pixels, whole)
    with pytest.raises(BadClipError, match="cannot be decoded"):
        next(video.pictures([11]))


def test_damage_before_a_frame_that_refers_to_it_is_found(tmp_path):
    """The decoder makes up what it cannot read, and says so of the damaged frame alone."""
    path = toys.write_video(tmp_path / "a.mp4", 24, codec="mpeg4", options={"g": "12", "qscale": "3"})
    whole = [next(probe_video(path).pictures([frame])).pixels for frame in (9, 20)]
    with toys.pyav.open(str(path)) as file:
        packets = [(packet.pos, packet.size) for packet in file.demux() if packet.size]
    place, size = packets[5]
    toys.damage(path, (place + size // 2) / path.stat().st_size, size // 3)
    video = probe_video(path)
    assert torch.equal(next(video.pictures([20])).pixels, whole[1])
    with pytest.raises(BadClipError, match=r"the frame at 0.30 s cannot be decoded"):
        next(video.pictures([9]))


def test_frames_that_an_edit_list_hides_are_not_counted(tmp_path):
    path = toys.write_video(tmp_path / "a.mp4", 40, options={"g": "12", "bf": "0"})
    content = bytearray(path.read_bytes())
    start = content.index(b"elst") + 16  # after version, count and duration
    assert content[start : start + 4] == bytes(4)
    content[start : start + 4] = (14 * 512).to_bytes(4, "big")
    path.write_bytes(content)
    video = probe_video(path)
    assert read_indices(video, [0, 1, 9, 10, 25]) == [14, 15, 23, 24, 39]
    assert len(video.times) == 26


def test_files_are_closed_even_when_reading_stops_early(h264):
    video = probe_video(h264)
    if not OPEN_FILES.is_dir():
        pytest.skip("this system does not list a process's open files")
    before = len(list(OPEN_FILES.iterdir()))
    pictures = video.pictures([0, 10, 20])
    next(pictures)
    del pictures
    with pytest.raises(BadClipError):
        probe_video(toys.write_sound(h264.parent / "sound.mp4"))
    assert len(list(OPEN_FILES.iterdir())) == before


CORNERS = {(0, 0): "red", (0, 1): "green", (1, 0): "blue", (1, 1): "white"}
COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220), "white": (225, 225, 225)}


def corner_frame(index: int) -> np.ndarray:
    frame = np.zeros((toys.HEIGHT, toys.WIDTH, 3), dtype=np.uint8)
    for (down, right), name in CORNERS.items():
        frame[down * 48 : down * 48 + 48, right * 64 : right * 64 + 64] = COLOURS[name]
    return frame


def corners(pixels) -> list[str]:
    """The colours of the corners: upper left, upper right, lower left, lower right."""
    height, width = pixels.shape[:2]
    places = [(height * y // 4, width * x // 4) for y in (1, 3) for x in (1, 3)]
    found = [np.array(pixels[place], dtype=float) for place in places]
    return [min(COLOURS, key=lambda name: np.abs(np.array(COLOURS[name]) - colour).sum()) for colour in found]


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        (90, ["green", "white", "red", "blue"]),
        (180, ["white", "blue", "green", "red"]),
        (-90, ["blue", "red", "white", "green"]),
    ],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_turned_recordings_stand_upright(tmp_path, name, degrees, expected):
    def turn(stream):
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write a display matrix")
        stream.set_display_rotation(degrees)

    video = probe_video(toys.write_video(tmp_path / name, 4, paint=corner_frame, prepare=turn))
    picture = next(video.pictures([1]))
    assert picture.size == ((96, 128) if degrees == 180 else (128, 96))
    assert corners(picture.pixels.numpy()) == expected


def test_a_turn_in_the_track_header_is_found(tmp_path):
    path = turn_in_track_header(toys.write_video(tmp_path / "a.mp4", 4, paint=corner_frame))
    picture = next(probe_video(path).pictures([0]))
    assert corners(picture.pixels.numpy()) == ["blue", "red", "white", "green"]


def turn_in_track_header(path: Path) -> Path:
    """Write a quarter turn clockwise into an mp4, as phones do."""
    content = path.read_bytes()
    straight = np.array([65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30], dtype=">i4").tobytes()
    quarter = np.array([0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30], dtype=">i4").tobytes()
    track = content.index(b"tkhd")
    place = content.index(straight, track)
    path.write_bytes(content[:place] + quarter + content[place + len(quarter) :])
    return path


def test_mirrored_display_matrices_are_applied():
    picture = np.arange(6).reshape(2, 3)
    assert upright(picture, [-65536, 0, 0, 0, 65536])[0].tolist() == [[2, 1, 0], [5, 4, 3]]
    assert upright(picture, [65536, 0, 0, 0, -65536])[0].tolist() == [[3, 4, 5], [0, 1, 2]]
    transposed, turned = upright(picture, [0, 65536, 0, 65536, 0])
    assert turned
    assert transposed.tolist() == picture.T.tolist()


def test_pixels_that_are_not_square_keep_their_aspect(tmp_path):
    def widen(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    video = probe_video(toys.write_video(tmp_path / "a.mp4", 4, prepare=widen))
    assert next(video.pictures([0])).pixel_aspect == pytest.approx(4 / 3)
    path = toys.write_video(tmp_path / "turned.mp4", 4, prepare=widen)
    assert next(probe_video(turn_in_track_header(path)).pictures([0])).pixel_aspect == pytest.approx(3 / 4)


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("deep.mp4", "libx264", "yuv420p10le"),
        ("deep.mkv", "libx265", "yuv420p10le"),
        ("grey.mkv", "ffv1", "gray"),
        ("alpha.mov", "prores_ks", "yuva444p10le"),
        ("alpha.mov", "qtrle", "argb"),
        ("planes.mkv", "ffv1", "gbrp10le"),
    ],
)
def test_every_pixel_format_gives_the_same_colour(tmp_path, name, codec, pixel_format):
    colour = (90, 90, 90) if pixel_format == "gray" else (180, 90, 40)
    path = toys.write_video(tmp_path / name, 3, codec=codec, pixel_format=pixel_format, paint=toys.solid(colour))
    pixels = next(probe_video(path).pictures([1])).pixels
    assert pixels.shape == (96, 128, 3)
    assert (pixels.int() - torch.tensor(colour)).abs().max() <= 4


def test_transparent_pixels_are_black(tmp_path):
    path = tmp_path / "a.mov"
    toys.needs_encoder("qtrle")
    with toys.pyav.open(str(path), "w") as file:
        stream = file.add_stream("qtrle", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "argb"
        for index in range(2):
            picture = np.full((96, 128, 4), 200, dtype=np.uint8)
            picture[:, :64, 0] = 0
            frame = toys.pyav.VideoFrame.from_ndarray(picture, format="argb")
            frame.pts = index
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    pixels = next(probe_video(path).pictures([0])).pixels
    assert pixels[:, :64].max() == 0
    assert (pixels[:, 64:].int() - 157).abs().max() <= 1  # 200 of 255 opaque


@pytest.mark.parametrize("codec", ["ffv1", "libvpx-vp9"])
def test_odd_sizes_are_kept(tmp_path, codec):
    suffix = ".webm" if codec == "libvpx-vp9" else ".mkv"
    video = probe_video(
        toys.write_video(
            tmp_path / f"a{suffix}", 3, codec=codec, pixel_format="yuv444p", paint=toys.solid((10, 200, 90), 131, 97)
        )
    )
    assert next(video.pictures([2])).size == (97, 131)


RED = (200, 60, 30)
UNDECLARED = 2
LUMA = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
"""Weights of red and blue in BT.709, BT.601 and BT.2020. Source: the ITU-R recommendations of these names"""


def encoded(rgb: tuple[int, ...], space: int, full: bool) -> tuple[int, ...]:
    """Luma and chroma of a colour, by the recommendation's own formula."""
    red, green, blue = (value / 255 for value in rgb)
    of_red, of_blue = LUMA[space]
    luma = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    chroma = ((blue - luma) / (2 - 2 * of_blue), (red - luma) / (2 - 2 * of_red))
    if full:
        return (round(255 * luma), *(round(255 * value + 128) for value in chroma))
    return (round(16 + 219 * luma), *(round(128 + 224 * value) for value in chroma))


def write_colour(path: Path, space: int, full: bool, size: tuple[int, int], declared: bool = True) -> Path:
    values = encoded(RED, space, full)

    def fill(frame):
        for plane, value in zip(frame.planes, values, strict=True):
            plane.update(bytes([value]) * plane.buffer_size)

    with toys.pyav.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.color_range = 2 if full else 1
        stream.codec_context.colorspace = space if declared else UNDECLARED
        for index in range(2):
            frame = toys.pyav.VideoFrame(*size, "yuv420p")
            fill(frame)
            frame.pts, frame.color_range, frame.colorspace = index, 2 if full else 1, space if declared else UNDECLARED
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


@pytest.mark.parametrize("space", LUMA)
@pytest.mark.parametrize("full", [False, True])
def test_declared_colours_come_back(tmp_path, space, full):
    pixels = next(probe_video(write_colour(tmp_path / "a.mp4", space, full, (128, 96))).pictures([0])).pixels
    assert (pixels[40, 40].int() - pixels.new_tensor(RED).int()).abs().max() <= 2


@pytest.mark.parametrize(("space", "size"), [(6, (128, 96)), (1, (1280, 720))])
def test_undeclared_colours_are_read_as_players_do(tmp_path, space, size):
    path = write_colour(tmp_path / "a.mp4", space, False, size, declared=False)
    pixels = next(probe_video(path).pictures([0])).pixels
    assert (pixels[40, 40].int() - pixels.new_tensor(RED).int()).abs().max() <= 2


def test_text_sound_and_nothing_are_no_videos(tmp_path):
    text, nothing = tmp_path / "text.mp4", tmp_path / "nothing.mp4"
    text.write_text("not a video at all\n" * 50)
    nothing.touch()
    for path in (text, nothing):
        with pytest.raises(BadClipError, match=f"{path.name}: not a video that can be read"):
            probe_video(path)
    with pytest.raises(BadClipError, match="no video in it, only audio"):
        probe_video(toys.write_sound(tmp_path / "sound.mp4"))


def test_a_playlist_under_a_video_name_is_not_followed(tmp_path, h264):
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"ffconcat version 1.0\nfile {h264.name}\n")
    with pytest.raises(BadClipError, match="not a video that can be read"):
        probe_video(playlist)


@pytest.mark.parametrize(
    ("name", "container", "reason"),
    [
        ("late.mp4", {}, "not a video that can be read"),  # its table of frames is at the end
        ("early.mp4", {"movflags": "faststart"}, "cut off after"),
        ("little.mp4", {"movflags": "faststart"}, "cut off after"),
        ("pieces.mp4", {"movflags": "frag_keyframe+empty_moov"}, "cut off after"),
        ("a.mkv", {}, "cut off after"),
    ],
)
def test_a_file_that_is_cut_off_is_named(tmp_path, name, container, reason):
    path = toys.write_video(tmp_path / name, 60, paint=toys.noise_frame, container=container)
    probe_video(path)
    with pytest.raises(BadClipError, match=f"{name}: .*{reason}"):
        probe_video(toys.cut_off(path, 0.99 if name == "little.mp4" else 0.6))


def test_a_damaged_frame_is_named_with_its_time(tmp_path):
    path = toys.write_video(tmp_path / "a.mp4", 60, paint=toys.noise_frame, options={"g": "12"})
    video = probe_video(toys.damage(path, 0.5, 40_000))
    with pytest.raises(BadClipError, match=r"a.mp4: the frame at [\d.]+ s cannot be decoded"):
        list(video.pictures(list(range(0, 60, 4))))


def test_a_file_that_is_gone_is_named(h264):
    video = probe_video(h264)
    h264.unlink()
    with pytest.raises(BadClipError, match=r"a.mp4: not a video that can be read \(No such file"):
        next(video.pictures([0]))
