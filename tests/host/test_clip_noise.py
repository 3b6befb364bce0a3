"""Frame Noise as ComfyUI's NOISE: for SampleAnimation, for other samplers, and under context windows."""

import pytest
import torch

from motiongraft.core.errors import SettingsError, ShapeError
from motiongraft.sampling.context_windows import ContextWindowSettings
from motiongraft.sampling.frame_noise import KINDS, FrameNoiseSettings
from motiongraft.sampling.frame_seeds import parse_frame_seeds
from motiongraft.tests.helpers.comparison import assert_differs

pytestmark = pytest.mark.host

SEED = 42


@pytest.fixture
def noise(host):
    """A NOISE as the node makes it."""
    from motiongraft.host.clip_noise import ClipNoise

    def make(kind="by frame", seed=SEED, seeds="", **settings):
        return ClipNoise(FrameNoiseSettings(seed, kind, seeds=parse_frame_seeds(seeds), **settings))

    return make


@pytest.fixture
def animated(scene):
    """SampleAnimation's clip."""
    from motiongraft.host.preview import AnimatedPreview
    from motiongraft.host.sampling import sample_animation

    def run(model, frames=16, noise=None, seed=SEED, sampler="euler", **notes):
        latent = {"samples": scene.latent(frames), **notes}
        common = (model, scene.positive, scene.negative, latent, seed, 2, 7.5, sampler, "normal", 1.0)
        return sample_animation(*common, AnimatedPreview(model, None), noise)["samples"]

    return run


@pytest.fixture
def windowed(host):
    from motiongraft.host.windows import set_context_window

    return lambda model, freenoise: set_context_window(model, ContextWindowSettings(8, 3, freenoise=freenoise))


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
def test_noise_by_frame_is_bitwise_that_of_the_seed(scene, animated, noise, sampler):
    inflated = scene.inflated()
    for notes in ({}, {"batch_index": list(range(4, 20))}):
        found = animated(inflated, noise=noise(), sampler=sampler, **notes)
        assert torch.equal(found, animated(inflated, sampler=sampler, **notes))


def test_noise_by_frame_leaves_torchs_generator_as_that_of_the_seed_does(scene, noise):
    """Samplers with churn draw from it."""
    from motiongraft.host.sampling import frame_noise

    drawn = []
    for draw in (
        lambda: noise().generate_noise({"samples": scene.latent()}),
        lambda: frame_noise(scene.latent(), SEED, None),
    ):
        draw()
        drawn.append(torch.randn(4))
    assert torch.equal(*drawn)


def test_the_seed_still_goes_to_samplers_that_draw_from_it(scene, animated, noise):
    inflated = scene.inflated()
    first, second = (animated(inflated, noise=noise(), seed=seed, sampler="euler_ancestral") for seed in (1, 2))
    assert_differs(first, second)
    first, second = (animated(inflated, noise=noise(), seed=seed) for seed in (1, 2))
    assert torch.equal(first, second)


def test_another_noise_is_another_clip(scene, animated, noise):
    inflated = scene.inflated()
    assert_differs(animated(inflated, noise=noise("constant")), animated(inflated))


def test_sampler_custom_advanced_takes_it(scene, noise, animated):
    nodes = scene.host.module("comfy_extras.nodes_custom_sampler")
    inflated = scene.inflated()
    (guider,) = nodes.CFGGuider.execute(inflated, scene.positive, scene.negative, 7.5).args
    (sigmas,) = nodes.BasicScheduler.execute(inflated, "normal", 2, 1.0).args
    sampler = scene.host.module("comfy.samplers").sampler_object("euler")
    given = noise("mixed", share=0.3)
    found = nodes.SamplerCustomAdvanced.execute(given, guider, sampler, sigmas, {"samples": scene.latent()}).args[0]
    assert torch.equal(found["samples"], animated(inflated, noise=given))


def test_sample_animation_takes_comfyuis_noise(scene, animated):
    nodes = scene.host.module("comfy_extras.nodes_custom_sampler")
    inflated = scene.inflated()
    assert torch.equal(animated(inflated, noise=nodes.Noise_RandomNoise(SEED)), animated(inflated))


@pytest.mark.parametrize("given_freenoise", [False, True], ids=["window off", "window on"])
def test_freenoise_is_that_of_a_context_window_with_it_on_or_off(scene, animated, windowed, noise, given_freenoise):
    inflated = scene.inflated()
    shuffled = noise("freenoise", length=8, overlap=3)
    found = animated(windowed(inflated, given_freenoise), 29, shuffled)
    assert torch.equal(found, animated(windowed(inflated, True), 29))
    assert_differs(found, animated(windowed(inflated, False), 29))


def test_a_context_window_with_freenoise_replaces_the_noise_behind_its_first_window(scene, animated, windowed, noise):
    """As the tooltip warns; with it off, a seed of a later frame shows."""
    inflated = scene.inflated()
    late = noise(seeds="8-28: 7")
    assert torch.equal(animated(windowed(inflated, True), 29, late), animated(windowed(inflated, True), 29))
    assert_differs(animated(windowed(inflated, False), 29, late), animated(windowed(inflated, False), 29))


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_a_clip_has_the_noise_of_its_frames(scene, noise, kind):
    given = noise(kind, seeds="2-9: 5", length=4, overlap=1)
    whole = given.generate_noise({"samples": scene.latent(12, 3, 5)})
    part = given.generate_noise({"samples": scene.latent(4, 3, 5), "batch_index": [8, 9, 10, 11]})
    assert torch.equal(part, whole[8:])


def test_a_seed_for_a_frame_that_the_clip_does_not_have_is_refused(scene, animated, noise):
    with pytest.raises(SettingsError, match=r"frames 0 to 15.*frame 16"):
        animated(scene.inflated(), noise=noise(seeds="16: 5"))


def test_noise_for_another_latent_is_refused(scene, animated, noise):
    other = noise().generate_noise({"samples": scene.latent(8)})

    class OfAnotherClip:
        seed = 0

        def generate_noise(self, latent):
            return other

    with pytest.raises(ShapeError, match=r"\(16, 4, 8, 8\), found \(8, 4, 8, 8\)"):
        animated(scene.inflated(), noise=OfAnotherClip())


@pytest.mark.parametrize("kind", ["by frame", "constant", "mixed"])
def test_a_latent_of_a_video_model_is_refused(scene, noise, kind):
    """Its frames are no batch: they would get noise of their own, whatever the kind."""
    nested = scene.host.module("comfy.nested_tensor").NestedTensor([torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8)])
    for samples in (torch.zeros(1, 4, 5, 8, 8), nested):
        with pytest.raises(ShapeError, match="a batch of frames, found"):
            noise(kind=kind).generate_noise({"samples": samples})


def test_the_node_gives_such_a_noise(host):
    from motiongraft.nodes.frame_noise import FrameNoise

    (given,) = FrameNoise.execute(seed=3, kind="mixed", length=16, overlap=4, share=0.25, seeds="0-3: 9").args
    assert given.settings == FrameNoiseSettings(3, "mixed", 16, 4, 0.25, parse_frame_seeds("0-3: 9"))
    assert given.seed == 3
