"""Where ComfyUI is looked for, and what is said when it is nowhere."""

import subprocess
import sys
from pathlib import Path

import pytest

from motiongraft.core.errors import HostError
from motiongraft.standalone import host_location
from motiongraft.standalone.host_location import find_host

ROOT = Path(__file__).resolve().parents[2]


def make_host(folder: Path) -> Path:
    (folder / "comfy").mkdir(parents=True)
    (folder / "comfy" / "model_patcher.py").touch()
    (folder / "main.py").touch()
    return folder


@pytest.fixture(autouse=True)
def _bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(host_location, "CHECKOUT", tmp_path / "elsewhere" / "MotionGraft")


def checkout_in(custom_nodes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_location, "CHECKOUT", custom_nodes / "any name")


def test_the_variable_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, around = make_host(tmp_path / "chosen"), make_host(tmp_path / "around")
    checkout_in(around / "custom_nodes", monkeypatch)
    monkeypatch.setenv("COMFYUI_PATH", str(chosen))
    assert find_host() == chosen


def test_then_the_comfyui_around_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_host(tmp_path / "home" / "comfy" / "ComfyUI")
    around = make_host(tmp_path / "around")
    checkout_in(around / "custom_nodes", monkeypatch)
    assert find_host() == around


def test_then_the_home_folder(tmp_path: Path) -> None:
    home = make_host(tmp_path / "home" / "comfy" / "ComfyUI")
    assert find_host() == home


def test_a_wrong_variable_is_an_error_even_where_another_comfyui_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_host(tmp_path / "home" / "comfy" / "ComfyUI")
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "typo"))
    with pytest.raises(HostError, match="typo"):
        find_host()


def test_nowhere_names_every_place_and_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout_in(tmp_path / "custom_nodes", monkeypatch)
    with pytest.raises(HostError) as error:
        find_host()
    words = str(error.value)
    assert all(part in words for part in (f"{tmp_path},", "home/comfy/ComfyUI", "COMFYUI_PATH", "comfy install"))


def test_command_prints_the_path_alone_or_fails_with_the_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, str(ROOT / "standalone"), "find-host"]
    host = make_host(tmp_path / "chosen")
    monkeypatch.setenv("COMFYUI_PATH", str(host))
    assert subprocess.check_output(command, text=True, cwd="/") == f"{host}\n"
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "typo"))
    failed = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert str(tmp_path / "typo") in failed.stderr
