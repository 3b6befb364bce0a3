"""How frames are pulled to images: at their own frame, around it, between two, and inside a mask."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from motiongraft.core.errors import SettingsError
from motiongraft.sampling.frame_anchors import FrameAnchors, check_frames, pull_of, pulled
from motiongraft.sampling.keyframes import Keyframes
from motiongraft.sampling.percent_range import PercentRange


def anchors(*frames, **settings):
    return FrameAnchors(Keyframes(frames), **settings)


def test_without_reach_the_frames_alone_are_pulled():
    strengths, shares = pull_of(anchors(0, -1, strength=0.5), 2, 5)
    assert strengths.tolist() == [0.5, 0, 0, 0, 0.5]
    assert shares[0].tolist() == [1, 0]
    assert shares[4].tolist() == [0, 1]


def test_the_pull_fades_evenly_to_nothing_behind_its_reach():
    strengths, _ = pull_of(anchors(3, reach=3), 1, 8)
    assert strengths.tolist() == pytest.approx([0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0])


def test_between_two_images_each_pulls_by_its_nearness_and_at_its_frame_one_alone():
    strengths, shares = pull_of(anchors(0, 4, reach=7), 2, 5)
    assert shares.tolist()[0] == [1, 0]
    assert shares.tolist()[2] == [0.5, 0.5]
    assert shares[1, 0] > shares[1, 1] > 0
    assert shares.tolist()[4] == [0, 1]
    assert strengths[0] == strengths[4] == 1


def test_one_image_stands_at_every_frame_that_is_named():
    strengths, shares = pull_of(anchors(0, -1), 1, 6)
    clip, image = torch.randn(6, 4, 2, 3), torch.randn(1, 4, 2, 3)
    found = pulled(clip, image, strengths, shares)
    assert torch.equal(found[0], image[0])
    assert torch.equal(found[5], image[0])
    assert torch.equal(found[1:5], clip[1:5])


@given(st.integers(1, 4), st.integers(4, 20), st.integers(0, 25), st.floats(0, 1))
def test_shares_add_up_to_one_and_no_pull_is_stronger_than_asked(images, frames, reach, strength):
    settings = FrameAnchors(Keyframes(), strength, reach)
    strengths, shares = pull_of(settings, images, frames)
    assert ((strengths >= 0) & (strengths <= strength + 1e-6)).all()
    near = shares.sum(dim=1)
    assert torch.allclose(near[near > 0], torch.ones(1))


def test_a_pull_moves_by_its_strength_and_inside_the_mask_alone():
    clip, images = torch.zeros(3, 4, 2, 2), torch.ones(1, 4, 2, 2)
    mask = torch.zeros(3, 1, 2, 2)
    mask[..., 0] = 1
    found = pulled(clip, images, *pull_of(anchors(1, strength=0.25), 1, 3), mask)
    assert found[1, :, :, 0].eq(0.25).all()
    assert not found[1, :, :, 1].any()
    assert not found[[0, 2]].any()


def test_bad_frames_and_sizes_are_refused_in_the_users_words():
    with pytest.raises(SettingsError, match="16 is not in the clip"):
        check_frames(anchors(16), torch.zeros(1, 4, 8, 8), (16, 4, 8, 8))
    with pytest.raises(SettingsError, match=r"2 frames \(0, 1\).*3 images"):
        check_frames(anchors(0, 1), torch.zeros(3, 4, 8, 8), (16, 4, 8, 8))
    with pytest.raises(SettingsError, match=r"64×32 pixels of 4.*64×64"):
        check_frames(anchors(0), torch.zeros(1, 4, 4, 8), (16, 4, 8, 8))


@pytest.mark.parametrize(("percent", "holds"), [(0, False), (0.2, True), (0.49, True), (0.5, False), (1, False)])
def test_a_part_of_the_sampling_ends_where_the_next_begins(percent, holds):
    assert PercentRange(0.2, 0.5).holds(percent) == holds
    assert PercentRange(0.5, 1).holds(1)


@pytest.mark.parametrize("ends", [(0.5, 0.5), (0.6, 0.5), (-0.1, 1), (0, 1.1)])
def test_a_part_that_is_none_is_refused(ends):
    with pytest.raises(SettingsError, match="no part of the sampling"):
        PercentRange(*ends)
