"""What must keep working on an inflated model: every sampler node, guider, LoRA, region and image batch."""

import pytest
import torch

from motiongraft.tests.helpers.comparison import assert_close, assert_differs
from motiongraft.tests.helpers.tiny_scene import FRAMES

pytestmark = pytest.mark.host


@pytest.fixture
def ksampler(scene):
    """KSampler's result on a latent; the numbers that other nodes must meet."""

    def run(model, latent, cfg=7.5, denoise=1.0):
        node = scene.host.module("nodes").KSampler()
        (result,) = node.sample(
            model, 5, 3, cfg, "euler", "normal", scene.positive, scene.negative, latent, denoise=denoise
        )
        return result["samples"]

    return run


@pytest.fixture
def custom(scene):
    """SamplerCustomAdvanced with a guider, at KSampler's settings."""
    nodes = scene.host.module("comfy_extras.nodes_custom_sampler")

    def run(model, guider, latent):
        (sigmas,) = nodes.BasicScheduler.execute(model, "normal", 3, 1.0).args
        sampler = scene.host.module("comfy.samplers").sampler_object("euler")
        noise = nodes.Noise_RandomNoise(5)
        return nodes.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args[0]["samples"]

    return run


@pytest.fixture
def latent(scene):
    return {"samples": scene.latent()}


@pytest.mark.parametrize("generation", ["v1", "v3"])
class TestSamplers:
    def test_ksampler_advanced_in_two_parts_equals_ksampler(self, scene, ksampler, latent, generation):
        inflated = scene.inflated(generation)
        node = scene.host.module("nodes").KSamplerAdvanced()
        common = (5, 3, 7.5, "euler", "normal", scene.positive, scene.negative)
        (half,) = node.sample(inflated, "enable", *common, latent, 0, 2, "enable")
        (whole,) = node.sample(inflated, "disable", *common, half, 2, 10_000, "disable")
        assert_close(whole["samples"], ksampler(inflated, latent))

    def test_cfg_guider_equals_ksampler(self, scene, ksampler, custom, latent, generation):
        inflated = scene.inflated(generation)
        nodes = scene.host.module("comfy_extras.nodes_custom_sampler")
        (guider,) = nodes.CFGGuider.execute(inflated, scene.positive, scene.negative, 7.5).args
        assert torch.equal(custom(inflated, guider, latent), ksampler(inflated, latent))

    def test_basic_guider_equals_ksampler_at_cfg_1(self, scene, ksampler, custom, latent, generation):
        inflated = scene.inflated(generation)
        (guider,) = scene.host.module("comfy_extras.nodes_custom_sampler").BasicGuider.execute(
            inflated, scene.positive
        ).args  # fmt: skip
        assert torch.equal(custom(inflated, guider, latent), ksampler(inflated, latent, cfg=1.0))

    def test_dual_cfg_guider_with_equal_conditionings_equals_ksampler(
        self, scene, ksampler, custom, latent, generation
    ):
        """middle = positive at full weight leaves plain guidance."""
        inflated = scene.inflated(generation)
        nodes = scene.host.module("comfy_extras.nodes_custom_sampler")
        (guider,) = nodes.DualCFGGuider.execute(
            inflated, scene.positive, scene.positive, scene.negative, 1.0, 7.5, "regular"
        ).args  # fmt: skip
        assert_close(custom(inflated, guider, latent), ksampler(inflated, latent), 1e-4)

    def test_dual_model_guider_runs_each_model_with_its_own_motion(self, scene, custom, latent, generation):
        """The host runs the negative model with the wrappers of the positive one."""
        nodes = scene.host.module("comfy_extras.nodes_custom_sampler")
        inflated = scene.inflated(generation)
        (plain,) = nodes.CFGGuider.execute(inflated, scene.positive, scene.negative, 7.5).args
        expected = custom(inflated, plain, latent)
        twin = scene.inflated(generation, model=scene.second_checkpoint)
        (dual,) = nodes.DualModelGuider.execute(inflated, scene.positive, 7.5, twin, scene.negative).args
        assert_close(custom(inflated, dual, latent), expected)
        other = scene.inflated("v3" if generation == "v1" else "v1", model=scene.second_checkpoint)
        (mixed,) = nodes.DualModelGuider.execute(inflated, scene.positive, 7.5, other, scene.negative).args
        (still,) = nodes.DualModelGuider.execute(
            inflated, scene.positive, 7.5, scene.second_checkpoint, scene.negative
        ).args  # fmt: skip
        found = [custom(inflated, guider, latent) for guider in (mixed, still)]
        assert all(torch.isfinite(clip).all() for clip in found)
        assert_differs(found[0], expected)
        assert_differs(found[1], expected)

    def test_perp_neg_guider_without_negative_equals_ksampler_against_the_empty_prompt(
        self, scene, custom, latent, generation
    ):
        inflated = scene.inflated(generation)
        nodes = scene.host.module("comfy_extras.nodes_perpneg")
        (guider,) = nodes.PerpNegGuider.execute(
            inflated, scene.positive, scene.negative, scene.negative, 7.5, 1.0
        ).args  # fmt: skip
        cfg = scene.host.module("comfy_extras.nodes_custom_sampler")
        (plain,) = cfg.CFGGuider.execute(inflated, scene.positive, scene.negative, 7.5).args
        # With negative = empty prompt, the perpendicular part of the negative is nothing.
        assert_close(custom(inflated, guider, latent), custom(inflated, plain, latent), 1e-4)

    def test_sample_animation_equals_ksampler(self, scene, ksampler, latent, generation):
        from motiongraft.host.preview import AnimatedPreview
        from motiongraft.host.sampling import sample_animation

        inflated = scene.inflated(generation)
        found = sample_animation(
            inflated, scene.positive, scene.negative, latent, 5, 3, 7.5, "euler", "normal", 1.0,
            AnimatedPreview(inflated, None),
        )  # fmt: skip
        assert torch.equal(found["samples"], ksampler(inflated, latent))


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m_sde", "euler_ancestral", "lcm", "uni_pc", "heun", "dpmpp_sde"])
def test_every_kind_of_sampler_gives_a_finite_clip(scene, sampler):
    assert torch.isfinite(scene.sample(scene.inflated(), sampler=sampler, steps=3)).all()


def test_cfg_1_runs_no_uncond_and_equals_the_positive_prediction(scene):
    batches = []

    def record(executor, x, *args, **kwargs):
        batches.append(x.shape[0])
        return executor(x, *args, **kwargs)

    inflated = scene.inflated("v1")
    counted = inflated.clone()
    counted.add_wrapper_with_key("apply_model", "record", record)
    found = scene.sample(counted, cfg=1.0)
    assert set(batches) == {FRAMES}
    assert torch.equal(found, scene.sample(inflated, cfg=1.0, negative=scene.positive))


@pytest.mark.parametrize("frames", [16, 24])
def test_noise_of_a_frame_depends_on_seed_and_frame_alone(scene, frames):
    from motiongraft.host.sampling import frame_noise

    odd = scene.latent(frames, 3, 5)
    whole = frame_noise(odd, 7, None)
    assert torch.equal(frame_noise(odd[:4], 7, None), whole[:4])
    assert torch.equal(frame_noise(odd[:2], 7, [9, 3]), whole[[9, 3]])
    assert not torch.equal(frame_noise(odd[:4], 8, None), whole[:4])


def test_batch_index_and_other_notes_on_a_latent_are_kept(scene):
    from motiongraft.host.preview import AnimatedPreview
    from motiongraft.host.sampling import sample_animation

    inflated = scene.inflated()
    latent = {"samples": scene.latent(4), "batch_index": [8, 9, 10, 11], "note": "mine", "downscale_ratio_spacial": 8}
    found = sample_animation(
        inflated, scene.positive, scene.negative, latent, 5, 1, 1.0, "euler", "normal", 1.0,
        AnimatedPreview(inflated, None),
    )  # fmt: skip
    assert found["batch_index"] == latent["batch_index"]
    assert found["note"] == "mine"
    assert "downscale_ratio_spacial" not in found
    assert latent["samples"].abs().max() == 0


def test_img2img_from_a_batch_keeps_what_denoise_leaves(scene, ksampler):
    images = torch.randn(FRAMES, 4, 8, 8)
    zero = scene.inflated(beta_schedule="use existing", zero=True)
    found = ksampler(zero, {"samples": images}, denoise=0.3)
    assert torch.equal(found, ksampler(scene.model, {"samples": images}, denoise=0.3))
    moved = ksampler(scene.inflated(), {"samples": images}, denoise=0.3)
    assert_differs(moved, found)


def test_a_noise_mask_keeps_the_frames_it_covers(scene, ksampler):
    images = torch.randn(FRAMES, 4, 8, 8)
    mask = torch.zeros(FRAMES, 64, 64)
    mask[8:] = 1
    found = ksampler(scene.inflated(), {"samples": images, "noise_mask": mask})
    assert_close(found[:8], images[:8], 1e-4)
    assert_differs(found[8:], images[8:])


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """A LoRA for the base model."""
    from motiongraft.core.tensor_files import read_tensor_file
    from motiongraft.tests.tiny_sd_pack.checkpoints import write_domain_adapter

    path = write_domain_adapter(tmp_path_factory.mktemp("lora") / "style.safetensors")
    return dict(read_tensor_file(path).tensors)


class TestLoRA:
    """A LoRA for the base model, through the host's own loader."""

    def load(self, scene, model, lora, strength=1.0):
        return scene.host.module("comfy.sd").load_lora_for_models(model, None, lora, strength, 0)[0]

    def test_before_and_after_inflation_are_the_same(self, scene, lora):
        before = scene.inflated(model=self.load(scene, scene.model, lora))
        after = self.load(scene, scene.inflated(), lora)
        found = scene.sample(before)
        assert torch.equal(found, scene.sample(after))
        assert_differs(found, scene.sample(scene.inflated()))

    def test_a_hook_on_one_conditioning_acts_on_that_conditioning(self, scene, lora):
        hooks = scene.host.module("comfy.hooks")
        hook = hooks.create_hook_lora(lora, 1.0, 0.0)
        hooked = hooks.set_hooks_for_conditioning(scene.positive, hook)
        inflated = scene.inflated("v1")
        found = scene.sample(inflated, positive=hooked, cfg=1.0)
        expected = scene.sample(self.load(scene, inflated, lora), cfg=1.0)
        assert_close(found, expected)
        both = scene.sample(inflated, positive=hooked)
        assert_differs(both, scene.sample(inflated))
        assert_differs(both, scene.sample(self.load(scene, inflated, lora)))
        assert torch.equal(scene.sample(inflated), scene.sample(inflated))


class TestRegions:
    """Area and mask conditioning: several chunks of one clip in a call, some of other sizes."""

    def with_values(self, scene, conditioning, **values):
        return scene.host.module("node_helpers").conditioning_set_values(conditioning, values)

    @pytest.mark.parametrize("generation", ["v1", "v3"])
    def test_an_area_over_everything_is_no_area(self, scene, generation):
        inflated = scene.inflated(generation)
        area = self.with_values(scene, scene.positive, area=(8, 8, 0, 0), strength=1.0, set_area_to_bounds=False)
        assert_close(scene.sample(inflated, positive=area), scene.sample(inflated))

    @pytest.mark.parametrize("generation", ["v1", "v3"])
    def test_each_area_is_predicted_from_its_own_pixels(self, scene, generation):
        """Two areas in one call are four chunks of the clip; their frames and v1's norms must not mix."""
        inflated = scene.inflated(generation)
        sides = [
            self.with_values(scene, scene.positive, area=(8, 8, 0, x), strength=1.0, set_area_to_bounds=False)
            for x in (0, 8)
        ]
        noise = scene.host.module("comfy.sample").prepare_noise(scene.latent(FRAMES, 8, 16), 3)

        def run(noise, positive):
            return scene.host.module("comfy.sample").sample(
                inflated, noise, 1, 1.0, "euler", "normal", positive, scene.negative, torch.zeros_like(noise),
                disable_pbar=True, seed=3,
            )  # fmt: skip

        found = run(noise, sides[0] + sides[1])
        left, right = (run(noise[..., part].contiguous(), scene.positive) for part in (slice(8), slice(8, 16)))
        # ComfyUI gives an area's inner edge no weight in its last columns, and its own outer columns full weight.
        assert_close(found[..., 0], left[..., 0], 1e-4)
        assert_close(found[..., -1], right[..., -1], 1e-4)

    @pytest.mark.parametrize("generation", ["v1", "v3"])
    def test_two_masks_that_add_up_to_one_are_no_mask(self, scene, generation):
        inflated = scene.inflated(generation)
        mask = torch.zeros(1, 64, 64)
        mask[..., :32] = 1
        first = self.with_values(scene, scene.positive, mask=mask, mask_strength=1.0, set_area_to_bounds=False)
        second = self.with_values(scene, scene.positive, mask=1 - mask, mask_strength=1.0, set_area_to_bounds=False)
        assert_close(scene.sample(inflated, positive=first + second), scene.sample(inflated))

    def test_a_mask_for_each_frame_follows_the_frames(self, scene):
        inflated = scene.inflated(beta_schedule="use existing", zero=True)
        mask = torch.zeros(FRAMES, 64, 64)
        mask[:8] = 1
        first = self.with_values(scene, scene.positive, mask=mask, mask_strength=1.0, set_area_to_bounds=False)
        second = self.with_values(scene, scene.negative, mask=1 - mask, mask_strength=1.0, set_area_to_bounds=False)
        found = scene.sample(inflated, positive=first + second, cfg=1.0)
        assert_close(found[:8], scene.sample(inflated, cfg=1.0)[:8])
        assert_close(found[8:], scene.sample(inflated, cfg=1.0, positive=scene.negative)[8:])
