"""Reading a cache: any clip alone, from any thread, and every damage named."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from motiongraft.core.errors import CheckpointError, TrainingDataError
from motiongraft.core.shard_files import ShardFile
from motiongraft.core.tensor_files import write_tensor_file
from motiongraft.tests.helpers.cached_sets import PIXELS, ToyEncoder, as_set, changed, toy_clips, write_toy_cache
from motiongraft.training.cache import cache_plan, cached_clips
from motiongraft.training.cache.cache_writer import cache_clips
from motiongraft.training.cache.cached_clips import open_cached_clips
from motiongraft.training.cache.clip_identity import clip_fingerprint, encoding_seed
from motiongraft.training.runs.durable_files import file_hash


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(cache_plan, "CLIPS_PER_SHARD", 2)


def all_clips(cached, mirrored=False):
    """Every clip by its name."""
    clips = [
        cached.clip(bucket, number, mirrored)
        for bucket, kind in enumerate(cached.buckets)
        for number in range(kind.count)
    ]
    return {clip.name: clip for clip in clips}


def expected_latents(clip, mirrored=False):
    seed = encoding_seed(clip_fingerprint(clip, file_hash), mirrored)
    frames = clip.read().flip(2) if mirrored else clip.read()
    return ToyEncoder().encode_frames(frames, seed).half()


def overwrite(path, change):
    """Write a shard anew, with its tensors changed."""
    file = ShardFile(path)
    tensors = {
        name: torch.stack([file.row(name, row) for row in range(shape[0])]) for name, shape in file.shapes.items()
    }
    write_tensor_file(path, {name: change(tensor) for name, tensor in tensors.items()}, {})


def test_every_clip_comes_back_under_its_name_and_caption(tmp_path, small_shards):
    clips = toy_clips(5, flip=True)
    found = all_clips(cache_clips(clips, ToyEncoder(), tmp_path / "set"))
    assert len(found) == 5
    for clip in clips.clips:
        assert found[clip.name].caption == clip.caption
        assert torch.equal(found[clip.name].latents, expected_latents(clip))
        assert torch.equal(found[clip.name].text.states, ToyEncoder().encode_text(clip.caption).states.half())
        assert (found[clip.name].height, found[clip.name].width) == (clip.height, clip.width)


def test_mirrored_clips_are_the_encoded_mirror_images_not_mirrored_latents(tmp_path, small_shards):
    clips = toy_clips(3, flip=True)
    cached = cache_clips(clips, ToyEncoder(), tmp_path / "set")
    assert cached.has_mirrored
    found = all_clips(cached, mirrored=True)
    for clip in clips.clips:
        assert torch.equal(found[clip.name].latents, expected_latents(clip, mirrored=True))


def test_mirrored_clips_are_refused_where_none_were_cached(tmp_path):
    with pytest.raises(TrainingDataError, match="without mirrored clips"):
        write_toy_cache(tmp_path / "set").clip(0, 0, mirrored=True)


def test_sizes_and_lengths_make_buckets(tmp_path):
    sizes = [(4, 64, 64), (4, 64, 128), (8, 64, 64), (4, 64, 64)]
    clips = [
        toy_clips(5, num_frames=frames, height=height, width=width).clips[number]
        for number, (frames, height, width) in enumerate(sizes)
    ]
    cached = cache_clips(as_set(clips), ToyEncoder(), tmp_path / "set")
    assert len(cached) == 4
    shapes = {
        (bucket.num_frames, bucket.channels, bucket.height, bucket.width, bucket.count) for bucket in cached.buckets
    }
    assert shapes == {(4, 4, 8, 8, 2), (4, 4, 8, 16, 1), (8, 4, 8, 8, 1)}
    for bucket, kind in enumerate(cached.buckets):
        for number in range(kind.count):
            clip = cached.clip(bucket, number)
            assert clip.latents.shape == (kind.num_frames, kind.channels, kind.height, kind.width)
            assert (clip.height, clip.width) == (kind.height * PIXELS, kind.width * PIXELS)


def test_a_number_beyond_the_bucket_is_an_error_not_another_clip(tmp_path):
    cached = write_toy_cache(tmp_path / "set", num_clips=3)
    for number in (3, -1):
        with pytest.raises(IndexError, match="has 3 clips"):
            cached.clip(0, number)


def test_toy_caches_store_what_they_are_asked_for(tmp_path):
    cached = write_toy_cache(tmp_path / "set", 3, frames=2, height=4, width=6, text_width=8, pooled_width=5, flip=True)
    clip = cached.clip(0, 2, mirrored=True)
    assert clip.latents.shape == (2, 4, 4, 6)
    assert clip.text.states.shape == (77, 8)
    assert clip.text.pooled is not None
    assert clip.text.pooled.shape == (5,)
    assert (cached.text_width, cached.pooled_width, cached.frame_stride, cached.name) == (8, 5, 4, "set")


def test_toy_caches_of_other_seeds_hold_other_data(tmp_path):
    first, second = (write_toy_cache(tmp_path / str(seed), seed=seed) for seed in (0, 100))
    assert first.fingerprint != second.fingerprint
    assert not torch.equal(first.clip(0, 0).latents, second.clip(0, 0).latents)


def test_the_empty_caption_is_there_although_no_clip_has_it(tmp_path):
    cached = write_toy_cache(tmp_path / "set")
    assert torch.equal(cached.empty_text.states, ToyEncoder().encode_text("").states.half())
    assert cached.empty_text.pooled is None


def test_a_long_caption_keeps_all_its_states(tmp_path):
    long = " ".join(["word"] * 100)
    found = all_clips(cache_clips(changed(toy_clips(2), 1, caption=long), ToyEncoder(), tmp_path / "set"))
    assert [len(found[name].text.states) for name in ("clip 0", "clip 1")] == [77, 154]
    assert torch.equal(found["clip 1"].text.states, ToyEncoder().encode_text(long).states.half())


def test_tensors_are_the_callers_own_also_in_inference_mode(tmp_path):
    cached = write_toy_cache(tmp_path / "set")
    with torch.inference_mode():
        clip = cached.clip(0, 0)
        empty = cached.empty_text.states
    assert not any(tensor.is_inference() for tensor in (clip.latents, clip.text.states, empty))
    before = clip.latents.clone()
    clip.latents.zero_()
    assert torch.equal(cached.clip(0, 0).latents, before)


def test_only_so_many_files_are_open(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_plan, "CLIPS_PER_SHARD", 1)
    monkeypatch.setattr(cached_clips, "OPEN_SHARDS", 3)
    cached = open_cached_clips(write_toy_cache(tmp_path / "set", num_clips=9).folder)
    assert len(all_clips(cached)) == 9
    assert cached._shards.cache_info().currsize == 3
    assert cached._entries.cache_info().currsize == 3
    assert len(all_clips(cached)) == 9


def test_opening_a_cache_reads_its_index_alone(tmp_path):
    folder = write_toy_cache(tmp_path / "set").folder
    for kind in ("latents", "clips", "text"):
        (folder / kind).rename(folder / f"{kind} elsewhere")
    assert len(open_cached_clips(folder)) == 4


def test_threads_read_what_one_thread_reads(tmp_path, small_shards, monkeypatch):
    monkeypatch.setattr(cached_clips, "OPEN_SHARDS", 2)
    cached = open_cached_clips(write_toy_cache(tmp_path / "set", num_clips=12, flip=True).folder)
    wanted = [(number, mirrored) for number in range(12) for mirrored in (False, True)] * 10
    alone = {key: cached.clip(0, *key) for key in wanted}
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda key: cached.clip(0, *key), wanted))
    for key, clip in zip(wanted, together, strict=True):
        assert clip.name == alone[key].name
        assert torch.equal(clip.latents, alone[key].latents)
        assert torch.equal(clip.text.states, alone[key].text.states)


@pytest.mark.parametrize("kind", ["latents", "text"])
@pytest.mark.parametrize("is_open", [False, True])
def test_a_truncated_shard_is_named(tmp_path, kind, is_open):
    cached = write_toy_cache(tmp_path / "set")
    if is_open:
        all_clips(cached)
    for path in (cached.folder / kind).glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(TrainingDataError, match=rf"{kind}/.*\.safetensors.*Run Cache Training Clips again"):
        all_clips(cached)


@pytest.mark.parametrize("kind", ["latents", "text", "clips"])
@pytest.mark.parametrize("is_open", [False, True])
def test_a_missing_file_is_named(tmp_path, kind, is_open):
    cached = write_toy_cache(tmp_path / "set")
    if is_open and kind != "clips":  # entries stay in memory once they are read
        all_clips(cached)
    for path in (cached.folder / kind).iterdir():
        path.unlink()
    with pytest.raises(TrainingDataError, match=rf"{kind}/.*Run Cache Training Clips again"):
        all_clips(cached)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize(("kind", "what"), [("latents", "clip clip"), ("text", "caption")])
def test_numbers_that_are_not_finite_are_named(tmp_path, kind, what, number):
    cached = write_toy_cache(tmp_path / "set")
    for path in (cached.folder / kind).glob("*.safetensors"):
        overwrite(path, lambda tensor: torch.full_like(tensor, number))
    with pytest.raises(TrainingDataError, match=rf"{what}.*NaN or infinity.*Run Cache Training Clips again"):
        all_clips(open_cached_clips(cached.folder))


def test_latents_of_another_shape_are_named(tmp_path):
    cached = write_toy_cache(tmp_path / "set")
    overwrite(next((cached.folder / "latents").glob("*.safetensors")), lambda latents: latents[:, :, :3])
    with pytest.raises(TrainingDataError, match=r"latents/.* should hold .*Run Cache Training Clips again"):
        cached.clip(0, 0)


def test_text_of_another_width_is_named(tmp_path):
    cached = write_toy_cache(tmp_path / "set")
    for path in (cached.folder / "text").glob("*.safetensors"):
        overwrite(path, lambda states: states[..., :16])
    with pytest.raises(TrainingDataError, match="should be 32 wide and is 16"):
        cached.clip(0, 0)


def test_entries_that_changed_are_named(tmp_path):
    cached = write_toy_cache(tmp_path / "set")
    path = next((cached.folder / "clips").iterdir())
    path.write_text(path.read_text().replace("caption", "Caption"))
    with pytest.raises(TrainingDataError, match=r"clips/.* has changed since it was written"):
        cached.clip(0, 0)


def test_no_cache_and_an_unfinished_one_are_told_apart(tmp_path):
    with pytest.raises(TrainingDataError, match="there is no cache"):
        open_cached_clips(tmp_path / "none")
    folder = write_toy_cache(tmp_path / "set").folder
    (folder / "index.json").unlink()
    with pytest.raises(TrainingDataError, match="not finished"):
        open_cached_clips(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": 1}', '{"version": 1, "buckets": 3}'])
def test_a_damaged_index_is_refused_in_words(tmp_path, text):
    folder = write_toy_cache(tmp_path / "set").folder
    (folder / "index.json").write_text(text)
    with pytest.raises(TrainingDataError, match="damaged"):
        open_cached_clips(folder)


def test_an_index_of_another_version_is_refused(tmp_path):
    path = write_toy_cache(tmp_path / "set").folder / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 99}))
    with pytest.raises(TrainingDataError, match="have version 99"):
        open_cached_clips(path.parent)


def test_the_index_names_shards_and_never_clips(tmp_path, small_shards):
    cached = write_toy_cache(tmp_path / "set", num_clips=6)
    text = (cached.folder / "index.json").read_text()
    assert not any(word in text for clip in all_clips(cached).values() for word in (clip.name, clip.caption))
    assert [len(bucket["shards"]) for bucket in json.loads(text)["buckets"]] == [3]


def test_a_row_that_a_shard_does_not_have_is_refused(tmp_path):
    write_tensor_file(tmp_path / "a.safetensors", {"x": torch.zeros(2, 3)}, {})
    file = ShardFile(tmp_path / "a.safetensors")
    for name, row in (("x", 2), ("y", 0)):
        with pytest.raises(CheckpointError, match=f"expected row {row} of {name}"):
            file.row(name, row)
