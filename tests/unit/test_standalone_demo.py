"""The demo without ComfyUI, all of it at a tiny size; and which demo is chosen."""

import argparse
import base64
import io
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from motiongraft.core.errors import HostError
from motiongraft.standalone import demo, host_location
from motiongraft.standalone.demo import AUTO, WITH, WITHOUT, host_for_demo
from motiongraft.standalone.toy_demo import command, runs
from motiongraft.standalone.toy_demo.charts import loss_chart
from motiongraft.standalone.toy_demo.plan import demo_plan, tiny_plan
from motiongraft.standalone.toy_demo.school import Graduates, School
from motiongraft.standalone.toy_demo.terminal import Terminal, TerminalObserver
from motiongraft.standalone.toy_demo.verdicts import Verdict

PARTS = ("base", "adapter", "module", "motion-lora")
CAPTION = "fine waves to the right"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return command.make_page(tmp_path_factory.mktemp("a folder of any name"), tiny_plan(0), 0)


def graduates_in(page: Path) -> Graduates:
    """What the demo trained; everything is finished, so nothing trains again."""
    return School(page.parent, tiny_plan(0), 0, Terminal()).teach()


def test_the_page_has_every_part(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert all(f'<section id="{part}"' in text for part in PARTS)
    assert text.count("<svg") == len(PARTS)
    assert text.count('src="data:image/webp;base64,') == 4 * (1 + 1 + 3 + 3 + 3)
    assert CAPTION in text
    for words in ("camera flow", "steadiness", "scan lines", "background level", "right way and speed", "12.5%"):
        assert words in text
    for words in ("Training the motion module", "torch", "diffusers", "seed", "All of it"):
        assert words in text


def test_the_page_asks_for_nothing_outside_of_itself(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r'(?:src|href)="(\w+:|#)', text)) == {"data:", "#"}
    assert "http://" not in text
    assert "https://" not in text
    assert "default-src 'none'" in text


def test_animations_have_all_frames(page: Path) -> None:
    data = re.findall(r"data:image/webp;base64,([^\"]+)", page.read_text(encoding="utf-8"))
    with Image.open(io.BytesIO(base64.b64decode(data[0]))) as image:
        assert getattr(image, "n_frames", 1) == 8


def test_the_losses_of_base_and_adapter_fell_and_every_stage_was_measured(page: Path) -> None:
    graduates = graduates_in(page)
    for run in (graduates.base, graduates.adapter):
        assert run.validations[-1][1] < run.validations[0][1]
    plan = tiny_plan(0)
    for run, settings in (
        (graduates.base, plan.base),
        (graduates.adapter, plan.adapter),
        (graduates.module, plan.module),
        (graduates.motion_lora, plan.motion_lora),
    ):
        assert len(run.losses) == settings.steps
        assert [step for step, _ in run.validations] == [0, settings.steps]


def test_a_second_demo_uses_what_is_finished_and_says_so(page: Path) -> None:
    graduates = graduates_in(page)
    assert all("is finished" in " ".join(run.news) for run in (graduates.base, graduates.motion_lora))


def test_a_demo_that_was_stopped_goes_on_with_the_same_numbers(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impatient(TerminalObserver):
        def on_step(self, report) -> None:
            if report.step == 9:
                raise KeyboardInterrupt

    folder = tmp_path / "demo"
    with monkeypatch.context() as patch:
        patch.setattr(runs, "TerminalObserver", Impatient)
        with pytest.raises(KeyboardInterrupt):
            School(folder, tiny_plan(0), 0, Terminal()).teach()
    school = School(folder, tiny_plan(0), 0, Terminal())
    stills, _, _ = school._cache()
    again = school._train_base(stills)
    assert "continues at step 9" in " ".join(again.news)
    assert runs.hash_of(again.path) == runs.hash_of(graduates_in(page).base.path)


def test_another_seed_trains_anew_and_leaves_the_global_generator_alone(page: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    school = School(page.parent, tiny_plan(1), 1, Terminal())
    stills, _, _ = school._cache()
    other = school._train_base(stills)
    assert torch.equal(torch.rand(3), expected)
    assert "starts the new run" in " ".join(other.news)
    assert runs.hash_of(other.path) != runs.hash_of(graduates_in(page).base.path)


def test_curves_stand_inside_their_picture() -> None:
    losses = [10.0 ** -(step / 20) for step in range(60)]
    svg = loss_chart(losses, [(0, 2.0), (30, 0.1), (60, 0.001)])
    places = [tuple(map(float, place.split())) for place in re.findall(r"[ML](-?[\d.]+ -?[\d.]+)", svg)]
    assert len(places) > 100
    assert all(0 <= x <= 520 and 0 <= y <= 190 for x, y in places)


def test_a_stage_that_overshoots_is_not_called_learned() -> None:
    assert [Verdict(share, "").grade for share in (1.0, 0.7, 0.5, 0.1, -1.0)] == [
        "learned",
        "learned",
        "partly",
        "not learned",
        "not learned",
    ]


def test_the_real_plan_is_made_for_a_v3_module_on_four_levels() -> None:
    plan = demo_plan(3)
    assert len(plan.widths) == 4
    assert all(width % 32 == 0 for width in plan.widths)  # groups of the motion module's norm
    assert plan.base.seed == plan.motion_lora.seed == 3


@dataclass
class Machine:
    """A machine whose ComfyUI, if there is one, is a folder with two empty files."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def install(self) -> Path:
        host = self.folder / "home" / "comfy" / "ComfyUI"
        (host / "comfy").mkdir(parents=True)
        (host / "comfy" / "model_patcher.py").touch()
        (host / "main.py").touch()
        return host


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(host_location, "CHECKOUT", tmp_path / "elsewhere" / "MotionGraft")
    return Machine(tmp_path, monkeypatch)


def test_comfyui_is_used_where_there_is_one_and_named(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    host = machine.install()
    assert host_for_demo(AUTO) == host
    assert f"The demo in the ComfyUI of {host}" in capsys.readouterr().err


def test_without_comfyui_the_other_demo_is_made_and_said(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert host_for_demo(AUTO) is None
    assert "No ComfyUI on this machine" in capsys.readouterr().err


def test_the_other_demo_can_be_had_beside_a_comfyui(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.install()
    assert host_for_demo(WITHOUT) is None
    assert "without ComfyUI" in capsys.readouterr().err


@pytest.mark.parametrize("choice", [AUTO, WITH])
def test_a_wrong_comfyui_in_the_environment_is_an_error(machine: Machine, choice: str) -> None:
    machine.install()
    machine.monkeypatch.setenv("COMFYUI_PATH", str(machine.folder / "typo"))
    with pytest.raises(HostError, match="typo"):
        host_for_demo(choice)


def test_the_options_exclude_each_other() -> None:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    assert parser.parse_args([]).comfyui == AUTO
    assert parser.parse_args(["--without-comfyui", "--seed", "4"]).seed == 4
    with pytest.raises(SystemExit):
        parser.parse_args(["--with-comfyui", "--without-comfyui"])


def test_a_refusal_is_one_message_and_the_status_one(
    machine: Machine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(machine.folder / "typo"))
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    assert demo.main(parser.parse_args([])) == 1
    written = capsys.readouterr()
    assert "typo" in written.err
    assert written.out == ""
