"""Our SparseCtrl network against diffusers', on the same random weights, through the file reader in both namings.

True for diffusers 0.42. It takes the motion norm over all frames, where AnimateDiff's own code takes it frame by frame.
The node follows AnimateDiff. Both are compared: ours under diffusers' norm, and diffusers' under AnimateDiff's.
"""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed (make setup installs it)")

from diffusers.models.controlnets.controlnet_sparsectrl import SparseControlNetModel  # noqa: E402

from motiongraft.core.tensor_files import read_tensor_file  # noqa: E402
from motiongraft.motion_modules.sparse_control import read_sparse_control  # noqa: E402
from motiongraft.tests.helpers.comparison import RELATIVE, assert_close, assert_differs  # noqa: E402

pytestmark = pytest.mark.host

FRAMES = 6
KEYFRAMES = [0, 4]
SIZE = (8, 12)
TIMESTEP = 407
SIZES = {"block_out_channels": (32, 64, 128, 128), "cross_attention_dim": 32, "attention_head_dim": 2}
RGB = {"conditioning_channels": 4, "use_simplified_condition_embedding": True}
SCRIBBLE = {"conditioning_channels": 3, "use_simplified_condition_embedding": False}
RENAMED = (
    (".transformer_blocks.0.attn1.", ".transformer_blocks.0.attention_blocks.0."),
    (".transformer_blocks.0.norm1.", ".transformer_blocks.0.norms.0."),
    (".transformer_blocks.0.norm3.", ".transformer_blocks.0.ff_norm."),
    (".transformer_blocks.0.pos_embed.pe", ".transformer_blocks.0.attention_blocks.0.pos_encoder.pe"),
)


def with_random_weights(model):
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_norm = "norm" in name and name.endswith("weight")
        is_vector = parameter.ndim == 1
        parameter.data.copy_(
            1 + 0.1 * noise if is_norm else 0.1 * noise if is_vector else noise * parameter[0].numel() ** -0.5
        )
    return model.eval().requires_grad_(False)


def official(name):
    """AnimateDiff's name of a tensor; those of the ControlNet are the same."""
    if ".motion_modules." not in name:
        return name
    for theirs, published in RENAMED:
        name = name.replace(theirs, published)
    head, _, tail = name.partition(".motion_modules.")
    number, _, layer = tail.partition(".")
    return f"{head}.motion_modules.{number}.temporal_transformer.{layer}"


def save(model, naming, folder):
    """A file of the model as diffusers or AnimateDiff writes it."""
    if naming == "diffusers":
        model.save_pretrained(folder)
        return folder
    tensors = {f"module.{official(name)}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"controlnet": {**tensors, "animatediff_config": "a text"}}, folder / "sparse.ckpt")
    return folder / "sparse.ckpt"


def theirs(model, condition, context):
    """diffusers' residuals for one clip. Shapes: images and mask `f c h w` -> `f c' h' w'` each"""
    pictures, mask = condition
    clip = torch.zeros(1, 4, FRAMES, *SIZE)
    down, middle = model(
        clip,
        TIMESTEP,
        encoder_hidden_states=context.expand(FRAMES, -1, -1),
        controlnet_cond=pictures.transpose(0, 1)[None],
        conditioning_mask=mask.transpose(0, 1)[None],
        return_dict=False,
    )
    return [*down, middle]


@pytest.fixture(scope="module", params=[RGB, SCRIBBLE], ids=["rgb", "scribble"])
def model(request):
    return with_random_weights(SparseControlNetModel(**SIZES, **request.param))


@pytest.fixture(scope="module")
def condition(model):
    """Images at the keyframes of a clip, and the mask that says so."""
    size = SIZE if model.config.conditioning_channels == 4 else tuple(8 * side for side in SIZE)
    generator = torch.Generator().manual_seed(1)
    condition = torch.zeros(FRAMES, model.config.conditioning_channels, *size)
    condition[KEYFRAMES] = torch.randn(len(KEYFRAMES), *condition.shape[1:], generator=generator)
    mask = torch.zeros(FRAMES, 1, *size)
    mask[KEYFRAMES] = 1
    return condition, mask


def residuals(network, condition, context):
    """Our residuals for two clips at once, the second without a condition. Shapes: as in `theirs`"""
    hint = torch.cat(condition, dim=1)
    found = network(
        torch.randn(2 * FRAMES, 4, *SIZE),  # of the latents only the size counts
        hint=torch.cat([hint, torch.zeros_like(hint)]),
        timesteps=torch.tensor([float(TIMESTEP)]).expand(2 * FRAMES),
        context=context.expand(2 * FRAMES, -1, -1),
        num_frames=FRAMES,
    )
    return [*found["output"], *found["middle"]]


@pytest.mark.parametrize("naming", ["diffusers", "animatediff"])
def test_residuals_of_every_block_equal_diffusers(host, model, condition, naming, tmp_path):
    from motiongraft.host.sparse_loading import network_of

    read = read_sparse_control(read_tensor_file(save(model, naming, tmp_path)))
    assert not read.spec.motion_norm_over_frames
    network = network_of(replace(read, spec=replace(read.spec, motion_norm_over_frames=True))).network
    context = torch.randn(1, 77, 32, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = theirs(model, condition, context)
        empty = theirs(model, tuple(map(torch.zeros_like, condition)), context)
        found = residuals(network, condition, context)
    assert len(found) == len(expected) == 13
    for ours, their, without in zip(found, expected, empty, strict=True):
        assert_close(ours[:FRAMES], their, RELATIVE)
        assert_close(ours[FRAMES:], without, RELATIVE)
        assert_differs(their, without, 0.01)


def with_norms_frame_by_frame(model):
    """diffusers' network with the motion norms of AnimateDiff's own code.

    Source: guoyww/AnimateDiff sparse_controlnet.py, InflatedGroupNorm.
    """

    def by_frame(norm, x):
        frames = x.transpose(1, 2).flatten(0, 1)
        normed = F.group_norm(frames, norm.num_groups, norm.weight, norm.bias, norm.eps)
        return normed.view(-1, FRAMES, *normed.shape[1:]).transpose(1, 2)

    model = copy.deepcopy(model)
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.GroupNorm) and "motion_modules" in name:
            layer.forward = partial(by_frame, layer)
    return model


def test_as_it_ships_it_equals_diffusers_with_the_published_norms(host, model, condition, tmp_path):
    """And the difference between the two norms is no trifle."""
    from motiongraft.host.sparse_loading import network_of

    network = network_of(read_sparse_control(read_tensor_file(save(model, "diffusers", tmp_path)))).network
    context = torch.randn(1, 77, 32, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = theirs(with_norms_frame_by_frame(model), condition, context)
        others = theirs(model, condition, context)
        found = residuals(network, condition, context)
    for ours, their in zip(found, expected, strict=True):
        assert_close(ours[:FRAMES], their, RELATIVE)
    assert_differs(found[-1][:FRAMES], others[-1], 1e-3)
