"""The image that a module of PIA animates: needed, of the clip's size, and sliced with the windows."""

import pytest
import torch

from motiongraft.core.errors import IncompatibleModelError, SettingsError
from motiongraft.tests.helpers.comparison import assert_close, assert_differs

pytestmark = pytest.mark.host

PIA = {"generation": "v1", "num_positions": 32, "image_channels": 5}
FRAMES = 16


@pytest.fixture
def pia(scene):
    return scene.motion(**PIA)


@pytest.fixture
def given(host):
    from motiongraft.host.image_input import condition_on_image

    def give(motion, affinity="small motion", frame=0, seed=0, size=(8, 8)):
        samples = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(seed))
        return condition_on_image(motion, {"samples": samples}, affinity, frame)

    return give


def inflated(scene, motion):
    from motiongraft.host.inflate import inflate_model

    return inflate_model(scene.model, motion, "auto")


def test_the_image_changes_the_clip_and_the_module_given_is_left_alone(scene, pia, given):
    first, second = (scene.sample(inflated(scene, given(pia, seed=seed))) for seed in (0, 1))
    assert_differs(first, second)
    assert pia.image is None
    assert torch.equal(scene.sample(inflated(scene, given(pia, seed=0))), first)


def test_affinity_and_frame_change_the_clip(scene, pia, given):
    plain = scene.sample(inflated(scene, given(pia)))
    assert_differs(scene.sample(inflated(scene, given(pia, "large motion"))), plain)
    assert_differs(scene.sample(inflated(scene, given(pia, frame=7))), plain)


def test_every_window_sees_the_affinities_of_its_own_frames(scene, pia, given, monkeypatch):
    from motiongraft.host import image_input
    from motiongraft.host.windows import set_context_window
    from motiongraft.sampling.context_windows import ContextWindowSettings

    seen = []
    original = image_input.ConditionImage.seen_by

    def record(self, frames, num_frames):
        seen.append((tuple(frames), num_frames))
        return original(self, frames, num_frames)

    monkeypatch.setattr(image_input.ConditionImage, "seen_by", record)
    settings = ContextWindowSettings(length=16, overlap=4, schedule="static", freenoise=False)
    scene.sample(set_context_window(inflated(scene, given(pia)), settings), frames=28, steps=1)
    assert set(seen) == {(tuple(range(16)), 28), (tuple(range(12, 28)), 28)}


def test_another_packs_handler_of_convolutions_still_runs(scene, pia, given):
    calls = []

    def handler(layer, x, *rest):
        calls.append(layer)
        return layer(x)

    model = scene.model.clone()
    model.set_model_forward_timestep_embed_patch((torch.nn.Conv2d, handler))
    from motiongraft.host.inflate import inflate_model

    found = scene.sample(inflate_model(model, given(pia), "auto"))
    assert calls
    assert torch.equal(found, scene.sample(inflated(scene, given(pia))))


def test_it_is_saved_with_its_input(scene, pia, tmp_path, monkeypatch):
    from motiongraft.host.motion_modules import load_motion_module
    from motiongraft.host.saving import save_motion_module
    from motiongraft.tests.helpers.empty_model_folders import empty_model_folders

    empty_model_folders(scene.host, tmp_path, monkeypatch)
    for layout in ("animatediff", "diffusers"):
        saved = load_motion_module(save_motion_module(pia, "mine", layout, "fp32"))
        assert saved.spec == pia.spec
        ours = pia.patcher.model.state_dict()
        assert all(torch.equal(tensor, ours[name]) for name, tensor in saved.patcher.model.state_dict().items())


def test_without_an_image_it_is_refused_before_anything_is_sampled(scene, pia):
    with pytest.raises(IncompatibleModelError, match="animates an image and was given none"):
        inflated(scene, pia)


def test_a_module_without_such_an_input_is_refused(scene, given):
    with pytest.raises(IncompatibleModelError, match="takes no image"):
        given(scene.motion("v3"))


def test_an_image_of_another_size_is_refused_in_pixels(scene, pia, given):
    with pytest.raises(SettingsError, match=r"the image is 128×64 pixels and the clip 64×64"):
        scene.sample(inflated(scene, given(pia, size=(8, 16))))


def test_a_frame_outside_the_clip_is_refused_before_anything_is_loaded(scene, pia, given, monkeypatch):
    model = inflated(scene, given(pia, frame=16))
    loaded = []
    management = scene.host.module("comfy.model_management")
    monkeypatch.setattr(management, "load_models_gpu", lambda *args, **_: loaded.append(args))
    with pytest.raises(SettingsError, match="frames 0 to 15"):
        scene.sample(model)
    assert not loaded


def test_an_area_sees_its_part_of_the_image(scene, pia, given):
    """Two halves with one prompt are the clip with that prompt, but for the borders that convolutions see."""
    model = inflated(scene, given(pia))

    def half(y):
        return [[states, {**entry, "area": (4, 8, y, 0)}] for states, entry in scene.positive]

    found = scene.sample(model, positive=half(0) + half(4), cfg=1.0)
    assert torch.isfinite(found).all()
    moved = scene.sample(inflated(scene, given(pia, seed=1)), positive=half(0) + half(4), cfg=1.0)
    assert_differs(found, moved)


def test_a_copy_for_another_device_sees_it_too(scene, pia, given):
    model = inflated(scene, given(pia))
    copy = model.deepclone_multigpu(new_load_device=torch.device("cpu"))
    assert_close(scene.sample(copy), scene.sample(model), 1e-6)


def test_two_images_are_not_one(scene, pia):
    from motiongraft.host.image_input import condition_on_image

    with pytest.raises(SettingsError, match="latent of one image"):
        condition_on_image(pia, {"samples": torch.zeros(2, 4, 8, 8)}, "small motion", 0)


def test_it_cannot_be_trained(scene, pia):
    from motiongraft.host.training_checks import check_parts

    with pytest.raises(IncompatibleModelError, match="no stage of training gives it one"):
        check_parts(scene.model, pia)


def test_cond_and_uncond_see_it_alike(scene, pia, given):
    """At cfg 1 ComfyUI leaves the negative out; with equal prompts the guided result is the same."""
    model = inflated(scene, given(pia))
    assert_close(
        scene.sample(model, negative=scene.positive, cfg=7.5),
        scene.sample(model, negative=scene.positive, cfg=1.0),
        1e-4,
    )
