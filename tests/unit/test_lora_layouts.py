"""LoRA files of every program: their names there and back, the same changes whatever the names, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from motiongraft.core.diffusers_folders import PEFT_HEADER
from motiongraft.core.errors import CheckpointError, IncompatibleModelError
from motiongraft.core.file_kinds import DOMAIN_ADAPTER, LORA, MOTION_LORA, classify
from motiongraft.core.tensor_files import TensorFile, read_tensor_file
from motiongraft.lora.domain_adapter import DomainAdapter, in_kohya_layout, read_adapter_changes, read_domain_adapter
from motiongraft.lora.layouts import LAYOUTS, canonical_name, find_layout
from motiongraft.lora.motion_lora import layer_of, read_motion_lora
from motiongraft.lora.saved_forms import domain_adapter_form, motion_lora_form
from motiongraft.tests.helpers.published_files import ALPHA, narrowed, random_tensors, read_published

MOTION = {
    "v2_lora_ZoomIn": "animatediff",
    "motion_director_lora": "motiondirector",
    "animatediff-motion-lora-zoom-in": "old-diffusers",
    "motion_lora_peft": "diffusers",
    "mm_sd15_v2_lora_ZoomIn": "kohya",
    "motion_lora_kohya": "kohya",
}
ADAPTERS = {
    "v3_sd15_adapter": "animatediff",
    "v3_sd15_adapter_diffusers": "old-diffusers",
    "v3_sd15_adapter_peft": "diffusers",
    "v3_sd15_adapter_kohya": "kohya",
}
SITE = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0"


def toy_tensors(name, seed=0):
    return random_tensors(narrowed(read_published(name)), seed)


def as_file(tensors, name="zoom.safetensors", **extra):
    return TensorFile(Path(name), tensors, **extra)


def layout_called(name):
    return next(layout for layout in LAYOUTS if layout.name == name)


@pytest.mark.parametrize(("name", "layout"), [*MOTION.items(), *ADAPTERS.items()])
class TestNames:
    def test_the_layout_is_known(self, name, layout):
        found = find_layout(read_published(name))
        assert found is not None
        assert found.name == layout

    def test_every_name_comes_back(self, name, layout):
        own = layout_called(layout)
        prefix = "lora_unet_" if name == "mm_sd15_v2_lora_ZoomIn" else ""  # its file leaves kohya's prefix out
        assert all(own.write(own.read(each)) == prefix + each for each in read_published(name))

    def test_two_names_are_never_one_factor(self, name, layout):
        names = read_published(name)
        assert len({layout_called(layout).read(each) for each in names}) == len(names)


@pytest.mark.parametrize("name", MOTION)
def test_every_motion_lora_is_one(name):
    assert classify(read_published(name)) is MOTION_LORA


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_domain_adapter_is_a_lora_of_the_base(name):
    assert classify(read_published(name)) in (DOMAIN_ADAPTER, LORA)


def by_layer(lora):
    return {layer_of(change): change for change in lora.changes}


@pytest.mark.parametrize("name", [name for name in MOTION if name != "motion_director_lora"])
def test_the_changes_of_a_camera_motion_are_the_same_under_all_names(name):
    """The same canonical factors, written in each layout, are the same changes."""
    expected = by_layer(read_motion_lora(as_file(toy_tensors("v2_lora_ZoomIn"))))
    own = layout_called(MOTION[name])
    tensors = {}
    for layer, change in expected.items():
        for factor, tensor in (("down", change.down), ("up", change.up)):
            tensors[own.write(canonical_name(layer, factor))] = tensor
    found = by_layer(read_motion_lora(as_file(tensors)))
    assert found.keys() == expected.keys()
    for layer, change in expected.items():
        assert found[layer].target == change.target
        assert found[layer].first_row == change.first_row
        assert torch.equal(found[layer].up, change.up)
        assert torch.equal(found[layer].down, change.down)


@pytest.mark.parametrize("name", MOTION)
def test_the_same_layers_are_changed_by_every_layout(name):
    changes = by_layer(read_motion_lora(as_file(toy_tensors(name))))
    middle = name != "motion_director_lora"
    attention = [layer for layer in changes if ".attention_blocks." in layer]
    assert len(attention) == (168 if middle else 160)
    assert len(changes) - len(attention) == (0 if middle else 40)
    assert {change.rank for change in changes.values()} == {4}


def test_feed_forward_layers_of_motiondirector_change_their_own_weights():
    lora = read_motion_lora(as_file(toy_tensors("motion_director_lora")))
    targets = {change.target for change in lora.changes}
    assert f"{SITE}.ff.net.0.proj.weight" in targets
    assert f"{SITE}.ff.net.2.weight" in targets


def test_alpha_is_read_from_kohyas_files():
    assert {change.alpha for change in read_motion_lora(as_file(toy_tensors("motion_lora_kohya"))).changes} == {ALPHA}


class TestAlphaOfDiffusers:
    def header(self, **settings):
        return {PEFT_HEADER: json.dumps({f"unet.{key}": value for key, value in settings.items()})}

    def test_it_is_read_from_the_header(self):
        lora = read_motion_lora(as_file(toy_tensors("motion_lora_peft"), header=self.header(lora_alpha=8, r=4)))
        assert {change.alpha for change in lora.changes} == {8.0}

    def test_without_one_the_factors_multiply_as_they_are(self):
        lora = read_motion_lora(as_file(toy_tensors("motion_lora_peft"), header={"format": "pt"}))
        assert {change.alpha for change in lora.changes} == {None}

    @pytest.mark.parametrize("unusual", [{"use_dora": True}, {"use_rslora": True}, {"alpha_pattern": {"x": 1}}])
    def test_factors_that_are_scaled_otherwise_are_refused(self, unusual):
        with pytest.raises(CheckpointError, match=next(iter(unusual))):
            read_motion_lora(as_file(toy_tensors("motion_lora_peft"), header=self.header(**unusual)))

    def test_a_header_that_is_no_json_says_nothing(self):
        lora = read_motion_lora(as_file(toy_tensors("motion_lora_peft"), header={PEFT_HEADER: "{"}))
        assert {change.alpha for change in lora.changes} == {None}

    def test_another_components_settings_are_not_the_unets(self):
        said = {"unet.lora_alpha": 8, "text_encoder.lora_alpha": 2, "text_encoder.use_rslora": True}
        lora = read_motion_lora(as_file(toy_tensors("motion_lora_peft"), header={PEFT_HEADER: json.dumps(said)}))
        assert {change.alpha for change in lora.changes} == {8.0}

    def test_pefts_own_folder_says_it_beside_the_file(self, tmp_path):
        tensors = {f"base_model.model.{k.removeprefix('unet.')}": t for k, t in toy_tensors("motion_lora_peft").items()}
        save_file(tensors, tmp_path / "adapter_model.safetensors")
        config = tmp_path / "adapter_config.json"
        config.write_text(json.dumps({"r": 4, "lora_alpha": 32, "use_rslora": False, "alpha_pattern": {}}))
        assert {change.alpha for change in read_motion_lora(read_tensor_file(tmp_path)).changes} == {32.0}
        config.write_text(json.dumps({"r": 4, "lora_alpha": 32, "use_rslora": True}))
        with pytest.raises(CheckpointError, match="use_rslora"):
            read_motion_lora(read_tensor_file(tmp_path))

    def test_it_reaches_the_host_with_a_domain_adapter(self):
        file = as_file(toy_tensors("v3_sd15_adapter_peft"), header=self.header(lora_alpha=2))
        tensors = in_kohya_layout(read_domain_adapter(file), file.name)
        assert {float(tensor) for name, tensor in tensors.items() if name.endswith(".alpha")} == {2.0}
        assert len(tensors) == 3 * 128


class TestWriting:
    @pytest.mark.parametrize("source", [name for name in MOTION if name != "motion_director_lora"])
    @pytest.mark.parametrize(
        ("layout", "names"), [("animatediff", "v2_lora_ZoomIn"), ("diffusers", "motion_lora_peft")]
    )
    def test_a_converted_motion_lora_has_the_published_names(self, source, layout, names):
        lora = read_motion_lora(as_file(toy_tensors(source)))
        tensors, metadata = motion_lora_form(lora, layout)
        assert {name: tuple(t.shape) for name, t in tensors.items()} == narrowed(read_published(names))
        assert metadata == {"kind": "motion LoRA", "base": "SD 1.5", "rank": 4}

    def test_feed_forward_layers_are_written_for_diffusers(self):
        lora = read_motion_lora(as_file(toy_tensors("motion_director_lora")))
        tensors, _ = motion_lora_form(lora, "diffusers")
        again = by_layer(read_motion_lora(as_file(tensors)))
        assert again.keys() == by_layer(lora).keys()

    @pytest.mark.parametrize("source", ADAPTERS)
    @pytest.mark.parametrize(
        ("layout", "names"), [("animatediff", "v3_sd15_adapter"), ("diffusers", "v3_sd15_adapter_peft")]
    )
    def test_a_converted_domain_adapter_has_the_published_names(self, source, layout, names):
        tensors, metadata = domain_adapter_form(DomainAdapter(toy_tensors(source)), layout)
        assert {name: tuple(t.shape) for name, t in tensors.items()} == narrowed(read_published(names))
        assert metadata == {"kind": "domain adapter", "base": "SD 1.5", "rank": 4}

    @pytest.mark.parametrize("source", ADAPTERS)
    def test_a_conversion_keeps_every_change(self, source):
        before = read_adapter_changes(DomainAdapter(toy_tensors(source)), "a").changes
        after = read_adapter_changes(domain_adapter_form(DomainAdapter(toy_tensors(source)))[0], "b").changes
        assert before.keys() == after.keys()
        for layer, change in before.items():
            scale = 1.0 if change.alpha is None else change.alpha / change.rank
            assert torch.allclose(after[layer].up, change.up * scale)
            assert torch.equal(after[layer].down, change.down)


class TestForeignNames:
    """What is no layer of a UNet's blocks is left to the host, and never taken for one."""

    @pytest.mark.parametrize(
        "name",
        [
            "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_A.weight",
            "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight",
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
            "diffusion_model.blocks.0.self_attn.q.lora_A.weight",
        ],
    )
    def test_a_lora_of_another_program_keeps_its_names(self, name):
        tensors = {name: torch.zeros(2, 4), name.replace("lora_A", "lora_B"): torch.zeros(4, 2)}
        assert find_layout(tensors) is None
        assert in_kohya_layout(DomainAdapter(tensors), "other").keys() == tensors.keys()

    @pytest.mark.parametrize(
        "te", ["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "text_encoder.x.lora_A"]
    )
    def test_changes_of_a_text_encoder_stay_beside_those_of_the_unet(self, te):
        tensors = {**toy_tensors("v3_sd15_adapter_peft"), te: torch.zeros(2, 2)}
        renamed = in_kohya_layout(DomainAdapter(tensors), "both")
        assert te in renamed
        assert sum(name.startswith("lora_unet_down_blocks_") for name in renamed) == 96

    def test_they_are_not_written_as_if_they_were_of_the_unet(self):
        te = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"
        tensors = {**toy_tensors("v3_sd15_adapter_peft"), te: torch.zeros(4, 4)}
        for layout in ("animatediff", "diffusers"):
            with pytest.raises(IncompatibleModelError, match=r"found 1 of 257 with other names"):
                domain_adapter_form(DomainAdapter(tensors), layout)

    def test_two_names_of_one_factor_are_refused_for_the_host_too(self):
        tensors = toy_tensors("v3_sd15_adapter_peft")
        name = next(name for name in tensors if "lora_A" in name)
        with pytest.raises(CheckpointError, match="names a factor that it has already"):
            in_kohya_layout(DomainAdapter({**tensors, name.replace("lora_A.", "lora_A.default."): tensors[name]}), "a")


class TestConvolutions:
    """SD 1.5's `proj_in` is a convolution of one pixel, and so are its factors in kohya's files."""

    @pytest.fixture
    def kohya(self):
        stem = "lora_unet_down_blocks_0_attentions_0_proj_in"
        down, up = torch.randn(4, 32, 1, 1), torch.randn(32, 4, 1, 1)
        factors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
        return DomainAdapter({**toy_tensors("v3_sd15_adapter_kohya"), **factors})

    def test_they_are_read_as_matrices(self, kohya):
        change = read_adapter_changes(kohya, "a").changes["down_blocks.0.attentions.0.proj_in"]
        assert change.is_convolution
        assert (change.up.shape, change.down.shape) == ((32, 4), (4, 32))

    def test_they_are_written_for_diffusers_as_they_came(self, kohya):
        tensors, _ = domain_adapter_form(kohya, "diffusers")
        assert tensors["unet.down_blocks.0.attentions.0.proj_in.lora_A.weight"].shape == (4, 32, 1, 1)

    def test_animatediffs_layout_has_no_name_for_them(self, kohya):
        with pytest.raises(IncompatibleModelError, match="no name for such a change"):
            domain_adapter_form(kohya)


class TestBadInput:
    def test_names_of_two_programs_are_refused(self):
        mixed = {**toy_tensors("v2_lora_ZoomIn"), **toy_tensors("motion_lora_peft")}
        with pytest.raises(
            CheckpointError, match=r"names of one program, found those of several: .*processor.* and un"
        ):
            read_motion_lora(as_file(mixed))

    def test_two_names_of_one_factor_are_refused(self):
        tensors = toy_tensors("v2_lora_ZoomIn")
        name = next(iter(tensors))
        with pytest.raises(CheckpointError, match=rf"{name}, module.{name} are two names of one factor"):
            read_motion_lora(as_file({**tensors, f"module.{name}": tensors[name]}))

    def test_an_alpha_without_its_layer_is_refused(self):
        tensors = toy_tensors("motion_lora_kohya")
        stem = next(iter(tensors)).partition(".")[0]
        alone = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{stem}.lora")}
        with pytest.raises(CheckpointError, match=r"to_q has an alpha and no factors"):
            read_motion_lora(as_file(alone))

    def test_an_alpha_that_is_no_number_is_refused(self):
        tensors = toy_tensors("motion_lora_kohya")
        name = next(name for name in tensors if name.endswith(".alpha"))
        with pytest.raises(CheckpointError, match=r"alpha \[2\]"):
            read_motion_lora(as_file({**tensors, name: torch.ones(2)}))

    def test_ranks_may_differ_between_layers(self):
        tensors = toy_tensors("v2_lora_ZoomIn")
        down = next(name for name in tensors if name.endswith("to_k_lora.down.weight"))
        up = down.replace(".down.", ".up.")
        tensors |= {down: torch.randn(7, tensors[down].shape[1]), up: torch.randn(tensors[up].shape[0], 7)}
        assert {change.rank for change in read_motion_lora(as_file(tensors)).changes} == {4, 7}

    @pytest.mark.parametrize(
        ("name", "design"),
        [
            (f"{SITE}.attention_blocks.0.to_q.dora_scale", "DoRA"),
            (f"{SITE}.attention_blocks.0.to_q.hada_w1_a", "LoHa"),
            (f"{SITE}.attention_blocks.0.to_q.lokr_w1", "LoKr"),
        ],
    )
    def test_other_designs_are_refused_by_name(self, name, design):
        with pytest.raises(CheckpointError, match=f"found a {design}"):
            read_motion_lora(as_file({**toy_tensors("motion_lora_kohya"), name: torch.zeros(2, 2)}))

    def test_changes_of_the_base_beside_those_of_motion_are_counted(self):
        both = {**toy_tensors("motion_lora_peft"), **toy_tensors("v3_sd15_adapter_peft")}
        lora = read_motion_lora(as_file(both))
        assert (len(lora.changes), lora.num_base_changes) == (168, 128)
        assert len(in_kohya_layout(read_domain_adapter(as_file(both)), "both")) == 256

    def test_a_file_of_base_changes_alone_is_no_motion_lora(self):
        with pytest.raises(CheckpointError, match="found a domain adapter"):
            read_motion_lora(as_file(toy_tensors("v3_sd15_adapter_peft")))
