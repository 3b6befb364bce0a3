"""The floors of the house: who may import whom, which third-party packages, and who may speak to ComfyUI.

    floor 4   nodes
    floor 3   host, standalone
    floor 2   sampling, training
    floor 1   motion_modules, lora
    floor 0   core

client/ and web/ stand beside the house; standalone/ uses client/, and for the demo the toy weights of tests/.
Benchmarks and tests import what they like, but tests reach ComfyUI through tests/tiny_sd_pack alone.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOORS = {
    "core": 0,
    "motion_modules": 1,
    "lora": 1,
    "sampling": 2,
    "training": 2,
    "host": 3,
    "standalone": 3,
    "nodes": 4,
}
BESIDE = {("training", "sampling"), ("standalone", "client"), ("standalone", "tests")}
HOST_MODULES = {
    "app",
    "comfy",
    "comfy_api",
    "comfy_config",
    "comfy_execution",
    "comfy_extras",
    "comfyui_version",
    "execution",
    "folder_paths",
    "latent_preview",
    "node_helpers",
    "protocol",
    "server",
}
MAY_USE = {
    "core": {"torch", "safetensors"},
    "motion_modules": {"torch"},
    "lora": {"torch"},
    "sampling": {"torch"},
    "training": {"torch", "numpy", "PIL", "av"},
    "host": {"torch", "numpy", "PIL", "av", *HOST_MODULES},
    "standalone": {"torch", "diffusers", "transformers", "accelerate", "numpy", "PIL", "av"},
    "nodes": {"torch", "comfy_api"},
    "client": set[str](),
}
MAY_USE_ONLY = {"standalone/headless.py": set[str](), "standalone/host_location.py": set[str]()}
"""Files that must start at once, on a Python that may lack torch."""
HOST_DOOR_OF_TESTS = "tests/tiny_sd_pack"
PACKAGE_NAMES = {"PIL": "pillow"}
SHIPPED_BY_HOST = {"torch", *HOST_MODULES}


@dataclass(frozen=True)
class Import:
    """One imported name: `room` for a name of ours, `module` for anybody else's."""

    line: int
    room: str | None
    module: str | None


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[Import]:
    """Every import of a file, nested ones too."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, None, alias.name.partition(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield Import(node.lineno, None, (node.module or "").partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = (*package[: len(package) - node.level + 1], *filter(None, (node.module or "").split(".")))
            for name in base[:1] or [alias.name for alias in node.names]:
                yield Import(node.lineno, name, None)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def may_import(room: str, other: str) -> bool:
    is_below = room in FLOORS and other in FLOORS and FLOORS[other] < FLOORS[room]
    return room == other or is_below or (room, other) in BESIDE


@pytest.mark.parametrize("path", python_files(*FLOORS, "client"), ids=name_of)
def test_imports_point_down(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    for found in imports(path):
        where = f"{name_of(path)}:{found.line}"
        if found.room:
            assert may_import(room, found.room), f"{where}: {room}/ must not import {found.room}/"
        assert found.module not in FLOORS, f"{where}: use a relative import for {found.module}/"


@pytest.mark.parametrize("path", python_files(*FLOORS, "client"), ids=name_of)
def test_third_party_packages_stay_in_their_rooms(path: Path) -> None:
    allowed = MAY_USE_ONLY.get(name_of(path), MAY_USE[path.relative_to(ROOT).parts[0]])
    for found in imports(path):
        if found.module and found.module not in sys.stdlib_module_names:
            assert found.module in allowed, f"{name_of(path)}:{found.line}: {found.module} is not for this room"


@pytest.mark.parametrize("path", python_files("tests", "docs"), ids=name_of)
def test_only_the_toy_pack_speaks_to_comfyui_among_the_tests(path: Path) -> None:
    if name_of(path).startswith(HOST_DOOR_OF_TESTS):
        return
    for found in imports(path):
        assert found.module not in HOST_MODULES, (
            f"{name_of(path)}:{found.line}: ask the `host` fixture, host.module('{found.module}…'), instead"
        )


def test_root_imports_nothing_of_ours_before_comfyui_asks() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    at_import = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in at_import if isinstance(node, ast.Import) for alias in node.names}
    assert not [node for node in at_import if isinstance(node, ast.ImportFrom) and node.level]
    assert names <= sys.stdlib_module_names


def test_declared_dependencies_are_what_the_code_imports() -> None:
    rooms = [room for room in FLOORS if room != "standalone"]  # diffusers is asked for where it is used
    used = {found.module for path in python_files(*rooms) for found in imports(path) if found.module}
    foreign = {PACKAGE_NAMES.get(name, name) for name in used - sys.stdlib_module_names - SHIPPED_BY_HOST}
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert {line for line in lines if line and not line.startswith("#")} == foreign


def test_pyproject_declares_the_same_dependencies() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    assert listed
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert re.findall(r'"(.+?)"', listed[1]) == [line for line in lines if line and not line.startswith("#")]
