"""The keys of Prompt Travel as a picture that can be moved: in both renderers, from the shipped long loop."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="no playwright. Run `make setup`, or `pip install playwright`.")

from motiongraft.tests.browser.editor import Editor

WORKFLOW = Path(__file__).resolve().parents[2] / "example_workflows" / "long_loop.json"
NODE = "MotionGraft_PromptTravel"
TIMELINE = """(id) => {
    const node = app.rootGraph.getNodeById(id);
    const element = node.widgets.find((widget) => widget.name === "travel_timeline")?.element;
    if (!element?.isConnected) return null;
    const box = element.querySelector("svg").getBoundingClientRect();
    return {
        caption: element.querySelector("figcaption").textContent,
        keys: [...element.querySelectorAll(".key")].map((key) => Number(key.getAttribute("aria-valuenow"))),
        ways: element.querySelectorAll("linearGradient").length,
        text: node.widgets.find((widget) => widget.name === "prompts").value,
        isDrawn: box.width > 50 && box.height > 10,
    };
}"""


@pytest.fixture
def travel(editor: Editor) -> int:
    """The id of Prompt Travel in a workflow opened anew."""
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    editor.load(workflow)
    return next(node["id"] for node in workflow["nodes"] if node["type"] == NODE)


def timeline(editor: Editor, node_id: int) -> dict[str, Any]:
    return editor.picture(TIMELINE, node_id)


def focus(editor: Editor, node_id: int, place: int) -> None:
    """Give a key of the picture the keyboard."""
    editor.page.evaluate(
        """([id, place]) => app.rootGraph.getNodeById(id).widgets.find((widget) => widget.name === "travel_timeline")
            .element.querySelectorAll(".key")[place].focus()""",
        [node_id, place],
    )


def test_the_picture_shows_every_key_and_the_ways_between(editor: Editor, travel: int, tmp_path: Path) -> None:
    found = timeline(editor, travel)
    editor.screenshot(tmp_path / "travel.png")
    assert found["keys"] == [0, 12, 24, 36]
    assert found["caption"] == "4 prompts over 48 frames"
    assert found["ways"] == 5  # that over the end in two pieces


def test_arrows_move_a_key_and_the_text_follows(editor: Editor, travel: int) -> None:
    before = timeline(editor, travel)
    focus(editor, travel, 1)
    assert timeline(editor, travel)["caption"].startswith("12: ")
    for _ in range(3):
        editor.page.keyboard.press("ArrowRight")
    after = timeline(editor, travel)
    assert after["keys"] == [0, 15, 24, 36]
    assert after["text"] == before["text"].replace("12: ", "15: ")
    assert after["caption"].startswith("15: ")
    exported = editor.exported()[str(travel)]["inputs"]["prompts"]
    assert exported == after["text"]


def test_a_key_can_be_dragged_up_to_its_neighbour(editor: Editor, travel: int) -> None:
    timeline(editor, travel)
    key = editor.page.evaluate_handle(
        """(id) => app.rootGraph.getNodeById(id).widgets.find((widget) => widget.name === "travel_timeline")
            .element.querySelectorAll(".key")[2]""",
        travel,
    ).as_element()
    assert key is not None
    key.hover()  # waits until the key stands still and nothing lies over it
    box = key.bounding_box()
    assert box is not None
    mouse = editor.page.mouse
    mouse.down()
    mouse.move(box["x"] + 100 * box["width"], box["y"], steps=4)
    mouse.up()
    editor.page.wait_for_function(f"(id) => ({TIMELINE})(id).keys[2] === 35", arg=travel)
    assert timeline(editor, travel)["keys"] == [0, 12, 35, 36]


def test_the_picture_follows_the_text_and_says_which_line_is_none(editor: Editor, travel: int) -> None:
    editor.choose(travel, prompts="0: a cat\n4-7: a dog", closed_loop=False)
    found = timeline(editor, travel)
    assert found["keys"] == [0, 4]
    assert found["caption"] == "2 prompts over 48 frames"
    editor.choose(travel, prompts="0: a cat\nno frame")
    found = timeline(editor, travel)
    assert found["keys"] == []
    assert found["caption"] == "line 2: expected `frame: prompt`, such as `0: a cat`"


def test_it_changes_no_saved_value_and_nothing_complains(editor: Editor, travel: int) -> None:
    timeline(editor, travel)
    saved = {node["id"]: node for node in editor.saved()["nodes"]}
    given = {node["id"]: node for node in json.loads(WORKFLOW.read_text(encoding="utf-8"))["nodes"]}
    assert saved[travel]["widgets_values"] == given[travel]["widgets_values"]
    assert editor.complaints == []
