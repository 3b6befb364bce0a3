"""Anchored frames: held by every sampler, in windows too, and let go where they are told to."""

import pytest
import torch

from motiongraft.core.errors import SettingsError
from motiongraft.sampling.context_windows import ContextWindowSettings
from motiongraft.sampling.frame_anchors import FrameAnchors
from motiongraft.sampling.keyframes import Keyframes
from motiongraft.sampling.percent_range import PercentRange
from motiongraft.tests.helpers.comparison import assert_close, assert_differs

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def images():
    """Latents of two images, as VAE Encode gives them."""
    return {"samples": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))}


@pytest.fixture
def anchored(host, images):
    from motiongraft.host.anchors import anchor_frames

    def anchor(model, *frames, latent=images, mask=None, **settings):
        return anchor_frames(model, latent, FrameAnchors(Keyframes(frames), **settings), mask)

    return anchor


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m", "euler_ancestral", "dpmpp_sde", "uni_pc"])
def test_first_and_last_frame_are_the_images(scene, anchored, images, sampler):
    inflated = scene.inflated()
    found = scene.sample(anchored(inflated, 0, -1), sampler=sampler, steps=4)
    # ComfyUI's uni_pc stops short of a noise level of 0.
    assert_close(found[[0, 15]], images["samples"], 1e-2 if sampler == "uni_pc" else 1e-3)
    assert_differs(found[1:15], scene.sample(inflated, sampler=sampler, steps=4)[1:15])


def test_strength_zero_is_bitwise_no_anchor(scene, anchored):
    inflated = scene.inflated()
    assert torch.equal(scene.sample(anchored(inflated, 0, -1, strength=0.0)), scene.sample(inflated))


def test_less_strength_lets_frames_differ_and_reach_pulls_those_around(scene, anchored, images):
    first = {"samples": images["samples"][:1]}

    def distances(**settings):
        found = scene.sample(anchored(scene.model, 8, latent=first, **settings), steps=8)
        return (found - first["samples"]).abs().mean(dim=(1, 2, 3))

    plain, half, whole = (distances(strength=strength) for strength in (0.0, 0.2, 1.0))
    assert plain[8] > half[8] > whole[8]
    reaching = distances(reach=2)
    assert (reaching[[7, 9]] < plain[[7, 9]]).all()
    assert torch.equal(reaching[[5, 11]], plain[[5, 11]])


def test_where_two_nodes_hold_one_frame_the_first_has_the_last_word(scene, anchored, images):
    first, second = ({"samples": image[None]} for image in images["samples"])
    found = scene.sample(anchored(anchored(scene.inflated(), 3, latent=first), 3, latent=second))
    assert_close(found[3:4], first["samples"], 1e-3)


def test_a_pack_that_skips_the_model_does_not_skip_the_images(scene, anchored, images):
    """One that came before, and gives back what it gave the last time."""
    inflated, kept = scene.inflated(), []

    def lazy(executor, x, *args, **kwargs):
        kept[:] = kept or [executor(x, *args, **kwargs)]
        return kept[0]

    inflated.add_wrapper_with_key("predict_noise", "lazy", lazy)
    assert_close(scene.sample(anchored(inflated, 0, -1), steps=4)[[0, 15]], images["samples"], 1e-3)


def test_nothing_of_a_run_is_held_after_it(scene, anchored):
    model = anchored(scene.inflated(), 0, -1)
    scene.sample(model)
    (held,) = model.wrappers["predict_noise"]["motiongraft.anchors"]
    assert held.__self__.ready == {}


def test_without_motion_no_other_frame_changes(scene, anchored):
    found = scene.sample(anchored(scene.model, 0, -1))
    assert torch.equal(found[1:15], scene.sample(scene.model)[1:15])


def test_they_hold_in_windows_and_views(scene, anchored, images):
    from motiongraft.host.view_windows import set_view_window
    from motiongraft.host.windows import set_context_window

    model = anchored(scene.inflated(), 3, 20)
    for windowed in (set_context_window, set_view_window):
        found = scene.sample(windowed(model, ContextWindowSettings(8, 4)), frames=24)
        assert_close(found[[3, 20]], images["samples"], 1e-3)


def test_images_that_let_go_early_leave_their_mark_and_no_copy(scene, anchored, images):
    inflated = scene.inflated()
    found = scene.sample(anchored(inflated, 0, 15, part=PercentRange(0, 0.4)), steps=6)
    assert_differs(found, scene.sample(inflated, steps=6))
    assert_differs(found[[0, 15]], images["samples"])


def test_a_part_without_a_step_changes_nothing(scene, anchored):
    inflated = scene.inflated()
    assert torch.equal(
        scene.sample(anchored(inflated, 0, 15, part=PercentRange(0.0001, 0.0002))), scene.sample(inflated)
    )


def test_a_mask_holds_inside_it_alone(scene, anchored, images):
    mask = torch.zeros(1, 8, 8)
    mask[..., :4] = 1
    found = scene.sample(anchored(scene.model, 0, 15, mask=mask))
    assert_close(found[[0, 15]][..., :4], images["samples"][..., :4], 1e-3)
    assert_differs(found[[0, 15]][..., 4:], images["samples"][..., 4:])


def test_two_nodes_add_up_and_the_model_given_is_left_alone(scene, anchored, images):
    inflated = scene.inflated()
    before = scene.sample(inflated)
    first = {"samples": images["samples"][:1]}
    found = scene.sample(anchored(anchored(inflated, 0, latent=first), 7, latent=first))
    assert_close(found[[0, 7]], first["samples"].expand(2, -1, -1, -1), 1e-3)
    assert torch.equal(scene.sample(inflated), before)


def test_images_that_do_not_fit_are_refused_before_anything_is_loaded(scene, anchored, monkeypatch):
    def load(*_, **__):
        pytest.fail("models were loaded")

    monkeypatch.setattr(scene.host.module("comfy.sampler_helpers"), "prepare_sampling", load)
    with pytest.raises(SettingsError, match="not in the clip"):
        scene.sample(anchored(scene.inflated(), 0, 16))
    with pytest.raises(SettingsError, match=r"32×32 pixels"):
        scene.sample(anchored(scene.inflated(), 0, latent={"samples": torch.zeros(1, 4, 4, 4)}))
    with pytest.raises(SettingsError, match=r"one for each of the 16, found 3"):
        scene.sample(anchored(scene.inflated(), 0, 1, mask=torch.ones(3, 8, 8)))


def test_the_node_reads_its_widgets(scene, images):
    from motiongraft.nodes.anchor_frames import AnchorFrames

    (model,) = AnchorFrames.execute(scene.inflated(), images, "0, -1", 1.0, 0, 0.0, 1.0).args
    assert_close(scene.sample(model)[[0, 15]], images["samples"], 1e-3)
    with pytest.raises(SettingsError, match="expected numbers"):
        AnchorFrames.execute(scene.inflated(), images, "first", 1.0, 0, 0.0, 1.0)
