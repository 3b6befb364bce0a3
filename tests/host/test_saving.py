"""What the save nodes write: files that load as what was in memory, in the folders that the loaders list."""

from pathlib import Path

import pytest
import torch

from motiongraft.core.errors import IncompatibleModelError, RunError, SettingsError
from motiongraft.core.tensor_files import TensorFile, read_tensor_file
from motiongraft.lora.domain_adapter import DomainAdapter, read_domain_adapter
from motiongraft.lora.low_rank import LowRank
from motiongraft.lora.motion_lora import MotionLoRA, read_motion_lora
from motiongraft.tests.helpers.comparison import assert_close, assert_differs
from motiongraft.tests.helpers.empty_model_folders import empty_model_folders
from motiongraft.tests.helpers.host_models import predict_noise
from motiongraft.tests.tiny_sd_pack.checkpoints import write_domain_adapter

pytestmark = pytest.mark.host

HALF_TOLERANCE = 1e-3  # of the root mean square: every weight is rounded to 11 bits, by 4.9e-4 of its size at most
BAKED_TOLERANCE = 1e-5  # float32, another order of operations


@pytest.fixture
def folders(host, tmp_path, monkeypatch):
    return empty_model_folders(host, tmp_path, monkeypatch)


@pytest.fixture
def saving(folders):
    from motiongraft.host import saving

    return saving


@pytest.fixture(scope="module")
def zoom(lora_file):
    return read_motion_lora(read_tensor_file(lora_file))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    path = write_domain_adapter(tmp_path_factory.mktemp("adapter") / "v3_sd15_adapter.safetensors")
    return read_domain_adapter(read_tensor_file(path))


@pytest.fixture
def patched(scene, zoom):
    """A module whose weights are to be changed by a MotionLoRA."""
    from motiongraft.host.loras import apply_motion_lora

    return apply_motion_lora(scene.motion("v2"), zoom, 0.8)


def load(path):
    from motiongraft.host.motion_modules import load_motion_module

    return load_motion_module(path)


def output_of(scene, motion):
    """What the UNet predicts for one noisy clip with this module in it."""
    from motiongraft.host.inflate import inflate_model

    return prediction(scene, inflate_model(scene.model, motion, "auto"))


def prediction(scene, model):
    generator = torch.Generator().manual_seed(0)
    x, context = torch.randn(16, 4, 8, 8, generator=generator), torch.randn(1, 77, 32, generator=generator)
    (found,) = predict_noise(scene.host, model, x, 407, context.expand(16, -1, -1))
    return found


def bits(motion):
    """A copy of the module's weights as they are now, patched where ComfyUI patched them."""
    return {name: tensor.clone() for name, tensor in motion.patcher.model.state_dict().items()}


def unload(scene):
    scene.host.module("comfy.model_management").unload_all_models()


class TestMotionModule:
    @pytest.mark.parametrize("generation", ["v1", "v2"])
    def test_in_fp32_the_output_is_bitwise_the_same(self, scene, saving, generation):
        motion = scene.motion(generation)
        saved = load(saving.save_motion_module(motion, "mine", "animatediff", "fp32"))
        assert torch.equal(output_of(scene, saved), output_of(scene, motion))

    @pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
    def test_weights_are_rounded_to_the_chosen_type_and_positions_keep_float32(self, scene, saving, dtype):
        motion = scene.motion("v3")
        tensors = read_tensor_file(saving.save_motion_module(motion, "mine", "animatediff", dtype)).tensors
        published = read_tensor_file(scene.folder / motion.name).tensors
        assert tensors.keys() == published.keys()
        for name, tensor in published.items():
            expected = tensor if name.endswith(".pos_encoder.pe") else tensor.to(saving.DTYPES[dtype])
            assert tensors[name].dtype == expected.dtype, name
            assert torch.equal(tensors[name], expected), name

    def test_in_fp16_the_output_is_the_same_to_a_thousandth(self, scene, saving):
        motion = scene.motion("v3")
        saved = load(saving.save_motion_module(motion, "mine", "animatediff", "fp16"))
        found, expected = output_of(scene, saved), output_of(scene, motion)
        assert 0 < (found - expected).norm() <= HALF_TOLERANCE * expected.norm()

    @pytest.mark.parametrize(
        "changes",
        [
            {"num_positions": 48, "trained_frames": 24, "beta_schedule": "linear"},
            {"num_heads": 4, "base_norms_over_frames": True},
            {"generation": "sdxl-beta"},
        ],
    )
    def test_what_tensors_do_not_tell_is_loaded_from_the_metadata(self, scene, saving, changes):
        motion = scene.motion(**changes)
        assert load(saving.save_motion_module(motion, "mine", "animatediff", "fp16")).spec == motion.spec

    def test_a_pickled_module_is_saved_under_the_same_names(self, scene, saving, tmp_path):
        expected = read_tensor_file(
            saving.save_motion_module(scene.motion("v2"), "mine", "animatediff", "fp32")
        ).tensors
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in expected.items()}}, tmp_path / "a.ckpt")
        found = read_tensor_file(saving.save_motion_module(load(tmp_path / "a.ckpt"), "mine", "animatediff", "fp32"))
        assert found.tensors.keys() == expected.keys()
        assert all(torch.equal(found.tensors[name], tensor) for name, tensor in expected.items())

    def test_a_baked_lora_gives_the_output_of_the_applied_one(self, scene, saving, patched):
        expected = output_of(scene, patched)
        saved = load(saving.save_motion_module(patched, "mine", "animatediff", "fp32"))
        assert_close(output_of(scene, saved), expected, BAKED_TOLERANCE)
        assert_differs(expected, output_of(scene, scene.motion("v2")))

    def test_the_file_says_what_is_baked_in_and_the_next_one_too(self, scene, saving, patched, zoom):
        from motiongraft.host.loras import apply_motion_lora

        once = load(saving.save_motion_module(patched, "mine", "animatediff", "fp32"))
        twice = apply_motion_lora(apply_motion_lora(once, zoom, -0.5), zoom, 0.0)
        metadata = read_tensor_file(saving.save_motion_module(twice, "mine", "animatediff", "fp32")).metadata
        assert metadata["baked"] == [{"lora": zoom.name, "strength": 0.8}, {"lora": zoom.name, "strength": -0.5}]
        assert "baked" not in read_tensor_file(scene.folder / scene.motion("v2").name).metadata

    @pytest.mark.parametrize("state", ["not loaded", "loaded", "a clone loaded", "in low memory"])
    def test_saving_reads_the_weights_and_changes_none(self, scene, saving, patched, state):
        """Whatever ComfyUI has done with them: patched in place, kept back, or left to be patched at each use."""
        unload(scene)
        plain = scene.motion("v2")
        expected = read_tensor_file(saving.save_motion_module(patched, "first", "animatediff", "fp32")).tensors
        management = scene.host.module("comfy.model_management")
        if state == "loaded":
            management.load_models_gpu([patched.patcher])
        elif state == "a clone loaded":
            management.load_models_gpu([patched.with_own_weights().patcher, patched.patcher.clone()])
        elif state == "in low memory":
            patched.patcher.load(torch.device("cpu"), lowvram_model_memory=64)
            assert patched.patcher.lowvram_patch_counter() > 0
        before, kept, plain_before = bits(patched), dict(patched.patcher.backup), bits(plain)
        in_place = any(not torch.equal(before[name], tensor) for name, tensor in plain_before.items())
        assert in_place == (state in {"loaded", "a clone loaded"})
        again = read_tensor_file(saving.save_motion_module(patched, "second", "animatediff", "fp32")).tensors
        assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())
        assert patched.patcher.backup.keys() == kept.keys()
        for motion, weights in ((patched, before), (plain, plain_before)):
            after = bits(motion)
            assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())
        patched.patcher.detach()
        unload(scene)

    def test_the_unpatched_module_is_saved_unpatched_while_a_patched_one_is_loaded(self, scene, saving, zoom):
        from motiongraft.host.loras import apply_motion_lora

        motion = scene.motion("v2")
        before = bits(motion)
        scene.host.module("comfy.model_management").load_models_gpu([apply_motion_lora(motion, zoom, 1.0).patcher])
        assert any(not torch.equal(tensor, before[name]) for name, tensor in bits(motion).items())
        saved = load(saving.save_motion_module(motion, "mine", "animatediff", "fp32"))
        assert all(torch.equal(tensor, before[name]) for name, tensor in bits(saved).items())
        unload(scene)

    def test_saving_works_in_the_inference_mode_that_graphs_run_in(self, scene, saving, patched):
        outside = read_tensor_file(saving.save_motion_module(patched, "mine", "animatediff", "fp16")).tensors
        with torch.inference_mode():
            inside = read_tensor_file(saving.save_motion_module(patched, "mine", "animatediff", "fp16")).tensors
        assert all(torch.equal(inside[name], tensor) for name, tensor in outside.items())

    def test_training_notes_travel_from_load_to_save(self, scene, saving):
        from dataclasses import replace

        notes = {"run_name": "waves", "steps": 1200, "sources": {"clip.mp4": "ab12"}}
        motion = replace(scene.motion("v3"), metadata={"training": notes, "applied": []})
        first = load(saving.save_motion_module(motion, "mine", "animatediff", "fp16"))
        path = saving.save_motion_module(first.with_own_weights(), "mine", "animatediff", "fp16")
        metadata = read_tensor_file(path).metadata
        assert metadata["training"] == notes
        assert (metadata["kind"], metadata["base"]) == ("motion module", "SD 1.5")

    def test_a_file_cannot_claim_loras_that_nobody_applied(self, scene, saving):
        from motiongraft.core.tensor_files import write_tensor_file

        path = saving.save_motion_module(scene.motion("v3"), "mine", "animatediff", "fp16")
        file = read_tensor_file(path)
        write_tensor_file(path, file.tensors, {**file.metadata, "applied": 5, "baked": "x"})
        again = read_tensor_file(saving.save_motion_module(load(path), "mine", "animatediff", "fp16"))
        assert again.metadata == file.metadata

    def test_a_weight_that_is_no_number_is_named_and_nothing_written(self, scene, saving, folders):
        motion = scene.motion("v3").with_own_weights()
        layer = motion.patcher.model.up_blocks[1].motion_modules[2].temporal_transformer.transformer_blocks[0]
        layer.attention_blocks[1].to_qkv.weight.data[-1, 0] = float("nan")
        name = r"up_blocks\.1\.motion_modules\.2\..*attention_blocks\.1\.to_v\.weight"
        with pytest.raises(RunError, match=f"{name} holds NaN or infinity"):
            saving.save_motion_module(motion, "mine", "animatediff", "fp32")
        assert not folders["animatediff_models"].exists()

    def test_a_weight_beyond_fp16_is_named_and_fits_the_larger_types(self, scene, saving, folders):
        motion = scene.motion("v3").with_own_weights()
        motion.patcher.model.down_blocks[0].motion_modules[0].temporal_transformer.proj_in.bias.data[3] = 70_000
        with pytest.raises(SettingsError, match=r"proj_in\.bias reaches 70,000.*65,504.*fp32 or bf16"):
            saving.save_motion_module(motion, "mine", "animatediff", "fp16")
        assert not folders["animatediff_models"].exists()
        for dtype in ("bf16", "fp32"):
            saving.save_motion_module(motion, "mine", "animatediff", dtype)


class TestMotionLoRA:
    def test_the_saved_lora_gives_the_same_output(self, scene, saving, zoom, patched):
        from motiongraft.host.loras import apply_motion_lora

        saved = read_motion_lora(read_tensor_file(saving.save_motion_lora(zoom, "mine", "animatediff")))
        found = output_of(scene, apply_motion_lora(scene.motion("v2"), saved, 0.8))
        assert torch.equal(found, output_of(scene, patched))

    def test_alpha_acts_on_the_output_as_in_memory(self, scene, saving, zoom):
        from motiongraft.host.loras import apply_motion_lora

        changes = tuple(LowRank(c.target, c.up, c.down, 7.0, c.first_row) for c in zoom.changes)
        scaled = MotionLoRA("scaled", changes)
        saved = read_motion_lora(read_tensor_file(saving.save_motion_lora(scaled, "mine", "animatediff")))
        found, expected = (
            output_of(scene, apply_motion_lora(scene.motion("v2"), lora, 0.5)) for lora in (saved, scaled)
        )
        assert_close(found, expected, BAKED_TOLERANCE)
        assert_differs(found, output_of(scene, apply_motion_lora(scene.motion("v2"), zoom, 0.5)))

    def test_matrices_that_share_memory_are_saved(self, saving):
        """As a training run holds them: the factors of q, k and v in one tensor, or one `down` for all three."""
        target = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.to_qkv"
        ups, downs = torch.randn(3, 32, 4), torch.randn(3, 4, 32)
        for shared in (downs, downs[:1].expand(3, -1, -1)):
            changes = [LowRank(f"{target}.weight", ups[i], shared[i], first_row=32 * i) for i in range(3)]
            path = saving.save_motion_lora(MotionLoRA("trained", tuple(changes)), "mine", "animatediff")
            found = {change.first_row: change for change in read_motion_lora(read_tensor_file(path)).changes}
            for part in range(3):
                assert torch.equal(found[32 * part].up, ups[part])
                assert torch.equal(found[32 * part].down, shared[part])

    def test_nan_is_named_and_nothing_written(self, saving, zoom, folders):
        up = zoom.changes[5].up.clone()
        up[0, 0] = float("inf")
        change = LowRank(zoom.changes[5].target, up, zoom.changes[5].down, first_row=zoom.changes[5].first_row)
        broken = MotionLoRA("broken", (*zoom.changes[:5], change, *zoom.changes[6:]))
        with pytest.raises(RunError, match=r"_lora\.up\.weight holds NaN or infinity"):
            saving.save_motion_lora(broken, "mine", "animatediff")
        assert not folders["animatediff_motion_lora"].exists()


class TestDomainAdapter:
    def test_the_saved_adapter_gives_the_same_output(self, scene, saving, adapter):
        from motiongraft.host.loras import apply_domain_adapter
        from motiongraft.host.sources import domain_adapter_from

        saved = read_tensor_file(saving.save_domain_adapter(adapter, "mine", "animatediff"))
        expected = prediction(scene, apply_domain_adapter(scene.model, domain_adapter_from("none", adapter), 0.7))
        assert torch.equal(prediction(scene, apply_domain_adapter(scene.model, saved, 0.7)), expected)
        assert_differs(expected, prediction(scene, scene.model))

    def test_comfyuis_own_loader_gives_the_same_output(self, scene, saving, adapter):
        from motiongraft.host.loras import apply_domain_adapter

        path = saving.save_domain_adapter(adapter, "looks/mine", "animatediff")
        model, _ = (
            scene.host.module("nodes").LoraLoader().load_lora(scene.model, None, "looks/mine.safetensors", 0.7, 0)
        )
        expected = prediction(scene, apply_domain_adapter(scene.model, read_tensor_file(path), 0.7))
        assert torch.equal(prediction(scene, model), expected)

    def test_notes_of_training_reach_the_file_through_the_socket(self, saving, adapter):
        from motiongraft.host.sources import domain_adapter_from

        trained = DomainAdapter(adapter, {"training": {"rank": 4}})
        assert domain_adapter_from("none", trained).metadata == {"training": {"rank": 4}}
        assert domain_adapter_from("none", dict(adapter)).metadata == {}
        metadata = read_tensor_file(saving.save_domain_adapter(trained, "mine", "animatediff")).metadata
        assert metadata == {"kind": "domain adapter", "base": "SD 1.5", "rank": 4, "training": {"rank": 4}}

    def test_nan_is_named_and_nothing_written(self, saving, adapter, folders):
        name = list(adapter)[7]
        with pytest.raises(RunError, match=f"{name} holds NaN".replace(".", r"\.")):
            saving.save_domain_adapter({**adapter, name: adapter[name] * float("nan")}, "mine", "animatediff")
        assert not folders["loras"].exists()

    def test_a_lora_of_other_layers_is_sent_to_comfyuis_node(self, saving, folders):
        trained = {"diffusion_model.input_blocks.0.0.lora_up.weight": torch.zeros(4, 2)}
        with pytest.raises(IncompatibleModelError, match="Save LoRA Weights"):
            saving.save_domain_adapter(trained, "mine", "animatediff")
        assert not folders["loras"].exists()


def test_a_setting_that_is_not_offered_is_refused(saving, scene, zoom, adapter, folders):
    for save in (
        lambda layout: saving.save_motion_module(scene.motion("v3"), "mine", layout, "fp16"),
        lambda layout: saving.save_motion_lora(zoom, "mine", layout),
        lambda layout: saving.save_domain_adapter(adapter, "mine", layout),
    ):
        with pytest.raises(SettingsError, match="expected one of animatediff"):
            save("kohya")
    with pytest.raises(SettingsError, match="expected one of fp16, bf16, fp32"):
        saving.save_motion_module(scene.motion("v3"), "mine", "animatediff", "fp8")
    assert not any(folder.exists() for folder in folders.values())


def test_a_name_is_refused_before_any_weight_is_touched(saving, folders):
    for save in (saving.save_motion_lora, saving.save_domain_adapter):
        with pytest.raises(SettingsError, match="leads out of the model folder"):
            save(None, "../mine", "animatediff")
    with pytest.raises(SettingsError, match="leads out of the model folder"):
        saving.save_motion_module(None, "../mine", "animatediff", "fp16")


def test_each_kind_of_file_has_its_folder(scene, saving, zoom, adapter, folders):
    paths = [
        saving.save_motion_module(scene.motion("v3"), "mine", "animatediff", "fp16"),
        saving.save_motion_lora(zoom, "mine", "animatediff"),
        saving.save_domain_adapter(adapter, "mine", "animatediff"),
    ]
    assert paths == [folder / "mine.safetensors" for folder in folders.values()]


class TestNodes:
    """What the graph calls, with the loaders' lists around it."""

    def test_each_node_saves_where_its_loader_lists_and_says_where(self, scene, folders, zoom, adapter):
        from motiongraft.host.folders import LORAS, MOTION_LORAS, MOTION_MODULES, list_optional_files
        from motiongraft.nodes.save_domain_adapter import SaveDomainAdapter
        from motiongraft.nodes.save_motion_lora import SaveMotionLoRA
        from motiongraft.nodes.save_motion_module import SaveMotionModule

        for node, artefact, folder, more in (
            (SaveMotionModule, scene.motion("v3"), MOTION_MODULES, ("fp16",)),
            (SaveMotionLoRA, zoom, MOTION_LORAS, ()),
            (SaveDomainAdapter, adapter, LORAS, ()),
        ):
            assert list_optional_files(folder) == ["none"]
            for name in ("mine", "mine_2"):  # the list is cached after the first
                output = node.execute(artefact, "sub/mine", "animatediff", *more)
                (text,) = output.ui.as_dict()["text"]
                assert Path(text).is_file()
                assert f"sub/{name}.safetensors" in list_optional_files(folder)
            assert output.result is None

    def test_the_loader_lists_and_loads_what_was_saved(self, scene, folders):
        from motiongraft.nodes.load_motion_module import LoadMotionModule
        from motiongraft.nodes.save_motion_module import SaveMotionModule

        SaveMotionModule.execute(scene.motion("v2"), "mine", "animatediff", "fp16")
        (listed,) = LoadMotionModule.define_schema().inputs[0].options
        (loaded,) = LoadMotionModule.execute(listed).args
        assert loaded.spec == scene.motion("v2").spec

    def test_every_save_node_describes_itself_and_its_inputs(self, folders):
        from motiongraft.nodes.save_domain_adapter import SaveDomainAdapter
        from motiongraft.nodes.save_motion_lora import SaveMotionLoRA
        from motiongraft.nodes.save_motion_module import SaveMotionModule

        for node in (SaveMotionModule, SaveMotionLoRA, SaveDomainAdapter):
            schema = node.GET_SCHEMA()
            assert schema.node_id == f"MotionGraft_{node.__name__}"
            assert schema.is_output_node
            assert schema.description
            assert all(each.tooltip for each in schema.inputs)
            assert [each.id for each in schema.inputs][1:3] == ["filename_prefix", "layout"]


def test_a_plain_lora_of_another_node_is_still_applied(scene, adapter):
    from motiongraft.host.loras import apply_domain_adapter
    from motiongraft.host.sources import domain_adapter_from

    file = domain_adapter_from("none", dict(adapter))
    assert isinstance(file, TensorFile)
    assert len(apply_domain_adapter(scene.model, file, 1.0).patches) == 128
