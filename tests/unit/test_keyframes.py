"""The frames at which images stand: what a widget's text means, what is refused, and what an encoder sees."""

from itertools import pairwise

import pytest
import torch

from motiongraft.core.errors import SettingsError
from motiongraft.sampling.keyframes import parse_keyframes, seen_at


@pytest.mark.parametrize(
    ("text", "images", "frames"),
    [
        ("0", 1, [0]),
        (" 0, 8,-1 ", 3, [0, 8, 15]),
        ("0;8\n-1", 3, [0, 8, 15]),
        ("-1, 0", 2, [15, 0]),
        ("+5,", 1, [5]),
        ("-16", 1, [0]),
        ("spread", 1, [0]),
        ("Spread", 2, [0, 15]),
        ("spread", 3, [0, 8, 15]),
        ("spread", 4, [0, 5, 10, 15]),
        ("spread", 16, list(range(16))),
    ],
)
def test_a_text_gives_each_image_a_frame_of_a_clip_of_sixteen(text, images, frames):
    assert parse_keyframes(text).frames_of(images, 16) == frames


@pytest.mark.parametrize("images", range(1, 21))
@pytest.mark.parametrize("num_frames", [20, 21, 33, 100])
def test_spread_images_have_frames_of_their_own_in_even_steps(images, num_frames):
    frames = parse_keyframes("spread").frames_of(images, num_frames)
    steps = {after - before for before, after in pairwise(frames)}
    assert frames[0] == 0
    assert images == 1 or frames[-1] == num_frames - 1
    assert steps == set() or (min(steps) > 0 and max(steps) - min(steps) <= 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"expected numbers such as `0, 8, -1`.*found ''"),
        ("first", r"or `spread`, found 'first'"),
        ("0, spread", r"found 'spread'"),
        ("0-8", r"found '0-8'"),
        ("1.5", r"found '1\.5'"),
        ("0: 1", r"found '0:'"),
        ("²", r"found '²'"),
        ("9" * 5000, r"found '9+…"),
        ("4, 0, 4", r"frame 4 comes twice"),
    ],
)
def test_what_is_no_list_of_frames_is_refused_in_words(text, words):
    with pytest.raises(SettingsError, match=words) as error:
        parse_keyframes(text)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("text", "images", "words"),
    [
        ("0, 8, 15", 1, r"3 frames \(0, 8, 15\), and 1 image came.*as many images as frames.*spread"),
        ("0", 2, r"1 frame \(0\), and 2 images came"),
        ("16", 1, r"16 is not in the clip, which has frames 0 to 15 \(from its end, -16 to -1\)"),
        ("-17", 1, r"-17 is not in the clip"),
        ("0, -16", 2, r"frame 0 comes twice in a clip of 16 frames \(0, -16\)"),
        ("spread", 17, r"17 images do not fit into 16 frames"),
    ],
)
def test_what_does_not_fit_a_clip_is_refused_in_words(text, images, words):
    with pytest.raises(SettingsError, match=words):
        parse_keyframes(text).frames_of(images, 16)


def test_a_clip_sees_images_and_a_mask_at_keyframes_and_zeros_elsewhere():
    images = 1 + torch.rand(2, 4, 2, 3)
    seen = seen_at(range(4, 9), images, [7, 4])
    assert torch.equal(seen[3, :4], images[0])
    assert torch.equal(seen[0, :4], images[1])
    assert torch.equal(seen[:, 4], torch.tensor([1.0, 0, 0, 1, 0])[:, None, None].expand(-1, 2, 3))
    assert not seen[[1, 2, 4]].any()


def test_a_frame_that_comes_twice_in_a_window_sees_its_image_twice():
    """The host may put the first frame in front of a window that holds it too."""
    seen = seen_at([0, 0, 1], torch.ones(1, 1, 1, 1), [0])
    assert seen[:, 0, 0, 0].tolist() == [1, 1, 0]
