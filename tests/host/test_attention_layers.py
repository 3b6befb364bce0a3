"""The names that domain adapters have for the attention weights of a base model."""

from types import SimpleNamespace

import pytest
import torch

from motiongraft.core.errors import IncompatibleModelError
from motiongraft.core.tensor_files import read_tensor_file, write_tensor_file
from motiongraft.lora.low_rank import LowRank
from motiongraft.lora.saved_forms import domain_adapter_form, domain_adapter_tensors
from motiongraft.tests.tiny_sd_pack.checkpoints import write_domain_adapter

pytestmark = pytest.mark.host

PROJECTIONS = tuple(f".{part}.weight" for part in ("to_q", "to_k", "to_v", "to_out.0"))
BASES = ("SD 1.5", "SDXL")


@pytest.fixture
def attention_weights(host):
    from motiongraft.host.attention_layers import attention_weights_of_base

    return attention_weights_of_base


def model_of(scene, base):
    return scene.model if base == "SD 1.5" else scene.sdxl.model


def random_change(name, shape, rank=2):
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    up, down = torch.randn(shape[0], rank, generator=generator), torch.randn(rank, shape[1], generator=generator)
    return LowRank(name, up, down)


def test_sd_15_has_the_128_projections_of_the_published_file(scene, attention_weights, tmp_path):
    published = read_tensor_file(write_domain_adapter(tmp_path / "v3_sd15_adapter.safetensors")).tensors
    found = attention_weights(scene.model)
    assert {f"{stem}_lora.{factor}.weight" for stem in found for factor in ("down", "up")} == published.keys()
    assert len(found) == 128
    stem = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_"
    assert found[f"{stem}q"] == "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    assert found[f"{stem}out"] == "input_blocks.1.1.transformer_blocks.0.attn1.to_out.0.weight"


@pytest.mark.parametrize("base", BASES)
def test_every_attention_projection_of_the_unet_is_named_in_one_order(scene, attention_weights, base):
    model = model_of(scene, base)
    found = attention_weights(model)
    weights = model.model.diffusion_model.state_dict()
    assert set(found.values()) == {name for name in weights if name.endswith(PROJECTIONS)}
    assert list(found) == sorted(found)


@pytest.mark.parametrize("base", BASES)
def test_trained_changes_reach_the_weights_that_they_were_made_for(scene, attention_weights, base, tmp_path):
    from motiongraft.host.loras import apply_domain_adapter

    model = model_of(scene, base)
    weights, names = model.model.diffusion_model.state_dict(), attention_weights(model)
    changes = [random_change(name, weights[name].shape) for name in names.values()]
    write_tensor_file(tmp_path / "a.safetensors", *domain_adapter_form(domain_adapter_tensors(changes, names)))
    file = read_tensor_file(tmp_path / "a.safetensors")
    assert file.metadata["base"] == base
    patches = apply_domain_adapter(model, file, 1.0).patches
    assert patches.keys() == {f"diffusion_model.{change.target}" for change in changes}
    for change in changes:
        ((_, patch, *_),) = patches[f"diffusion_model.{change.target}"]
        assert torch.equal(patch.weights[0], change.up)
        assert torch.equal(patch.weights[1], change.down)


def test_another_base_has_no_attention_to_adapt(scene, attention_weights):
    model = scene.model.clone()
    model.model = SimpleNamespace(model_config=SimpleNamespace(unet_config={"image_model": "flux"}))
    with pytest.raises(IncompatibleModelError, match=r"changes the spatial attention of SD 1\.5 or SDXL"):
        attention_weights(model)
