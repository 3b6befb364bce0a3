"""Run a workflow file on a running ComfyUI and fetch what it makes.

    python client/run.py flow.api.json --set 3.seed=7 --url http://127.0.0.1:8188 --output results

Progress goes to stderr, the paths of the fetched files to stdout, one a line. Ctrl-C cancels the run.
"""

import argparse
import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run by its path: make the siblings importable (PEP 366)
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __package__ = Path(__file__).resolve().parent.name

from .comfy_client import DEFAULT_URL, ComfyClient, Progress, Workflow
from .errors import ClientError


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the files are there, 1 with the reason on stderr otherwise, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        workflow = with_settings(read_workflow(options.workflow), options.set)
        for path in run(ComfyClient(options.url), workflow, options.output):
            print(path)  # noqa: T201 - the command's answer
    except ClientError as error:
        print(f"\n{error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        print("\ncancelled", file=sys.stderr)  # noqa: T201
        return 130
    return 0


def run(client: ComfyClient, workflow: Workflow, folder: Path) -> list[Path]:
    """Local copies of everything that the workflow saves; an interrupted wait cancels the run."""
    prompt_id = client.queue(workflow)
    try:
        client.wait(prompt_id, show_progress)
    except KeyboardInterrupt:
        client.cancel(prompt_id)
        raise
    finally:
        sys.stderr.write("\n")
    return [client.download(output, folder) for output in client.outputs(prompt_id) if output.folder == "output"]


def show_progress(progress: Progress) -> None:
    """One line on stderr that overwrites itself."""
    sys.stderr.write(f"\r\x1b[K{progress.node_type or progress.node_id} {progress.value}/{progress.maximum}")
    sys.stderr.flush()


def read_workflow(path: Path) -> dict[str, Any]:
    """A workflow in API format.

    Raises: ClientError if the file is missing, is not JSON, or is the editor's own format.
    """
    try:
        workflow = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ClientError(f"{path}: expected a workflow as JSON ({error}).") from error
    if not isinstance(workflow, dict) or not all(isinstance(n, dict) and "class_type" in n for n in workflow.values()):
        raise ClientError(
            f"{path}: expected a workflow in API format (node ids to class_type and inputs). "
            "In the editor, choose Workflow, Export (API)."
        )
    return workflow


def with_settings(workflow: Workflow, settings: Sequence[str]) -> dict[str, Any]:
    """A copy of the workflow with `node.input=value` applied; a node is an id, a title or a class name.

    Raises: ClientError naming what there is, if a node or input is not.
    """
    changed = copy.deepcopy(dict(workflow))
    for setting in settings:
        address, equals, text = setting.partition("=")
        node, dot, name = address.rpartition(".")
        if not equals or not dot:
            raise ClientError(f"--set {setting}: expected NODE.INPUT=VALUE, such as 3.seed=7.")
        for node_id in _matching_nodes(changed, node, setting):
            _set_input(changed[node_id], name, _value(text), setting)
    return changed


def _matching_nodes(workflow: Workflow, node: str, setting: str) -> list[str]:
    if node in workflow:
        return [node]
    names = {key: (value["class_type"], value.get("_meta", {}).get("title")) for key, value in workflow.items()}
    found = [key for key, both in names.items() if node in both]
    if not found:
        there = ", ".join(f"{key} ({kind})" for key, (kind, _) in names.items())
        raise ClientError(f"--set {setting}: no node {node!r} in the workflow, which holds {there}.")
    return found


def _set_input(node: dict[str, Any], name: str, value: Any, setting: str) -> None:
    inputs = node.setdefault("inputs", {})
    if name not in inputs:
        raise ClientError(f"--set {setting}: {node['class_type']} has no input {name!r}, only {', '.join(inputs)}.")
    inputs[name] = value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Run a workflow on a running ComfyUI and fetch what it makes.")
    parser.add_argument("workflow", type=Path, help="a workflow in API format")
    parser.add_argument("--set", action="append", default=[], metavar="NODE.INPUT=VALUE", help="may be repeated")
    parser.add_argument("--url", default=DEFAULT_URL, help=f"ComfyUI's address (default {DEFAULT_URL})")
    parser.add_argument("--output", type=Path, default=Path(), help="folder for the files (default: this one)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
