"""MotionLoRA: from the official layout to low-rank changes of a module's weights."""

from pathlib import Path

import pytest
import torch

from motiongraft.core.errors import CheckpointError, IncompatibleModelError
from motiongraft.core.tensor_files import TensorFile
from motiongraft.lora.domain_adapter import check_domain_adapter
from motiongraft.lora.low_rank import LowRank
from motiongraft.lora.motion_lora import fit, read_motion_lora
from motiongraft.motion_modules.module import MotionModule
from motiongraft.tests.helpers.merged_weights import merged
from motiongraft.tests.helpers.random_modules import toy_spec


def official_lora(spec, rank=4, seed=0):
    """Random factors for every temporal attention, under the published names."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for address, channels in spec.sites():
        for block in range(2):
            stem = f"{address.prefix}.transformer_blocks.0.attention_blocks.{block}.processor"
            for part in ("q", "k", "v", "out"):
                tensors[f"{stem}.to_{part}_lora.down.weight"] = torch.randn(rank, channels, generator=generator)
                tensors[f"{stem}.to_{part}_lora.up.weight"] = torch.randn(channels, rank, generator=generator)
    return tensors


def as_file(tensors):
    return TensorFile(Path("zoom.ckpt"), tensors)


def shapes(spec):
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in MotionModule(spec).state_dict().items()}


def test_published_file_has_336_tensors_and_rank_64_parameters():
    spec = toy_spec("v2")
    tensors = official_lora(spec)
    assert len(tensors) == 336
    lora = read_motion_lora(as_file(tensors))
    assert len(lora.changes) == 168
    assert {change.rank for change in lora.changes} == {4}


def test_q_k_v_change_their_own_rows_of_the_fused_weight():
    spec = toy_spec()
    tensors = official_lora(spec)
    changes = read_motion_lora(as_file(tensors)).changes
    target = "up_blocks.3.motion_modules.1.temporal_transformer.transformer_blocks.0.attention_blocks.1.to_qkv.weight"
    fused = merged(torch.zeros(96, 32), [(change, 1.0) for change in changes if change.target == target])
    stem = target.removesuffix("to_qkv.weight") + "processor."
    for row, part in enumerate("qkv"):
        up, down = (tensors[f"{stem}to_{part}_lora.{factor}.weight"].double() for factor in ("up", "down"))
        assert torch.equal(fused[32 * row : 32 * (row + 1)], up @ down)


def test_merge_adds_strengths_and_scales_by_alpha():
    change = LowRank("w", torch.ones(2, 4), torch.ones(4, 3), alpha=2.0)
    assert torch.equal(merged(torch.zeros(2, 3), [(change, 3.0), (change, -1.0)]), torch.full((2, 3), 4.0).double())


def test_all_changes_fit_their_own_module():
    spec = toy_spec("v2")
    present, left_out = fit(read_motion_lora(as_file(official_lora(spec))), shapes(spec), "v2")
    assert (len(present), left_out) == (168, 0)


def test_middle_block_is_left_out_of_a_module_without_one():
    lora = read_motion_lora(as_file(official_lora(toy_spec("v2"))))
    present, left_out = fit(lora, shapes(toy_spec("v3")), "v3")
    assert (len(present), left_out) == (160, 8)


@pytest.mark.parametrize(("lora", "module"), [("v3", "sdxl-beta"), ("sdxl-beta", "v3")])
def test_lora_of_another_base_is_refused(lora, module):
    with pytest.raises(IncompatibleModelError, match="another base model"):
        fit(read_motion_lora(as_file(official_lora(toy_spec(lora)))), shapes(toy_spec(module)), "module")


def test_unpaired_and_broken_factors_are_named():
    tensors = official_lora(toy_spec())
    name = next(iter(tensors))
    with pytest.raises(CheckpointError, match="should have down"):
        read_motion_lora(as_file({key: value for key, value in tensors.items() if key != name}))
    with pytest.raises(CheckpointError, match="NaN"):
        read_motion_lora(as_file({**tensors, name: tensors[name] * float("nan")}))


@pytest.mark.parametrize(
    "factor", [torch.zeros(()), torch.zeros(4), torch.zeros(4, 32, 1, 1), torch.zeros(4, 32).int()]
)
def test_factors_that_are_no_matrices_are_named(factor):
    tensors = official_lora(toy_spec())
    with pytest.raises(CheckpointError, match="should have down"):
        read_motion_lora(as_file({**tensors, next(iter(tensors)): factor}))


def test_8_bit_factors_are_read():
    tensors = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in official_lora(toy_spec()).items()}
    assert len(read_motion_lora(as_file(tensors)).changes) == 160


def test_unknown_names_are_refused_not_dropped():
    tensors = official_lora(toy_spec())
    tensors["something"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"1 tensors with other names \(something"):
        read_motion_lora(as_file(tensors))


def test_a_motion_module_is_no_lora_and_no_adapter():
    file = as_file({"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match="found a motion module"):
        read_motion_lora(file)
    with pytest.raises(CheckpointError, match="found a motion module"):
        check_domain_adapter(file)
