"""Our temporal transformer and our splice against diffusers, on the same random weights.

True for diffusers 0.42. diffusers takes the motion norm over all frames, whatever the module; ours does so where the
spec says it.
"""

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed (make setup installs it)")

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel  # noqa: E402
from diffusers.models.unets.unet_motion_model import (  # noqa: E402
    AnimateDiffTransformer3D,
    MotionAdapter,
    UNetMotionModel,
)

from motiongraft.core.tensor_files import write_tensor_file  # noqa: E402
from motiongraft.motion_modules.keys import fuse_qkv  # noqa: E402
from motiongraft.motion_modules.transformer import TemporalTransformer  # noqa: E402
from motiongraft.sampling.image_affinity import affinities  # noqa: E402
from motiongraft.tests.helpers.host_models import model_of_unet, predict_noise  # noqa: E402
from motiongraft.tests.helpers.random_modules import randomise  # noqa: E402

TOLERANCE = 1e-5  # float32
FRAMES = 16
BASE = {"block_out_channels": (32, 32, 64, 64), "cross_attention_dim": 32}
ADAPTER = {"block_out_channels": (32, 32, 64, 64), "use_motion_mid_block": False}
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
    base, motion = (
        {name: t for name, t in weights.items() if ("motion_modules" in name) == own} for own in (False, True)
    )
    write_tensor_file(tmp_path / "mm.safetensors", motion, {})
    module = load_motion_module(tmp_path / "mm.safetensors", "diffusers")
    inflated = inflate_model(model_of_unet(host, base, (1, 1, 2, 2)), module, "auto")
    x, context = torch.randn(FRAMES, 4, 8, 12), torch.randn(1, 77, 32)
    (noise,) = predict_noise(host, inflated, x, 407, context.expand(FRAMES, -1, -1))
    with torch.inference_mode():
        clip = x.transpose(0, 1).unsqueeze(0)
        expected = their_unet(clip, 407, encoder_hidden_states=context.expand(FRAMES, -1, -1)).sample[0].transpose(0, 1)
    assert (noise - expected).abs().max() < TOLERANCE * max(1, expected.abs().max())


@pytest.mark.host
@pytest.mark.parametrize(
    ("affinity", "frame"), [("small motion", 0), ("loop, large motion", 0), ("moderate motion", 5)]
)
def test_an_image_of_pia_is_seen_as_diffusers_sees_it(host, tmp_path, affinity, frame):
    """Both take the base's own input convolution, and the module's for the image alone."""
    from motiongraft.host.image_input import condition_on_image
    from motiongraft.host.inflate import inflate_model
    from motiongraft.host.motion_modules import load_motion_module

    adapter = randomise(MotionAdapter(**ADAPTER, conv_in_channels=9), seed=1)
    adapter.save_pretrained(tmp_path)
    plain = randomise(UNet2DConditionModel(**BASE, attention_head_dim=2), seed=2)
    theirs = UNetMotionModel.from_unet2d(plain, adapter).eval()
    model = model_of_unet(host, plain.state_dict(), (1, 1, 2, 2))
    image = torch.randn(1, 4, 8, 12)
    latent = {"samples": model.model.process_latent_out(image)}
    module = condition_on_image(load_motion_module(tmp_path, "diffusers"), latent, affinity, frame)
    x, context = torch.randn(FRAMES, 4, 8, 12), torch.randn(1, 77, 32)
    states = context.expand(FRAMES, -1, -1)
    (found,) = predict_noise(host, inflate_model(model, module, "auto"), x, 407, states)
    levels = torch.tensor(affinities(affinity, FRAMES, frame)).view(-1, 1, 1, 1).expand(-1, 1, 8, 12)
    seen = torch.cat([x, levels, image.expand(FRAMES, -1, -1, -1)], dim=1)
    with torch.inference_mode():
        expected = theirs(seen.transpose(0, 1)[None], 407, encoder_hidden_states=states).sample[0].transpose(0, 1)
    assert (found - expected).abs().max() < TOLERANCE * max(1, expected.abs().max())
    without = predict_noise(host, model, x, 407, states)[0]
    assert (found - without).abs().max() > 0.01
