"""The inflated model on a real ComfyUI against recordings of the published AnimateDiff code.

Each recording is one forward pass of the published inflated UNet at toy width, in float32 on a CPU. Every file in
$MOTIONGRAFT_GOLDEN is tried.
"""

import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from motiongraft.tests.helpers.host_models import model_of_unet, predict_noise

TOLERANCE = 1e-5  # float32, some two hundred layers in another order of operations
FOLDER = os.environ.get("MOTIONGRAFT_GOLDEN")
RECORDINGS = sorted(Path(FOLDER).glob("*.safetensors")) if FOLDER else []

pytestmark = [
    pytest.mark.host,
    pytest.mark.golden,
    pytest.mark.skipif(not FOLDER, reason="MOTIONGRAFT_GOLDEN names no folder of recordings"),
]


def read(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


def part(tensors, prefix):
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@pytest.fixture(params=RECORDINGS, ids=lambda path: path.stem)
def recording(request, host, tmp_path):
    """The recorded tensors, the plain model and the motion module's file."""
    tensors, metadata = read(request.param)
    widths = [int(width) for width in metadata["channels"].split(",")]
    model = model_of_unet(host, part(tensors, "unet."), tuple(width // widths[0] for width in widths))
    path = tmp_path / request.param.name
    save_file(part(tensors, "mm."), path)
    return tensors, metadata, model, path


def inputs(tensors):
    frames = tensors["x"].shape[2]
    return tensors["x"][0].transpose(0, 1), int(tensors["t"]), tensors["ctx"].expand(frames, -1, -1)


def test_inflated_model_equals_the_published_code(host, recording):
    from motiongraft.host.inflate import inflate_model
    from motiongraft.host.motion_modules import load_motion_module

    tensors, metadata, model, path = recording
    motion = load_motion_module(path)
    assert motion.spec.base_norms_over_frames == (metadata["inflated_groupnorm"] == "False")
    x, timestep, context = inputs(tensors)
    (noise,) = predict_noise(host, inflate_model(model, motion, "auto"), x, timestep, context)
    assert (noise - tensors["out"][0].transpose(0, 1)).abs().max() < TOLERANCE


def test_cond_and_uncond_in_one_batch_equal_the_published_code(host, recording):
    """Two clips in one UNet call keep their frames, and v1's norms, apart."""
    from motiongraft.host.inflate import inflate_model
    from motiongraft.host.motion_modules import load_motion_module

    tensors, _, model, path = recording
    x, timestep, context = inputs(tensors)
    inflated = inflate_model(model, load_motion_module(path), "auto")
    other, noise = predict_noise(host, inflated, x, timestep, torch.zeros_like(context), context)
    assert (noise - tensors["out"][0].transpose(0, 1)).abs().max() < TOLERANCE
    assert (other - noise).abs().max() > 1e-2
