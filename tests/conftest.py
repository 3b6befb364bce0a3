"""What all tests share: the checkout's import name, ComfyUI, toy weight files, and a list of what was left out."""

import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# Toy tensors gain nothing from threads, and on a busy machine lose minutes to them. ComfyUI's process inherits this.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
NAME = "motiongraft"
if NAME not in sys.modules:
    spec = importlib.util.spec_from_file_location(NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None
    assert spec.loader is not None
    sys.modules[NAME] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
# `python -m pytest` puts the checkout on sys.path, where nodes/ and lora/ would hide the host's modules.
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != ROOT]

from motiongraft.standalone.host_location import find_host
from motiongraft.tests.requirements import Requirement, golden_folder, requirement

if TYPE_CHECKING:
    from motiongraft.client.comfy_client import ComfyClient
    from motiongraft.standalone.headless import HeadlessComfyUI
    from motiongraft.tests.tiny_sd_pack.in_process import InProcessHost

MARKS = ("host", "browser", "gpu", "golden")
MARKS_OF_FOLDERS = {"host": ("host",), "browser": ("host", "browser")}
MARKS_OF_FIXTURES = {"host": "host", "host_path": "host", "server": "host", "golden": "golden"}
NIGHTLY = "nightly"
"""What takes many minutes: run by `-m nightly` alone."""
LEFT_OUT = pytest.StashKey[Counter[Requirement]]()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark tests by folder and fixture, before pytest looks which marks were asked for."""
    for mark in _implied_marks(item):
        item.add_marker(mark)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave nightly tests to those who ask for them, skip tests whose requirement is missing, and count these."""
    if NIGHTLY not in str(config.getoption("markexpr")):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker(NIGHTLY)])
        items[:] = [item for item in items if not item.get_closest_marker(NIGHTLY)]
    left_out = config.stash[LEFT_OUT] = Counter()
    for item in items:
        missing = [need for need in map(requirement, filter(item.get_closest_marker, MARKS)) if not need.is_met]
        left_out.update(missing[:1])
        for need in missing:
            item.add_marker(pytest.mark.skip(reason=f"no {need.name}. {need.remedy}"))


def _implied_marks(item: pytest.Item) -> set[str]:
    tests = ROOT / "tests"
    folder = item.path.relative_to(tests).parts[0] if item.path.is_relative_to(tests) else ""
    fixtures = set(getattr(item, "fixturenames", ()))
    return {*MARKS_OF_FOLDERS.get(folder, ()), *(MARKS_OF_FIXTURES[name] for name in fixtures & set(MARKS_OF_FIXTURES))}


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say loudly which tests did not run for want of something, and how to get it."""
    left_out = config.stash.get(LEFT_OUT, Counter())
    if left_out:
        terminalreporter.section("LEFT OUT", sep="!", red=True, bold=True)
    for need, count in left_out.items():
        tests = "1 test" if count == 1 else f"{count} tests"
        terminalreporter.line(f"{tests} did not run for want of {need.name}. {need.remedy}", red=True, bold=True)


@pytest.fixture(scope="session")
def host_path() -> Path:
    """The root folder of the ComfyUI in use."""
    return find_host()


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder with the recordings of the published code."""
    return golden_folder()


@pytest.fixture(scope="session")
def base_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for ComfyUI's models, input and output, with toy files in its model folders."""
    from motiongraft.tests.tiny_sd_pack.model_folders import write_model_folders

    folder = tmp_path_factory.mktemp("comfyui")
    write_model_folders(folder)
    return folder


@pytest.fixture(scope="session")
def host(host_path: Path, base_directory: Path) -> "InProcessHost":
    """ComfyUI inside this process, on the CPU, with the toy models registered."""
    from motiongraft.tests.tiny_sd_pack.in_process import open_host

    return open_host(host_path, base_directory)


@pytest.fixture(scope="session")
def server(host_path: Path, base_directory: Path) -> "Iterator[HeadlessComfyUI]":
    """A running ComfyUI with this checkout as custom node: `.url`, `.base_directory`, `.log`, `.log_tail()`."""
    from motiongraft.standalone.headless import HeadlessComfyUI

    with HeadlessComfyUI(host_path, base_directory) as running:
        yield running


@pytest.fixture
def client(server: "HeadlessComfyUI") -> "ComfyClient":
    """A client of the running ComfyUI."""
    from motiongraft.client.comfy_client import ComfyClient

    return ComfyClient(server.url)
