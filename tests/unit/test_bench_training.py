"""The benchmark of training: its options, names, arithmetic and page; no ComfyUI needed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from motiongraft.bench.clock import ProcessorClock, time_each_in_turn
from motiongraft.bench.settings import Settings
from motiongraft.bench.training.arithmetic import count_flops, square_product
from motiongraft.bench.training.command import _parser, settings_from
from motiongraft.bench.training.diffusers_names import base_names, motion_lora_names, motion_names
from motiongraft.bench.training.packages import PACKAGES, import_packages
from motiongraft.bench.training.report import Agreement, CaseResult, SideResult, TrainingResult, as_markdown
from motiongraft.bench.training.settings import Case, TrainingCostSettings, numbers_in
from motiongraft.core.errors import SettingsError

TRANSFORMER = "down_blocks.0.motion_modules.1.temporal_transformer"

BENCH = Path(__file__).parents[2] / "bench"


def settings(*options):
    return settings_from(_parser().parse_args(options))


def test_the_first_argument_asks_for_training():
    command = [sys.executable, str(BENCH), "training", "--batch", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "--batch" in done.stderr


def test_all_combinations_are_measured():
    cases = list(settings("--stage", "both", "--batch", "1,4", "--checkpointing", "both").cases())
    assert len(cases) == len(set(cases)) == 8
    assert cases[0] == Case(2, 1, False)
    assert cases[-1] == Case(3, 4, True)


@pytest.mark.parametrize("case", [Case(2, 4, True), Case(3, 1, False)])
def test_options_of_a_case_ask_for_it_alone(case):
    asked_before = ["--stage", "both", "--batch", "1,2", "--checkpointing", "both"]
    assert list(settings(*asked_before, *case.options).cases()) == [case]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--batch", "0"), "0"),
        (("--batch", "one"), "one"),
        (("--width", "100"), "100"),
        (("--size", "100"), "100"),
        (("--repeats", "0"), "0"),
    ],
)
def test_settings_say_what_cannot_be_measured(options, found):
    with pytest.raises(SettingsError, match=found):
        settings(*options)


def test_numbers_keep_their_order():
    assert numbers_in("4,1") == (4, 1)


def test_sizes_are_those_of_the_sampling_benchmark():
    made = settings("--width", "64", "--frames", "8", "--size", "128", "--precision", "fp32", "--stage", "3")
    assert made == TrainingCostSettings(
        Settings(("plain",), 128, width=64, frames=8), (3,), (1, 4), (False,), precision="fp32"
    )


def test_a_missing_rival_is_named_before_anything_starts(monkeypatch):
    monkeypatch.setitem(PACKAGES, 3, ("a_package_that_nobody_has",))
    with pytest.raises(SettingsError, match="pip install a_package_that_nobody_has"):
        import_packages((3,))


def test_motion_weights_get_the_names_of_diffusers():
    block = f"{TRANSFORMER}.transformer_blocks.0"
    tensors = {
        f"{TRANSFORMER}.proj_in.weight": torch.zeros(1),
        f"{block}.attention_blocks.1.to_out.0.bias": torch.zeros(1),
        f"{block}.attention_blocks.0.pos_encoder.pe": torch.zeros(1),
        f"{block}.attention_blocks.1.pos_encoder.pe": torch.zeros(1),
        f"{block}.norms.1.weight": torch.zeros(1),
        f"{block}.ff_norm.bias": torch.zeros(1),
    }
    stem = "down_blocks.0.motion_modules.1"
    assert list(motion_names(tensors)) == [
        f"{stem}.proj_in.weight",
        f"{stem}.transformer_blocks.0.attn2.to_out.0.bias",
        f"{stem}.transformer_blocks.0.pos_embed.pe",
        f"{stem}.transformer_blocks.0.norm2.weight",
        f"{stem}.transformer_blocks.0.norm3.bias",
    ]


def test_motion_loras_get_the_names_of_peft():
    attention = f"{TRANSFORMER}.transformer_blocks.0.attention_blocks.1.processor"
    names = {f"{attention}.to_q_lora.down.weight": torch.zeros(1), f"{attention}.to_out_lora.up.weight": torch.zeros(1)}
    stem = "down_blocks.0.motion_modules.1.transformer_blocks.0.attn2"
    assert list(motion_lora_names(names)) == [
        f"{stem}.to_q.lora_A.default.weight",
        f"{stem}.to_out.0.lora_B.default.weight",
    ]


def test_names_that_the_base_does_not_have_are_left_out():
    tensors = {"input_blocks.0.0.weight": torch.zeros(2)}
    found = base_names(tensors, {"conv_in.weight": "input_blocks.0.0.weight", "conv_in.bias": "input_blocks.0.0.bias"})
    assert found["conv_in.weight"] is tensors["input_blocks.0.0.weight"]
    assert len(found) == 1


def test_arithmetic_of_products_and_attention_is_counted_forward_and_backward():
    batch, heads, tokens, width = 2, 4, 16, 8
    q, k, v = (torch.randn(batch, heads, tokens, width, requires_grad=True) for _ in range(3))
    weight = torch.randn(width, width, requires_grad=True)

    def step():
        attended = F.scaled_dot_product_attention(q, k, v) @ weight
        attended.sum().backward()
        return attended

    product = 2 * batch * heads * tokens * width * width
    one_of_attention = 2 * batch * heads * tokens * tokens * width
    assert count_flops(step) == 3 * product + (2 + 5) * one_of_attention


def test_a_square_product_is_as_much_arithmetic_as_it_says(monkeypatch):
    import motiongraft.bench.training.arithmetic as arithmetic

    monkeypatch.setattr(arithmetic, "CPU_SIDE", 32)
    product, flops = square_product(torch.device("cpu"), torch.bfloat16)
    assert count_flops(product) == flops == 2 * 32**3
    assert product().dtype == torch.bfloat16


def test_every_piece_of_work_runs_in_every_turn():
    order = []

    def work(name):
        return lambda: order.append(name) or torch.zeros(())

    seconds = time_each_in_turn({"a": work("a"), "b": work("b")}, 2)
    assert order == ["a", "b"] * 3
    assert [len(times) for times in seconds.values()] == [2, 2]


def test_processor_time_leaves_out_the_first_round():
    clock = ProcessorClock(lambda: torch.zeros(()))
    seconds = time_each_in_turn({"a": clock}, 3)
    assert len(clock.measured) == len(seconds["a"]) == 3
    assert all(taken >= 0 for taken in clock.measured)


def test_ratios_are_those_of_medians_and_come_first(result):
    page = as_markdown(result)
    assert (
        "| stage 2, 1 clip | MotionGraft | **0.750** | 0.50 to 1.00 | 0.900 | 3.000 | 2.000 to 4.000 | 20 % "
        "| 6.000 | 1,000 | 500 MB | 200 MB |"
    ) in page
    assert (
        "|  | diffusers | 1 |  | 1 | 4.000 | 4.000 to 4.000 | 15 % | 6.000 | 1,000 | not measured | not measured |"
        in page
    )
    assert page.index("**0.750**") < page.index("1e-05") < page.index("python bench training")
    assert "busy" not in page
    assert "not agree" not in page


def test_a_busy_machine_is_told(result):
    result.cases[0].theirs.seconds[0] = 8.0
    assert "busy" in as_markdown(result)


@pytest.mark.parametrize("changes", [{"losses": (1.001, 1.0)}, {"gradient_norms": (2.0, 1.0)}])
def test_sides_that_do_not_do_the_same_work_are_told(result, changes):
    case = result.cases[0]
    other = replace(case, agreement=replace(case.agreement, **changes))
    assert "not do the same work" in as_markdown(replace(result, cases=[other]))


def test_half_precision_may_differ_more(result):
    agreement = replace(result.cases[0].agreement, losses=(1.001, 1.0))
    assert not agreement.holds
    assert replace(agreement, precision="bf16").holds


def test_result_files_hold_every_step(result, tmp_path):
    result.write(tmp_path / "results" / "a")
    written = json.loads((tmp_path / "results" / "a.json").read_text())
    assert written["cases"][0]["ours"]["seconds"] == [2.0, 3.0, 4.0]
    assert written["cases"][0]["agreement"]["losses"] == [1.00001, 1.0]
    assert (tmp_path / "results" / "a.md").read_text().startswith("# A training step")


@pytest.fixture
def result():
    case = CaseResult(
        "stage 2, 1 clip",
        SideResult([2.0, 3.0, 4.0], [1.0, 0.9, 0.8], 1000, int(6e12), 5e8, 2e8),
        SideResult([4.0, 4.0, 4.0], [1.0, 1.0, 1.0], 1000, int(6e12)),
        Agreement((1.00001, 1.0), (3.0, 3.0), "fp32"),
        [1e13, 1e13, 1e13],
    )
    return TrainingResult("python bench training", "sd15", {"CPU": "one"}, {"torch": "2"}, [case])
