"""The schedule of an inflated model: the module's own, unless told otherwise."""

import pytest

from motiongraft.core.errors import SettingsError

pytestmark = pytest.mark.host

BASE, ANIMATEDIFF, SDXL_BETA = 14.61, 25.15, 65.9
"""Largest noise of each schedule. Source: guoyww/AnimateDiff configs/inference; 14.61 is Stable Diffusion's own."""


def sigma_max(model):
    return float(model.get_model_object("model_sampling").sigma_max)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", ANIMATEDIFF),
        ("animatediff", ANIMATEDIFF),
        ("use existing", BASE),
        ("linear", BASE),
        ("sdxl-beta", SDXL_BETA),
        ("lcm", BASE),
    ],
)
def test_each_choice_has_its_largest_noise(scene, choice, expected):
    assert sigma_max(scene.inflated("v3", choice)) == pytest.approx(expected, abs=0.05)
    assert sigma_max(scene.model) == pytest.approx(BASE, abs=0.05)


def test_auto_takes_the_schedule_of_an_sdxl_module(scene):
    from motiongraft.host.inflate import inflate_model

    inflated = inflate_model(scene.sdxl.model, scene.motion("sdxl-beta"), "auto")
    assert sigma_max(inflated) == pytest.approx(SDXL_BETA, abs=0.05)


def test_auto_follows_the_files_metadata_and_says_so(scene, caplog):
    from motiongraft.host.inflate import inflate_model

    with caplog.at_level("INFO"):
        inflated = inflate_model(scene.model, scene.motion("v3", beta_schedule="linear"), "auto")
    assert "beta schedule linear (auto)" in caplog.text
    assert sigma_max(inflated) == pytest.approx(BASE, abs=0.05)


@pytest.mark.parametrize(("sampling", "zsnr"), [("v_prediction", False), ("v_prediction", True), ("eps", True)])
def test_prediction_type_and_zero_terminal_snr_are_kept(scene, sampling, zsnr):
    node = scene.host.module("comfy_extras.nodes_model_advanced").ModelSamplingDiscrete()
    (model,) = node.patch(scene.model, sampling, zsnr)
    before = model.get_model_object("model_sampling")
    after = scene.inflated(model=model).get_model_object("model_sampling")
    kinds = scene.host.module("comfy.model_sampling")
    assert isinstance(after, kinds.V_PREDICTION) == isinstance(before, kinds.V_PREDICTION) == (sampling != "eps")
    assert after.zsnr == zsnr
    assert (float(after.sigma_max) > 1000) == zsnr


def test_sampling_nodes_placed_after_have_the_last_word(scene):
    node = scene.host.module("comfy_extras.nodes_model_advanced").ModelSamplingDiscrete()
    (lcm,) = node.patch(scene.inflated(), "lcm", False)
    sampling = lcm.get_model_object("model_sampling")
    assert len(sampling.sigmas) == 50
    assert scene.sample(lcm, sampler="lcm").isfinite().all()


def test_lcm_equals_the_hosts_lcm_node(scene):
    node = scene.host.module("comfy_extras.nodes_model_advanced").ModelSamplingDiscrete()
    (expected,) = node.patch(scene.inflated("v3", "use existing"), "lcm", False)
    found = scene.inflated("v3", "lcm")
    assert scene.sample(found, sampler="lcm").equal(scene.sample(expected, sampler="lcm"))


def test_a_continuous_schedule_is_kept_with_a_warning_or_refused(scene, caplog):
    node = scene.host.module("comfy_extras.nodes_model_advanced").ModelSamplingContinuousEDM()
    (edm,) = node.patch(scene.model, "v_prediction", 120.0, 0.002)
    with caplog.at_level("WARNING"):
        kept = scene.inflated(model=edm)
    assert "it is kept" in caplog.text
    assert sigma_max(kept) == pytest.approx(120.0)
    with pytest.raises(SettingsError, match="use existing"):
        scene.inflated("v3", "animatediff", model=edm)


def test_a_cascade_schedule_before_inflation_is_kept(scene, caplog):
    node = scene.host.module("comfy_extras.nodes_model_advanced").ModelSamplingStableCascade()
    (cascade,) = node.patch(scene.model, 2.0)
    scene.inflated(model=cascade)
    assert "StableCascadeSampling" in caplog.text


def test_an_unknown_schedule_names_the_choices(scene):
    with pytest.raises(SettingsError, match="auto, use existing, animatediff"):
        scene.inflated("v3", "cosine")


def test_a_schedule_named_in_the_file_that_nobody_knows_is_refused(scene):
    from motiongraft.host.noise_schedule import set_beta_schedule

    with pytest.raises(SettingsError, match=r"mine\.safetensors names the noise schedule squared"):
        set_beta_schedule(scene.model.clone(), "auto", "squared", "mine.safetensors")
