"""Low-rank changes under published names: the way back from what the loaders make of a file."""

from pathlib import Path

import pytest
import torch

from motiongraft.core.errors import CheckpointError, IncompatibleModelError
from motiongraft.core.file_kinds import DOMAIN_ADAPTER, MOTION_LORA, classify
from motiongraft.core.tensor_files import TensorFile, read_tensor_file, write_tensor_file
from motiongraft.lora.domain_adapter import DomainAdapter, read_domain_adapter
from motiongraft.lora.low_rank import LowRank
from motiongraft.lora.motion_lora import MotionLoRA, read_motion_lora
from motiongraft.lora.saved_forms import (
    domain_adapter_form,
    domain_adapter_tensors,
    motion_lora_form,
    motion_lora_tensors,
)
from motiongraft.tests.tiny_sd_pack.checkpoints import write_domain_adapter, write_motion_lora
from motiongraft.tests.tiny_sd_pack.unet_weights import SDXL

SITE = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.1"
STEM = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q"
WEIGHT = "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"


def assert_same(found, expected):
    """Same names in the same order, same types, same bits."""
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def random_change(target, first_row=None, alpha=None, rank=4):
    generator = torch.Generator().manual_seed(len(target) + (first_row or 0))
    up, down = torch.randn(32, rank, generator=generator), torch.randn(rank, 32, generator=generator)
    return LowRank(target, up, down, alpha, first_row)


class TestMotionLoRA:
    @pytest.mark.parametrize("channels", [(32, 64, 128, 128), SDXL.channels], ids=["SD 1.5", "SDXL"])
    @pytest.mark.parametrize("middle", [False, True])
    def test_every_published_name_comes_back_exactly(self, tmp_path, channels, middle):
        file = read_tensor_file(write_motion_lora(tmp_path / "zoom.safetensors", channels, middle=middle))
        found = motion_lora_tensors(read_motion_lora(file))
        assert len(found) == 16 * (5 * len(channels) + middle)
        assert_same(dict(sorted(found.items())), dict(sorted(file.tensors.items())))

    def test_names_of_a_distributed_trainer_become_the_published_ones(self, tmp_path):
        file = read_tensor_file(write_motion_lora(tmp_path / "zoom.safetensors"))
        prefixed = TensorFile(file.path, {f"module.{name}": tensor for name, tensor in file.tensors.items()})
        assert motion_lora_tensors(read_motion_lora(prefixed)).keys() == file.tensors.keys()

    def test_a_saved_lora_is_read_as_the_same_changes(self, tmp_path):
        parts = [(f"{SITE}.to_qkv.weight", row) for row in (0, 32, 64)] + [(f"{SITE}.to_out.0.weight", None)]
        changes = tuple(random_change(target, row) for target, row in parts)
        write_tensor_file(tmp_path / "mine.safetensors", *motion_lora_form(MotionLoRA("mine", changes)))
        found = read_motion_lora(read_tensor_file(tmp_path / "mine.safetensors")).changes
        by_place = {(change.target, change.first_row): change for change in found}
        assert by_place.keys() == set(parts)
        for expected in changes:
            change = by_place[expected.target, expected.first_row]
            assert change.alpha is None
            assert torch.equal(change.up, expected.up)
            assert torch.equal(change.down, expected.down)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_alpha_is_inside_up_and_rank_divides_it(self, dtype):
        change = random_change(f"{SITE}.to_out.0.weight", alpha=6.0)
        change = LowRank(change.target, change.up.to(dtype), change.down.to(dtype), alpha=6.0)
        tensors = motion_lora_tensors(MotionLoRA("mine", (change,)))
        up, down = (tensors[f"{SITE}.processor.to_out_lora.{factor}.weight"] for factor in ("up", "down"))
        assert torch.equal(up, change.up.float() * 1.5)
        assert torch.equal(down, change.down)

    @pytest.mark.parametrize(
        ("target", "first_row"),
        [
            (f"{SITE}.to_qkv.weight", None),
            (f"{SITE}.to_qkv.weight", 16),
            (f"{SITE}.to_qkv.weight", 96),
            (f"{SITE}.to_out.0.weight", 0),
            (f"{SITE}.to_out.0.bias", None),
            (SITE.rpartition(".attention_blocks")[0] + ".ff.net.2.weight", None),
        ],
    )
    def test_a_change_without_a_published_name_is_refused(self, target, first_row):
        with pytest.raises(IncompatibleModelError, match=r"^mine changes .* AnimateDiff's layout has no name"):
            motion_lora_tensors(MotionLoRA("mine", (random_change(target, first_row),)))

    def test_two_changes_of_one_weight_are_refused_not_dropped(self):
        change = random_change(f"{SITE}.to_qkv.weight", 0)
        with pytest.raises(IncompatibleModelError, match="to_q is changed twice"):
            motion_lora_tensors(MotionLoRA("mine", (change, change)))

    def test_metadata_says_kind_base_rank_and_training(self, tmp_path):
        training = {"run_name": "zoom", "steps": 2000, "sources": ["ab12"]}
        changes = read_motion_lora(read_tensor_file(write_motion_lora(tmp_path / "a.safetensors", rank=3))).changes
        tensors, metadata = motion_lora_form(MotionLoRA("zoom", changes, {"training": training}))
        assert metadata == {"kind": "motion LoRA", "base": "SD 1.5", "rank": 3, "training": training}
        write_tensor_file(tmp_path / "b.safetensors", tensors, metadata)
        again = read_motion_lora(read_tensor_file(tmp_path / "b.safetensors"))
        assert motion_lora_form(again)[1] == metadata
        assert classify(tensors) is MOTION_LORA

    def test_the_base_is_told_by_the_levels_unless_training_said_it(self, tmp_path):
        changes = read_motion_lora(
            read_tensor_file(write_motion_lora(tmp_path / "a.safetensors", SDXL.channels))
        ).changes
        for said, base in (({}, "SDXL"), ({"base": "SD 1.5"}, "SD 1.5"), ({"base": ["nonsense"]}, "SDXL")):
            assert motion_lora_form(MotionLoRA("zoom", changes, said))[1]["base"] == base


class TestDomainAdapter:
    @pytest.fixture
    def file(self, tmp_path):
        return read_tensor_file(write_domain_adapter(tmp_path / "adapter.safetensors"))

    @pytest.fixture
    def names(self, file):
        """Invented weight names, one for each pair of the published file."""
        stems = [name.removesuffix("_lora.down.weight") for name in file.tensors if name.endswith("_lora.down.weight")]
        return {stem: f"weight.{number}" for number, stem in enumerate(stems)}

    def test_every_published_name_comes_back_exactly(self, file, names):
        changes = [
            LowRank(weight, file.tensors[f"{stem}_lora.up.weight"], file.tensors[f"{stem}_lora.down.weight"])
            for stem, weight in names.items()
        ]
        assert len(changes) == 128
        assert_same(domain_adapter_tensors(changes, names), dict(file.tensors))

    def test_alpha_is_inside_up(self):
        change = random_change(WEIGHT, alpha=1.0)
        tensors = domain_adapter_tensors([change], {STEM: WEIGHT})
        assert torch.equal(tensors[f"{STEM}_lora.up.weight"], change.up / 4)

    @pytest.mark.parametrize(("target", "first_row"), [("input_blocks.0.0.weight", None), (WEIGHT, 0)])
    def test_a_change_of_another_weight_is_refused(self, target, first_row):
        with pytest.raises(IncompatibleModelError, match=r"1 of 1 changes are not of an attention weight"):
            domain_adapter_tensors(iter([random_change(target, first_row)]), {STEM: WEIGHT})

    def test_the_form_keeps_every_tensor_and_says_what_it_is(self, file):
        training = {"run_name": "look"}
        adapter = DomainAdapter(file.tensors, {"training": training, "other": 1})
        tensors, metadata = domain_adapter_form(adapter)
        assert_same(tensors, dict(file.tensors))
        assert metadata == {"kind": "domain adapter", "base": "SD 1.5", "rank": 4, "training": training}
        assert classify(tensors) is DOMAIN_ADAPTER

    def test_a_plain_dictionary_is_taken_too(self, file):
        assert domain_adapter_form(dict(file.tensors))[1]["rank"] == 4

    def test_metadata_travels_from_file_to_file(self, file, tmp_path):
        first = DomainAdapter(file.tensors, {"training": {"steps": 5}})
        write_tensor_file(tmp_path / "b.safetensors", *domain_adapter_form(first))
        again = read_domain_adapter(read_tensor_file(tmp_path / "b.safetensors"))
        assert again.metadata["training"] == {"steps": 5}
        assert domain_adapter_form(again)[1] == domain_adapter_form(first)[1]

    def test_an_adapter_without_a_fourth_level_is_for_sdxl(self):
        stem = "down_blocks.1.attentions.0.transformer_blocks.1.attn2.processor.to_out"
        tensors = domain_adapter_tensors([random_change(WEIGHT)], {stem: WEIGHT})
        assert domain_adapter_form(tensors)[1]["base"] == "SDXL"

    @pytest.mark.parametrize(
        "name",
        [
            "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_up.weight",
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight",
            f"{STEM}.alpha",
            f"{STEM}_lora.up.weight.extra",
        ],
    )
    def test_another_layout_is_refused_and_sent_to_the_node_that_saves_it(self, file, name):
        with pytest.raises(IncompatibleModelError, match=r"found .* of 257 with other names .* Save LoRA Weights"):
            domain_adapter_form({**file.tensors, name: torch.zeros(1)})

    @pytest.mark.parametrize(
        ("down", "words"),
        [(None, r"up \[32, 4\]"), (torch.zeros(3, 32), r"down \[3, 32\]"), (torch.zeros(()), r"down \[\]")],
    )
    def test_matrices_that_do_not_pair_up_are_named(self, file, down, words):
        tensors = {**file.tensors, f"{STEM}_lora.down.weight": down}
        with pytest.raises(CheckpointError, match=rf"attn1\.to_q should have down .*{words}"):
            domain_adapter_form({name: tensor for name, tensor in tensors.items() if tensor is not None})

    def test_nothing_at_all_is_no_adapter(self):
        with pytest.raises(IncompatibleModelError, match="found none"):
            domain_adapter_form({})


def test_a_domain_adapter_is_a_dictionary_of_its_own():
    tensors, metadata = {"a": torch.zeros(1)}, {"training": {}}
    adapter = DomainAdapter(tensors, metadata)
    adapter["b"] = torch.ones(1)
    assert isinstance(adapter, dict)
    assert list(tensors) == ["a"]
    assert DomainAdapter({}).metadata == {}


def test_a_loaded_motion_lora_keeps_what_its_file_says():
    tensors = motion_lora_tensors(MotionLoRA("mine", (random_change(f"{SITE}.to_qkv.weight", 0),)))
    said = {"training": {"steps": 1}}
    lora = read_motion_lora(TensorFile(Path("mine"), tensors, said))
    assert lora.metadata == said
    assert hash(lora) == hash(MotionLoRA(lora.name, lora.changes))  # a mapping could not be hashed
