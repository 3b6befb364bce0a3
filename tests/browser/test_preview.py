"""The shipped workflow in ComfyUI's editor: what a user sees while and after it runs, in both of its renderers."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

pytest.importorskip("playwright.sync_api", reason="no playwright. Run `make setup`, or `pip install playwright`.")

from motiongraft.standalone.headless import DIRECT, REQUEST_TIMEOUT_S
from motiongraft.tests.browser.editor import Editor
from motiongraft.tests.tiny_sd_pack.model_folders import MOTION_MODULE_V3, SD15_CHECKPOINT

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from motiongraft.standalone.headless import HeadlessComfyUI

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = ROOT / "example_workflows"
CHECKPOINT, MOTION_MODULE, LATENT, SAMPLER, SAVER = 1, 2, 6, 7, 9
STEPS = 6
CLASSIC, VUE = "classic canvas", "Vue nodes"
SEEDS = {CLASSIC: 1, VUE: 2}
"""A second run of the same inputs comes from ComfyUI's cache, and shows no preview."""

PREVIEW_STATE = """(id) => {
    const preview = app.rootGraph.getNodeById(id).widgets.find((widget) => widget.name === "animated_preview");
    const picture = preview?.element.querySelector("img");
    return picture?.naturalWidth ? {
        caption: preview.element.querySelector("figcaption").textContent,
        alt: picture.alt,
        width: picture.naturalWidth,
        url: picture.src,
        isVisible: picture.checkVisibility(),
        isInNode: isInside(picture.getBoundingClientRect(), app.rootGraph.getNodeById(id)),
    } : null;

    function isInside(box, node) {
        const [left, top] = app.canvas.ds.convertOffsetToCanvas(node.pos);
        const corner = [node.pos[0] + node.size[0], node.pos[1] + node.size[1]];
        const [right, bottom] = app.canvas.ds.convertOffsetToCanvas(corner);
        const canvas = app.canvas.canvas.getBoundingClientRect();
        return (
            box.left >= canvas.left + left && box.right <= canvas.left + right &&
            box.top >= canvas.top + top && box.bottom <= canvas.top + bottom
        );
    }
}"""
SHOWS_LAST_STEP = f"(id) => (({PREVIEW_STATE})(id)?.caption ?? '').startsWith('step {STEPS} ')"
RESULT_WIDTH = """(id) => {
    const drawn = app.rootGraph.getNodeById(id).imgs?.[0];
    const element = document.querySelector(`[data-node-id="${id}"] img`);
    return (drawn?.isConnected ? drawn : element)?.naturalWidth || null;
}"""


@dataclass(frozen=True)
class Run:
    """What a user saw of one run of the shipped workflow, at toy size."""

    widgets_before: dict[int, Any]
    before: dict[str, Any] | None
    during: dict[str, Any]
    was_running: bool
    after: dict[str, Any]
    num_frames: int
    end: str
    result_width: int
    result_name: str
    widgets_after: dict[int, Any]
    exported: dict[str, Any]
    scripts: dict[str, int]
    complaints: list[str]


@pytest.fixture(scope="module", params=[CLASSIC, VUE])
def run(
    request: pytest.FixtureRequest,
    browser: "Browser",
    server: "HeadlessComfyUI",
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    editor = Editor(browser, server.url, vue_nodes=request.param == VUE)
    pictures = tmp_path_factory.mktemp("pictures")
    editor.load(json.loads((WORKFLOWS / "animate.json").read_text(encoding="utf-8")))
    exported = editor.exported()
    use_toy_files(editor, SEEDS[request.param])
    widgets_before, before = widgets_of(editor.saved()), preview_of(editor)
    editor.queue()
    wait_for(editor, PREVIEW_STATE, SAMPLER)
    was_running = not editor.has_ended()
    during = preview_of(editor)
    editor.screenshot(pictures / "during.png")
    end = editor.wait_for_end()
    result_width = wait_for(editor, RESULT_WIDTH, SAVER)
    wait_for(editor, SHOWS_LAST_STEP, SAMPLER)
    after = preview_of(editor)
    editor.screenshot(pictures / "after.png")
    seen = Run(
        widgets_before=widgets_before,
        before=before,
        during=during,
        was_running=was_running,
        after=after,
        num_frames=num_frames_of(after["url"]),
        end=end,
        result_width=result_width,
        result_name=editor.page.evaluate("(id) => app.nodeOutputs[id].images[0].filename", SAVER),
        widgets_after=widgets_of(editor.saved()),
        exported=exported,
        scripts=dict(editor.scripts),
        complaints=editor.complaints,
    )
    editor.close()
    return seen


def use_toy_files(editor: Editor, seed: int) -> None:
    editor.fill_in(CHECKPOINT, ckpt_name=SD15_CHECKPOINT)
    editor.fill_in(MOTION_MODULE, motion_module=MOTION_MODULE_V3)
    editor.fill_in(LATENT, width=64, height=64)
    editor.fill_in(SAMPLER, seed=seed, control_after_generate="fixed", steps=STEPS)


def widgets_of(workflow: dict[str, Any]) -> dict[int, Any]:
    return {node["id"]: node.get("widgets_values") for node in workflow["nodes"]}


def preview_of(editor: Editor) -> Any:
    editor.settle()
    return editor.page.evaluate(PREVIEW_STATE, SAMPLER)


def num_frames_of(url: str) -> int:
    with DIRECT.open(url, timeout=REQUEST_TIMEOUT_S) as answer, Image.open(io.BytesIO(answer.read())) as picture:
        return getattr(picture, "n_frames", 1)


def calls_of(workflow: dict[str, Any]) -> dict[str, Any]:
    return {key: (node["class_type"], node["inputs"]) for key, node in workflow.items()}


def wait_for(editor: Editor, question: str, node_id: int) -> Any:
    """The first answer that is something."""
    return editor.page.wait_for_function(question, arg=node_id).json_value()


def test_the_workflow_runs_to_its_end(run: Run):
    assert run.end == "execution_success"


def test_there_is_no_preview_before_the_run(run: Run):
    assert run.before is None


def test_the_preview_appears_in_the_node_while_it_samples(run: Run):
    assert run.was_running
    assert run.during["width"] == 64 // 8
    assert run.during["isVisible"]
    assert run.during["isInNode"]


def test_the_preview_moves(run: Run):
    assert run.num_frames == 16


def test_the_preview_says_which_step_it_shows(run: Run):
    step = int(run.during["caption"].split()[1])
    assert run.during["caption"] == f"step {step} of {STEPS} · 16 frames"
    assert run.during["alt"] == f"Preview of the animation after step {step} of {STEPS}"


def test_the_last_step_is_on_display_after_the_run(run: Run):
    assert run.after["caption"] == f"step {STEPS} of {STEPS} · 16 frames"
    assert run.after["isVisible"]


def test_the_result_shows_in_the_save_node(run: Run):
    assert run.result_name.endswith(".webp")
    assert run.result_width == 64


def test_the_preview_changes_no_widget_value_of_the_saved_workflow(run: Run):
    assert run.widgets_after == run.widgets_before


def test_each_script_is_fetched_once(run: Run):
    web = ROOT / "web"
    assert run.scripts == {path.relative_to(web).as_posix(): 1 for path in web.rglob("*.js")}


def test_the_console_holds_no_complaint_about_our_scripts(run: Run):
    assert run.complaints == []


def test_the_workflow_exports_to_its_api_twin(run: Run):
    twin = json.loads((WORKFLOWS / "api" / "animate.json").read_text(encoding="utf-8"))
    assert calls_of(run.exported) == calls_of(twin)
