"""LoRAs of every program through the host: the same weights, by layer, by step, and beside ComfyUI's own hooks."""

from pathlib import Path

import pytest
import torch

from motiongraft.core.errors import IncompatibleModelError, SettingsError
from motiongraft.core.tensor_files import TensorFile, read_tensor_file
from motiongraft.lora.layouts import KOHYA, LAYOUTS, OLD_DIFFUSERS, PEFT, layout_of
from motiongraft.lora.motion_lora import fit, layer_of, read_motion_lora
from motiongraft.tests.helpers.comparison import assert_close, assert_differs
from motiongraft.tests.helpers.host_models import predict_noise
from motiongraft.tests.helpers.merged_weights import merged
from motiongraft.tests.helpers.published_files import narrowed, random_tensors, read_published
from motiongraft.tests.tiny_sd_pack.checkpoints import write_domain_adapter

pytestmark = pytest.mark.host

MERGE_TOLERANCE = 1e-6  # against float64, relative to the largest weight
OUTPUT_TOLERANCE = 5e-5
MOTION_LORAS = [
    "v2_lora_ZoomIn",
    "motion_director_lora",
    "animatediff-motion-lora-zoom-in",
    "motion_lora_peft",
    "mm_sd15_v2_lora_ZoomIn",
    "motion_lora_kohya",
]


@pytest.fixture
def loras(host):
    from motiongraft.host import loras

    return loras


def toy_lora(name):
    tensors = random_tensors(narrowed(read_published(name)))
    return read_motion_lora(TensorFile(Path(f"{name}.safetensors"), tensors))


def inflated(scene, motion):
    from motiongraft.host.inflate import inflate_model

    return inflate_model(scene.model, motion, "auto")


def loaded_weights(scene, motion):
    scene.host.module("comfy.model_management").load_models_gpu([motion.patcher])
    return {name: weight.clone() for name, weight in motion.patcher.model.state_dict().items()}


def shapes(motion):
    return {name: tuple(weight.shape) for name, weight in motion.patcher.model.state_dict().items()}


@pytest.mark.parametrize("name", MOTION_LORAS)
def test_patched_weights_equal_the_float64_merge(scene, loras, name):
    motion, lora = scene.motion("v2"), toy_lora(name)
    found = loaded_weights(scene, loras.apply_motion_lora(motion, lora, -0.7))
    changes, _ = fit(lora, shapes(motion), "v2")
    changed = {change.target for change in changes}
    for target, weight in loaded_weights(scene, motion).items():
        expected = merged(weight, [(change, -0.7) for change in changes if change.target == target])
        assert (found[target].double() - expected).abs().max() <= MERGE_TOLERANCE * expected.abs().max(), target
        assert torch.equal(found[target], weight) == (target not in changed)


class TestLayers:
    def test_a_factor_of_zero_is_bitwise_a_lora_without_these_layers(self, scene, loras):
        motion, lora = scene.motion("v3"), toy_lora("v2_lora_ZoomIn")
        kept = tuple(each for each in lora.changes if not layer_of(each).startswith("up_blocks.1."))
        expected = loras.apply_motion_lora(motion, type(lora)("part", kept), 0.8)
        found = loras.apply_motion_lora(motion, lora, 0.8, "up_blocks.1: 0")
        assert len(kept) < len(lora.changes)
        ours, theirs = loaded_weights(scene, found), loaded_weights(scene, expected)
        assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())

    def test_factors_of_block_and_layer_multiply(self, scene, loras):
        motion, lora = scene.motion("v3"), toy_lora("v2_lora_ZoomIn")
        found = loaded_weights(scene, loras.apply_motion_lora(motion, lora, 1.0, "down_blocks.0: 0.5\nto_v: -2"))
        changes, _ = fit(lora, shapes(motion), "v3")

        def strength(change):
            layer = layer_of(change)
            return (0.5 if layer.startswith("down_blocks.0.") else 1) * (-2 if layer.endswith("to_v") else 1)

        for target, weight in loaded_weights(scene, motion).items():
            expected = merged(weight, [(each, strength(each)) for each in changes if each.target == target])
            assert (found[target].double() - expected).abs().max() <= MERGE_TOLERANCE * expected.abs().max(), target

    @pytest.mark.parametrize("layers", ["down_blocks.9: 1", "to: 1", "up_blocks.1", "up_blocks.1: much", ": 1"])
    def test_a_line_that_says_nothing_is_refused(self, scene, loras, layers):
        with pytest.raises(SettingsError, match=r"^layers: "):
            loras.apply_motion_lora(scene.motion("v3"), toy_lora("v2_lora_ZoomIn"), 1.0, layers)


class TestSchedule:
    def at(self, scene, motion, timestep):
        """What the UNet predicts at a timestep."""
        generator = torch.Generator().manual_seed(0)
        x, context = torch.randn(16, 4, 8, 8, generator=generator), torch.randn(1, 77, 32, generator=generator)
        return predict_noise(scene.host, inflated(scene, motion), x, timestep, context.expand(16, -1, -1))[0]

    def test_a_constant_one_is_bitwise_a_strength(self, scene, loras):
        motion, lora = scene.motion("v3"), toy_lora("v2_lora_ZoomIn")
        expected = self.at(scene, loras.apply_motion_lora(motion, lora, 0.5), 407)
        assert torch.equal(self.at(scene, loras.apply_motion_lora(motion, lora, 1.0, "", "0: 0.5"), 407), expected)

    @pytest.mark.parametrize(("timestep", "factor"), [(998, 1.0), (749, 0.75), (499, 0.5), (1, 0.0)])
    @pytest.mark.parametrize("name", ["v2_lora_ZoomIn", "motion_director_lora", "motion_lora_kohya"])
    def test_its_strength_is_that_of_the_share_of_sampling(self, scene, loras, name, timestep, factor):
        """ComfyUI's share of the sampling is the timestep counted from the end, of 999."""
        motion, lora = scene.motion("v3"), toy_lora(name)
        scheduled = loras.apply_motion_lora(motion, lora, 0.8, "to_v: 0.5", "0: 1, 1: 0")
        expected = self.at(scene, loras.apply_motion_lora(motion, lora, 0.8 * (timestep / 999), "to_v: 0.5"), timestep)
        assert_close(self.at(scene, scheduled, timestep), expected, 1e-4)
        assert abs(timestep / 999 - factor) < 2e-3

    def test_where_it_is_zero_the_output_is_bitwise_that_of_the_module(self, scene, loras):
        motion = scene.motion("v3")
        scheduled = loras.apply_motion_lora(motion, toy_lora("v2_lora_ZoomIn"), 1.0, "", "0.5: 0, 0.6: 1")
        assert torch.equal(self.at(scene, scheduled, 800), self.at(scene, motion, 800))
        assert_differs(self.at(scene, scheduled, 100), self.at(scene, motion, 100))

    def test_every_sampler_takes_it_and_the_module_given_is_left_alone(self, scene, loras):
        motion = scene.motion("v3")
        before = scene.sample(inflated(scene, motion))
        model = inflated(scene, loras.apply_motion_lora(motion, toy_lora("v2_lora_ZoomIn"), 1.0, "", "0: 1, 0.9: 0"))
        found = scene.sample(model)
        assert_differs(found, before)
        assert torch.equal(scene.sample(model.clone()), found)
        assert torch.equal(scene.sample(inflated(scene, motion)), before)

    def test_a_copy_for_another_device_has_it_too(self, scene, loras):
        motion = loras.apply_motion_lora(scene.motion("v3"), toy_lora("v2_lora_ZoomIn"), 1.0, "", "0: 1, 1: 0")
        model = inflated(scene, motion)
        copy = model.deepclone_multigpu(new_load_device=torch.device("cpu"))
        assert_close(scene.sample(copy), scene.sample(model), 1e-6)

    def test_a_constant_one_is_told_with_its_strength(self, scene, loras):
        lora = toy_lora("v2_lora_ZoomIn")
        half = loras.apply_motion_lora(scene.motion("v3"), lora, 1.0, "", "0: 0.5")
        assert half.metadata["applied"] == [{"lora": lora.name, "strength": 0.5}]
        assert "applied" not in loras.apply_motion_lora(scene.motion("v3"), lora, 1.0, "", "0: 0").metadata

    def test_it_composes_with_a_plain_one(self, scene, loras):
        motion, lora = scene.motion("v3"), toy_lora("v2_lora_ZoomIn")
        both = loras.apply_motion_lora(loras.apply_motion_lora(motion, lora, 0.5), lora, 1.0, "", "0: 0.3, 1: 0.2")
        expected = loras.apply_motion_lora(motion, lora, 0.5 + 0.2 + 0.1 * 407 / 999)
        assert_close(self.at(scene, both, 407), self.at(scene, expected, 407), 1e-4)

    def test_weights_cannot_hold_it(self, scene, loras, tmp_path):
        from motiongraft.host.saving import save_motion_module
        from motiongraft.host.training_checks import check_parts

        scheduled = loras.apply_motion_lora(scene.motion("v3"), toy_lora("v2_lora_ZoomIn"), 1.0, "", "0: 1, 1: 0")
        with pytest.raises(IncompatibleModelError, match="has a schedule"):
            save_motion_module(scheduled, "mine", "animatediff", "fp16")
        with pytest.raises(IncompatibleModelError, match="has a schedule"):
            check_parts(scene.model, scheduled)

    @pytest.mark.parametrize("schedule", ["0 1", "0: 1, 0: 2", "1.5: 1", "-0.1: 1", "0: inf", "0: nan", "a: 1"])
    def test_a_text_that_is_none_is_refused(self, scene, loras, schedule):
        with pytest.raises(SettingsError, match=r"^schedule: "):
            loras.apply_motion_lora(scene.motion("v3"), toy_lora("v2_lora_ZoomIn"), 1.0, "", schedule)


class TestDomainAdapter:
    @pytest.fixture(scope="class")
    @classmethod
    def published(cls, tmp_path_factory):
        return read_tensor_file(write_domain_adapter(tmp_path_factory.mktemp("adapter") / "adapter.safetensors"))

    def renamed(self, published, layout):
        own = layout_of(published.tensors, "adapter")
        tensors = {layout.write(own.read(name)): tensor for name, tensor in published.tensors.items()}
        return TensorFile(Path("renamed.safetensors"), tensors)

    @pytest.mark.parametrize("layout", [OLD_DIFFUSERS, PEFT, KOHYA], ids=lambda layout: layout.name)
    @pytest.mark.parametrize("inflate_first", [False, True])
    def test_every_layout_gives_bitwise_the_published_ones_clip(self, scene, loras, published, layout, inflate_first):
        def clip(file):
            if inflate_first:
                return scene.sample(loras.apply_domain_adapter(scene.inflated(), file, 0.7))
            return scene.sample(scene.inflated(model=loras.apply_domain_adapter(scene.model, file, 0.7)))

        expected = clip(published)
        assert torch.equal(clip(self.renamed(published, layout)), expected)
        assert_differs(expected, scene.sample(scene.inflated()))

    def test_no_layout_leaves_a_tensor_unread(self, scene, loras, published, caplog):
        for layout in LAYOUTS:
            loras.apply_domain_adapter(scene.model, self.renamed(published, layout), 1.0)
        assert "have no place" not in caplog.text

    def test_it_adds_up_with_a_lora_hook_on_the_conditioning(self, scene, loras, published):
        """What a hook adds at strength 1, an adapter of strength 0.5 adds to, on the same weights."""
        hooks = scene.host.module("comfy.hooks")
        kohya = self.renamed(published, KOHYA).tensors
        hooked = hooks.set_hooks_for_conditioning(scene.positive, hooks.create_hook_lora(kohya, 1.0, 0.0))
        adapted = scene.inflated(model=loras.apply_domain_adapter(scene.model, published, 0.5))
        found = scene.sample(adapted, positive=hooked, cfg=1.0)
        expected = scene.inflated(model=loras.apply_domain_adapter(scene.model, published, 1.5))
        assert_close(found, scene.sample(expected, cfg=1.0), 1e-4)
        assert_differs(found, scene.sample(adapted, cfg=1.0))
