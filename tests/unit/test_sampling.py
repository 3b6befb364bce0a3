"""Settings and measures that need no host."""

import logging

import pytest
import torch

from motiongraft.core.errors import SettingsError
from motiongraft.sampling.clip_length import check_clip_length
from motiongraft.sampling.context_windows import ContextWindowSettings
from motiongraft.sampling.latent_preview import MAX_PREVIEW_SIDE, latent_to_rgb


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"length": 16, "overlap": 16}, "overlap 16 must be smaller than length 16"),
        ({"length": 1, "overlap": 0}, "length 2 or more"),
        ({"stride": 0}, "stride 1 or more"),
        ({"overlap": -1}, "overlap 0 or more"),
        ({"closed_loop": True}, "Set schedule to looped"),
        ({"schedule": "looped", "fuse": "relative"}, "pyramid or flat"),
        ({"schedule": "views"}, "one of uniform, static, looped, batched"),
        ({"fuse": "gauss"}, "one of pyramid"),
    ],
)
def test_settings_that_cannot_work_say_what_to_set(settings, words):
    with pytest.raises(SettingsError, match=words):
        ContextWindowSettings(**settings)


def test_one_frame_names_batch_size():
    with pytest.raises(SettingsError, match="batch_size"):
        check_clip_length(1, None, 32, 16, "mm")


def test_too_many_frames_name_both_numbers_and_the_node():
    with pytest.raises(SettingsError, match=r"33 frames.*32.*ContextWindow"):
        check_clip_length(33, None, 32, 16, "mm")
    with pytest.raises(SettingsError, match=r"40 frames.*32.*Set the length"):
        check_clip_length(100, 40, 32, 16, "mm")


def test_a_window_makes_any_length_fit(caplog):
    with caplog.at_level(logging.WARNING):
        check_clip_length(1000, 16, 32, 16, "mm")
    assert not caplog.text


def test_short_clips_are_warned_of_with_both_numbers(caplog):
    with caplog.at_level(logging.WARNING):
        check_clip_length(8, None, 32, 16, "mm")
    assert "16 frames and gets 8" in caplog.text


def test_preview_maps_latents_to_bytes():
    factors = [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0, 0, 0]]
    latents = torch.zeros(2, 4, 3, 5)
    latents[1, 0] = 1
    latents[1, 1] = -5
    rgb = latent_to_rgb(latents, factors)
    assert rgb.shape == (2, 3, 5, 3)
    assert rgb.dtype == torch.uint8
    assert rgb[0, 0, 0].tolist() == [127, 127, 127]
    assert rgb[1, 2, 4].tolist() == [255, 0, 127]


def test_preview_of_large_latents_is_small():
    rgb = latent_to_rgb(torch.zeros(1, 4, 128, 256), [[0.0] * 3] * 4)
    assert rgb.shape[1:3] == (MAX_PREVIEW_SIDE // 2, MAX_PREVIEW_SIDE)
    assert latent_to_rgb(torch.zeros(1, 4, 2, 400), [[0.0] * 3] * 4).shape == (1, 1, MAX_PREVIEW_SIDE, 3)
