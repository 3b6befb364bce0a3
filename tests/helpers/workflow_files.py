"""Workflow files, in the editor's format and in the API's, and the step from one to the other."""

import json
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[2] / "example_workflows"
NOTES = {"Note", "MarkdownNote"}
CONTROL_AFTER_GENERATE = {"fixed", "increment", "decrement", "randomize"}


def read(path: Path) -> Any:
    """The parsed file."""
    return json.loads(path.read_text(encoding="utf-8"))


def editor_files() -> list[Path]:
    """The workflows that the template browser lists."""
    return sorted(EXAMPLES.glob("*.json"))


def api_files() -> list[Path]:
    """Their twins for programs."""
    return sorted((EXAMPLES / "api").glob("*.json"))


def as_api(workflow: dict[str, Any]) -> dict[str, Any]:
    """What the editor would queue for a workflow without subgraphs: class and inputs of each node."""
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    nodes = [node for node in workflow["nodes"] if node["type"] not in NOTES]
    return {str(node["id"]): {"class_type": node["type"], "inputs": _inputs(node, sources)} for node in nodes}


def _inputs(node: dict[str, Any], sources: dict[int, list[Any]]) -> dict[str, Any]:
    """Links by socket name, and widget values in the order in which the node declares its widgets."""
    values = list(node.get("widgets_values", []))
    found: dict[str, Any] = {}
    for socket in node.get("inputs", []):
        if "widget" in socket:
            value = values.pop(0)
            if socket["name"] == "seed" and values and values[0] in CONTROL_AFTER_GENERATE:
                values.pop(0)
            found[socket["name"]] = value
        if socket.get("link") is not None:
            found[socket["name"]] = sources[socket["link"]]
    assert not values, f"{node['type']} saves more values than it has widgets: {values}"
    return found
