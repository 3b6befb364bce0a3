"""ComfyUI's editor in a headless Chromium: load a workflow, fill in its widgets, run it, look at its nodes."""

import json
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Error, Request, sync_playwright

from motiongraft.standalone.headless import DIRECT, REQUEST_TIMEOUT_S
from motiongraft.tests.requirements import chromium

# As root, in a container and offline: no sandbox, no GPU, nothing that calls home.
SWITCHES = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
LOAD_TIMEOUT_MS = 120_000
EXTENSION = "/extensions/motiongraft/"
"""Where the server gives out web/: named after the folder in custom_nodes."""


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=SWITCHES)
        yield browser
        browser.close()


class Editor:
    """The editor of a running ComfyUI, in a page of its own."""

    def __init__(self, browser: Browser, url: str, *, vue_nodes: bool) -> None:
        self.scripts: Counter[str] = Counter()
        """How often each file of web/ was asked for."""
        self.complaints: list[str] = []
        """Errors and warnings in the console that name our files."""
        # Settings belong to the server and are read once, while the page loads.
        _post(f"{url}/settings", {"Comfy.VueNodes.Enabled": vue_nodes, "Comfy.TutorialCompleted": True})
        self.page = browser.new_page(viewport={"width": 1800, "height": 1000})
        self.page.set_default_timeout(LOAD_TIMEOUT_MS)
        self.page.on("request", self._count_script)
        self.page.on("console", self._note_message)
        self.page.on("pageerror", self._note_error)
        self.page.goto(url)
        self.page.wait_for_function(
            "window.app?.extensionManager && window.app.rootGraph && !window.app.configuringGraph"
        )
        self._wait_for_extensions()

    def load(self, workflow: Mapping[str, Any]) -> None:
        """Open a saved workflow and bring all of it into view."""
        self.page.evaluate("(workflow) => app.loadGraphData(workflow)", workflow)
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")

    def fill_in(self, node_id: int, **values: Any) -> None:
        """Give widgets of a node new values."""
        for name, value in values.items():
            self.page.evaluate(
                """([id, name, value]) => {
                    const widget = app.rootGraph.getNodeById(id).widgets.find((widget) => widget.name === name);
                    widget.value = value;
                }""",
                [node_id, name, value],
            )

    def choose(self, node_id: int, **values: Any) -> None:
        """Give widgets of a node new values by hand: the editor tells them, and that the graph has changed."""
        for name, value in values.items():
            self.page.evaluate(
                """([id, name, value]) => {
                    const node = app.rootGraph.getNodeById(id);
                    const widget = node.widgets.find((widget) => widget.name === name);
                    widget.value = value;
                    widget.callback?.(value, app.canvas, node);
                    app.api.dispatchCustomEvent("graphChanged", app.rootGraph.serialize());
                }""",
                [node_id, name, value],
            )

    def saved(self) -> dict[str, Any]:
        """The workflow as the editor would save it."""
        return json.loads(self.page.evaluate("() => JSON.stringify(app.rootGraph.serialize())"))

    def exported(self) -> dict[str, Any]:
        """The workflow in the API format."""
        return json.loads(self.page.evaluate("async () => JSON.stringify((await app.graphToPrompt()).output)"))

    def queue(self) -> None:
        """Press Run. `wait_for_end` waits for this run."""
        self.page.evaluate(
            """() => {
                window.runEnd = null;
                for (const type of ["execution_success", "execution_error", "execution_interrupted"]) {
                    app.api.addEventListener(type, (event) => {
                        window.runEnd = { type, detail: event.detail };
                    });
                }
                return app.queuePrompt(0, 1);
            }"""
        )

    def has_ended(self) -> bool:
        """Whether the run that was queued is over."""
        return self.page.evaluate("() => window.runEnd !== null")

    def wait_for_end(self) -> str:
        """`execution_success`, or what else the server called the end of the run."""
        self.page.wait_for_function("window.runEnd")
        return self.page.evaluate("() => window.runEnd.type")

    def settle(self) -> None:
        """Let the editor draw: widgets take their places in one frame and show there in the next."""
        for _ in range(3):
            self.page.evaluate("() => new Promise((resolve) => requestAnimationFrame(resolve))")

    def picture(self, state: str, node_id: int) -> Any:
        """What a picture in a node shows, once it is drawn. `state` is a function of the node's id that tells."""
        self.settle()
        self.page.wait_for_function(f"(id) => ({state})(id)?.isDrawn", arg=node_id)
        return self.page.evaluate(state, node_id)

    def screenshot(self, path: Path) -> None:
        """Save what the page shows."""
        self.page.screenshot(path=path)

    def close(self) -> None:
        """Close the page."""
        self.page.close()

    def _wait_for_extensions(self) -> None:
        # Extensions load beside the editor: a node type of ours that is registered says that the server listed them.
        self.page.wait_for_function("Boolean(LiteGraph.registered_node_types.SampleAnimation)")
        self.page.wait_for_function("document.querySelector('link[href$=\"animated_preview.css\"]')?.sheet")

    def _count_script(self, request: Request) -> None:
        path = urlsplit(request.url).path
        if path.lower().startswith(EXTENSION) and path.endswith(".js"):
            self.scripts[path[len(EXTENSION) :]] += 1

    def _note_message(self, message: ConsoleMessage) -> None:
        where = message.location.get("url", "")
        if message.type in ("error", "warning") and EXTENSION in f"{where} {message.text}".lower():
            self.complaints.append(f"{where}: {message.text}")

    def _note_error(self, error: Error) -> None:
        if EXTENSION in (error.stack or "").lower():
            self.complaints.append(str(error.stack))


def _post(url: str, body: Mapping[str, Any]) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    DIRECT.open(request, timeout=REQUEST_TIMEOUT_S).close()
