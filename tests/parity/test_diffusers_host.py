"""The splice on diffusers' UNets against diffusers' own motion UNet, and against recordings of the published code.

True for diffusers 0.42.
"""

import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed (make setup installs it)")

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel  # noqa: E402
from diffusers.models.unets.unet_motion_model import UNetMotionModel  # noqa: E402

from motiongraft.core.tensor_files import TensorFile  # noqa: E402
from motiongraft.motion_modules.load import build, read_motion_file  # noqa: E402
from motiongraft.standalone.diffusers_base import base_of  # noqa: E402
from motiongraft.standalone.diffusers_denoiser import DiffusersDenoiser  # noqa: E402
from motiongraft.tests.helpers.random_modules import randomise  # noqa: E402
from motiongraft.training.cache.cached_clips import TextStates  # noqa: E402
from motiongraft.training.denoiser import Conditioning  # noqa: E402

TOLERANCE = 1e-5  # float32, some two hundred layers in another order of operations
CPU = torch.device("cpu")
FRAMES = 16
FOLDER = os.environ.get("MOTIONGRAFT_GOLDEN")
RECORDINGS = sorted(Path(FOLDER).glob("*.safetensors")) if FOLDER else []
SD15 = {
    "block_out_channels": (32, 32, 64, 64),
    "cross_attention_dim": 32,
    "motion_num_attention_heads": 8,
}
SDXL = {
    "block_out_channels": (32, 64, 128),
    "cross_attention_dim": 64,
    "down_block_types": ("DownBlockMotion", "CrossAttnDownBlockMotion", "CrossAttnDownBlockMotion"),
    "up_block_types": ("CrossAttnUpBlockMotion", "CrossAttnUpBlockMotion", "UpBlockMotion"),
    "transformer_layers_per_block": (1, 1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 32 + 6 * 8,
    "motion_num_attention_heads": 8,
}


def plain_config(config):
    """The arguments of the plain UNet for those of the motion UNet."""
    own = {name: value for name, value in config.items() if not name.startswith(("motion_", "use_motion"))}
    for name in ("down_block_types", "up_block_types"):
        if name in own:
            own[name] = tuple(kind.replace("Motion", "2D") for kind in own[name])
    return own


def denoiser_of(theirs, config, spec_changes=None):
    weights = theirs.state_dict()
    unet = UNet2DConditionModel(**plain_config(config), attention_head_dim=2)
    unet.load_state_dict({name: tensor for name, tensor in weights.items() if "motion_modules" not in name})
    file = TensorFile(Path("theirs"), {name: tensor for name, tensor in weights.items() if "motion_modules" in name})
    motion = read_motion_file(file, "diffusers")
    module = build(motion.spec, motion.tensors, motion.name)
    return DiffusersDenoiser(base_of(unet), CPU, torch.float32, module)


@pytest.mark.parametrize("middle", [True, False])
@pytest.mark.parametrize("family", ["SD 1.5", "SDXL"])
def test_predictions_equal_those_of_diffusers_motion_unet(family, middle):
    config = {"SD 1.5": SD15, "SDXL": SDXL}[family]
    theirs = randomise(UNetMotionModel(**config, num_attention_heads=2, use_motion_mid_block=middle))
    ours = denoiser_of(theirs, config)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2 * FRAMES, 4, 8, 12, generator=generator)
    states = torch.randn(2, 77, config["cross_attention_dim"], generator=generator)
    pooled = torch.randn(2, 32, generator=generator) if family == "SDXL" else [None, None]
    sizes = ((64, 96), (128, 96))
    told = Conditioning(tuple(TextStates(*each) for each in zip(states, pooled, strict=True)), sizes)
    with torch.inference_mode():
        found = ours.predict(x, torch.tensor([407, 12]), told, FRAMES)
        for clip in range(2):
            frames = slice(clip * FRAMES, (clip + 1) * FRAMES)
            (height, width), own_pooled = sizes[clip], pooled[clip]
            labels = None
            if own_pooled is not None:
                ids = torch.tensor([[height, width, 0, 0, height, width]]).expand(1, -1)
                labels = {"text_embeds": own_pooled[None], "time_ids": ids}
            expected = theirs(
                x[frames].transpose(0, 1).unsqueeze(0),
                (407, 12)[clip],
                encoder_hidden_states=states[clip].expand(FRAMES, -1, -1),
                added_cond_kwargs=labels,
            ).sample[0]
            difference = (found[frames] - expected.transpose(0, 1)).abs().max()
            assert difference < TOLERANCE * max(1, expected.abs().max()), float(difference)


def read(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


def part(tensors, prefix):
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@pytest.mark.golden
@pytest.mark.skipif(not FOLDER, reason="MOTIONGRAFT_GOLDEN names no folder of recordings")
@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_predictions_equal_the_published_code(path):
    """Two clips in one call keep their frames, and v1's norms, apart."""
    tensors, metadata = read(path)
    unet = UNet2DConditionModel(
        block_out_channels=tuple(map(int, metadata["channels"].split(","))),
        cross_attention_dim=int(metadata["context_dim"]),
        attention_head_dim=int(metadata["heads"]),
    )
    unet.load_state_dict(part(tensors, "unet."))
    motion = read_motion_file(TensorFile(path, part(tensors, "mm.")))
    assert motion.spec.base_norms_over_frames == (metadata["inflated_groupnorm"] == "False")
    module = build(motion.spec, motion.tensors, motion.name)
    ours = DiffusersDenoiser(base_of(unet), CPU, torch.float32, module)
    x = tensors["x"][0].transpose(0, 1)
    texts = (TextStates(torch.zeros_like(tensors["ctx"][0]), None), TextStates(tensors["ctx"][0], None))
    timesteps = tensors["t"].flatten()[:1].repeat(2)
    with torch.inference_mode():
        both = ours.predict(x.repeat(2, 1, 1, 1), timesteps, Conditioning(texts, ((64, 64),) * 2), x.shape[0])
    other, found = both.chunk(2)
    assert (found - tensors["out"][0].transpose(0, 1)).abs().max() < TOLERANCE
    assert (other - found).abs().max() > 1e-2
