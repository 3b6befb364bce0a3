"""Our temporal transformer and our splice against diffusers, on the same random weights.

True for diffusers 0.42. diffusers takes the motion norm over all frames, whatever the module; ours does so where the
spec says it.
"""

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed (make setup installs it)")

from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D, UNetMotionModel  # noqa: E402

from motiongraft.core.tensor_files import write_tensor_file  # noqa: E402
from motiongraft.motion_modules.keys import fuse_qkv  # noqa: E402
from motiongraft.motion_modules.transformer import TemporalTransformer  # noqa: E402
from motiongraft.tests.helpers.host_models import model_of_unet, predict_noise  # noqa: E402

TOLERANCE = 1e-5  # float32
FRAMES = 16
RENAMED = (
    ("attn1.", "attention_blocks.0."),
    ("attn2.", "attention_blocks.1."),
    ("norm1.", "norms.0."),
    ("norm2.", "norms.1."),
    ("norm3.", "ff_norm."),
)


def official(name):
    """The published name of a weight inside one of diffusers' temporal transformers."""
    for theirs, published in RENAMED:
        name = name.replace(f"transformer_blocks.0.{theirs}", f"transformer_blocks.0.{published}")
    return name


def official_tensors(tensors, prefix=""):
    """Weights of one transformer under published names; the shared position table once for each attention."""
    table = tensors.pop("transformer_blocks.0.pos_embed.pe")
    stem = f"{prefix}transformer_blocks.0.attention_blocks"
    tables = {f"{stem}.{block}.pos_encoder.pe": table.clone() for block in range(2)}
    return {prefix + official(name): tensor for name, tensor in tensors.items()} | tables


def randomise(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(1 + 0.1 * noise if parameter.ndim == 1 else noise * parameter[0].numel() ** -0.5)
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize(("channels", "frames"), [(64, 16), (320, 24), (32, 2)])
def test_temporal_transformer_equals_diffusers(channels, frames):
    theirs = randomise(
        AnimateDiffTransformer3D(
            num_attention_heads=8,
            attention_head_dim=channels // 8,
            in_channels=channels,
            activation_fn="geglu",
            positional_embeddings="sinusoidal",
            num_positional_embeddings=32,
        )
    )
    ours = TemporalTransformer(channels, 32, norm_over_frames=True)
    ours.load_state_dict(fuse_qkv(official_tensors(dict(theirs.state_dict()))))
    x = torch.randn(2 * frames, channels, 5, 6)
    with torch.inference_mode():
        assert (ours(x, frames) - theirs(x, num_frames=frames)).abs().max() < TOLERANCE


@pytest.fixture(scope="module")
def their_unet():
    torch.manual_seed(0)
    unet = UNetMotionModel(
        block_out_channels=(32, 32, 64, 64),
        cross_attention_dim=32,
        num_attention_heads=2,
        motion_num_attention_heads=8,
        use_motion_mid_block=True,
    )
    return randomise(unet)


@pytest.mark.host
def test_inflated_model_equals_diffusers_motion_unet(host, their_unet, tmp_path):
    from motiongraft.host.inflate import inflate_model
    from motiongraft.host.motion_modules import load_motion_module

    weights = their_unet.state_dict()
    base = {name: tensor for name, tensor in weights.items() if "motion_modules" not in name}
    spec = {"generation": "diffusers", "motion_norm_over_frames": True}
    write_tensor_file(tmp_path / "mm.safetensors", motion_tensors(weights), {"spec": spec})
    inflated = inflate_model(
        model_of_unet(host, base, (1, 1, 2, 2)), load_motion_module(tmp_path / "mm.safetensors"), "auto"
    )
    x, context = torch.randn(FRAMES, 4, 8, 12), torch.randn(1, 77, 32)
    (noise,) = predict_noise(host, inflated, x, 407, context.expand(FRAMES, -1, -1))
    with torch.inference_mode():
        clip = x.transpose(0, 1).unsqueeze(0)
        expected = their_unet(clip, 407, encoder_hidden_states=context.expand(FRAMES, -1, -1)).sample[0].transpose(0, 1)
    assert (noise - expected).abs().max() < TOLERANCE * max(1, expected.abs().max())


def motion_tensors(weights):
    """All motion weights of diffusers' UNet under published names."""
    found = {}
    stems = {
        name[: name.index(".", name.index("motion_modules.") + 15) + 1] for name in weights if "motion_modules" in name
    }
    for stem in stems:
        own = {name.removeprefix(stem): tensor for name, tensor in weights.items() if name.startswith(stem)}
        found |= official_tensors(own, f"{stem}temporal_transformer.")
    return found
