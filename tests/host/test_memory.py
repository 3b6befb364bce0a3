"""ComfyUI plans for the motion module's activations, before it loads the model and while it runs."""

import pytest

pytestmark = pytest.mark.host


@pytest.fixture
def planned(scene):
    """Bytes that ComfyUI asks for when it loads a model, in each sampling run."""

    def run(model, runs):
        seen = []
        helpers = scene.host.module("comfy.sampler_helpers")

        def record(executor, model, shape, conds, **kwargs):
            seen.append(helpers.estimate_memory(model, shape, conds)[0])
            return executor(model, shape, conds, **kwargs)

        recorded = model.clone()
        recorded.add_wrapper_with_key("prepare_sampling", "record", record)
        for _ in range(runs):
            scene.sample(recorded, steps=1)
        return seen

    return run


def test_motion_is_planned_for_once_and_in_every_run(scene, planned):
    from motiongraft.host.memory import FACTOR, MOTION_WIDTHS_ALIVE, UNET_ELEMENTS_PER_PIXEL

    (plain,) = planned(scene.model, 1)
    inflated = scene.inflated()
    first, second = planned(inflated, 2)
    factor = getattr(scene.model.model.model_config, FACTOR)
    expected = plain * (1 + MOTION_WIDTHS_ALIVE * 32 / UNET_ELEMENTS_PER_PIXEL / factor)
    assert first == pytest.approx(second, rel=0.07)  # the first plans in whole latent columns, of which there are 8
    assert second == pytest.approx(expected)


def test_two_modules_are_both_planned_for(scene):
    from motiongraft.host.memory import FACTOR

    plain, one = (model.get_model_object(FACTOR) for model in (scene.model, scene.inflated()))
    two = scene.inflated(model=scene.inflated()).get_model_object(FACTOR)
    assert one > plain
    assert two - one == pytest.approx(one - plain)


def test_the_plain_models_plan_is_its_own_again(scene, planned):
    (before,) = planned(scene.model, 1)
    planned(scene.inflated(), 1)
    assert planned(scene.model, 1) == [before]
