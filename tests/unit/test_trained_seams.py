"""Where the windows of a long clip meet, sampled with a module that has learned to move. Some minutes of training."""

from statistics import fmean

import pytest
import torch

from motiongraft.sampling.context_windows import ContextWindowSettings
from motiongraft.sampling.measures import frame_changes, seam_pairs
from motiongraft.standalone.animation import AnimationSettings, Prompts, animate
from motiongraft.standalone.diffusers_denoiser import DiffusersDenoiser
from motiongraft.standalone.toy_demo.animation import GUIDANCE
from motiongraft.standalone.toy_demo.plan import demo_plan
from motiongraft.standalone.toy_demo.school import Graduates, School, motion_shares
from motiongraft.standalone.toy_demo.terminal import Terminal
from motiongraft.standalone.toy_world.picture_codec import as_pixels, decoded
from motiongraft.standalone.toy_world.waves import NUM_FRAMES, all_captions
from motiongraft.standalone.toy_world.word_vectors import text_states
from motiongraft.training.cache.cached_clips import TextStates

FRAMES, OVERLAP, STEPS = 4 * NUM_FRAMES, NUM_FRAMES // 2, 12
SIDE = 64
"""Pixels of which `animate` makes latents of the toy world's size."""
CLIPS = 3
"""Of each caption."""
MOST = 1.25
"""Of what changes inside windows. The aim is 1; 1.03 to 1.22 were measured (docs/performance.md)."""
SEEN = 1.3
"""What the measure must at least give for windows that know nothing of each other."""
SEEDS = (0, 1, 2)
"""Of worlds that are drawn and trained apart."""


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> list[Graduates]:
    folder = tmp_path_factory.mktemp("trained")
    return [School(folder / str(seed), demo_plan(seed), seed, Terminal()).teach() for seed in SEEDS]


def seam_ratio(graduates: Graduates, windows: ContextWindowSettings) -> float:
    """What motion does not explain between frames where windows meet, by what it does not inside of them."""
    denoiser = DiffusersDenoiser(graduates.load_base(), torch.device("cpu"), torch.float32, graduates.load_module())
    pairs = seam_pairs(FRAMES, windows.length, windows.overlap)
    seams: list[float] = []
    inside: list[float] = []
    for seed, caption in enumerate(CLIPS * all_captions()):
        settings = AnimationSettings(FRAMES, SIDE, SIDE, STEPS, GUIDANCE, seed, "ddim", windows)
        prompts = Prompts(TextStates(text_states(caption), None), TextStates(text_states(""), None))
        clip = as_pixels(decoded(animate(denoiser, motion_shares(), prompts, settings))).clamp(0, 1)
        for pair, change in enumerate(frame_changes(clip[:-1], clip[1:])):
            (seams if pair in pairs else inside).append(change.residual)
    return fmean(seams) / fmean(inside)


@pytest.mark.nightly
@pytest.mark.parametrize("schedule", ["uniform", "static"])
def test_little_more_changes_where_windows_meet_than_inside_them(worlds: list[Graduates], schedule: str) -> None:
    windows = ContextWindowSettings(NUM_FRAMES, OVERLAP, schedule=schedule)
    ratios = [seam_ratio(world, windows) for world in worlds]
    assert max(ratios) <= MOST, ratios


@pytest.mark.nightly
def test_the_measure_sees_windows_that_know_nothing_of_each_other(worlds: list[Graduates]) -> None:
    """The control that must fail: pieces without overlap and with noise of their own."""
    apart = ContextWindowSettings(NUM_FRAMES, 0, schedule="batched", freenoise=False)
    ratios = [seam_ratio(world, apart) for world in worlds]
    assert min(ratios) > SEEN, ratios
