"""The client against a small server that speaks as ComfyUI does, and its command line."""

import base64
import hashlib
import json
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from motiongraft.client.comfy_client import ComfyClient, Output, Progress
from motiongraft.client.errors import (
    CancelledError,
    ClientError,
    ExecutionError,
    UnreachableError,
    WaitTimeoutError,
    WorkflowError,
)
from motiongraft.client.event_stream import ACCEPT_SUFFIX
from motiongraft.client.run import read_workflow, with_settings

RUN = Path(__file__).resolve().parents[2] / "client" / "run.py"
WORKFLOW = {
    "3": {"class_type": "SampleAnimation", "inputs": {"seed": 0, "steps": 25}, "_meta": {"title": "Sample"}},
    "9": {"class_type": "SaveAnimatedWEBP", "inputs": {"images": ["3", 0], "fps": 8.0}},
}
SUCCESS = {
    "status": {"status_str": "success", "completed": True, "messages": [["execution_cached", {"nodes": ["3"]}]]},
    "outputs": {
        "9": {"images": [{"filename": "a.webp", "subfolder": "clips", "type": "output"}], "animated": [True]},
        "4": {"images": [{"filename": "b.png", "subfolder": "", "type": "temp"}], "text": ["words"]},
    },
}


def failed(event: str, data: dict[str, Any]) -> dict[str, Any]:
    return {"status": {"status_str": "error", "completed": False, "messages": [["execution_start", {}], [event, data]]}}


class FakeComfyUI:
    """Answers from a table, and sends prepared websocket frames."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {
            "/prompt": {"prompt_id": "p"},
            "/queue": {"queue_running": [], "queue_pending": []},
            "/history/p": {},
        }
        self.status = 200
        self.frames: list[bytes] = []
        self.after_frames: Callable[[], None] = lambda: None
        self.received: list[tuple[str, Any]] = []


def frame(payload: bytes, kind: int = 0x1, final: bool = True) -> bytes:
    head = bytes([(0x80 if final else 0) | kind])
    if len(payload) < 126:
        return head + bytes([len(payload)]) + payload
    if len(payload) < 65536:
        return head + bytes([126]) + struct.pack(">H", len(payload)) + payload
    return head + bytes([127]) + struct.pack(">Q", len(payload)) + payload


def event(kind: str, **data: Any) -> bytes:
    return json.dumps({"type": kind, "data": {"prompt_id": "p", **data}}).encode()


@pytest.fixture
def comfyui() -> Iterator[tuple[FakeComfyUI, str]]:
    fake = FakeComfyUI()
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/ws":
                self._speak_websocket()
            elif path == "/view":
                fake.received.append((self.path, None))
                self._answer(b"the file")
            else:
                self._answer(json.dumps(fake.answers[path]).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fake.received.append((self.path, body))
            self._answer(json.dumps(fake.answers.get(self.path, {})).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _answer(self, body: bytes) -> None:
            self.send_response(fake.status)
            self.end_headers()
            self.wfile.write(body)

        def _speak_websocket(self) -> None:
            key = self.headers["Sec-WebSocket-Key"].encode()
            accept = base64.b64encode(hashlib.sha1(key + ACCEPT_SUFFIX).digest()).decode()
            self.wfile.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                + f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
            )
            for one in fake.frames:
                self.wfile.write(one)
            fake.after_frames()
            released.wait(10)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield fake, f"http://127.0.0.1:{server.server_port}"
    released.set()
    server.shutdown()
    server.server_close()


def finish(fake: FakeComfyUI, entry: dict[str, Any]) -> None:
    fake.answers["/history/p"] = {"p": entry}


def run_forever(fake: FakeComfyUI) -> None:
    fake.answers["/queue"] = {"queue_running": [[0, "p", {}, {}, []]], "queue_pending": []}


def test_queue_returns_the_prompt_id_and_sends_who_asks(comfyui: tuple[FakeComfyUI, str]) -> None:
    fake, url = comfyui
    client = ComfyClient(url + "/")
    assert client.queue(WORKFLOW) == "p"
    assert fake.received == [("/prompt", {"prompt": WORKFLOW, "client_id": client.client_id})]


def test_wait_reports_progress_in_order_through_split_long_and_binary_frames(comfyui: tuple[FakeComfyUI, str]) -> None:
    fake, url = comfyui
    run_forever(fake)
    step = event("progress", node="3", value=1, max=25, note="x" * 70000)
    fake.frames = [
        frame(event("status")),
        frame(event("executing", node="3")),
        frame(b"\x00\x00\x00\x01preview", kind=0x2),
        frame(step[:100], final=False),
        frame(b"still there?", kind=0x9),
        frame(step[100:], kind=0x0),
        frame(event("progress", node="3", value=2, max=25, prompt_id="another run")),
        frame(event("executing", node=None)),
    ]
    seen: list[Progress] = []

    def note(progress: Progress) -> None:
        seen.append(progress)
        if progress.value:
            finish(fake, SUCCESS)

    client = ComfyClient(url)
    client.wait(client.queue(WORKFLOW), note, timeout_s=10)
    assert seen == [Progress("3", "SampleAnimation", 0, 1), Progress("3", "SampleAnimation", 1, 25)]


def test_wait_returns_at_once_for_a_run_that_is_over(comfyui: tuple[FakeComfyUI, str]) -> None:
    fake, url = comfyui
    finish(fake, SUCCESS)
    ComfyClient(url).wait("p", timeout_s=5)


def test_wait_asks_the_history_where_there_is_no_websocket(
    comfyui: tuple[FakeComfyUI, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, url = comfyui
    run_forever(fake)
    monkeypatch.setattr("motiongraft.client.comfy_client.CHECK_EVERY_S", 0.01)
    fake.frames = [frame(b"", kind=0x8)]
    fake.after_frames = lambda: finish(fake, SUCCESS)
    ComfyClient(url).wait("p", timeout_s=5)


def test_failed_node_is_named_with_its_error(comfyui: tuple[FakeComfyUI, str]) -> None:
    fake, url = comfyui
    details = {"node_id": "3", "node_type": "SampleAnimation", "exception_type": "SettingsError"}
    finish(fake, failed("execution_error", {**details, "exception_message": "1 frame\n", "traceback": ["line"]}))
    with pytest.raises(ExecutionError, match=r"Node 3 \(SampleAnimation\) failed: SettingsError: 1 frame$"):
        ComfyClient(url).wait("p")


def test_interrupted_run_raises_cancelled(comfyui: tuple[FakeComfyUI, str]) -> None:
    fake, url = comfyui
    finish(fake, failed("execution_interrupted", {"node_id": "3"}))
    with pytest.raises(CancelledError, match="interrupted at node 3"):
        ComfyClient(url).wait("p")


def test_run_removed_from_the_queue_raises_cancelled(comfyui: tuple[FakeComfyUI, str]) -> None:
    with pytest.raises(CancelledError, match="neither queued nor finished"):
        ComfyClient(comfyui[1]).wait("p")


def test_wait_gives_up_after_its_time(comfyui: tuple[FakeComfyUI, str], monkeypatch: pytest.MonkeyPatch) -> None:
    fake, url = comfyui
    run_forever(fake)
    monkeypatch.setattr("motiongraft.client.comfy_client.CHECK_EVERY_S", 0.01)
    with pytest.raises(WaitTimeoutError, match="goes on"):
        ComfyClient(url).wait("p", timeout_s=0.05)


def test_rejected_workflow_lists_each_node_and_mistake(comfyui: tuple[FakeComfyUI, str]) -> None:
    fake, url = comfyui
    fake.status = 400
    mistake = {"message": "Value not in list", "details": "ckpt_name: 'x' not in []"}
    fake.answers["/prompt"] = {
        "error": {"message": "Prompt outputs failed validation", "details": ""},
        "node_errors": {"4": {"errors": [mistake], "class_type": "CheckpointLoaderSimple"}},
    }
    with pytest.raises(
        WorkflowError, match=r"(?s)failed validation.*node 4 \(CheckpointLoaderSimple\): Value not in"
    ) as e:
        ComfyClient(url).queue(WORKFLOW)
    assert e.value.node_errors["4"]["errors"] == [mistake]


def test_cancel_empties_the_queue_and_interrupts_that_run_alone(comfyui: tuple[FakeComfyUI, str]) -> None:
    fake, url = comfyui
    ComfyClient(url).cancel("p")
    assert fake.received == [("/queue", {"delete": ["p"]}), ("/interrupt", {"prompt_id": "p"})]


def test_outputs_are_downloaded_by_name_into_the_folder(comfyui: tuple[FakeComfyUI, str], tmp_path: Path) -> None:
    fake, url = comfyui
    finish(fake, SUCCESS)
    client = ComfyClient(url)
    outputs = client.outputs("p")
    assert outputs == [Output("9", "a.webp", "clips", "output"), Output("4", "b.png", "", "temp")]
    path = client.download(outputs[0], tmp_path / "new")
    assert path == tmp_path / "new" / "a.webp"
    assert path.read_bytes() == b"the file"
    assert client.cached_nodes("p") == {"3"}


def test_download_keeps_a_hostile_name_inside_the_folder(comfyui: tuple[FakeComfyUI, str], tmp_path: Path) -> None:
    path = ComfyClient(comfyui[1]).download(Output("9", "../../a.webp", "", "output"), tmp_path)
    assert path == tmp_path / "a.webp"


def test_missing_server_says_where_it_was_sought() -> None:
    with pytest.raises(UnreachableError, match=r"No ComfyUI answers at http://127\.0\.0\.1:9 "):
        ComfyClient("http://127.0.0.1:9").queue(WORKFLOW)


@pytest.mark.parametrize("url", ["nonsense", "http://127.0.0.1:port", "ftp://127.0.0.1:9"])
def test_address_that_is_none_is_an_error_of_the_client(url: str) -> None:
    with pytest.raises(UnreachableError, match="No ComfyUI answers"):
        ComfyClient(url).wait("p")


def test_another_kind_of_server_is_told_from_comfyui(comfyui: tuple[FakeComfyUI, str]) -> None:
    fake, url = comfyui
    fake.answers["/history/p"] = ["no", "history"]
    with pytest.raises(UnreachableError, match="Is it ComfyUI"):
        ComfyClient(url).outputs("p")


@pytest.mark.parametrize("address", ["3.seed", "Sample.seed", "SampleAnimation.seed"])
def test_setting_finds_its_node_by_id_title_and_class(address: str) -> None:
    assert with_settings(WORKFLOW, [f"{address}=7"])["3"]["inputs"]["seed"] == 7
    assert WORKFLOW["3"]["inputs"]["seed"] == 0


@pytest.mark.parametrize(("text", "value"), [("1.5", 1.5), ("true", True), ("a.ckpt", "a.ckpt"), ("a=b", "a=b")])
def test_setting_is_json_where_it_can_be_and_text_otherwise(text: str, value: object) -> None:
    assert with_settings(WORKFLOW, [f"3.steps={text}"])["3"]["inputs"]["steps"] == value


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("seed=7", "expected NODE.INPUT=VALUE"),
        ("3.seed", "expected NODE.INPUT=VALUE"),
        ("5.seed=7", r"no node '5'.*3 \(SampleAnimation\)"),
        ("3.sed=7", "no input 'sed', only seed, steps"),
    ],
)
def test_setting_that_fits_nothing_says_what_there_is(setting: str, words: str) -> None:
    with pytest.raises(ClientError, match=words):
        with_settings(WORKFLOW, [setting])


def test_workflow_in_the_editors_format_says_how_to_export(tmp_path: Path) -> None:
    path = tmp_path / "flow.json"
    path.write_text('{"nodes": [], "links": []}')
    with pytest.raises(ClientError, match=r"Export \(API\)"):
        read_workflow(path)


def test_command_prints_the_paths_alone_on_stdout(comfyui: tuple[FakeComfyUI, str], tmp_path: Path) -> None:
    fake, url = comfyui
    finish(fake, SUCCESS)
    flow = tmp_path / "flow.api.json"
    flow.write_text(json.dumps(WORKFLOW))
    command = [sys.executable, str(RUN), str(flow), "--set", "3.seed=7", "--url", url, "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'a.webp'}\n")
    assert fake.received[0][1]["prompt"]["3"]["inputs"]["seed"] == 7


def test_command_fails_with_the_reason_and_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, str(RUN), str(tmp_path / "missing.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "missing.json: expected a workflow as JSON" in done.stderr
    assert "Traceback" not in done.stderr
