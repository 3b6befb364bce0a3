"""Files of every program: their names there and back, what they are taken for, and mixtures that are refused."""

import logging
from pathlib import Path

import pytest
import torch

from motiongraft.core.dialects import ANIMATEDIFF, DIALECTS, DIFFUSERS, HOTSHOTXL, strip_prefixes
from motiongraft.core.errors import CheckpointError, IncompatibleModelError, SettingsError
from motiongraft.core.tensor_files import TensorFile, read_tensor_file
from motiongraft.motion_modules.generations import GENERATIONS
from motiongraft.motion_modules.keys import canonical, published
from motiongraft.motion_modules.load import build, log_identity, read_motion_file, saved_form
from motiongraft.motion_modules.written_layouts import written_form
from motiongraft.tests.helpers.published_files import narrowed, random_tensors, read_published
from motiongraft.tests.helpers.random_modules import random_module, toy_spec

V1, V2, V3 = ({"base_norms_over_frames": True}, {}, {})
SDXL = {"motion_norm_over_frames": True, "beta_schedule": "sdxl-beta"}
HOTSHOT = {"base_norms_over_frames": True, "beta_schedule": "linear", "trained_frames": 8}
PUBLISHED = [
    ("mm_sd_v15", "animatediff", "v1", 24, V1),
    ("mm_sd_v15_v2", "animatediff", "v2", 32, V2),
    ("v3_sd15_mm", "animatediff", "v3", 32, V3),
    ("mm_sdxl_v10_beta", "animatediff", "sdxl-beta", 32, SDXL),
    ("hsxl_temporal_layers", "hotshotxl", "hotshotxl", 24, HOTSHOT),
    ("AnimateLCM_sd15_t2v", "animatediff", "animatelcm", 64, {"beta_schedule": "animatelcm"}),
    ("lt_long_mm_32_frames", "animatediff", "v2", 64, V2),
    ("lt_long_mm_16_64_frames", "animatediff", "v2", 128, V2),
    ("pia", "animatediff", "pia", 32, {"base_norms_over_frames": True, "image_channels": 5}),
    ("official_trainer_checkpoint", "animatediff", "v1", 24, V1),
    ("animatediff-motion-adapter-v1-5", "diffusers", "v1", 24, V1),
    ("animatediff-motion-adapter-v1-5-2", "diffusers", "v2", 32, V2),
    ("animatediff-motion-adapter-v1-5-3", "diffusers", "v3", 32, V3),
    ("animatediff-motion-adapter-sdxl-beta", "diffusers", "sdxl-beta", 32, SDXL),
    ("PIA-condition-adapter", "diffusers", "pia", 32, {"base_norms_over_frames": True, "image_channels": 5}),
]
"""File, dialect, generation, positions, and what else the spec says."""
NAMES = [row[0] for row in PUBLISHED]


def toy_file(name, seed=0, **extra):
    """A small random file with all the names of a published one."""
    return TensorFile(Path(f"{name}.safetensors"), random_tensors(narrowed(read_published(name)), seed), **extra)


def module_of(file, generation="auto"):
    motion = read_motion_file(file, generation)
    return build(motion.spec, motion.tensors, motion.name)


@pytest.mark.parametrize(("name", "dialect", "generation", "positions", "said"), PUBLISHED, ids=NAMES)
def test_every_published_file_is_what_it_is(name, dialect, generation, positions, said):
    motion = read_motion_file(toy_file(name))
    spec = motion.spec
    assert (motion.dialect.name, spec.generation, spec.num_positions) == (dialect, generation, positions)
    defaults = {"base_norms_over_frames": False, "motion_norm_over_frames": False, "beta_schedule": "animatediff"}
    expected = {**defaults, "trained_frames": 16, "image_channels": 0, "num_heads": 8, **said}
    assert {key: getattr(spec, key) for key in expected} == expected
    assert motion.classification.evidence


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_of_a_published_file_is_loaded_as_it_is(name):
    file = toy_file(name)
    motion = read_motion_file(file)
    found = published(module_of(file).state_dict())
    for theirs, tensor in file.tensors.items():
        official = motion.dialect.to_official(strip_prefixes(theirs))
        if "motion_modules" in official or motion.spec.image_channels:
            assert torch.equal(found[official], tensor), theirs


@pytest.mark.parametrize(("name", "dialect"), [row[:2] for row in PUBLISHED], ids=NAMES)
def test_names_come_back_from_the_official_ones(name, dialect):
    (own,) = [each for each in DIALECTS if each.name == dialect]
    for theirs in map(strip_prefixes, read_published(name)):
        if "motion_modules" in theirs or "temporal_attentions" in theirs:
            assert own.from_official(own.to_official(theirs)) == theirs


@pytest.mark.parametrize("dialect", [DIFFUSERS, HOTSHOTXL], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("name", ["mm_sd_v15_v2", "mm_sdxl_v10_beta"])
def test_official_names_come_back_from_another_dialect(name, dialect):
    names = [name for name in read_published(name) if not (dialect is DIFFUSERS and ".1.pos_encoder" in name)]
    assert [dialect.to_official(dialect.from_official(name)) for name in names] == names


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("mm_sd_v15", "animatediff-motion-adapter-v1-5"),
        ("mm_sd_v15_v2", "animatediff-motion-adapter-v1-5-2"),
        ("v3_sd15_mm", "animatediff-motion-adapter-v1-5-3"),
        ("mm_sdxl_v10_beta", "animatediff-motion-adapter-sdxl-beta"),
        ("pia", "PIA-condition-adapter"),
    ],
)
def test_a_conversion_to_diffusers_has_exactly_the_published_names(ours, theirs):
    module = module_of(toy_file(ours))
    form = written_form(*_published_and_spec(module), "diffusers")
    shapes = narrowed(read_published(theirs))
    assert {name: tuple(tensor.shape) for name, tensor in form.tensors.items()} == shapes
    assert form.config["conv_in_channels"] == (9 if ours == "pia" else None)
    again = module_of(TensorFile(Path(theirs), form.tensors, config=form.config))
    assert again.spec == module.spec
    assert all(torch.equal(tensor, module.state_dict()[name]) for name, tensor in again.state_dict().items())


def _published_and_spec(module):
    return published(module.state_dict()), module.spec


def test_hotshotxl_is_written_under_its_own_names():
    file = toy_file("hsxl_temporal_layers")
    form = written_form(*_published_and_spec(module_of(file)), "hotshotxl")
    assert form.tensors.keys() == file.tensors.keys()
    assert not form.config


def test_hotshotxl_is_known_by_24_positions_in_animatediffs_layout():
    form = written_form(*_published_and_spec(module_of(toy_file("hsxl_temporal_layers"))), "animatediff")
    assert read_motion_file(TensorFile(Path("converted"), form.tensors)).spec.generation == "hotshotxl"


def test_sd15_is_not_written_in_hotshotxls_layout():
    with pytest.raises(IncompatibleModelError, match=r"for SDXL, and this module is for SD 1\.5"):
        written_form(*_published_and_spec(module_of(toy_file("v3_sd15_mm"))), "hotshotxl")


def test_edited_tables_that_differ_are_not_merged_into_one():
    tensors, spec = _published_and_spec(random_module(toy_spec()))
    name = next(name for name in tensors if name.endswith(".1.pos_encoder.pe"))
    with pytest.raises(IncompatibleModelError, match="has one for both"):
        written_form({**tensors, name: tensors[name] + 1}, spec, "diffusers")


def test_the_image_input_is_taken_apart_and_put_together_bit_for_bit():
    tensors = {"conv_in.weight": torch.randn(32, 9, 3, 3), "conv_in.bias": torch.randn(32)}
    again = published(canonical(tensors))
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


class TestMixtures:
    def test_two_dialects_in_one_file_are_named(self):
        hotshot = {name: tensor for name, tensor in toy_file("hsxl_temporal_layers").tensors.items() if "up_" in name}
        with pytest.raises(CheckpointError, match=r"names of one program, found AnimateDiff's .* and HotshotXL's"):
            module_of(TensorFile(Path("mixed"), {**toy_file("mm_sdxl_v10_beta").tensors, **hotshot}))

    def test_two_names_of_one_tensor_are_named(self):
        tensors = dict(toy_file("v3_sd15_mm").tensors)
        name = next(iter(tensors))
        with pytest.raises(CheckpointError, match=f"{name} and module.{name} are two names of one tensor"):
            module_of(TensorFile(Path("twice"), {**tensors, f"module.{name}": tensors[name]}))

    def test_an_image_input_without_its_bias_is_missed(self):
        tensors = dict(toy_file("pia").tensors)
        del tensors["conv_in.bias"]
        with pytest.raises(CheckpointError, match=r"1 tensors are missing \(conv_in.bias"):
            module_of(TensorFile(Path("pia"), tensors))


class TestWhatAFileCannotTell:
    def spec(self, caplog, file, generation="auto"):
        caplog.clear()
        motion = read_motion_file(file, generation)
        with caplog.at_level(logging.INFO):
            log_identity(motion)
        return motion.spec

    def without_positions(self, name):
        tensors = {key: tensor for key, tensor in toy_file(name).tensors.items() if not key.endswith(".pe")}
        return TensorFile(Path("mine.ckpt"), tensors)

    def test_a_module_without_positions_is_not_always_animatelcm(self, caplog):
        spec = self.spec(caplog, self.without_positions("mm_sd_v15_v2"))
        assert (spec.generation, spec.beta_schedule, spec.num_positions) == ("v2", "animatediff", 32)
        assert "AnimateLCM is like it too" in caplog.text
        assert "choose its generation" in caplog.text

    def test_without_a_middle_block_it_is_never_animatelcm(self, caplog):
        file = self.without_positions("v3_sd15_mm")
        spec = self.spec(caplog, TensorFile(Path("my_lcm.ckpt"), file.tensors))
        assert (spec.generation, spec.beta_schedule) == ("v1", "animatediff")
        assert "cannot be seen in a file" in caplog.text

    def test_a_16_frame_module_is_not_v1(self, caplog):
        tensors, _ = saved_form(random_module(toy_spec(num_positions=16)))
        spec = self.spec(caplog, TensorFile(Path("mine"), tensors))
        assert (spec.generation, spec.base_norms_over_frames, spec.num_positions) == ("v3", False, 16)
        assert "cannot be seen in a file" in caplog.text

    @pytest.mark.parametrize("name", ["mm_sd_v15", "mm_sd_v15_v2", "v3_sd15_mm", "mm_sdxl_v10_beta", "pia"])
    def test_published_files_are_taken_without_a_doubt(self, caplog, name):
        with caplog.at_level(logging.WARNING):
            log_identity(read_motion_file(toy_file(name)))
        assert not caplog.records

    @pytest.mark.parametrize("generation", ["v1", "v2", "v3", "animatelcm", "diffusers"])
    def test_the_choice_of_the_user_overrules_what_the_file_shows(self, caplog, generation):
        spec = self.spec(caplog, toy_file("v3_sd15_mm"), generation)
        chosen = GENERATIONS[generation]
        assert spec.base_norms_over_frames == chosen.base_norms_over_frames
        assert spec.motion_norm_over_frames == chosen.motion_norm_over_frames
        assert spec.beta_schedule == chosen.beta_schedule
        assert f"is {generation}, because it was chosen by hand" in caplog.text

    def test_the_choice_overrules_our_metadata_too(self, caplog):
        tensors, metadata = saved_form(random_module(toy_spec("v3")))
        assert self.spec(caplog, TensorFile(Path("mine"), tensors, metadata)).generation == "v3"
        assert self.spec(caplog, TensorFile(Path("mine"), tensors, metadata), "v1").base_norms_over_frames

    def test_a_choice_by_hand_keeps_what_else_our_metadata_says(self):
        tensors, metadata = saved_form(random_module(toy_spec("v3", num_heads=4, trained_frames=12)))
        spec = read_motion_file(TensorFile(Path("mine"), tensors, metadata), "v1").spec
        assert (spec.num_heads, spec.trained_frames, spec.base_norms_over_frames) == (4, 12, True)

    def test_lcm_in_a_name_leaves_a_doubt_where_positions_are_stored(self):
        motion = read_motion_file(TensorFile(Path("lcm-test.ckpt"), toy_file("mm_sd_v15_v2").tensors))
        assert motion.spec.generation == "animatelcm"
        assert "published without positions" in motion.classification.doubt

    @pytest.mark.parametrize(
        ("name", "generation"), [("v3_sd15_mm", "sdxl-beta"), ("v3_sd15_mm", "pia"), ("pia", "v1"), ("pia", "v9")]
    )
    def test_a_choice_that_cannot_be_is_refused(self, name, generation):
        with pytest.raises(SettingsError, match=r"cannot be|expected one of"):
            read_motion_file(toy_file(name), generation)


class TestDiffusersConfiguration:
    def test_heads_stand_in_it(self):
        file = toy_file("animatediff-motion-adapter-v1-5-3", config={"motion_num_attention_heads": 4})
        assert read_motion_file(file).spec.num_heads == 4

    def test_one_number_for_each_level_is_one_number_if_all_agree(self):
        file = toy_file("animatediff-motion-adapter-v1-5-3", config={"motion_num_attention_heads": [4, 4, 4, 4]})
        assert read_motion_file(file).spec.num_heads == 4

    def test_a_module_in_several_files_is_refused(self, tmp_path):
        for part in (1, 2):
            (tmp_path / f"diffusion_pytorch_model-0000{part}-of-00002.safetensors").write_bytes(b"")
        with pytest.raises(CheckpointError, match="found 2 that hold parts of it"):
            read_tensor_file(tmp_path)

    @pytest.mark.parametrize(
        "config",
        [
            {"motion_num_attention_heads": [8, 8, 8, 16]},
            {"motion_num_attention_heads": 0},
            {"motion_num_attention_heads": "8"},
            {"motion_num_attention_heads": 8, "motion_norm_num_groups": 16},
        ],
    )
    def test_a_design_that_cannot_be_run_is_refused(self, config):
        with pytest.raises(CheckpointError, match="expected one number of heads and 32 groups"):
            read_motion_file(toy_file("animatediff-motion-adapter-v1-5-3", config=config))


def test_animatediffs_names_are_left_alone():
    for name in read_published("mm_sd_v15_v2"):
        assert ANIMATEDIFF.to_official(name) == name
