"""The benchmark of training on a real ComfyUI at toy width, from weights to page."""

from dataclasses import fields

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed (make setup installs it)")

from motiongraft.bench.settings import Settings  # noqa: E402
from motiongraft.bench.training.command import _parser, settings_from  # noqa: E402
from motiongraft.bench.training.report import COLUMNS, SideResult, as_markdown  # noqa: E402
from motiongraft.bench.training.settings import SIDES, Case, TrainingCostSettings  # noqa: E402

OPTIONS = ["--width", "32", "--frames", "2", "--size", "64", "--repeats", "1", "--precision", "fp32"]
CLIP = Settings(("plain",), 64, width=32, frames=2, repeats=1)


def tiny(stage, batch=1, checkpointing=False):
    return TrainingCostSettings(CLIP, (stage,), (batch,), (checkpointing,), "fp32")


@pytest.fixture(scope="module")
def base(host):
    from motiongraft.bench.training.weights import frozen_base

    return frozen_base(tiny(2))


def trainers(base, settings):
    from motiongraft.bench.training.measurement import _trainer

    case = next(settings.cases())
    return [_trainer(side, case, base, settings) for side in SIDES]


def in_this_process(arguments):
    """What the process of `python bench ARGUMENTS` would answer, without its start of many seconds."""
    from motiongraft.bench.training.measurement import measure_memory

    assert arguments[0] == "training"
    options = _parser().parse_args(arguments[1:])
    return measure_memory(options.memory_of, settings_from(options))


def test_a_measurement_fills_every_field_of_its_page(host, monkeypatch):
    from motiongraft.bench.training import measurement

    monkeypatch.setattr(measurement, "measure_in_own_process", in_this_process)
    result = measurement.measure(tiny(2), OPTIONS, "python bench training", with_memory=True)
    (case,) = result.cases
    for side in (case.ours, case.theirs):
        assert all(getattr(side, field.name) for field in fields(SideResult) if not field.name.endswith("_bytes"))
        assert side.peak_bytes is not None
        assert side.step_bytes is not None
    assert case.ours.trained_weights == case.theirs.trained_weights
    assert case.agreement.holds
    assert all(rate > 0 for rate in case.product_rates)
    page = as_markdown(result)
    assert all(column in page for column in COLUMNS)
    assert "not measured" not in page
    assert {"ComfyUI", "torch", "diffusers", "peft"} <= result.versions.keys()


@pytest.mark.parametrize(("stage", "batch", "checkpointing"), [(2, 2, True), (3, 2, False), (3, 1, True)])
def test_both_sides_do_the_same_work(base, stage, batch, checkpointing):
    if stage == 3:
        pytest.importorskip("peft", reason="peft is not installed, with which diffusers trains LoRAs")
    ours, theirs = trainers(base, tiny(stage, batch, checkpointing))
    (our_loss, our_norm), (their_loss, their_norm) = ours.loss_and_gradient(), theirs.loss_and_gradient()
    assert our_loss == pytest.approx(their_loss, rel=1e-5)
    assert our_norm == pytest.approx(their_norm, rel=1e-4)
    assert [sum(weight.numel() for weight in side.parameters) for side in (ours, theirs)] == [
        {2: 4_204_640, 3: 1_802_240}[stage]
    ] * 2


def test_a_step_moves_the_trained_weights_of_its_side_alone(base):
    ours, theirs = trainers(base, tiny(2))
    frozen = {name: weight.clone() for name, weight in base.unet.state_dict().items()}
    before = [[weight.detach().clone() for weight in side.parameters] for side in (ours, theirs)]
    loss = ours.step()
    assert float(loss) > 0
    assert all(not torch.equal(old, new) for old, new in zip(before[0], ours.parameters, strict=True))
    assert all(torch.equal(old, new) for old, new in zip(before[1], theirs.parameters, strict=True))
    theirs.step()
    assert all(not torch.equal(old, new) for old, new in zip(before[1], theirs.parameters, strict=True))
    assert all(torch.equal(frozen[name], weight) for name, weight in base.unet.state_dict().items())


def test_without_the_same_norms_the_losses_differ(base):
    ours, theirs = trainers(base, tiny(2))
    by_frame = float(ours.step())
    assert by_frame != pytest.approx(theirs.loss_and_gradient()[0], rel=1e-4)


def test_a_case_is_named_by_what_it_is():
    assert Case(3, 4, True).name == "stage 3, 4 clips, checkpointing"
