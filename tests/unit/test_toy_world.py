"""The toy world: measures find the truth on clips whose truth is known, and nothing where there is none."""

import pytest
import torch

from motiongraft.standalone.toy_world.drawn_clips import camera_clips, still_clips, video_clips
from motiongraft.standalone.toy_world.measures import mean_measures, measure
from motiongraft.standalone.toy_world.picture_codec import as_levels, as_pixels, decoded, encoded
from motiongraft.standalone.toy_world.toy_encoder import ToyEncoder
from motiongraft.standalone.toy_world.video_domain import SCAN_LINES, as_video
from motiongraft.standalone.toy_world.waves import HEADINGS, LENGTHS, NUM_FRAMES, SIDE, Waves, all_captions, scene
from motiongraft.standalone.toy_world.word_vectors import NUM_TOKENS, text_states
from motiongraft.training.cache.cache_writer import cache_clips

EIGHT_BITS = 1 / 255
KINDS = [(length, heading) for length in LENGTHS for heading in HEADINGS]


def true_clip(told: Waves, frames: int = NUM_FRAMES) -> torch.Tensor:
    return torch.stack([told.levels(frame) for frame in range(frames)])


@pytest.mark.parametrize(("length", "heading"), KINDS)
def test_measures_find_the_law_in_a_true_clip(length: str, heading: str) -> None:
    told = Waves(length, heading, 0.3)
    found = measure(true_clip(told), told)
    assert found.moves_as_told
    assert found.axis_is_right
    assert found.heading_is_right
    assert (found.speed, found.steadiness) == (pytest.approx(1), pytest.approx(1))
    assert found.scan_lines == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("length", "heading"), KINDS)
def test_a_clip_played_backwards_goes_the_wrong_way_with_its_steep_side_where_it_was(length: str, heading: str) -> None:
    told = Waves(length, heading, 0.1)
    found = measure(true_clip(told).flip(0), told)
    assert found.speed == pytest.approx(-1)
    assert found.heading_is_right
    assert not found.goes_as_told


def test_a_still_clip_has_no_speed_and_changes_nowhere() -> None:
    told = Waves("fine", "left", 0.2)
    found = measure(told.levels(0).expand(NUM_FRAMES, SIDE, SIDE), told)
    assert found.speed == pytest.approx(0)
    assert found.change == 0
    assert not found.moves_as_told


def test_frames_drawn_apart_seldom_count_as_moving() -> None:
    generator = torch.Generator().manual_seed(0)
    told = [scene(number, 3) for number in range(160)]
    phases = torch.rand(len(told), NUM_FRAMES, generator=generator)
    clips = [
        torch.stack([Waves(one.length, one.heading, float(phase)).levels(0) for phase in own])
        for one, own in zip(told, phases, strict=True)
    ]
    means = mean_measures([measure(clip, one) for clip, one in zip(clips, told, strict=True)])
    assert means["moves_as_told"] <= 0.02
    assert 0.04 <= means["goes_as_told"] <= 0.25  # one in eight
    assert means["axis_is_right"] == 1


@pytest.mark.parametrize(("length", "heading"), KINDS)
def test_another_caption_than_the_clip_has_is_found_out(length: str, heading: str) -> None:
    clip = true_clip(Waves(length, heading, 0.4))
    others = [Waves(*kind) for kind in KINDS if kind != (length, heading)]
    assert not any(measure(clip, other).moves_as_told for other in others)


def test_the_look_of_videos_is_measured_and_leaves_the_motion_alone() -> None:
    told = Waves("broad", "up", 0.6)
    plain, video = measure(true_clip(told), told), measure(as_video(true_clip(told)), told)
    assert video.scan_lines == pytest.approx(1, abs=0.02)
    assert video.darkest > plain.darkest + 0.3
    assert video.speed == pytest.approx(1, abs=0.02)
    assert video.moves_as_told
    assert measure(true_clip(told) + 0.5 * SCAN_LINES, told).scan_lines == pytest.approx(0.5)


def test_the_codec_gives_back_every_picture() -> None:
    levels = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = encoded(levels)
    assert latents.shape == (3, 4, SIDE // 2, SIDE // 2)
    assert latents.square().sum() == pytest.approx(float(levels.square().sum()), rel=1e-5)
    torch.testing.assert_close(decoded(latents), levels)
    torch.testing.assert_close(as_levels(as_pixels(levels)), levels)


def test_every_caption_is_other_words_and_other_vectors() -> None:
    captions = [*all_captions(), ""]
    states = [text_states(caption) for caption in captions]
    assert len(set(captions)) == len(KINDS) + 1
    assert all(state.shape == states[0].shape for state in states)
    assert all(len(caption.split()) <= NUM_TOKENS for caption in captions)
    assert not any(torch.equal(one, other) for index, one in enumerate(states) for other in states[:index])
    assert torch.equal(text_states(captions[0]), states[0])


def test_scenes_belong_to_their_seed_and_take_captions_in_turn() -> None:
    assert scene(5, 1) == scene(5, 1) != scene(5, 2)
    assert {scene(number, 0).caption for number in range(len(KINDS))} == set(all_captions())


@pytest.mark.parametrize("number", range(len(KINDS)))
def test_the_camera_shifts_what_it_sees_by_exactly_two_pixels_a_frame(number: int) -> None:
    told = scene(number, 4)
    found = measure(as_levels(camera_clips(len(KINDS), 4).clips[number].read()), told)
    shift = -2 * HEADINGS[told.heading][0] / told.speed
    assert found.speed == pytest.approx(1 + shift, abs=0.01)
    assert found.steadiness == pytest.approx(1, abs=1e-3)


def test_clips_that_are_read_are_the_drawings() -> None:
    told = scene(1, 0)
    read = as_levels(still_clips(2, 0).clips[1].read())
    torch.testing.assert_close(read, true_clip(told), atol=2.5 * EIGHT_BITS, rtol=0)


def test_every_drawing_is_a_clip_of_its_own_in_a_cache(tmp_path) -> None:
    videos, stills = video_clips(9, 0), still_clips(9, 0)
    keys = [clip.transform_key() for clip in (*videos.clips, *stills.clips, *camera_clips(9, 0).clips)]
    assert len(set(keys)) == len(keys)
    cached = cache_clips(videos, ToyEncoder(), tmp_path / "videos")
    assert len(cached) == 9
    assert {cached.clip(0, number).caption for number in range(9)} == set(all_captions())
