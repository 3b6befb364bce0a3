"""The picture of windows on ContextWindow: in both renderers, from the shipped long loop."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="no playwright. Run `make setup`, or `pip install playwright`.")

from motiongraft.sampling.context_windows import ContextWindowSettings
from motiongraft.sampling.window_indices import window_indices
from motiongraft.tests.browser.editor import Editor

WORKFLOW = Path(__file__).resolve().parents[2] / "example_workflows" / "long_loop.json"
WINDOWS, CLIP = "ContextWindow", "EmptyLatentImage"
TIMELINE = """(id) => {
    const node = app.rootGraph.getNodeById(id);
    const element = node.widgets.find((widget) => widget.name === "window_timeline")?.element;
    if (!element?.isConnected) return null;
    const box = element.querySelector("svg").getBoundingClientRect();
    return {
        caption: element.querySelector("figcaption").textContent,
        bars: element.querySelectorAll("rect").length,
        seams: element.querySelectorAll("line").length,
        isDrawn: box.width > 50 && box.height > 10,
        hasStep: !element.querySelector("input").hidden,
    };
}"""


@pytest.fixture
def nodes(editor: Editor) -> dict[str, int]:
    """The ids of the long loop's nodes by class, in a workflow opened anew."""
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    editor.load(workflow)
    return {node["type"]: node["id"] for node in workflow["nodes"]}


def timeline(editor: Editor, node_id: int) -> dict[str, Any]:
    return editor.picture(TIMELINE, node_id)


def test_the_picture_shows_the_windows_of_the_clip_that_is_connected(
    editor: Editor, nodes: dict[str, int], tmp_path: Path
) -> None:
    found = timeline(editor, nodes[WINDOWS])
    editor.screenshot(tmp_path / "timeline.png")
    settings = ContextWindowSettings(schedule="looped", closed_loop=True)
    windows = window_indices(settings, 48, 0)
    assert found["caption"] == f"48 frames: {len(windows)} windows of 16, step 1"
    assert found["bars"] >= len(windows)
    assert found["seams"] > 0
    assert found["hasStep"]


def test_it_follows_its_widgets_and_the_clip(editor: Editor, nodes: dict[str, int]) -> None:
    before = timeline(editor, nodes[WINDOWS])
    editor.choose(nodes[WINDOWS], overlap=0, closed_loop=False, schedule="batched")
    after = timeline(editor, nodes[WINDOWS])
    assert after["caption"] == "48 frames: 3 windows of 16"
    assert after["seams"] == 2
    assert not after["hasStep"]
    assert after["bars"] != before["bars"]
    editor.choose(nodes[CLIP], batch_size=64)
    editor.page.wait_for_function(f"(id) => ({TIMELINE})(id).caption.startsWith('64 frames: 4')", arg=nodes[WINDOWS])


def test_settings_that_cannot_be_are_said_in_the_node(editor: Editor, nodes: dict[str, int]) -> None:
    editor.choose(nodes[WINDOWS], overlap=16)
    found = timeline(editor, nodes[WINDOWS])
    assert found["caption"] == "overlap 16 must be smaller than length 16"
    assert found["bars"] == 0


def test_it_changes_no_saved_value_and_nothing_complains(editor: Editor, nodes: dict[str, int]) -> None:
    timeline(editor, nodes[WINDOWS])
    saved = {node["id"]: node for node in editor.saved()["nodes"]}
    given = {node["id"]: node for node in json.loads(WORKFLOW.read_text(encoding="utf-8"))["nodes"]}
    assert saved[nodes[WINDOWS]]["widgets_values"] == given[nodes[WINDOWS]]["widgets_values"]
    assert editor.complaints == []
