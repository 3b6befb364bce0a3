"""Writing a cache: only what is missing is encoded, whatever happened before, and nothing finished is ever lost."""

import errno
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from motiongraft.core.errors import RunError, TrainingDataError
from motiongraft.tests.helpers.cached_sets import ToyClip, ToyEncoder, as_set, changed, toy_clips, write_toy_cache
from motiongraft.training.cache import cache_plan, clip_identity, shard_store, text_cache
from motiongraft.training.cache.cache_lock import locked
from motiongraft.training.cache.cache_writer import cache_clips
from motiongraft.training.cache.cached_clips import TextStates, open_cached_clips

ROOT = Path(__file__).resolve().parents[2]


class Stopped(BaseException):
    """As ComfyUI's interrupt: not an Exception."""


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(cache_plan, "CLIPS_PER_SHARD", 2)
    monkeypatch.setattr(text_cache, "CAPTIONS_PER_SHARD", 2)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "set"


def content(cached):
    """Everything that training could read, by clip."""
    kinds = (False, True) if cached.has_mirrored else (False,)
    return {
        (clip.name, mirrored): (clip.caption, clip.latents, clip.text.states)
        for bucket, kind in enumerate(cached.buckets)
        for number in range(kind.count)
        for mirrored in kinds
        for clip in [cached.clip(bucket, number, mirrored)]
    }


def assert_same(first, second):
    """Same identity, and the same bits under every name."""
    assert first.fingerprint == second.fingerprint
    one, other = content(first), content(second)
    assert one.keys() == other.keys()
    for key, (caption, latents, states) in one.items():
        assert caption == other[key][0]
        assert torch.equal(latents, other[key][1])
        assert torch.equal(states, other[key][2])


def files(folder):
    """Every file with its content and time of change; the lock is of no interest."""
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "run.lock"
    }


def shards(folder, kind="latents"):
    return sorted((folder / kind).glob("*.safetensors"))


def clip_files(tmp_path, count=4):
    """Clips whose content is that of files."""
    for number in range(count):
        (tmp_path / f"{number}.mp4").write_bytes(bytes([number]) * 100)
    return as_set(
        ToyClip(f"clip {number}", f"caption {number}", seed=number, files=(tmp_path / f"{number}.mp4",))
        for number in range(count)
    )


# Again, and after an interruption


def test_a_finished_cache_encodes_nothing_and_changes_nothing(folder):
    first = cache_clips(toy_clips(5, flip=True), ToyEncoder(), folder)
    before = files(folder)
    encoder = ToyEncoder()
    assert_same(cache_clips(toy_clips(5, flip=True), encoder, folder), first)
    assert encoder.calls == 0
    assert files(folder) == before


@pytest.mark.parametrize("stop_at", range(8))
def test_an_interrupted_cache_loses_at_most_one_shard(tmp_path, folder, stop_at):
    clips, encoder = toy_clips(7, flip=True), ToyEncoder()

    def stop(done, total):
        assert total == 7
        if done == stop_at and (encoder.seeds or not stop_at):
            raise Stopped

    with pytest.raises(Stopped):
        cache_clips(clips, encoder, folder, stop)
    with pytest.raises(TrainingDataError, match="not finished"):
        open_cached_clips(folder)
    in_shards = 2 * len(shards(folder))
    assert in_shards >= stop_at - 2
    encoder.forget()
    again = cache_clips(clips, encoder, folder)
    assert len(encoder.seeds) == 2 * (7 - in_shards)
    assert_same(again, cache_clips(clips, ToyEncoder(), tmp_path / "at once"))


def test_a_killed_process_loses_at_most_one_shard(tmp_path, folder):
    script = f"""
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("motiongraft", {str(ROOT / "__init__.py")!r},
    submodule_search_locations=[{str(ROOT)!r}])
sys.modules["motiongraft"] = package = importlib.util.module_from_spec(spec)
from pathlib import Path
from motiongraft.tests.helpers.cached_sets import ToyEncoder, toy_clips
from motiongraft.training.cache import cache_plan, cache_writer, shard_store
cache_plan.CLIPS_PER_SHARD = 2
write, count = shard_store.write_tensor_file, 0
def kill_in_the_middle(path, tensors, metadata):
    global count
    count += "latents" in tensors
    write(path, tensors, metadata)
    if count == 3:
        (path.parent / ".half.safetensors.1234").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
shard_store.write_tensor_file = kill_in_the_middle
cache_writer.cache_clips(toy_clips(7), ToyEncoder(), Path({str(folder)!r}))
"""
    process = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert len(shards(folder)) == 3  # the third has no record yet
    encoder = ToyEncoder()
    again = cache_clips(toy_clips(7), encoder, folder)
    assert len(encoder.seeds) == 3
    assert_same(again, cache_clips(toy_clips(7), ToyEncoder(), tmp_path / "at once"))
    assert not [path for path in folder.rglob("*") if "half" in path.name]


def test_files_that_no_record_names_are_removed(folder):
    cache_clips(toy_clips(4), ToyEncoder(), folder)
    before = files(folder)
    for name in ("latents/orphan.safetensors", "text/.half.safetensors.12ab", "clips/old.json", ".index.json.tmp-7"):
        (folder / name).write_bytes(b"left by a crash")
    cache_clips(toy_clips(4), ToyEncoder(), folder)
    assert files(folder) == before


def test_an_old_cache_stays_readable_until_the_new_one_is_finished(folder):
    cache_clips(toy_clips(4), ToyEncoder(), folder)
    before = content(open_cached_clips(folder))

    def stop(done, total):
        if done == 5:
            raise Stopped

    with pytest.raises(Stopped):
        cache_clips(changed(toy_clips(6), 0, caption="another"), ToyEncoder(), folder, stop)
    after = content(open_cached_clips(folder))
    assert after.keys() == before.keys()
    assert after["clip 0", False][0] == "caption 0"


# Other clips


def test_a_changed_caption_encodes_that_caption_and_no_latents(folder):
    first = cache_clips(toy_clips(5), ToyEncoder(), folder)
    encoder = ToyEncoder()
    second = cache_clips(changed(toy_clips(5), 3, caption="a dog"), encoder, folder)
    assert (encoder.seeds, encoder.captions) == ([], ["a dog"])
    assert content(second)["clip 3", False][0] == "a dog"
    assert torch.equal(content(second)["clip 3", False][2], ToyEncoder().encode_text("a dog").states.half())
    assert second.fingerprint != first.fingerprint


def test_captions_that_are_the_same_are_encoded_once(folder):
    clips = as_set(replace(clip, caption=["a cat", ""][number % 2]) for number, clip in enumerate(toy_clips(6).clips))
    encoder = ToyEncoder()
    cached = cache_clips(clips, encoder, folder)
    assert sorted(encoder.captions) == ["", "a cat"]
    assert torch.equal(content(cached)["clip 1", False][2], cached.empty_text.states)


def test_reordered_or_renamed_clips_encode_nothing_and_are_the_same_data(folder):
    clips = toy_clips(5)
    first = cache_clips(clips, ToyEncoder(), folder)
    before, encoder = files(folder), ToyEncoder()
    assert_same(cache_clips(as_set(reversed(clips.clips)), encoder, folder), first)
    assert files(folder) == before
    renamed = cache_clips(changed(clips, 2, name="another name"), encoder, folder)
    assert encoder.calls == 0
    assert renamed.fingerprint == first.fingerprint
    assert ("another name", False) in content(renamed)


def test_removed_clips_drop_out_and_added_ones_alone_are_encoded(tmp_path, folder):
    cache_clips(toy_clips(6), ToyEncoder(), folder)
    encoder = ToyEncoder()
    clips = as_set([*toy_clips(6).clips[2:], ToyClip("new", "new", seed=77)])
    cached = cache_clips(clips, encoder, folder)
    assert (len(encoder.seeds), encoder.captions) == (1, ["new"])
    assert_same(cached, cache_clips(clips, ToyEncoder(), tmp_path / "at once"))
    held = sum(len(json.loads(path.read_text())["keys"]) for path in (folder / "latents").glob("*.json"))
    assert held == 5


def test_whatever_happened_before_the_result_is_the_same(tmp_path, folder):
    shuffle = random.Random(0)
    pool, present = toy_clips(12).clips, set(range(6))
    for _ in range(6):
        present = {*shuffle.sample(sorted(present), 4), *shuffle.sample(range(12), 3)}
        order = shuffle.sample(sorted(present), len(present))
        cache_clips(as_set((pool[number] for number in order), flip=shuffle.random() < 0.5), ToyEncoder(), folder)
    final = as_set((pool[number] for number in sorted(present)), flip=True)
    there = cache_clips(final, ToyEncoder(), folder)
    fresh = cache_clips(final, ToyEncoder(), tmp_path / "at once")
    assert_same(there, fresh)
    assert [path.name for path in shards(there.folder)] == [path.name for path in shards(fresh.folder)]


def test_mirrored_clips_that_are_wanted_later_are_all_that_is_encoded(tmp_path, folder):
    plain = cache_clips(toy_clips(5), ToyEncoder(), folder)
    encoder = ToyEncoder()
    both = cache_clips(toy_clips(5, flip=True), encoder, folder)
    assert (len(encoder.seeds), encoder.captions) == (5, [])
    assert both.fingerprint != plain.fingerprint
    assert_same(both, cache_clips(toy_clips(5, flip=True), ToyEncoder(), tmp_path / "at once"))
    encoder.forget()
    assert cache_clips(toy_clips(5), encoder, folder).fingerprint == plain.fingerprint
    assert encoder.calls == 0


def test_clips_with_the_same_frames_are_encoded_once(folder):
    clips = as_set(ToyClip(f"copy {number}", f"caption {number}", seed=1) for number in range(5))
    encoder = ToyEncoder()
    cached = cache_clips(clips, encoder, folder)
    assert len(encoder.seeds) == 1
    assert len(content(cached)) == 5
    assert {caption for caption, *_ in content(cached).values()} == {f"caption {number}" for number in range(5)}


def test_a_seed_belongs_to_a_clip_and_not_to_its_place(tmp_path):
    whole, part = ToyEncoder(), ToyEncoder()
    cache_clips(toy_clips(5), whole, tmp_path / "all")
    cache_clips(
        as_set(replace(clip, name=f"new {clip.name}") for clip in toy_clips(5).clips[3:]), part, tmp_path / "two"
    )
    assert set(part.seeds) < set(whole.seeds)
    assert len(set(whole.seeds)) == 5


def test_long_clips_share_a_shard_with_fewer_others(folder, monkeypatch):
    monkeypatch.setattr(cache_plan, "CLIPS_PER_SHARD", 64)
    monkeypatch.setattr(cache_plan, "MAX_SHARD_BYTES", 3 * cache_plan.latent_bytes(4, 64, 64))
    cached = cache_clips(toy_clips(7), ToyEncoder(), folder)
    assert len(shards(folder)) == 3
    assert len(content(cached)) == 7


# Source files


def test_source_files_are_read_once(tmp_path, folder, monkeypatch):
    read = []
    monkeypatch.setattr(clip_identity, "file_hash", lambda path: read.append(path) or str(path))
    clips = clip_files(tmp_path)
    cache_clips(clips, ToyEncoder(), folder)
    assert len(read) == 4
    cache_clips(clips, ToyEncoder(), folder)
    assert len(read) == 4


def test_a_remembered_hash_that_was_cut_short_is_passed_over(tmp_path, folder):
    clips = clip_files(tmp_path)
    cached = cache_clips(clips, ToyEncoder(), folder)
    path = folder / clip_identity.DIGESTS
    path.write_text(path.read_text()[:-30])
    encoder = ToyEncoder()
    assert_same(cache_clips(clips, encoder, folder), cached)
    assert encoder.calls == 0
    assert len(path.read_text().split()) > 0
    again = clip_identity.ContentDigests(folder)
    assert len(again._known) == 4


def test_changed_content_encodes_that_clip_alone(tmp_path, folder):
    clips = clip_files(tmp_path)
    first = cache_clips(clips, ToyEncoder(), folder)
    (tmp_path / "2.mp4").write_bytes(b"another film")
    encoder = ToyEncoder()
    assert cache_clips(clips, encoder, folder).fingerprint != first.fingerprint
    assert (len(encoder.seeds), encoder.captions) == (1, [])


def test_a_file_that_was_copied_or_touched_encodes_nothing(tmp_path, folder):
    clips = clip_files(tmp_path)
    first = cache_clips(clips, ToyEncoder(), folder)
    os.utime(tmp_path / "2.mp4", (1, 1))
    shutil.copy(tmp_path / "1.mp4", tmp_path / "elsewhere.mp4")
    encoder = ToyEncoder()
    assert_same(cache_clips(changed(clips, 1, files=(tmp_path / "elsewhere.mp4",)), encoder, folder), first)
    assert encoder.calls == 0


def test_a_source_file_that_is_gone_names_its_clip(tmp_path, folder):
    clips = clip_files(tmp_path)
    (tmp_path / "2.mp4").unlink()
    with pytest.raises(TrainingDataError, match=r"clip 2: a file of this clip cannot be read.*2\.mp4"):
        cache_clips(clips, ToyEncoder(), folder)


# What is refused


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize(
    ("clips", "encoder", "reason"),
    [
        (toy_clips(5), ToyEncoder(vae_hash="another"), "made with another VAE"),
        (toy_clips(5), ToyEncoder(clip_hash="another"), r"made with another text encoder \(CLIP\)"),
        (toy_clips(5, cut="other times"), ToyEncoder(), "none of them is among these 5"),
        (toy_clips(5, height=32), ToyEncoder(), "none of them is among these 5"),
        (toy_clips(5, num_frames=3), ToyEncoder(), "none of them is among these 5"),
    ],
)
def test_another_model_or_transform_is_refused_and_nothing_is_lost(folder, is_finished, clips, encoder, reason):
    def stop(done, total):
        if done == 4 and not is_finished:
            raise Stopped

    try:
        cache_clips(toy_clips(5), ToyEncoder(), folder, stop)
    except Stopped:
        assert not is_finished
    before = files(folder)
    with pytest.raises(
        TrainingDataError, match=rf"the cache set .*{reason}.*another cache_name, or delete .*set"
    ) as error:
        cache_clips(clips, encoder, folder)
    assert "Nothing was changed" in str(error.value)
    assert encoder.calls == 0
    assert files(folder) == before


def test_a_clip_that_is_kept_lets_the_others_change_their_size(folder):
    cache_clips(toy_clips(4), ToyEncoder(), folder)
    encoder = ToyEncoder()
    clips = as_set([toy_clips(4).clips[0], *toy_clips(4, height=32).clips[1:]])
    assert len(cache_clips(clips, encoder, folder).buckets) == 2
    assert len(encoder.seeds) == 3


def test_shards_of_another_version_are_refused_not_removed(folder):
    cache_clips(toy_clips(2), ToyEncoder(), folder)
    record = next((folder / "latents").glob("*.json"))
    record.write_text(json.dumps({"version": 99, "unheard": "of"}))
    before = files(folder)
    with pytest.raises(TrainingDataError, match="is of version 99"):
        cache_clips(toy_clips(2), ToyEncoder(), folder)
    assert files(folder) == before


def test_an_empty_set_is_refused(folder):
    with pytest.raises(TrainingDataError, match="at least one clip"):
        cache_clips(as_set([]), ToyEncoder(), folder)


class OddEncoder(ToyEncoder):
    """Gives odd latents for the clip that is drawn from this seed, and odd states for one caption."""

    def __init__(self, latents=None, states=None):
        super().__init__()
        self.latents, self.states = latents, states

    def encode_frames(self, frames, seed):
        right = super().encode_frames(frames, seed)
        return right if self.latents is None or len(self.seeds) < 4 else self.latents(right)

    def encode_text(self, caption):
        right = super().encode_text(caption)
        return TextStates(self.states(right.states), None) if self.states and caption == "caption 3" else right


@pytest.mark.parametrize(
    ("latents", "reason"),
    [
        (lambda right: right * float("nan"), "NaN or infinity"),
        (lambda right: right * 1e6, "NaN or infinity"),
        (torch.zeros_like, "the same number everywhere"),
        (lambda right: right[1:], "latents for 4 frames"),
        (lambda right: right[None], "latents for 4 frames"),
        (lambda right: right[:, :, :5], "different shapes"),
    ],
)
def test_odd_latents_name_the_clip_and_keep_what_is_finished(folder, latents, reason):
    with pytest.raises(TrainingDataError, match=rf"clip \d.*{reason}"):
        cache_clips(toy_clips(6), OddEncoder(latents), folder)
    encoder = ToyEncoder()
    cache_clips(toy_clips(6), encoder, folder)
    assert (len(encoder.seeds), encoder.captions) == (4, [])


@pytest.mark.parametrize(
    ("states", "reason"),
    [
        (lambda right: right * float("inf"), "NaN or infinity for the caption 'caption 3'"),
        (lambda right: right[None], "expected text states `n d`"),
    ],
)
def test_odd_text_states_name_the_caption(folder, states, reason):
    with pytest.raises(TrainingDataError, match=reason):
        cache_clips(toy_clips(6), OddEncoder(states=states), folder)


class UnreadableClip(ToyClip):
    def read(self):
        raise TrainingDataError(f"{self.name}: the video ends early")


class ShortClip(ToyClip):
    def read(self):
        return super().read()[1:]


@pytest.mark.parametrize(("kind", "reason"), [(UnreadableClip, "ends early"), (ShortClip, "expected frames of")])
def test_a_clip_that_cannot_be_read_is_named_and_keeps_what_is_finished(folder, kind, reason):
    broken = kind("broken", "broken", seed=4)
    with pytest.raises(TrainingDataError, match=f"broken: .*{reason}"):
        cache_clips(as_set([*toy_clips(6).clips, broken]), ToyEncoder(), folder)
    kept = 2 * len(shards(folder))
    assert kept
    encoder = ToyEncoder()
    cache_clips(toy_clips(6), encoder, folder)
    assert len(encoder.seeds) == 6 - kept


# Damage


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "flipped bit":
        data[-9] ^= 1
        path.write_bytes(bytes(data))
    elif how == "truncated":
        path.write_bytes(bytes(data[:-9]))
    elif how == "gone":
        path.unlink()
    else:
        path.with_suffix(".json").write_text("{")


@pytest.mark.parametrize("how", ["flipped bit", "truncated", "gone", "damaged record"])
@pytest.mark.parametrize(("kind", "clips", "captions"), [("latents", 2, 0), ("text", 0, 2)])
def test_a_damaged_shard_is_named_and_made_anew_alone(folder, caplog, how, kind, clips, captions):
    first = cache_clips(toy_clips(6), ToyEncoder(), folder)
    before = content(first)
    name = next(
        path for path in shards(folder, kind) if len(json.loads(path.with_suffix(".json").read_text())["keys"]) == 2
    )
    damage(name, how)
    encoder = ToyEncoder()
    with caplog.at_level(logging.WARNING):
        again = cache_clips(toy_clips(6), encoder, folder)
    assert name.stem in caplog.text
    assert (len(encoder.seeds), len(encoder.captions)) == (clips, captions)
    assert again.fingerprint == first.fingerprint
    for key, (_, latents, states) in content(open_cached_clips(folder)).items():
        assert torch.equal(latents, before[key][1])
        assert torch.equal(states, before[key][2])


def test_a_damaged_shard_is_no_source_for_clips_that_move(tmp_path, folder):
    cache_clips(toy_clips(6), ToyEncoder(), folder)
    for path in shards(folder):
        damage(path, "flipped bit")
    clips, encoder = as_set(toy_clips(6).clips[:5]), ToyEncoder()
    cached = cache_clips(clips, encoder, folder)
    assert len(encoder.seeds) == 5
    assert_same(cached, cache_clips(clips, ToyEncoder(), tmp_path / "at once"))


@pytest.mark.parametrize("name", ["index.json", "clips"])
def test_a_damaged_index_is_written_anew_without_encoding(folder, name):
    first = cache_clips(toy_clips(4), ToyEncoder(), folder)
    for path in [folder / name] if name == "index.json" else list((folder / name).iterdir()):
        path.write_text("{")
    encoder = ToyEncoder()
    assert_same(cache_clips(toy_clips(4), encoder, folder), cache_clips(toy_clips(4), ToyEncoder(), folder))
    assert open_cached_clips(folder).fingerprint == first.fingerprint
    assert encoder.calls == 0


# The disk


def test_a_disk_without_room_is_refused_with_numbers_before_clips_are_encoded(folder, monkeypatch):
    encoder = ToyEncoder()
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 4096, 4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(RunError, match=r"cache set needs about [\d.]+ KiB, 4\.0 KiB are free"):
        cache_clips(toy_clips(6, flip=True), encoder, folder)
    assert (encoder.seeds, encoder.captions) == ([], [""])


def test_the_estimate_of_room_is_close(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "motiongraft.training.cache.cache_writer.check_free_space", lambda folder, needed, *_: asked.append(needed)
    )
    cache_clips(toy_clips(6, flip=True), ToyEncoder(text_width=768), folder)
    taken = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert 0.8 * taken < asked[0] < 1.2 * taken


@pytest.mark.parametrize("failing", [2, 5])
@pytest.mark.parametrize("writer", ["write_tensor_file", "write_text"])
def test_a_disk_that_fills_up_loses_nothing_that_is_finished(folder, monkeypatch, writer, failing):
    write, count = getattr(shard_store, writer), 0

    def full(path, *content):
        nonlocal count
        count += 1
        if count == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, *content)

    monkeypatch.setattr(shard_store, writer, full)
    with pytest.raises(RunError, match=r"could not be written to .*set .*the disk is full"):
        cache_clips(toy_clips(6), ToyEncoder(), folder)
    done = finished(folder)
    assert len(done) == failing - 1
    monkeypatch.setattr(shard_store, writer, write)
    encoder = ToyEncoder()
    cache_clips(toy_clips(6), encoder, folder)
    assert encoder.calls == 13 - 2 * (failing - 1) + 1  # a shard holds two, that of the empty caption one
    assert done.items() <= finished(folder).items()


def finished(folder):
    """The shards of a cache, of which each has a record."""
    paths = [path for kind in ("latents", "text") for path in (folder / kind).iterdir()]
    found = {path.name: path.read_bytes() for path in paths if path.suffix == ".safetensors"}
    assert {path.stem for path in paths} == {Path(name).stem for name in found}
    assert len(paths) == 2 * len(found)
    return found


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "set").write_text("a file")
    with pytest.raises(RunError, match=r"could not be written to .*set"):
        cache_clips(toy_clips(1), ToyEncoder(), tmp_path / "set")


# Two at once


def test_a_second_writer_is_refused_while_the_first_is_at_work(folder):
    encoder = ToyEncoder()

    def second(done, total):
        with pytest.raises(RunError, match=f"is being written by process {os.getpid()}"):
            cache_clips(toy_clips(4), encoder, folder)

    cache_clips(toy_clips(4), ToyEncoder(), folder, second)
    assert encoder.calls == 0


def test_the_lock_of_a_process_that_died_is_taken_over(folder):
    folder.mkdir()
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (folder / "run.lock").write_text(f"{process.pid}\n")
    assert len(cache_clips(toy_clips(2), ToyEncoder(), folder)) == 2
    with locked(folder):
        pass


def test_a_cache_can_be_read_while_it_is_brought_up_to_date(folder):
    cached = write_toy_cache(folder, num_clips=4)
    read = []
    cache_clips(toy_clips(4, cut="whole"), ToyEncoder(), folder, lambda done, total: read.append(cached.clip(0, 0)))
    assert read
