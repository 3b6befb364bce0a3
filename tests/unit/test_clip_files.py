"""What a folder holds: videos, folders of frames, captions beside them or in a table."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from motiongraft.core.errors import TrainingDataError
from motiongraft.tests.helpers import toy_videos as toys
from motiongraft.training.data.captions import read_captions
from motiongraft.training.data.clip_files import find_clip_files, natural
from motiongraft.training.data.frame_source import BadClipError
from motiongraft.training.data.picture_files import probe_animated_picture, probe_frame_folder


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(folder: Path) -> list[str]:
    return [clip.name for clip in find_clip_files(folder).clips]


def frame_folder(folder: Path):
    (clip,) = find_clip_files(folder).clips
    return probe_frame_folder(clip.path, clip.frames)


def captions(folder: Path) -> dict[str, str]:
    return dict(read_captions(find_clip_files(folder)).by_name)


# --- which files are clips


def test_videos_of_every_kind_are_found_at_any_depth_in_natural_order(tmp_path):
    touch(*(tmp_path / name for name in ("b10.mp4", "b2.MOV", "A1.webm", "deep/er/c.mkv", "deep/d.gif")))
    assert names(tmp_path) == ["A1.webm", "b2.MOV", "b10.mp4", "deep/d.gif", "deep/er/c.mkv"]


def test_natural_order_compares_numbers_as_numbers():
    assert sorted(["frame10", "Frame2", "frame1b", "frame1"], key=natural) == ["frame1", "frame1b", "Frame2", "frame10"]


def test_hidden_and_system_files_do_not_count(tmp_path):
    touch(*(tmp_path / name for name in ("a.mp4", "._a.mp4", ".hidden/b.mp4", "__MACOSX/c.mp4", "Thumbs.db")))
    assert names(tmp_path) == ["a.mp4"]


def test_a_folder_of_pictures_is_one_clip_unless_videos_lie_in_it(tmp_path):
    touch(tmp_path / "walk" / "2.png", tmp_path / "walk" / "10.jpg", tmp_path / "run.mp4", tmp_path / "poster.jpg")
    found = find_clip_files(tmp_path)
    assert [clip.name for clip in found.clips] == ["run.mp4", "walk"]
    assert [path.name for path in found.clips[1].frames] == ["2.png", "10.jpg"]
    assert found.unused_pictures == 1


def test_a_webp_is_a_video_if_it_moves_and_a_frame_if_not(tmp_path):
    toys.write_animation(tmp_path / "moving" / "a.webp", 3)
    toys.write_frames(tmp_path / "still", 3, ".webp")
    assert names(tmp_path) == ["moving/a.webp", "still"]


def test_the_chosen_folder_itself_can_hold_the_frames(tmp_path):
    toys.write_frames(tmp_path / "walk", 3)
    assert names(tmp_path / "walk") == ["walk"]


def test_empty_and_foreign_folders_say_what_was_found(tmp_path):
    with pytest.raises(TrainingDataError, match="no videos and no folders of frames in it, it is empty"):
        find_clip_files(tmp_path)
    touch(tmp_path / "notes.docx", tmp_path / "old.avi")
    with pytest.raises(TrainingDataError, match=r"found 2 other files \(notes.docx, old.avi\).*\.mp4"):
        find_clip_files(tmp_path)
    with pytest.raises(TrainingDataError, match="there is no such folder"):
        find_clip_files(tmp_path / "gone")


@pytest.mark.parametrize("is_folder", [False, True])
def test_links_that_lead_out_of_the_folder_are_refused(tmp_path, is_folder):
    touch(tmp_path / "elsewhere" / "b.mp4", tmp_path / "clips" / "a.mp4")
    target = tmp_path / "elsewhere" if is_folder else tmp_path / "elsewhere" / "b.mp4"
    (tmp_path / "clips" / "link.mp4").symlink_to(target)
    with pytest.raises(TrainingDataError, match=r"link.mp4: this link leads out of clips, to .*elsewhere"):
        find_clip_files(tmp_path / "clips")


def test_links_inside_the_folder_are_followed_once(tmp_path):
    touch(tmp_path / "deep" / "a.mp4")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "deep" / "a.mp4")
    (tmp_path / "again").symlink_to(tmp_path)
    assert names(tmp_path) == ["b.mp4", "deep/a.mp4"]


def test_names_that_are_no_text_can_still_be_shown(tmp_path):
    try:
        touch(Path(str(tmp_path), b"caf\xe9.mp4".decode("utf-8", "surrogateescape")))
    except OSError:
        pytest.skip("this file system takes no such names")
    assert names(tmp_path) == ["caf\\udce9.mp4"]


# --- folders of frames and animated pictures


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".jpg"])
def test_frames_are_read_in_natural_order(tmp_path, suffix):
    source = frame_folder(toys.write_frames(tmp_path / "walk", 12, suffix))
    assert [toys.index_of(picture.pixels) for picture in source.pictures([0, 2, 10, 11])] == [0, 2, 10, 11]
    assert list(source.times) == list(range(12))
    assert [path.name for path in source.files([2, 10])] == [f"frame2{suffix}", f"frame10{suffix}"]


def test_frames_are_exact(tmp_path):
    source = frame_folder(toys.write_frames(tmp_path / "walk", 2, paint=toys.noise_frame))
    assert torch.equal(next(source.pictures([1])).pixels, torch.from_numpy(toys.noise_frame(1)))


def test_frames_of_different_sizes_are_named(tmp_path):
    folder = toys.write_frames(tmp_path / "walk", 3)
    Image.new("RGB", (64, 48)).save(folder / "frame7.png")
    with pytest.raises(BadClipError, match=r"walk: frames differ in size: frame0.png 128×96, frame7.png 64×48"):
        frame_folder(folder)


def test_exif_orientation_is_respected_in_size_and_pixels(tmp_path):
    folder = tmp_path / "walk"
    folder.mkdir()
    tall = np.zeros((128, 96, 3), dtype=np.uint8)
    tall[:64] = 255
    Image.fromarray(tall).save(folder / "1.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    Image.fromarray(np.rot90(tall).copy()).save(folder / "2.png", exif=exif)
    first, second = frame_folder(folder).pictures([0, 1])
    assert torch.equal(first.pixels, second.pixels)


def test_transparent_grey_and_palette_frames_become_rgb(tmp_path):
    folder = tmp_path / "walk"
    folder.mkdir()
    Image.new("RGBA", (96, 64), (255, 0, 0, 0)).save(folder / "1.png")
    Image.new("L", (96, 64), 77).save(folder / "2.png")
    Image.new("RGB", (96, 64), (9, 8, 7)).quantize(4).save(folder / "3.png")
    pictures = [picture.pixels[5, 5].tolist() for picture in frame_folder(folder).pictures([0, 1, 2])]
    assert pictures == [[0, 0, 0], [77, 77, 77], [9, 8, 7]]


def test_broken_and_deep_frames_are_named(tmp_path):
    folder = toys.write_frames(tmp_path / "walk", 3, paint=toys.noise_frame)
    toys.cut_off(folder / "frame1.png")
    with pytest.raises(BadClipError, match=r"walk: frame1.png cannot be read \("):
        list(frame_folder(folder).pictures([0, 1]))
    (folder / "frame1.png").write_text("no picture")
    with pytest.raises(BadClipError, match=r"frame1.png cannot be read \(not a picture\)"):
        frame_folder(folder)
    Image.fromarray(np.zeros((96, 128), dtype=np.uint16)).save(folder / "frame1.png")
    with pytest.raises(BadClipError, match="expected 8 bits a colour, found mode I;16"):
        list(frame_folder(folder).pictures([1]))


def test_an_animated_webp_has_the_times_of_its_frames(tmp_path):
    path = toys.write_animation(tmp_path / "a.webp", 4, [40, 80, 40, 100])
    assert probe_animated_picture(path).times == pytest.approx([0, 0.04, 0.12, 0.16])
    toys.cut_off(path)
    with pytest.raises(BadClipError, match=r"a.webp cannot be read"):
        probe_animated_picture(path)


# --- captions


def test_a_text_file_beside_the_clip_is_its_caption(tmp_path):
    touch(tmp_path / "a.mp4", tmp_path / "deep" / "b.mov", tmp_path / "walk" / "1.png", tmp_path / "run" / "1.png")
    (tmp_path / "a.txt").write_text("  a cat\n on the moon \n", encoding="utf-8-sig")
    (tmp_path / "deep" / "b.txt").write_text("ein Käfer", encoding="utf-8")
    (tmp_path / "walk.txt").write_text("walking")
    (tmp_path / "run" / "caption.txt").write_text("running")
    assert captions(tmp_path) == {
        "a.mp4": "a cat on the moon",
        "deep/b.mov": "ein Käfer",
        "run": "running",
        "walk": "walking",
    }


def test_the_chosen_folder_takes_no_caption_from_outside(tmp_path):
    toys.write_frames(tmp_path / "walk", 2)
    (tmp_path / "walk.txt").write_text("outside")
    (tmp_path / "walk" / "caption.txt").write_text("inside")
    assert captions(tmp_path / "walk") == {"walk": "inside"}


@pytest.mark.parametrize(
    ("file", "text"), [("file_name", "text"), ("path", "caption"), ("VIDEO", "Prompt"), ("file", "text")]
)
def test_a_table_gives_captions(tmp_path, file, text):
    touch(tmp_path / "a.mp4", tmp_path / "deep" / "b.mp4", tmp_path / "c.mp4")
    rows = f'{file},other,{text}\n./a.mp4,1,"one, two"\ndeep\\b.mp4,2,three\ngone.mp4,3,four\n'
    (tmp_path / "metadata.csv").write_text(rows, encoding="utf-8-sig")
    (tmp_path / "c.txt").write_text("five")
    found = read_captions(find_clip_files(tmp_path))
    assert found.by_name == {"a.mp4": "one, two", "c.mp4": "five", "deep/b.mp4": "three"}
    assert found.rows_without_clip == 1
    assert found.missing == 0


def test_webvid_tables_find_their_videos(tmp_path):
    touch(tmp_path / "001_050" / "11.mp4", tmp_path / "videos" / "001_050" / "12.mp4", tmp_path / "13.mp4")
    rows = "videoid,contentUrl,duration,page_dir,name\n" + "".join(
        f"{number},https://example.org/{number},PT9S,001_050,clip {number}\n" for number in (11, 12, 13, 14)
    )
    (tmp_path / "metadata.csv").write_text(rows)
    found = read_captions(find_clip_files(tmp_path))
    assert found.by_name == {
        "001_050/11.mp4": "clip 11",
        "13.mp4": "clip 13",
        "videos/001_050/12.mp4": "clip 12",
    }
    assert found.rows_without_clip == 1


def test_a_clips_own_text_goes_before_the_table(tmp_path):
    touch(tmp_path / "a.mp4")
    (tmp_path / "a.txt").write_text("own")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.mp4,table\n")
    assert captions(tmp_path) == {"a.mp4": "own"}


def test_clips_without_caption_are_counted_and_none_at_all_is_refused(tmp_path):
    touch(tmp_path / "a.mp4", tmp_path / "b.mp4")
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(TrainingDataError, match=r"none of the 2 clips has a caption.*\(a.txt\)"):
        captions(tmp_path)
    (tmp_path / "b.txt").write_text("b")
    assert read_captions(find_clip_files(tmp_path)).missing == 1


@pytest.mark.parametrize("name", ["a.txt", "metadata.csv"])
def test_text_that_is_not_utf8_is_named(tmp_path, name):
    touch(tmp_path / "a.mp4")
    (tmp_path / name).write_bytes("file_name,text\na.mp4,ein Käfer\n".encode("latin-1"))
    with pytest.raises(TrainingDataError, match=rf"{name}: expected text in UTF-8, found the byte 0xE4"):
        captions(tmp_path)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("name,words\na.mp4,b\n", "expected the columns file_name and caption .*found name, words"),
        ("", "expected the columns file_name and caption .*found none"),
        ("file,text\na.mp4,one\na.mp4,two\n", "two rows give a.mp4 different captions"),
        ("file,text\na.mp4," + "x" * 200_000 + "\n", "not a table of comma-separated values"),
    ],
)
def test_tables_that_cannot_be_read_are_named(tmp_path, table, reason):
    touch(tmp_path / "a.mp4")
    (tmp_path / "metadata.csv").write_text(table)
    with pytest.raises(TrainingDataError, match=f"metadata.csv: {reason}"):
        captions(tmp_path)


def test_a_short_row_gives_no_caption(tmp_path):
    touch(tmp_path / "a.mp4", tmp_path / "b.mp4")
    (tmp_path / "metadata.csv").write_text("file,text\na.mp4\nb.mp4,b\n")
    assert captions(tmp_path) == {"a.mp4": "", "b.mp4": "b"}
