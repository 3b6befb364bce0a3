"""WebDataset shards: the same clips as from loose files, read in place, and what is wrong with one is said of it."""

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch

from motiongraft.core.errors import TrainingDataError
from motiongraft.tests.helpers.toy_videos import frame_indices, write_video
from motiongraft.training.cache.clip_identity import clip_fingerprint
from motiongraft.training.data.clip_check import find_training_clips
from motiongraft.training.data.clip_files import find_clip_files
from motiongraft.training.data.clip_settings import ClipSettings
from motiongraft.training.runs.durable_files import file_hash

SETTINGS = {"num_frames": 4, "frame_stride": 2, "width": 128, "height": 96}


def settings(**changes: object) -> ClipSettings:
    return ClipSettings(**{**SETTINGS, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("videos")
    paths = [folder / "one.mp4", folder / "two.mp4"]
    write_video(paths[0], 12)
    write_video(paths[1], 20)
    return [path.read_bytes() for path in paths]


def write_shard(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_two(folder: Path, videos: list[bytes]) -> Path:
    return write_shard(
        folder / "part-0.tar",
        ("a/0001.mp4", videos[0]),
        ("a/0001.txt", b"a cat\nasleep "),
        ("0002.json", json.dumps({"caption": "a dog", "id": 7}).encode()),
        ("0002.MP4", videos[1]),
    )


def test_clips_in_a_shard_are_those_of_the_same_files_loose(tmp_path: Path, videos: list[bytes]) -> None:
    loose, sharded = tmp_path / "loose", tmp_path / "sharded"
    for folder in (loose, sharded):
        folder.mkdir()
    write_two(sharded, videos)
    (loose / "one.mp4").write_bytes(videos[0])
    (loose / "two.mp4").write_bytes(videos[1])
    (loose / "one.txt").write_text("a cat asleep")
    (loose / "two.txt").write_text("a dog")
    plain, _ = find_training_clips(loose, settings())
    found, report = find_training_clips(sharded, settings())
    assert [clip.caption for clip in found.clips] == [clip.caption for clip in plain.clips]
    for one, other in zip(found.clips, plain.clips, strict=True):
        assert torch.equal(one.read(), other.read())
    assert [clip.name for clip in found.clips] == ["part-0.tar/a/0001.mp4", "part-0.tar/0002.MP4"]
    assert "part-0.tar/a/0001.mp4" in report
    assert frame_indices(found.clips[0].read()) == frame_indices(plain.clips[0].read())


def test_nothing_is_unpacked(tmp_path: Path, videos: list[bytes]) -> None:
    write_two(tmp_path, videos)
    clips, _ = find_training_clips(tmp_path, settings())
    clips.clips[1].read()
    assert [path.name for path in tmp_path.iterdir()] == ["part-0.tar"]
    assert clips.clips[0].content_files() == (tmp_path / "part-0.tar",)


def test_clips_of_one_shard_are_told_apart_in_a_cache(tmp_path: Path, videos: list[bytes]) -> None:
    write_shard(tmp_path / "twins.tar", ("1.mp4", videos[0]), ("1.txt", b"x"), ("2.mp4", videos[0]), ("2.txt", b"y"))
    clips, _ = find_training_clips(tmp_path, settings())
    first, second = (clip_fingerprint(clip, file_hash) for clip in clips.clips)
    assert first != second


def test_a_key_ends_at_the_first_dot_of_the_name_alone(tmp_path: Path, videos: list[bytes]) -> None:
    write_shard(
        tmp_path / "s.tar", ("v1.5/clip.mp4", videos[0]), ("v1.5/clip.txt", b"inside"), ("clip.txt", b"outside")
    )
    (found,) = find_clip_files(tmp_path).clips
    assert found.caption == "inside"


def test_text_comes_before_json_in_any_order(tmp_path: Path, videos: list[bytes]) -> None:
    said = json.dumps({"text": "from json"}).encode()
    write_shard(tmp_path / "a.tar", ("1.txt", b"from text"), ("1.json", said), ("1.mp4", videos[0]))
    write_shard(tmp_path / "b.tar", ("1.json", said), ("1.txt", b"from text"), ("1.mp4", videos[0]))
    assert {clip.caption for clip in find_clip_files(tmp_path).clips} == {"from text"}


def test_a_bad_member_is_named_and_may_be_skipped(tmp_path: Path, videos: list[bytes]) -> None:
    write_shard(tmp_path / "s.tar", ("1.mp4", videos[0]), ("1.txt", b"good"), ("2.mp4", b"no video at all"))
    with pytest.raises(TrainingDataError, match=r"s\.tar/2\.mp4: not a video"):
        find_training_clips(tmp_path, settings())
    clips, report = find_training_clips(tmp_path, settings(skip_at_most=0.5))
    assert [clip.name for clip in clips.clips] == ["s.tar/1.mp4"]
    assert "bad: not a video" in report


def test_a_shard_that_is_cut_off_names_the_member(tmp_path: Path, videos: list[bytes]) -> None:
    shard = write_shard(tmp_path / "s.tar", ("1.txt", b"good"), ("1.mp4", videos[0]), ("2.mp4", videos[1]))
    with tarfile.open(shard) as tar:
        middle = tar.getmember("2.mp4").offset_data + len(videos[1]) // 2
    shard.write_bytes(shard.read_bytes()[:middle])
    with pytest.raises(TrainingDataError, match=r"s\.tar/2\.mp4: the shard is cut off"):
        find_training_clips(tmp_path, settings())
    clips, _ = find_training_clips(tmp_path, settings(skip_at_most=0.5))
    assert len(clips.clips) == 1


def test_links_and_second_members_of_a_name_are_refused(tmp_path: Path, videos: list[bytes]) -> None:
    shard = write_shard(tmp_path / "s.tar", ("1.txt", b"x"), ("1.mp4", videos[0]), ("1.mp4", videos[1]))
    with tarfile.open(shard, "a") as tar:
        link = tarfile.TarInfo("2.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(TrainingDataError) as error:
        find_training_clips(tmp_path, settings())
    assert "two members of this name" in str(error.value)
    assert "s.tar/2.mp4: it is a link" in str(error.value)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [("1.txt", b"caf\xe9", "0xE9"), ("1.json", b"{", "expected JSON"), ("1.txt", b"x" * (2 << 20), "at most")],
)
def test_captions_that_are_no_text_are_refused(
    tmp_path: Path, videos: list[bytes], name: str, data: bytes, words: str
) -> None:
    write_shard(tmp_path / "s.tar", ("1.mp4", videos[0]), (name, data))
    with pytest.raises(TrainingDataError, match=words):
        find_clip_files(tmp_path)


def test_a_file_that_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(TrainingDataError, match=r"s\.tar: expected a WebDataset shard"):
        find_clip_files(tmp_path)


def test_videos_beside_shards_count_too(tmp_path: Path, videos: list[bytes]) -> None:
    write_two(tmp_path, videos)
    (tmp_path / "loose.mp4").write_bytes(videos[0])
    (tmp_path / "loose.txt").write_text("loose")
    names = [clip.name for clip in find_clip_files(tmp_path).clips]
    assert sorted(names) == ["loose.mp4", "part-0.tar/0002.MP4", "part-0.tar/a/0001.mp4"]
