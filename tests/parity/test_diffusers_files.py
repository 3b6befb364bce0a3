"""Files in diffusers' layout, read by diffusers itself. True for diffusers 0.42 with PEFT 0.21."""

from typing import Any, cast

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed (make setup installs it)")
pytest.importorskip("peft", reason="PEFT is not installed (make setup installs it)")

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # noqa: E402
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel  # noqa: E402
from diffusers.models.unets.unet_motion_model import MotionAdapter, UNetMotionModel  # noqa: E402
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline  # noqa: E402
from diffusers.schedulers.scheduling_ddim import DDIMScheduler  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel  # noqa: E402

from motiongraft.core.tensor_files import read_tensor_file, write_tensor_file  # noqa: E402
from motiongraft.lora.domain_adapter import DomainAdapter, read_adapter_changes  # noqa: E402
from motiongraft.lora.motion_lora import layer_of, read_motion_lora  # noqa: E402
from motiongraft.lora.saved_forms import domain_adapter_form, motion_lora_form  # noqa: E402
from motiongraft.motion_modules.load import read_motion_file, saved_form  # noqa: E402
from motiongraft.standalone.convert import convert  # noqa: E402
from motiongraft.tests.helpers.random_modules import random_module, toy_spec  # noqa: E402
from motiongraft.tests.tiny_sd_pack.checkpoints import write_domain_adapter, write_motion_lora  # noqa: E402

WIDTHS = (32, 64, 128, 128)
TOLERANCE = 1e-5  # float32: one sum in another order
FRAMES = 8


@pytest.fixture(scope="module")
def lora_file(tmp_path_factory):
    return write_motion_lora(tmp_path_factory.mktemp("lora") / "zoom.safetensors", middle=True)


def pipeline():
    """diffusers' pipeline around random weights, the same at each call."""
    torch.manual_seed(0)
    base = UNet2DConditionModel(block_out_channels=WIDTHS, cross_attention_dim=32, attention_head_dim=2)
    adapter = MotionAdapter(block_out_channels=WIDTHS)
    for name, parameter in adapter.named_parameters():
        if "proj_out" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    text = CLIPTextConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=9
    )
    tokenizer: Any = None  # no prompt is encoded
    return AnimateDiffPipeline(
        vae=AutoencoderKL(block_out_channels=(32,), norm_num_groups=32),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=base,
        motion_adapter=adapter,
        scheduler=DDIMScheduler(),
    )


def prediction(unet):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 4, FRAMES, 8, 8, generator=generator)
    states = torch.randn(1, 77, 32, generator=generator).expand(FRAMES, -1, -1)
    with torch.inference_mode():
        return unet.eval()(x, 407, encoder_hidden_states=states).sample


@torch.no_grad()
def add(unet: UNetMotionModel, layer, change):
    """The change of one layer added to diffusers' own weight."""
    weight = unet.get_submodule(layer).weight
    scale = 1.0 if change.alpha is None else change.alpha / change.rank
    weight += scale * change.up @ change.down


def diffusers_name(layer):
    for ours, theirs in (
        (".temporal_transformer", ""),
        ("attention_blocks.0", "attn1"),
        ("attention_blocks.1", "attn2"),
    ):
        layer = layer.replace(ours, theirs)
    return layer


@pytest.mark.parametrize("generation", ["v1", "v2", "v3", "sdxl-beta"])
def test_a_converted_module_is_what_motion_adapter_loads(tmp_path, generation):
    module = random_module(toy_spec(generation, num_heads=4))
    write_tensor_file(tmp_path / "mine.safetensors", *saved_form(module))
    convert(tmp_path / "mine.safetensors", tmp_path / "adapter", None, "diffusers")
    theirs, report = cast(Any, MotionAdapter).from_pretrained(tmp_path / "adapter", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.config.motion_num_attention_heads == 4
    assert theirs.config.motion_max_seq_length == module.spec.num_positions
    again = read_motion_file(read_tensor_file(tmp_path / "adapter"))
    assert again.spec == module.spec
    own = module.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in again.tensors.items())


def test_what_motion_adapter_saves_is_loaded(tmp_path):
    theirs = pipeline().motion_adapter
    theirs.save_pretrained(tmp_path)
    motion = read_motion_file(read_tensor_file(tmp_path))
    assert (motion.spec.generation, motion.spec.num_heads) == ("v2", 8)
    name = "mid_block.motion_modules.0.temporal_transformer.proj_out.weight"
    assert torch.equal(motion.tensors[name], theirs.state_dict()["mid_block.motion_modules.0.proj_out.weight"])


def test_a_converted_motion_lora_does_in_diffusers_what_its_factors_say(tmp_path, lora_file):
    lora = read_motion_lora(read_tensor_file(lora_file))
    write_tensor_file(tmp_path / "lora.safetensors", *motion_lora_form(lora, "diffusers"))
    theirs, expected = pipeline(), pipeline().unet
    plain = prediction(theirs.unet)
    theirs.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    for change in lora.changes:
        add(expected, diffusers_name(layer_of(change)), change)
    found, expected = prediction(theirs.unet), prediction(expected)
    assert (found - expected).abs().max() < TOLERANCE * expected.abs().max()
    assert (found - plain).abs().max() > 100 * TOLERANCE * expected.abs().max()


def test_a_converted_domain_adapter_does_in_diffusers_what_its_factors_say(tmp_path):
    file = read_tensor_file(write_domain_adapter(tmp_path / "adapter.safetensors"))
    write_tensor_file(tmp_path / "lora.safetensors", *domain_adapter_form(DomainAdapter(file.tensors), "diffusers"))
    theirs, expected = pipeline(), pipeline().unet
    theirs.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    for layer, change in read_adapter_changes(file.tensors, file.name).changes.items():
        add(expected, layer, change)
    found, expected = prediction(theirs.unet), prediction(expected)
    assert (found - expected).abs().max() < TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("alpha", [None, 2])
def test_what_diffusers_saves_with_its_alpha_is_read_as_diffusers_applies_it(tmp_path, alpha):
    from peft import LoraConfig, get_peft_model_state_dict

    theirs = pipeline()
    config = LoraConfig(
        r=4, lora_alpha=alpha or 4, init_lora_weights=False, target_modules=r".*motion_modules.*to_[qkv]"
    )
    theirs.unet.add_adapter(config)
    layers: dict[str, Any] = get_peft_model_state_dict(theirs.unet)
    metadata = config.to_dict() if alpha else None
    AnimateDiffPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers, unet_lora_adapter_metadata=metadata)
    (file,) = tmp_path.glob("*.safetensors")
    lora = read_motion_lora(read_tensor_file(file))
    assert {change.alpha for change in lora.changes} == {alpha}
    expected = pipeline().unet
    for change in lora.changes:
        add(expected, diffusers_name(layer_of(change)), change)
    found, expected = prediction(theirs.unet), prediction(expected)
    assert (found - expected).abs().max() < TOLERANCE * expected.abs().max()
