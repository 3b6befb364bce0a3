"""Specs read off tensors, tensors under their published names, and files that do not fit."""

import logging
from pathlib import Path

import pytest
import torch

from motiongraft.core.dialects import strip_prefixes
from motiongraft.core.errors import CheckpointError
from motiongraft.core.tensor_files import TensorFile, read_tensor_file, write_tensor_file
from motiongraft.motion_modules.keys import fuse_qkv, split_qkv
from motiongraft.motion_modules.load import build, log_identity, motion_tensors, read_motion_file, saved_form
from motiongraft.motion_modules.module import MotionModule
from motiongraft.tests.helpers.random_modules import random_module, toy_spec

GENERATIONS = ["v1", "v2", "v3", "sdxl-beta"]
NUM_TENSORS = {"v1": 560, "v2": 588, "v3": 560, "sdxl-beta": 420}
"""Source: tensor counts of the published files, guoyww/AnimateDiff."""
PUBLISHED_PARAMETERS = {"v1": 417_137_600, "v2": 453_209_280, "v3": 417_137_600, "sdxl-beta": 236_779_200}
"""Source: sizes of the published files less their position tables."""
PLACE = "up_blocks.1.motion_modules.2.temporal_transformer"
BLOCK = f"{PLACE}.transformer_blocks.0.attention_blocks"


def official(spec, seed=0):
    """A random module's tensors as a published file holds them."""
    return split_qkv(random_module(spec, seed).state_dict())


def as_file(tensors, metadata=None, name="file.safetensors"):
    return TensorFile(Path(name), tensors, metadata or {})


def load(file):
    motion = read_motion_file(file)
    log_identity(motion)
    return build(motion.spec, motion.tensors, file.name)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_spec_is_read_off_a_published_file(generation):
    spec = toy_spec(generation)
    assert load(as_file(official(spec))).spec == spec


@pytest.mark.parametrize("generation", GENERATIONS)
def test_names_and_sizes_are_the_published_ones(generation):
    spec = toy_spec(generation)
    assert len(official(spec)) == NUM_TENSORS[generation]
    real = (320, 640, 1280) if generation == "sdxl-beta" else (320, 640, 1280, 1280)
    middle = None if spec.middle_channels is None else 1280
    spec = toy_spec(generation, middle_channels=middle)
    spec = type(spec)(**{**vars(spec), "down_channels": real, "up_channels": real[::-1]})
    with torch.device("meta"):
        module = MotionModule(spec)
    assert sum(parameter.numel() for parameter in module.parameters()) == PUBLISHED_PARAMETERS[generation]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_saved_file_loads_as_the_same_module(tmp_path, generation):
    spec = toy_spec(generation, num_positions=16, trained_frames=12, num_heads=4)
    module = random_module(spec)
    tensors, metadata = saved_form(module)
    write_tensor_file(tmp_path / "saved.safetensors", tensors, metadata)
    again = load(read_tensor_file(tmp_path / "saved.safetensors"))
    assert again.spec == spec
    assert all(torch.equal(tensor, module.state_dict()[name]) for name, tensor in again.state_dict().items())


def test_fuse_and_split_are_inverse():
    tensors = official(toy_spec())
    again = split_qkv(fuse_qkv(tensors))
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("prefix", ["module.", "unet.", "module.unet."])
def test_trainer_prefixes_are_ignored(prefix):
    tensors = {prefix + name: tensor for name, tensor in official(toy_spec()).items()}
    assert load(as_file(tensors)).spec == toy_spec()


def test_only_leading_prefixes_are_stripped():
    assert strip_prefixes("module.down_blocks.0.module.x") == "down_blocks.0.module.x"


def test_whole_unet_of_the_official_trainer_gives_its_motion_module(caplog):
    """The trainer saves every UNet weight behind `module.`, and no positions."""
    tensors = {f"module.{name}": tensor for name, tensor in official(toy_spec()).items() if not name.endswith(".pe")}
    tensors["module.down_blocks.0.resnets.0.conv1.weight"] = torch.zeros(32, 32, 3, 3)
    tensors["module.conv_in.weight"] = torch.zeros(32, 4, 3, 3)
    with caplog.at_level(logging.WARNING):
        found = load(as_file(tensors)).state_dict()
    assert "stores no positions" in caplog.text
    expected = random_module(toy_spec("v1")).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"img_encoder.conv_in.weight": torch.zeros(32, 4, 1, 1)}, "AnimateLCM-I2V"),
        ({f"{BLOCK}.0.processor.qkv_merge.weight": torch.zeros(128, 128)}, "CameraCtrl"),
        ({"fps_embedding.linear.weight": torch.zeros(1)}, "besides a motion module it holds 1 tensors"),
    ],
    ids=["AnimateLCM-I2V", "CameraCtrl", "another"],
)
def test_designs_with_more_than_a_motion_module_are_refused_by_name_not_cut(extra, words):
    with pytest.raises(CheckpointError, match=words):
        load(as_file({**official(toy_spec()), **extra}))


def test_edited_position_tables_are_kept():
    tensors = official(toy_spec())
    key = next(name for name in tensors if name.endswith(".pe"))
    tensors[key] = tensors[key] + 1
    assert torch.equal(load(as_file(tensors)).state_dict()[key], tensors[key])


def test_module_of_unusual_length_is_v3_and_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        spec = load(as_file(official(toy_spec(num_positions=16)), name="mine.safetensors")).spec
    assert spec.generation == "v3"
    assert not spec.base_norms_over_frames
    assert "mine.safetensors" in caplog.text


def test_zeroed_module_is_the_same_class_and_the_identity():
    module = random_module(toy_spec("v2"))
    module.zero_outputs()
    for address, channels in module.spec.sites():
        x = torch.randn(4, channels, 2, 2)
        assert torch.equal(module(x, address, 4), x)


def drop(tensors):
    del tensors["up_blocks.1.motion_modules.2.temporal_transformer.proj_in.weight"]


def drop_level(tensors):
    for name in [name for name in tensors if name.startswith("down_blocks.2.")]:
        del tensors[name]


def add(tensors):
    tensors["down_blocks.0.motion_modules.0.temporal_transformer.surprise.weight"] = torch.zeros(2)


def reshape(tensors):
    tensors["up_blocks.1.motion_modules.2.temporal_transformer.proj_in.weight"] = torch.zeros(128, 64)


def lose_query(tensors):
    del tensors["up_blocks.1.motion_modules.2.temporal_transformer.transformer_blocks.0.attention_blocks.0.to_q.weight"]


def spoil(tensors):
    tensors["up_blocks.1.motion_modules.2.temporal_transformer.proj_in.weight"][3, 4] = float("nan")


def narrow(tensors):
    for name in list(tensors):
        if name.startswith("down_blocks.0.") and name.endswith("temporal_transformer.norm.weight"):
            tensors[name] = torch.ones(20)


def number_layer_a_million(tensors):
    tensors["down_blocks.0.motion_modules.1000000.temporal_transformer.norm.weight"] = torch.ones(32)


def number_block_a_million(tensors):
    tensors[f"{PLACE}.transformer_blocks.0.attention_blocks.1000000.to_q.weight"] = torch.ones(128, 128)


def shorten_one_table(tensors):
    tensors[f"{BLOCK}.1.pos_encoder.pe"] = torch.zeros(1, 8, 128)


def flatten_table(tensors):
    tensors[f"{BLOCK}.1.pos_encoder.pe"] = torch.zeros(32)


def flatten_query(tensors):
    tensors[f"{BLOCK}.1.to_q.weight"] = torch.zeros(())


def narrow_query(tensors):
    tensors[f"{BLOCK}.1.to_q.weight"] = torch.zeros(128, 64)


def quantise(tensors):
    tensors[f"{PLACE}.proj_in.weight"] = torch.zeros(128, 128, dtype=torch.int8)


def make_complex(tensors):
    tensors[f"{PLACE}.proj_in.weight"] = torch.zeros(128, 128, dtype=torch.complex64)


def lengthen_name(tensors):
    tensors[f"{PLACE}.{'x' * 50_000}"] = torch.zeros(2, 2)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (drop, "1 tensors are missing"),
        (drop_level, "found 0, 1, 3"),
        (add, "surprise"),
        (reshape, r"should be \[128, 128\] and is \[128, 64\]"),
        (lose_query, "to_qkv"),
        (spoil, "NaN or infinity"),
        (narrow, "20 wide"),
        (number_layer_a_million, "found 0, 1, 1000000"),
        (number_block_a_million, "found 0, 1, 1000000"),
        (shorten_one_table, r"should be \[1, 32, 128\] and is \[1, 8, 128\] \(1 tensors differ"),
        (flatten_table, r"shape \[32\]"),
        (flatten_query, r"to_q\.weight of type float32 and shape \[\]"),
        (narrow_query, "to_qkv"),
        (quantise, "of type int8"),
        (make_complex, "of type complex64"),
        (lengthen_name, "not part of one"),
    ],
)
def test_damage_is_named_in_three_sentences_at_most(damage, words):
    tensors = official(toy_spec())
    damage(tensors)
    with pytest.raises(CheckpointError, match=words) as error:
        load(as_file(tensors, name="broken.safetensors"))
    assert "broken.safetensors" in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, "generation"),
        ({"generation": "v3", "num_heads": "eight"}, "num_heads"),
        ({"generation": "v3", "num_heads": 7}, "7 heads"),
        ({"generation": "v3", "num_heads": 0}, "heads"),
        ({"generation": "v3", "trained_frames": -5}, "trained_frames"),
        ({"generation": "v3", "trained_frames": 10**9}, "trained_frames"),
        ({"generation": "v3" * 100}, "generation"),
        (["v3"], "generation"),
    ],
)
def test_edited_metadata_is_refused(spec, words):
    with pytest.raises(CheckpointError, match=words):
        load(as_file(official(toy_spec()), {"spec": spec}))


def test_8_bit_floats_are_read_exactly():
    tensors = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in official(toy_spec()).items()}
    found = split_qkv(load(as_file(tensors)).state_dict())
    assert all(torch.equal(found[name], tensor.to(torch.float16)) for name, tensor in tensors.items())


def test_weights_are_held_in_the_type_asked_for_and_positions_as_they_are():
    tensors = motion_tensors(as_file(official(toy_spec())))
    module = build(toy_spec(), tensors, "file", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in module.buffers()} == {torch.float32}


def test_values_beyond_the_type_asked_for_are_not_called_broken():
    tensors = motion_tensors(as_file(official(toy_spec())))
    key = next(name for name in tensors if name.endswith("proj_in.weight"))
    tensors[key] = tensors[key] * 1e5
    build(toy_spec(), tensors, "file", dtype=torch.float16)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"], "a LoRA for the base model"),
        (["down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight"], "domain adapter"),
        (["control_model.input_blocks.0.0.weight"], "ControlNet"),
        (["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"], "a ControlNet"),
        (["controlnet_cond_embedding.weight", "down_blocks.0.motion_modules.0.x"], "SparseCtrl"),
        (["model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.x"], "a whole base model"),
        (["down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor."
          "to_q_lora.down.weight"], "a MotionLoRA"),
        (["double_blocks.0.img_attn.qkv.weight"], "a base UNet"),
        (["something"], "not a kind of file"),
    ],
)  # fmt: skip
def test_other_kinds_of_file_are_named(names, kind):
    with pytest.raises(CheckpointError, match=kind):
        motion_tensors(as_file({name: torch.zeros(1) for name in names}))


def test_a_layout_that_nobody_knows_is_refused_with_its_names():
    tensors = {"down_blocks.0.motion_modules_v9.norm.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"a layout that MotionGraft does not know \(down_blocks"):
        load(as_file(tensors))
