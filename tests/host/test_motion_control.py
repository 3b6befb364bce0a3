"""MotionControl on a real UNet: what it says and nothing else."""

import pytest
import torch

from motiongraft.core.errors import HostError, SettingsError
from motiongraft.core.part_factors import parse_part_factors
from motiongraft.sampling.frame_values import parse_frame_values
from motiongraft.sampling.motion_control import MotionControl
from motiongraft.tests.helpers.comparison import assert_close, assert_differs
from motiongraft.tests.helpers.host_models import predict_noise

pytestmark = pytest.mark.host

FRAMES = 16
USE_EXISTING = "use existing"


@pytest.fixture
def inflate(scene):
    from motiongraft.host.inflate import inflate_model

    def inflated(control=None, generation="v3", motion=None, **changes):
        return inflate_model(scene.model, motion or scene.motion(generation, **changes), USE_EXISTING, control)

    return inflated


def at(scene, model, timestep=407):
    """What the UNet predicts at a timestep, for one clip in cond and uncond."""
    generator = torch.Generator().manual_seed(0)
    x, contexts = torch.randn(FRAMES, 4, 8, 8, generator=generator), torch.randn(2, 1, 77, 32, generator=generator)
    states = [context.expand(FRAMES, -1, -1) for context in contexts]
    return torch.stack(predict_noise(scene.host, model, x, timestep, *states))


@pytest.mark.parametrize("generation", ["v1", "v2", "v3"])
@pytest.mark.parametrize(
    "control",
    [
        MotionControl(),
        MotionControl(previous=MotionControl(previous=MotionControl())),
        MotionControl(0.3, 1.2, mask=torch.zeros(1, 64, 64), start_percent=0.9),
        MotionControl(
            per_frame=parse_frame_values("0: 1", "per_frame"), blocks=parse_part_factors("mid_block: 1", "b")
        ),
        MotionControl(0.0, 1.5, mask=torch.zeros(FRAMES, 32, 32)),
    ],
    ids=["defaults", "chain", "elsewhere", "ones", "black mask"],
)
def test_a_neutral_control_is_bitwise_none(scene, inflate, generation, control):
    if control.blocks.factors and generation != "v2":
        control = MotionControl(per_frame=control.per_frame)
    assert torch.equal(at(scene, inflate(control, generation)), at(scene, inflate(None, generation)))


@pytest.mark.parametrize("mask", [None, torch.ones(1, 64, 64)], ids=["no mask", "white mask"])
def test_strength_zero_is_bitwise_the_plain_model(scene, inflate, mask):
    assert torch.equal(at(scene, inflate(MotionControl(0.0, mask=mask))), at(scene, scene.model))


def test_strength_zero_at_a_frame_is_bitwise_the_plain_model_there(scene, inflate):
    control = MotionControl(per_frame=parse_frame_values("3: 1, 4: 0, 5: 0, 6: 1", "per_frame"))
    found, plain, whole = at(scene, inflate(control)), at(scene, scene.model), at(scene, inflate())
    for frame in range(FRAMES):
        assert torch.equal(found[:, frame], plain[:, frame]) == (frame in (4, 5)), frame
    assert_differs(found[:, 8], whole[:, 8])  # it sees the still frames


def test_a_mask_of_frames_is_a_strength_of_frames(scene, inflate):
    mask = torch.zeros(FRAMES, 64, 64)
    mask[4:6] = 1
    control = MotionControl(per_frame=parse_frame_values("3: 1, 4: 0, 5: 0, 6: 1", "per_frame"))
    assert torch.equal(at(scene, inflate(MotionControl(0.0, mask=mask))), at(scene, inflate(control)))


def test_a_mask_acts_inside_it(scene, inflate):
    mask = torch.zeros(1, 64, 64)
    mask[..., :32] = 1
    found = at(scene, inflate(MotionControl(0.0, mask=mask)))
    assert_differs(found, at(scene, inflate()))
    assert_differs(found, at(scene, scene.model))


@pytest.mark.parametrize(("timestep", "acts"), [(998, False), (600, False), (498, True), (1, True)])
def test_it_acts_in_its_part_of_the_sampling_alone(scene, inflate, timestep, acts):
    found = at(scene, inflate(MotionControl(0.0, start_percent=0.5)), timestep)
    expected = scene.model if acts else inflate()
    assert torch.equal(found, at(scene, expected, timestep))


def test_a_block_at_zero_is_bitwise_a_module_that_adds_nothing_there(scene, inflate, tmp_path):
    from motiongraft.core.tensor_files import read_tensor_file, write_tensor_file
    from motiongraft.host.motion_modules import load_motion_module

    motion = scene.motion("v3")
    file = read_tensor_file(scene.folder / motion.name)
    tensors = {
        name: tensor * 0 if name.startswith("up_blocks.1.") and ".proj_out." in name else tensor
        for name, tensor in file.tensors.items()
    }
    write_tensor_file(tmp_path / "less.safetensors", tensors, file.metadata)
    control = MotionControl(blocks=parse_part_factors("up_blocks.1: 0", "blocks"))
    expected = at(scene, inflate(motion=load_motion_module(tmp_path / "less.safetensors")))
    assert torch.equal(at(scene, inflate(control)), expected)


def test_controls_in_a_row_multiply(scene, inflate):
    chain = MotionControl(0.5, 1.1, previous=MotionControl(0.5, 1.2))
    assert_close(at(scene, inflate(chain)), at(scene, inflate(MotionControl(0.25, 1.1 * 1.2))), 1e-5)


def test_an_attention_scale_changes_the_motion_and_no_still_picture(scene, inflate):
    assert_differs(at(scene, inflate(MotionControl(attention_scale=1.3))), at(scene, inflate()))
    still = inflate(MotionControl(attention_scale=1.3), zero=True)
    assert torch.equal(at(scene, still), at(scene, scene.model))


def test_frames_of_a_window_have_their_own_strengths(scene, inflate):
    """Frames of strength 0 are sampled as without motion, wherever their window lies."""
    from motiongraft.host.windows import set_context_window
    from motiongraft.sampling.context_windows import ContextWindowSettings

    control = MotionControl(per_frame=parse_frame_values("19: 1, 20: 0", "per_frame"))
    settings = ContextWindowSettings(length=16, overlap=4, schedule="static", fuse="flat", freenoise=False)
    found = scene.sample(set_context_window(inflate(control), settings), frames=28)
    plain = scene.sample(scene.model, frames=28)
    assert_close(found[20:], plain[20:], 1e-5)
    assert_differs(found[:16], plain[:16])


def test_two_controls_that_meet_leave_no_step_without_motion(scene, inflate):
    """At the share where one ends and the other begins, one of them acts."""
    from motiongraft.host.inflate import inflate_model

    both = inflate_model(
        inflate(MotionControl(0.0, start_percent=0.5)),
        scene.motion("v3", seed=1),
        USE_EXISTING,
        MotionControl(0.0, end_percent=0.5),
    )
    for timestep in (501, 500, 499, 498):
        assert not torch.equal(at(scene, both, timestep), at(scene, scene.model, timestep))


def test_a_pack_that_cuts_the_picture_into_tiles_is_told(scene, inflate):
    mask = torch.ones(1, 64, 64)

    def tiled(apply, arguments):
        left = {**arguments["c"]}
        return apply(arguments["input"][..., :4], arguments["timestep"], **left).repeat(1, 1, 1, 2)

    model = inflate(MotionControl(0.5, mask=mask)).clone()
    model.set_model_unet_function_wrapper(tiled)
    with pytest.raises(HostError, match="runs the model in tiles"):
        scene.sample(model)


def test_it_works_beside_an_area_and_every_sampler_takes_it(scene, inflate):
    mask = torch.zeros(FRAMES, 64, 64)
    mask[:, 16:48] = 1
    model = inflate(MotionControl(0.2, 1.1, mask=mask, per_frame=parse_frame_values("0: 1, 15: 0.5", "per_frame")))
    half = [[states, {**entry, "area": (4, 8, 0, 0)}] for states, entry in scene.positive]
    assert torch.isfinite(scene.sample(model, positive=scene.positive + half)).all()
    for sampler in ("euler", "dpmpp_2m_sde"):
        assert torch.isfinite(scene.sample(model, sampler=sampler)).all()


def test_two_modules_can_share_the_sampling(scene, inflate):
    """One moves the beginning, the other the end."""
    from motiongraft.host.inflate import inflate_model

    first = inflate(MotionControl(0.0, start_percent=0.5))
    both = inflate_model(first, scene.motion("v3", seed=1), USE_EXISTING, MotionControl(0.0, end_percent=0.5))
    assert torch.equal(at(scene, both, 800), at(scene, inflate(), 800))
    assert torch.equal(at(scene, both, 200), at(scene, inflate(motion=scene.motion("v3", seed=1)), 200))


def test_values_for_another_clip_are_refused_before_anything_is_loaded(scene, inflate, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        scene.host.module("comfy.model_management"), "load_models_gpu", lambda *args, **_: loaded.append(args)
    )
    for control, words in (
        (MotionControl(per_frame=parse_frame_values("1, 2", "per_frame")), "each of the 16 frames, found 2"),
        (MotionControl(mask=torch.ones(5, 8, 8)), "each of the 16, found 5"),
    ):
        with pytest.raises(SettingsError, match=words):
            scene.sample(inflate(control))
    assert not loaded


def test_a_stretched_list_is_the_list_of_the_stretched_values(scene, inflate):
    stretched = MotionControl(per_frame=parse_frame_values("0, 1", "per_frame"), resample=True)
    lines = MotionControl(per_frame=parse_frame_values("0: 0\n15: 1", "per_frame"))
    assert_close(scene.sample(inflate(stretched)), scene.sample(inflate(lines)))


def test_a_block_that_the_module_has_not_is_refused(inflate):
    with pytest.raises(SettingsError, match=r"^blocks: mid_block is no part of"):
        inflate(MotionControl(blocks=parse_part_factors("mid_block: 0.5", "blocks")))


def test_the_node_gives_what_its_widgets_say(host):
    from motiongraft.nodes.motion_control import MotionControl as Node

    mask = torch.ones(1, 8, 8)
    (first,) = Node.execute(0.5, 1.1, 0.1, 0.9, mask, "1, 0.5", None, "up_blocks: 0.5").args
    assert (first.strength, first.attention_scale, first.start_percent, first.end_percent) == (0.5, 1.1, 0.1, 0.9)
    assert torch.equal(first.mask, mask)
    assert first.per_frame.values == (1, 0.5)
    assert first.blocks.factors == (("up_blocks", 0.5),)
    (second,) = Node.execute(1.0, 1.0, 0.0, 1.0, previous=first).args
    assert list(second.chain()) == [second, first]
    (third,) = Node.execute(1.0, 1.0, 0.0, 1.0, resample=True).args
    assert third.resample
