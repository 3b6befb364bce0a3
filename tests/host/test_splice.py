"""The splice: neutral is identical, surgery leaves no trace, and splices do not touch each other."""

import pytest
import torch

from motiongraft.core.errors import HostError, SettingsError
from motiongraft.tests.helpers.comparison import assert_close, assert_differs
from motiongraft.tests.helpers.host_models import predict_noise
from motiongraft.tests.helpers.tiny_scene import FRAMES, GENERATIONS

pytestmark = pytest.mark.host

USE_EXISTING = "use existing"


@pytest.mark.parametrize("generation", ["v2", "v3"])
def test_zero_initialised_module_is_bitwise_the_plain_model(scene, generation):
    inflated = scene.inflated(generation, USE_EXISTING, zero=True)
    assert torch.equal(scene.sample(inflated), scene.sample(scene.model))


def test_zero_initialised_module_with_motion_norm_over_frames_is_bitwise_the_plain_model(scene):
    inflated = scene.inflated("v3", USE_EXISTING, zero=True, motion_norm_over_frames=True)
    assert torch.equal(scene.sample(inflated), scene.sample(scene.model))


def test_zero_initialised_v1_module_is_the_plain_model_under_frame_wide_norms(scene, frame_wide_norms):
    """v1 changes the base's norms even where its modules add nothing."""
    found = scene.sample(scene.inflated("v1", USE_EXISTING, zero=True))
    plain = scene.sample(scene.model)
    with frame_wide_norms(scene.model.model.diffusion_model, FRAMES):
        expected = scene.sample(scene.model)
    assert torch.equal(found, expected)
    assert not torch.allclose(found, plain, atol=1e-2)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_module_changes_the_result(scene, generation):
    found = scene.sample(scene.inflated(generation, USE_EXISTING))
    assert torch.isfinite(found).all()
    assert not torch.allclose(found, scene.sample(scene.model), atol=1e-2)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_plain_model_next_to_an_inflated_one_is_bitwise_itself(scene, generation):
    state = {name: weight.clone() for name, weight in scene.model.model.state_dict().items()}
    before = scene.sample(scene.model)
    scene.sample(scene.inflated(generation))
    assert torch.equal(scene.sample(scene.model), before)
    after = scene.model.model.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], weight) for name, weight in state.items())


@pytest.mark.parametrize("generation", GENERATIONS)
def test_an_exception_in_mid_sampling_leaves_no_trace(scene, generation):
    class StopError(Exception):
        pass

    def fail(args):
        raise StopError

    before = scene.sample(scene.model)
    inflated = scene.inflated(generation)
    expected = scene.sample(inflated)
    failing = inflated.clone()
    failing.set_model_sampler_post_cfg_function(fail)
    with pytest.raises(StopError):
        scene.sample(failing)
    assert torch.equal(scene.sample(scene.model), before)
    assert torch.equal(scene.sample(inflated), expected)


def test_two_clones_of_one_checkpoint_with_different_modules_do_not_touch_each_other(scene):
    first, second = scene.inflated("v1"), scene.inflated("v3", seed=1)
    alone = scene.sample(first), scene.sample(second)
    again = scene.sample(first), scene.sample(second), scene.sample(first)
    assert torch.equal(again[0], alone[0])
    assert torch.equal(again[1], alone[1])
    assert torch.equal(again[2], alone[0])


def test_a_clone_of_an_inflated_model_is_the_same_model(scene):
    inflated = scene.inflated("v1")
    assert torch.equal(scene.sample(inflated.clone().clone()), scene.sample(inflated))


def test_two_inflations_in_series_run_in_the_order_in_which_they_were_applied(scene):
    """Each temporal transformer of the second module gets what the first one gave."""
    order = []
    first, second = scene.motion("v3"), scene.motion("v2", seed=1)
    for name, motion in (("first", first), ("second", second)):
        transformer = motion.patcher.model.down_blocks[0].motion_modules[0].temporal_transformer
        handle = transformer.register_forward_hook(lambda *_, name=name: order.append(name))
        scene.handles = [*getattr(scene, "handles", []), handle]
    from motiongraft.host.inflate import inflate_model

    both = inflate_model(inflate_model(scene.model, first, USE_EXISTING), second, USE_EXISTING)
    found = scene.sample(both, steps=1)
    for handle in scene.handles:
        handle.remove()
    assert order[:2] == ["first", "second"]
    assert order.count("first") == order.count("second") > 0
    swapped = inflate_model(inflate_model(scene.model, second, USE_EXISTING), first, USE_EXISTING)
    assert not torch.allclose(found, scene.sample(swapped, steps=1), atol=1e-4)


@pytest.mark.parametrize(("first", "second"), [("v1", "v3"), ("v1", "v1"), ("v3", "v1"), ("v3", "v3")])
def test_the_last_transformer_of_each_module_in_series_counts(scene, first, second):
    """v1's output norm takes what the last block gives after every splice."""
    from motiongraft.host.inflate import inflate_model

    def without_last(motion):
        weights = motion.patcher.model.up_blocks[3].motion_modules[2].temporal_transformer.proj_out
        torch.nn.init.zeros_(weights.weight)
        torch.nn.init.zeros_(weights.bias)
        return motion

    def series(change_first, change_second):
        pair = scene.motion(first), scene.motion(second, seed=1)
        changed = [change(motion) for change, motion in zip((change_first, change_second), pair, strict=True)]
        return scene.sample(inflate_model(inflate_model(scene.model, changed[0], "auto"), changed[1], "auto"), steps=1)

    whole = series(lambda motion: motion, lambda motion: motion)
    assert_differs(series(without_last, lambda motion: motion), whole)
    assert_differs(series(lambda motion: motion, without_last), whole)


@pytest.mark.parametrize(("first", "second"), [("v1", "v3"), ("v3", "v1"), ("v2", "v2")])
def test_a_neutral_module_in_series_changes_nothing(scene, first, second):
    alone = scene.inflated(first, USE_EXISTING)
    both = scene.inflated(second, USE_EXISTING, model=alone, zero=True)
    expected = alone if second != "v1" else scene.inflated("v3", USE_EXISTING, base_norms_over_frames=True)
    assert torch.equal(scene.sample(both), scene.sample(expected))


def test_one_module_twice_in_series_keeps_the_patches_of_each(scene, lora_file):
    """The host patches weights in place; a second splice of the same file must not share them."""
    from motiongraft.core.tensor_files import read_tensor_file
    from motiongraft.host.inflate import inflate_model
    from motiongraft.host.loras import apply_motion_lora
    from motiongraft.lora.motion_lora import read_motion_lora

    motion = scene.motion("v3")
    changed = apply_motion_lora(motion, read_motion_lora(read_tensor_file(lora_file)), 1.0)
    both = inflate_model(inflate_model(scene.model, motion, USE_EXISTING), changed, USE_EXISTING)
    separate = (
        scene.motion("v3"),
        apply_motion_lora(scene.motion("v3"), read_motion_lora(read_tensor_file(lora_file)), 1.0),
    )
    expected = inflate_model(inflate_model(scene.model, separate[0], USE_EXISTING), separate[1], USE_EXISTING)
    assert torch.equal(scene.sample(both), scene.sample(expected))


def test_all_sites_of_each_generation_run_once_a_call(scene):
    for generation, sites in (("v1", 20), ("v2", 21), ("v3", 20)):
        motion = scene.motion(generation)
        calls = []
        handles = [
            motion.patcher.model.at(address).register_forward_hook(
                lambda *_, address=address, calls=calls: calls.append(address)
            )
            for address, _ in motion.spec.sites()
        ]
        from motiongraft.host.inflate import inflate_model

        scene.sample(inflate_model(scene.model, motion, "auto"), steps=1, cfg=1.0)
        for handle in handles:
            handle.remove()
        assert len(calls) == len(set(calls)) == sites
        assert calls == [address for address, _ in motion.spec.sites()]


def test_another_packs_handler_still_gets_its_layer(scene):
    """Registered before or after ours, its handler runs as part of the layer."""
    spatial = scene.host.module("comfy.ldm.modules.attention").SpatialTransformer
    seen = []

    def theirs(layer, x, emb, context, options, *rest):
        seen.append(options["block"])
        options["transformer_index"] += 1
        return layer(x, context, options)

    expected = scene.sample(scene.inflated(), steps=1, cfg=1.0)
    before = scene.model.clone()
    before.set_model_forward_timestep_embed_patch((spatial, theirs))
    after = scene.inflated().clone()
    after.set_model_forward_timestep_embed_patch((spatial, theirs))
    for model in (scene.inflated(model=before), after):
        seen.clear()
        assert torch.equal(scene.sample(model, steps=1, cfg=1.0), expected)
        assert len(seen) == 16


def test_attention_patches_see_the_same_transformer_indices(scene):
    """IP-Adapter and others address spatial transformers by this number."""

    def indices(model):
        seen = []

        def patch(q, k, v, options):
            seen.append((options["block"], options["transformer_index"]))
            return q, k, v

        patched = model.clone()
        patched.set_model_attn2_patch(patch)
        scene.sample(patched, steps=1, cfg=1.0)
        return seen

    assert indices(scene.inflated("v2")) == indices(scene.model)


def test_an_attention_patch_on_context_acts_as_on_the_plain_model(scene):
    """What IP-Adapter does: other keys and values in cross-attention; a neutral module must not change them."""

    def louder(q, k, v, options):
        return q, k * 1.5, v * 0.5

    plain, inflated = scene.model.clone(), scene.inflated("v3", USE_EXISTING, zero=True).clone()
    plain.set_model_attn2_patch(louder)
    inflated.set_model_attn2_patch(louder)
    found = scene.sample(inflated)
    assert torch.equal(found, scene.sample(plain))
    assert not torch.allclose(found, scene.sample(scene.model), atol=1e-3)


def test_frame_indices_are_there_for_packs_that_read_them(scene):
    from motiongraft.host.windows import set_context_window
    from motiongraft.sampling.context_windows import ContextWindowSettings

    seen = []

    def read(executor, x, t, c_concat, c_crossattn, control, options, **kwargs):
        seen.append(options["ad_params"])
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    windowed = set_context_window(scene.inflated(), ContextWindowSettings(8, 0, schedule="static", freenoise=False))
    windowed.add_wrapper_with_key("apply_model", "reader", read)
    scene.sample(windowed, steps=1, cfg=1.0)
    assert [entry["sub_idxs"] for entry in seen] == [list(range(8)), list(range(8, 16))]
    assert {entry["full_length"] for entry in seen} == {16}
    assert {entry["context_length"] for entry in seen} == {8}


def test_cond_and_uncond_apart_equal_both_in_one_batch(scene):
    """Free memory decides whether ComfyUI batches them."""
    inflated = scene.inflated("v1")
    together = scene.sample(inflated)
    apart = inflated.clone()
    apart.get_free_memory = lambda device: 0
    assert_close(scene.sample(apart), together)


def test_a_call_without_the_samplers_wrapper_counts_frames_from_the_batch(scene):
    inflated = scene.inflated("v1")
    x = torch.randn(FRAMES, 4, 8, 8)
    context = torch.randn(1, 77, 32).expand(FRAMES, -1, -1)
    (expected,) = predict_noise(scene.host, inflated, x, 407, context)
    bare = inflated.clone()
    bare.remove_wrappers_with_key("calc_cond_batch", "motiongraft.0")
    (found,) = predict_noise(scene.host, bare, x, 407, context)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("node", ["EasyCacheNode", "LazyCacheNode"])
def test_a_pack_that_skips_the_unet_may_do_so(scene, generation, node):
    """Caches stand around the UNet and see what it predicts, v1's norms included."""
    cache = getattr(scene.host.module("comfy_extras.nodes_easycache"), node)
    eager = cache.execute(scene.inflated(generation), 5.0, 0.1, 0.95, False).args[0]
    never = cache.execute(scene.inflated(generation), 0.0, 0.1, 0.95, False).args[0]
    assert torch.isfinite(scene.sample(eager, steps=8)).all()
    assert torch.equal(scene.sample(never, steps=3), scene.sample(scene.inflated(generation), steps=3))


def test_a_copy_on_another_device_finds_its_own_modules(scene):
    """ComfyUI tells models apart by an id; the same file twice in series must be two models."""
    motion = scene.motion("v3")
    from motiongraft.host.inflate import inflate_model

    both = inflate_model(inflate_model(scene.model, motion, USE_EXISTING), motion, USE_EXISTING)
    copied = both.deepclone_multigpu(new_load_device=torch.device("cpu"))
    modules = [copied.get_additional_models_with_key(f"motiongraft.{index}")[0].model for index in (0, 1)]
    assert modules[0] is not modules[1]
    assert motion.patcher.model not in modules
    assert torch.equal(scene.sample(copied), scene.sample(both))


def test_weights_are_held_in_the_type_that_the_host_chose(scene, monkeypatch):
    from motiongraft.host import motion_modules

    path = scene.folder / scene.motion("v3").name
    for chosen, held in ((torch.bfloat16, torch.bfloat16), (torch.float8_e4m3fn, torch.float16)):
        monkeypatch.setattr(motion_modules.comfy.model_management, "unet_dtype", lambda chosen=chosen, **_: chosen)
        module = motion_modules.load_motion_module(path).patcher.model
        assert {parameter.dtype for parameter in module.parameters()} == {held}


def test_a_compiled_module_in_front_of_the_unet_is_looked_through(scene):
    from motiongraft.host.inflate import inflate_model

    compiled = scene.model.clone()
    compiled.add_object_patch("diffusion_model", torch.compile(scene.model.model.diffusion_model, backend="eager"))
    assert inflate_model(compiled, scene.motion("v1"), "auto").get_additional_models_with_key("motiongraft.0")


def test_a_unet_called_around_the_model_says_so(scene):
    inflated = scene.inflated()
    unet = inflated.model.diffusion_model
    options = {**inflated.model_options["transformer_options"]}
    x, t, context = torch.zeros(4, 4, 8, 8), torch.zeros(4), torch.zeros(4, 77, 32)
    with pytest.raises(HostError, match="around ComfyUI's `apply_model`"):
        unet(x, t, context, transformer_options=options)


def test_frames_beyond_the_positions_name_both_numbers_and_the_node(scene):
    with pytest.raises(SettingsError, match=r"25 frames.*24.*ContextWindow"):
        scene.sample(scene.inflated("v1"), frames=25)


def test_one_frame_names_batch_size_before_anything_is_loaded(scene):
    with pytest.raises(SettingsError, match="batch_size"):
        scene.sample(scene.inflated(), frames=1)


def test_sdxl_takes_a_module_with_motion_norm_over_frames(scene):
    from motiongraft.host.inflate import inflate_model

    positive = scene.host.encode(scene.sdxl.clip, "a cat")
    inflated = inflate_model(scene.sdxl.model, scene.motion("sdxl-beta"), "auto")
    found = scene.sample(inflated, positive=positive, negative=positive)
    plain = scene.sample(scene.sdxl.model, positive=positive, negative=positive)
    assert torch.isfinite(found).all()
    assert not torch.allclose(found, plain, atol=1e-2)
    zero = inflate_model(scene.sdxl.model, scene.motion("sdxl-beta", zero=True), USE_EXISTING)
    assert torch.equal(scene.sample(zero, positive=positive, negative=positive), plain)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_compiled_model_equals_the_plain_call_and_follows_changes(scene, generation):
    """TorchCompileModel drops every guard on transformer_options; another clip length must not meet stale state."""
    compile_model = scene.host.module("comfy_api.torch_helpers").set_torch_compile_wrapper
    options = {"guard_filter_fn": lambda entries: ["transformer_options" not in entry.name for entry in entries]}
    inflated = scene.inflated(generation)
    compiled = inflated.clone(disable_dynamic=True)
    compile_model(model=compiled, backend="eager", options=options)
    torch._dynamo.reset()
    for frames in (16, 8, 16):
        expected = scene.sample(inflated, frames=frames, steps=1)
        assert_close(scene.sample(compiled, frames=frames, steps=1), expected)


def test_zero_initialised_hotshotxl_is_plain_sdxl_under_frame_wide_norms(scene, frame_wide_norms):
    """Source: hotshotco/Hotshot-XL resnet.py: its ResBlocks norm all frames of a clip together."""
    from motiongraft.host.inflate import inflate_model

    motion = scene.motion("sdxl-beta", zero=True, base_norms_over_frames=True, motion_norm_over_frames=False)
    positive = scene.host.encode(scene.sdxl.clip, "a cat")
    inflated = inflate_model(scene.sdxl.model, motion, USE_EXISTING)
    found = scene.sample(inflated, positive=positive, negative=positive)
    plain = scene.sample(scene.sdxl.model, positive=positive, negative=positive)
    with frame_wide_norms(scene.sdxl.model.model.diffusion_model, FRAMES):
        expected = scene.sample(scene.sdxl.model, positive=positive, negative=positive)
    assert torch.equal(found, expected)
    assert not torch.allclose(found, plain, atol=1e-2)
