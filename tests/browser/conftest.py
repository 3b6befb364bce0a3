"""The browser, and the editor in both of its renderers, for the tests in this folder."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from motiongraft.standalone.headless import HeadlessComfyUI
    from motiongraft.tests.browser.editor import Editor


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A headless Chromium."""
    from motiongraft.tests.browser.editor import open_browser

    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module", params=[False, True], ids=["classic canvas", "Vue nodes"])
def editor(request: pytest.FixtureRequest, browser: "Browser", server: "HeadlessComfyUI") -> "Iterator[Editor]":
    """The editor of the running ComfyUI."""
    from motiongraft.tests.browser.editor import Editor

    editor = Editor(browser, server.url, vue_nodes=request.param)
    yield editor
    editor.close()
