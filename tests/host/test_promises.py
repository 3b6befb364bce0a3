"""Node ids, sockets and widgets are public: saved graphs and API calls depend on them."""

import json
import os
import urllib.request
from pathlib import Path

import pytest

from motiongraft.tests.helpers.workflow_files import NOTES, api_files, as_api, editor_files, read

RECORD = Path(__file__).resolve().parents[1] / "data" / "object_info.json"
UPDATE = "MOTIONGRAFT_UPDATE_RECORD"
MACHINE_LISTS = {
    *("motion_module", "motion_lora", "domain_adapter", "sparsectrl", "folder", "file"),
    *("sampler_name", "scheduler"),
}
"""Combos whose entries depend on the machine's files or on ComfyUI's version."""
KEPT = (
    "input",
    "output",
    "output_name",
    "name",
    "display_name",
    "description",
    "category",
    "output_node",
    "search_aliases",
)
SEEDS = {"seed", "noise_seed"}
"""The editor puts a second widget behind a number of this name, unless the node says that it wants none.

Source: ComfyUI_frontend, useIntWidget, `control_after_generate ?? ['seed', 'noise_seed'].includes(name)`.
"""
KNOWN_IDS = {"LoadMotionModule", "ApplyMotionLoRA", "InflateModel", "SampleAnimation", "ContextWindow"}
"""Promised by name from the start."""


@pytest.fixture(scope="module")
def object_info(server):
    with urllib.request.urlopen(f"{server.url}/object_info") as response:
        return json.load(response)


@pytest.fixture(scope="module")
def ours(object_info):
    return {name: info for name, info in object_info.items() if "motiongraft" in info["python_module"]}


def lasting(info):
    """What of a node's description does not depend on the machine."""
    kept = {key: info[key] for key in KEPT if key in info}
    for sockets in kept["input"].values():
        for name, socket in sockets.items():
            if name in MACHINE_LISTS:
                socket[1].pop("options", None)
                if isinstance(socket[0], list):
                    socket[0] = "COMBO"
    return kept


def test_nodes_are_as_recorded(ours):
    """A difference is a deliberate act: only additions at the end keep saved graphs working. See CONTRIBUTING.md."""
    found = {name: lasting(info) for name, info in sorted(ours.items())}
    if os.environ.get(UPDATE):
        RECORD.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == json.loads(RECORD.read_text(encoding="utf-8"))


def test_ids_are_promised_ones_or_carry_our_prefix(ours):
    assert set(ours) >= KNOWN_IDS
    assert all(name in KNOWN_IDS or name.startswith("MotionGraft_") for name in ours)


def test_no_id_is_one_of_the_hosts(ours, host_path):
    sources = [host_path / "nodes.py", *(host_path / "comfy_extras").rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    assert [name for name in ours if f'"{name}"' in text or f"'{name}'" in text] == []


def test_every_node_and_input_is_explained(ours):
    for name, info in ours.items():
        assert info["description"], name
        for kind in ("required", "optional"):
            for socket, declared in info["input"].get(kind, {}).items():
                assert len(declared[1].get("tooltip", "")) > 10, f"{name}.{socket}"
        assert all(info["output_tooltips"]), name


@pytest.mark.parametrize("path", api_files(), ids=lambda path: path.stem)
def test_api_workflows_use_nodes_and_inputs_that_exist(object_info, path):
    for node in read(path).values():
        declared = object_info[node["class_type"]]["input"]
        names = {name for sockets in declared.values() for name in sockets}
        assert set(declared.get("required", {})) <= set(node["inputs"]) <= names, node["class_type"]


@pytest.mark.parametrize("path", editor_files(), ids=lambda path: path.stem)
def test_each_editor_workflow_is_its_api_twin(path):
    twin = read(path.parent / "api" / path.name)
    assert as_api(read(path)) == {
        key: {"class_type": node["class_type"], "inputs": node["inputs"]} for key, node in twin.items()
    }


@pytest.mark.parametrize("path", editor_files(), ids=lambda path: path.stem)
def test_editor_workflows_save_as_many_values_as_the_editor_shows_widgets(object_info, path):
    """It gives them out in order: one value too many or too few, and all behind it land in the wrong widget."""
    for node in read(path)["nodes"]:
        if node["type"] in NOTES:
            continue
        declared = {
            name: socket for kind in object_info[node["type"]]["input"].values() for name, socket in kind.items()
        }
        widgets = [socket["name"] for socket in node["inputs"] if "widget" in socket]
        told = {name: dict(*declared[name][1:]) for name in widgets}  # old nodes of ComfyUI tell the type alone
        second = [name for name in widgets if told[name].get("control_after_generate", name in SEEDS)]
        assert len(node.get("widgets_values", [])) == len(widgets) + len(second), node["type"]


def test_every_workflow_has_its_twin():
    assert [path.name for path in editor_files()] == [path.name for path in api_files()]
