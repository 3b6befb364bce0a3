"""SparseCtrl's files in every naming: what is read of them, and what is refused."""

from pathlib import Path

import pytest
import torch

from motiongraft.core.errors import CheckpointError
from motiongraft.core.file_kinds import SPARSECTRL, classify
from motiongraft.core.tensor_files import TensorFile, read_tensor_file
from motiongraft.motion_modules.keys import published
from motiongraft.motion_modules.load import build
from motiongraft.motion_modules.sparse_control import LATENT_INPUT, PIXEL_INPUT, read_sparse_control
from motiongraft.tests.helpers.published_files import SPARSE_CONTROLS, narrowed, random_tensors, read_published

OFFICIAL = "v3_sd15_sparsectrl_rgb"
SCRIBBLE = "v3_sd15_sparsectrl_scribble"


def toy_tensors(name):
    return random_tensors(narrowed(read_published(name)))


def as_file(tensors, name="sparse", **extra):
    return TensorFile(Path(f"{name}.safetensors"), tensors, **extra)


@pytest.mark.parametrize("name", SPARSE_CONTROLS)
def test_every_published_file_is_known_and_read_whole(name):
    tensors = toy_tensors(name)
    read = read_sparse_control(as_file(tensors))
    spec = read.spec
    assert classify(tensors) is SPARSECTRL
    assert read.sees_latents == (SPARSE_CONTROLS[name] == "rgb")
    assert (spec.down_channels, spec.up_channels, spec.middle_channels) == ((32, 64, 128, 128), (), None)
    assert (spec.num_attention_blocks, spec.num_positions, spec.num_heads, spec.generation) == (1, 32, 8, "v3")
    assert not spec.motion_norm_over_frames
    motion = published(build(spec, read.motion, name).state_dict())
    assert len(motion) + len(read.control) == len(tensors)
    official = {key: value for key, value in motion.items() if "animatediff-" not in name}
    assert all(torch.equal(tensors[key], value) for key, value in official.items())


def test_both_programs_names_of_motion_are_the_same_tensors():
    official, diffusers = toy_tensors(OFFICIAL), toy_tensors("animatediff-sparsectrl-rgb")
    found = read_sparse_control(as_file(diffusers)).motion
    assert found.keys() == read_sparse_control(as_file(official)).motion.keys()
    name = "down_blocks.2.motion_modules.1.{}transformer_blocks.0.{}.weight"
    own = found[name.format("temporal_transformer.", "ff_norm")]
    assert torch.equal(own, diffusers[name.format("", "norm3")])


def test_containers_prefixes_and_what_is_no_tensor_are_taken_off(tmp_path):
    tensors = toy_tensors(OFFICIAL)
    named = {f"module.{name}": tensor for name, tensor in tensors.items()}
    for content in ({"controlnet": {**named, "animatediff_config": "text"}}, {"controlnet": {"state_dict": named}}):
        torch.save(content, tmp_path / "sparse.ckpt")
        read = read_sparse_control(read_tensor_file(tmp_path / "sparse.ckpt"))
        assert torch.equal(read.control[LATENT_INPUT], tensors[LATENT_INPUT])


def test_position_tables_that_a_file_lacks_are_made():
    tensors = {name: tensor for name, tensor in toy_tensors(OFFICIAL).items() if not name.endswith(".pe")}
    read = read_sparse_control(as_file(tensors))
    module = build(read.spec, read.motion, "sparse")
    tables = [tensor for name, tensor in module.state_dict().items() if name.endswith(".pe")]
    assert [table.shape[1] for table in tables] == [32] * 8


def test_a_configuration_of_diffusers_says_how_many_heads_and_positions():
    tensors = {name: t for name, t in toy_tensors("animatediff-sparsectrl-rgb").items() if not name.endswith(".pe")}
    config = {"motion_num_attention_heads": 4, "motion_max_seq_length": 24}
    spec = read_sparse_control(as_file(tensors, config=config)).spec
    assert (spec.num_heads, spec.num_positions) == (4, 24)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v3_sd15_mm", r"found a motion module\. Load it with LoadMotionModule"),
        ("v2_lora_ZoomIn", r"found a MotionLoRA"),
        ("official_trainer_checkpoint", r"found a motion module"),
    ],
)
def test_another_kind_of_file_is_named_with_the_node_that_takes_it(name, words):
    with pytest.raises(CheckpointError, match=rf"expected a SparseCtrl encoder, {words}"):
        read_sparse_control(as_file(toy_tensors(name)))


def test_an_ordinary_controlnet_is_sent_to_its_loader():
    tensors = {name: tensor for name, tensor in toy_tensors(SCRIBBLE).items() if "motion_modules" not in name}
    with pytest.raises(CheckpointError, match=r"found a ControlNet\. Load it with ControlNetLoader"):
        read_sparse_control(as_file(tensors))


def changed(name, change):
    tensors = toy_tensors(name)
    change(tensors)
    return as_file(tensors)


SITE = "down_blocks.1.motion_modules.0.temporal_transformer"
UP = "up_blocks.0.motion_modules.0.temporal_transformer"
SECOND = "down_blocks.1.motion_modules.1.temporal_transformer"


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (OFFICIAL, lambda t: t.update({LATENT_INPUT: torch.ones(32, 9, 3, 3)}), r"with 5 input channels.*\[32, 9"),
        (SCRIBBLE, lambda t: t.update({PIXEL_INPUT: torch.ones(16, 3, 3, 3)}), r"with 4 input channels"),
        (SCRIBBLE, lambda t: t.pop(PIXEL_INPUT), r"found none"),
        (OFFICIAL, lambda t: t["conv_in.bias"].fill_(float("nan")), r"NaN or infinity, first conv_in\.bias"),
        (OFFICIAL, lambda t: t.update({"conv_in.weight": torch.tensor(1.0)}), r"conv_in\.weight.*shape \[\]"),
        (OFFICIAL, lambda t: t.update({"conv_in.weight": t["conv_in.weight"].int()}), r"of type int32"),
        (OFFICIAL, lambda t: t.update({f"{SECOND}.norm.weight": torch.ones(33)}), r"33 wide"),
        (OFFICIAL, lambda t: t.update({f"{SITE}.proj_in.weight": torch.ones(64)}), r"proj_in\.weight.*shape \[64\]"),
        (OFFICIAL, lambda t: [t.pop(name) for name in list(t) if name.startswith("down_blocks.1.motion")], r"gap"),
        (OFFICIAL, lambda t: t.update({f"{UP}.norm.weight": torch.ones(64)}),
         r"down_blocks alone"),
        (OFFICIAL, lambda t: t.update({"down_blocks.0.motion_modules.0.norm.weight": torch.ones(32)}),
         r"names of one program"),
        (OFFICIAL, lambda t: t.update({"module.conv_in.bias": torch.ones(32)}), r"two names of one tensor"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_whole_is_refused_in_words(name, change, words):
    with pytest.raises(CheckpointError, match=words) as error:
        read_sparse_control(changed(name, change))
    assert len(str(error.value)) < 600
