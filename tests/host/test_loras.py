"""MotionLoRA and domain adapter through the host's weight patches."""

import pytest
import torch

from motiongraft.core.errors import CheckpointError, IncompatibleModelError, SettingsError
from motiongraft.core.tensor_files import TensorFile, read_tensor_file
from motiongraft.lora.motion_lora import fit, read_motion_lora
from motiongraft.tests.helpers.comparison import assert_close, assert_differs
from motiongraft.tests.helpers.merged_weights import merged

pytestmark = pytest.mark.host

MERGE_TOLERANCE = 1e-6  # against float64, relative to the largest weight
OUTPUT_TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def zoom(lora_file):
    return read_motion_lora(read_tensor_file(lora_file))


@pytest.fixture
def apply(host):
    from motiongraft.host.loras import apply_motion_lora

    return apply_motion_lora


def shapes(motion):
    return {name: tuple(weight.shape) for name, weight in motion.patcher.model.state_dict().items()}


def merged_by_hand(scene, motion, changes_and_strengths, name):
    """A module file whose weights hold the float64 merge, loaded without any patch."""
    from motiongraft.core.tensor_files import write_tensor_file
    from motiongraft.host.motion_modules import load_motion_module
    from motiongraft.motion_modules.load import saved_form

    tensors = {key: weight.clone() for key, weight in motion.patcher.model.state_dict().items()}
    for key, weight in tensors.items():
        own = [(change, strength) for change, strength in changes_and_strengths if change.target == key]
        tensors[key] = merged(weight, own).float() if own else weight
    module = type(motion.patcher.model)(motion.spec)
    module.load_state_dict(tensors)
    path = scene.folder / f"{name}.safetensors"
    write_tensor_file(path, *saved_form(module))
    return load_motion_module(path)


def loaded_weights(scene, motion):
    """The module's weights as they are while the host samples with them."""
    scene.host.module("comfy.model_management").load_models_gpu([motion.patcher])
    return {name: weight.clone() for name, weight in motion.patcher.model.state_dict().items()}


@pytest.mark.parametrize("strengths", [(1.0,), (-0.7,), (1.0, 0.5), (2.0, -2.0, 0.25)])
def test_patched_weights_equal_the_float64_merge(scene, zoom, apply, strengths):
    motion = scene.motion("v2")
    changes, _ = fit(zoom, shapes(motion), "v2")
    patched = motion
    for strength in strengths:
        patched = apply(patched, zoom, strength)
    found = loaded_weights(scene, patched)
    originals = loaded_weights(scene, motion)
    for name, weight in originals.items():
        own = [(change, strength) for strength in strengths for change in changes if change.target == name]
        expected = merged(weight, own)
        assert (found[name].double() - expected).abs().max() <= MERGE_TOLERANCE * expected.abs().max(), name


@pytest.mark.parametrize("generation", ["v1", "v2", "v3"])
def test_output_equals_that_of_the_merged_module(scene, zoom, apply, generation):
    from motiongraft.host.inflate import inflate_model

    motion = scene.motion(generation)
    changes, _ = fit(zoom, shapes(motion), generation)
    by_hand = merged_by_hand(scene, motion, [(change, 0.8) for change in changes], f"merged-{generation}")
    expected = scene.sample(inflate_model(scene.model, by_hand, "auto"))
    found = scene.sample(inflate_model(scene.model, apply(motion, zoom, 0.8), "auto"))
    assert_close(found, expected, OUTPUT_TOLERANCE)
    assert_differs(found, scene.sample(scene.inflated(generation)))


def test_output_under_low_vram_casts_equals_that_of_the_merged_module(scene, zoom, apply):
    """Weights that stay offloaded get their patches at each use."""
    from motiongraft.host.inflate import inflate_model

    patched = apply(scene.motion("v3"), zoom, 0.8)
    inflated = inflate_model(scene.model, patched, "auto")
    expected = scene.sample(inflated)
    modules = inflated.get_additional_models_with_key("motiongraft.0")[0]
    scene.host.module("comfy.model_management").unload_all_models()
    modules.load(torch.device("cpu"), lowvram_model_memory=64)
    assert modules.lowvram_patch_counter() > 0
    from motiongraft.tests.helpers.host_models import predict_noise

    x, context = torch.randn(16, 4, 8, 8), torch.randn(1, 77, 32).expand(16, -1, -1)
    patched_at_use = []
    layer = modules.model.down_blocks[0].motion_modules[0].temporal_transformer.transformer_blocks[0]
    handle = layer.attention_blocks[0].to_qkv.register_forward_hook(
        lambda layer, *_: patched_at_use.append(len(layer.weight_function))
    )
    (low,) = predict_noise(scene.host, inflated, x, 407, context, load_modules=False)
    handle.remove()
    assert set(patched_at_use) == {1}
    modules.detach()
    scene.host.module("comfy.model_management").unload_all_models()
    (full,) = predict_noise(scene.host, inflate_model(scene.model, patched, "auto"), x, 407, context)
    assert_close(low, full, OUTPUT_TOLERANCE)
    assert torch.equal(scene.sample(inflated), expected)


def test_strength_zero_is_bitwise_no_lora(scene, zoom, apply):
    from motiongraft.host.inflate import inflate_model

    found = inflate_model(scene.model, apply(scene.motion("v3"), zoom, 0.0), "auto")
    assert torch.equal(scene.sample(found), scene.sample(scene.inflated("v3")))


def test_opposite_strengths_cancel(scene, zoom, apply):
    from motiongraft.host.inflate import inflate_model

    both = apply(apply(scene.motion("v3"), zoom, 1.0), zoom, -1.0)
    assert_close(scene.sample(inflate_model(scene.model, both, "auto")), scene.sample(scene.inflated("v3")), 1e-4)


def test_the_module_given_is_left_alone_and_restored(scene, zoom, apply):
    motion = scene.motion("v3")
    before = loaded_weights(scene, motion)
    loaded_weights(scene, apply(motion, zoom, 1.0))
    after = loaded_weights(scene, motion)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_changes_stay_low_rank(scene, zoom, apply):
    """The 77 MB file of rank 64 must not become 659 MB of dense differences."""
    patched = apply(scene.motion("v2"), zoom, 1.0)
    factors = {}
    for entries in patched.patcher.patches.values():
        for _, adapter, *_ in entries:
            factors |= {factor.data_ptr(): factor.numel() for factor in adapter.weights if torch.is_tensor(factor)}
    assert sum(factors.values()) == sum(change.up.numel() + change.down.numel() for change in zoom.changes)


def test_a_lora_with_a_middle_block_says_what_it_leaves_out(scene, zoom, apply, caplog):
    with caplog.at_level("INFO"):
        apply(scene.motion("v3"), zoom, 1.0)
    assert "8 changes of the middle block left out" in caplog.text


class TestDomainAdapter:
    @pytest.fixture(scope="class")
    @classmethod
    def adapter(cls, tmp_path_factory):
        from motiongraft.tests.tiny_sd_pack.checkpoints import write_domain_adapter

        return read_tensor_file(
            write_domain_adapter(tmp_path_factory.mktemp("adapter") / "v3_sd15_adapter.safetensors")
        )

    @pytest.fixture
    def adapt(self, host):
        from motiongraft.host.loras import apply_domain_adapter

        return apply_domain_adapter

    def test_strength_zero_is_bitwise_the_plain_model(self, scene, adapter, adapt):
        assert torch.equal(scene.sample(adapt(scene.model, adapter, 0.0)), scene.sample(scene.model))

    def test_every_attention_weight_equals_the_float64_merge(self, scene, adapter, adapt):
        adapted = adapt(scene.model, adapter, 0.6)
        assert len(adapted.patches) == len(adapter.tensors) // 2 == 128
        names = {ours: theirs for theirs, ours in self.weight_names(scene).items()}
        scene.host.module("comfy.model_management").load_models_gpu([adapted])
        found = {key: adapted.model.state_dict()[key].double() for key in adapted.patches}
        scene.host.module("comfy.model_management").load_models_gpu([scene.model])
        for key, weight in found.items():
            stem = names[key.removeprefix("diffusion_model.")].removesuffix(".weight")
            stem = stem.removesuffix(".0").replace(".to_", ".processor.to_")
            up, down = (adapter.tensors[f"{stem}_lora.{factor}.weight"].double() for factor in ("up", "down"))
            expected = scene.model.model.state_dict()[key].double() + 0.6 * up @ down
            assert (weight - expected).abs().max() < MERGE_TOLERANCE * expected.abs().max(), key

    def weight_names(self, scene):
        return scene.host.module("comfy.utils").unet_to_diffusers(scene.model.model.model_config.unet_config)

    def test_before_and_after_inflation_are_the_same(self, scene, adapter, adapt):
        before = scene.inflated(model=adapt(scene.model, adapter, 1.0))
        found = scene.sample(before)
        assert torch.equal(found, scene.sample(adapt(scene.inflated(), adapter, 1.0)))
        assert_differs(found, scene.sample(scene.inflated()))

    def test_an_adapter_for_another_base_is_refused(self, scene, adapter, adapt):
        with pytest.raises(IncompatibleModelError, match=r"v3_sd15_adapter\.safetensors does not fit.*SDXL"):
            adapt(scene.sdxl.model, adapter, 1.0)

    def test_an_adapter_of_another_width_is_refused(self, scene, adapter, adapt):
        wide = {name: torch.cat([tensor] * 2, dim=1) if ".down." in name else tensor
                for name, tensor in adapter.tensors.items()}  # fmt: skip
        with pytest.raises(IncompatibleModelError, match="another width"):
            adapt(scene.model, TensorFile(adapter.path, wide), 1.0)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda tensor: tensor * float("nan"), "NaN or infinity"),
            (lambda tensor: torch.zeros(()), "does not fit"),
            (lambda tensor: tensor[:2] if tensor.shape[0] == 4 else tensor, "does not fit"),
        ],
        ids=["NaN", "0-d", "ranks"],
    )
    def test_a_damaged_adapter_is_refused(self, scene, adapter, adapt, change, words):
        damaged = {name: change(tensor) for name, tensor in adapter.tensors.items()}
        with pytest.raises((CheckpointError, IncompatibleModelError), match=words):
            adapt(scene.model, TensorFile(adapter.path, damaged), 1.0)

    def test_changes_without_a_place_are_counted(self, scene, adapter, adapt, caplog):
        extra = {"lora_unet_elsewhere.lora_up.weight": torch.zeros(4, 2),
                 "lora_unet_elsewhere.lora_down.weight": torch.zeros(2, 4)}  # fmt: skip
        adapt(scene.model, TensorFile(adapter.path, {**adapter.tensors, **extra}), 1.0)
        assert "2 of 258 tensors have no place" in caplog.text


class TestSources:
    """A file or a socket, exactly one of the two."""

    @pytest.fixture
    def sources(self, host):
        from motiongraft.host import sources

        return sources

    def test_neither_and_both_are_refused(self, sources, zoom):
        for given in (sources.motion_lora_from, sources.domain_adapter_from):
            with pytest.raises(SettingsError, match="nothing to apply"):
                given("none", None)
            with pytest.raises(SettingsError, match="two LoRAs given"):
                given("zoom.safetensors", zoom)

    def test_a_trained_lora_comes_through_the_socket(self, sources, zoom):
        assert sources.motion_lora_from("none", zoom) is zoom
        tensors = {"lora_unet_x.lora_down.weight": torch.zeros(1)}
        assert sources.domain_adapter_from("none", tensors).tensors is tensors

    def test_a_trained_lora_that_does_not_fit_is_named_by_its_socket(self, sources, scene):
        from motiongraft.host.loras import apply_domain_adapter

        file = sources.domain_adapter_from("none", {"lora_unet_x.lora_down.weight": torch.zeros(1)})
        with pytest.raises(IncompatibleModelError, match="connected to `lora`"):
            apply_domain_adapter(scene.model, file, 1.0)

    def test_a_motion_module_in_the_lora_list_is_named(self, sources, scene, tmp_path, monkeypatch):
        path = scene.motion("v3").name
        monkeypatch.setattr(sources, "find_file", lambda folder, name: scene.folder / path)
        with pytest.raises(CheckpointError, match="found a motion module"):
            sources.motion_lora_from(path, None)
