"""ComfyUI plans for the motion module's activations, before it loads the model and while it runs."""

import math

import pytest
import torch

pytestmark = pytest.mark.host


@pytest.fixture
def planned(scene):
    """Bytes that ComfyUI asks for when it loads a model, in each sampling run."""

    def run(model, runs, **settings):
        seen = []
        helpers = scene.host.module("comfy.sampler_helpers")

        def record(executor, model, shape, conds, **kwargs):
            seen.append(helpers.estimate_memory(model, shape, conds)[0])
            return executor(model, shape, conds, **kwargs)

        recorded = model.clone()
        recorded.add_wrapper_with_key("prepare_sampling", "record", record)
        for _ in range(runs):
            scene.sample(recorded, steps=1, **settings)
        return seen

    return run


def test_motion_is_planned_for_in_every_run(scene, planned):
    from motiongraft.host.memory import MOTION_WIDTHS_ALIVE, UNET_ELEMENTS_PER_PIXEL

    (plain,) = planned(scene.model, 1)
    first, second = planned(scene.inflated(), 2)
    share = MOTION_WIDTHS_ALIVE * 32 / UNET_ELEMENTS_PER_PIXEL / scene.model.model.memory_usage_factor
    columns = math.ceil(8 * (1 + share))
    assert first == second == pytest.approx(plain * columns / 8)


def test_view_windows_take_more(scene, planned):
    from motiongraft.host.view_windows import set_view_window
    from motiongraft.sampling.context_windows import ContextWindowSettings

    wide = scene.latent(6, 8, 128)  # the plan is one of whole columns
    (plain,) = planned(scene.inflated(), 1, latent=wide)
    (viewed,) = planned(set_view_window(scene.inflated(), ContextWindowSettings(4, 2)), 1, latent=wide)
    assert viewed > plain


def test_two_modules_are_both_planned_for(scene, planned):
    (one,) = planned(scene.inflated(), 1)
    (two,) = planned(scene.inflated(model=scene.inflated()), 1)
    assert two > one


def test_the_plain_models_plan_is_its_own_again(scene, planned):
    (before,) = planned(scene.model, 1)
    planned(scene.inflated(), 1)
    assert planned(scene.model, 1) == [before]


def test_a_module_is_read_where_comfyui_builds_layers_without_weights(scene, late_weights):
    expected = scene.motion().patcher.model.state_dict()
    late_weights()
    found = scene.motion().patcher.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
