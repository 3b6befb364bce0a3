"""A client of ComfyUI's HTTP interface: queue a workflow, watch it, cancel it, fetch what it made.

client = ComfyClient("http://127.0.0.1:8188")
prompt_id = client.queue(json.loads(Path("flow.api.json").read_text()))
client.wait(prompt_id, on_progress=print)
for output in client.outputs(prompt_id):
    print(client.download(output, Path("results")))
"""

import http.client
import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from .errors import CancelledError, ClientError, UnreachableError, WaitTimeoutError, failure, rejection
from .event_stream import EventStream

DEFAULT_URL = "http://127.0.0.1:8188"
CHECK_EVERY_S = 1.0
"""Events are a courtesy and may be lost; this often the history is asked as well."""

Workflow = Mapping[str, Any]
"""A graph in ComfyUI's API format: node id to `{"class_type": …, "inputs": …}`."""


@dataclass(frozen=True)
class Progress:
    """How far a node has come: 0 of 1 when it begins, then its own steps if it counts any."""

    node_id: str
    node_type: str
    value: int
    maximum: int


@dataclass(frozen=True)
class Output:
    """A file that a node left on ComfyUI's side."""

    node_id: str
    filename: str
    subfolder: str
    folder: str
    """`output`, `temp` or `input`."""


ProgressCallback = Callable[[Progress], None]


class ComfyClient:
    """One ComfyUI, from outside. Its methods raise ClientError and nothing else."""

    def __init__(self, url: str = DEFAULT_URL, timeout_s: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self.client_id = uuid.uuid4().hex
        self._workflows: dict[str, Workflow] = {}
        # Straight to the host, as the websocket goes: no proxy of the environment in between.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def queue(self, workflow: Workflow) -> str:
        """The prompt id of a workflow that ComfyUI will now run.

        Raises: WorkflowError with each node's mistakes.
        """
        answer = self._post("/prompt", {"prompt": workflow, "client_id": self.client_id})
        prompt_id = str(answer["prompt_id"])
        self._workflows[prompt_id] = workflow
        return prompt_id

    def wait(self, prompt_id: str, on_progress: ProgressCallback | None = None, timeout_s: float | None = None) -> None:
        """Return when the run has succeeded.

        Raises: ExecutionError, CancelledError, WaitTimeoutError; whatever `on_progress` raises.
        """
        limit = None if timeout_s is None else time.monotonic() + timeout_s
        for progress in self._progress(prompt_id):
            if progress is not None and on_progress is not None:
                on_progress(progress)
            if limit is not None and time.monotonic() > limit:
                raise WaitTimeoutError(
                    f"Run {prompt_id} has not ended within {timeout_s:.0f} s; it goes on at {self.url}."
                )

    def cancel(self, prompt_id: str) -> None:
        """Stop a run, or take it out of the queue; harmless if it has ended."""
        self._post("/queue", {"delete": [prompt_id]})
        self._post("/interrupt", {"prompt_id": prompt_id})

    def outputs(self, prompt_id: str) -> list[Output]:
        """The files of a finished run: images, animations, videos, sounds, in the order of the nodes."""
        return list(outputs_of(self._history(prompt_id) or {}))

    def download(self, output: Output, folder: Path) -> Path:
        """The local copy of an output, under its own name; a file of the same name is replaced."""
        query = urlencode({"filename": output.filename, "subfolder": output.subfolder, "type": output.folder})
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / Path(output.filename).name
        target.write_bytes(self._request(f"/view?{query}"))
        return target

    def node_types(self) -> dict[str, Any]:
        """Every node that this ComfyUI knows, by class name, with inputs, widgets and outputs."""
        return self._get("/object_info")

    def cached_nodes(self, prompt_id: str) -> set[str]:
        """Ids of the nodes that did not run because ComfyUI still had their results."""
        messages = ((self._history(prompt_id) or {}).get("status") or {}).get("messages") or []
        return {node for event, data in messages if event == "execution_cached" for node in data.get("nodes", [])}

    def _progress(self, prompt_id: str) -> Iterator[Progress | None]:
        """Progress as it comes, None when there is none for a while; ends when the run has succeeded."""
        stream = self._open_stream()
        try:
            while not self._has_succeeded(prompt_id):
                limit = time.monotonic() + CHECK_EVERY_S
                while (left := limit - time.monotonic()) > 0:
                    stream, event = self._next_event(stream, left)
                    if event is None or is_end(event, prompt_id):
                        break
                    yield self._progress_of(event, prompt_id)
                yield None
        finally:
            if stream is not None:
                stream.close()

    def _open_stream(self) -> EventStream | None:
        try:
            return EventStream(self.url, self.client_id, self.timeout_s)
        except (OSError, ValueError):  # a proxy without websockets, say: the history alone will do
            return None

    def _next_event(self, stream: EventStream | None, timeout_s: float) -> tuple[EventStream | None, Any]:
        if stream is not None:
            try:
                return stream, stream.next_event(timeout_s)
            except (OSError, ValueError):
                stream.close()
        time.sleep(timeout_s)
        return None, None

    def _progress_of(self, event: Mapping[str, Any], prompt_id: str) -> Progress | None:
        data = event.get("data") or {}
        if event.get("type") not in ("executing", "progress") or data.get("prompt_id") != prompt_id:
            return None
        node_id = str(data.get("node"))
        node_type = self._workflows.get(prompt_id, {}).get(node_id, {}).get("class_type", "")
        return Progress(node_id, node_type, int(data.get("value", 0)), int(data.get("max", 1)))

    def _has_succeeded(self, prompt_id: str) -> bool:
        """Whether the run is over, False while it waits or runs. Raises: ExecutionError, CancelledError."""
        entry = self._history(prompt_id)
        if entry is None and not self._is_queued(prompt_id):
            entry = self._history(prompt_id)  # it may have ended between the two questions
            if entry is None:
                raise CancelledError(f"Run {prompt_id} is neither queued nor finished at {self.url}; it was removed.")
        if entry is None:
            return False
        raise_failure(prompt_id, entry)
        return True

    def _history(self, prompt_id: str) -> dict[str, Any] | None:
        return self._get(f"/history/{quote(prompt_id)}").get(prompt_id)

    def _is_queued(self, prompt_id: str) -> bool:
        queue = self._get("/queue")
        return any(item[1] == prompt_id for item in [*queue["queue_running"], *queue["queue_pending"]])

    def _get(self, path: str) -> dict[str, Any]:
        return self._decoded(path, self._request(path))

    def _post(self, path: str, content: Mapping[str, Any]) -> dict[str, Any]:
        answer = self._request(path, json.dumps(content).encode())
        return self._decoded(path, answer) if answer else {}

    def _decoded(self, path: str, answer: bytes) -> dict[str, Any]:
        try:
            decoded = json.loads(answer)
        except ValueError:
            decoded = None
        if not isinstance(decoded, dict):
            raise UnreachableError(f"{self.url}{path}: expected ComfyUI's JSON, found {answer[:80]!r}. Is it ComfyUI?")
        return decoded

    def _request(self, path: str, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            request = urllib.request.Request(self.url + path, body, headers)
            with self._opener.open(request, timeout=self.timeout_s) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise self._refusal(path, error) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise UnreachableError(
                f"No ComfyUI answers at {self.url} ({getattr(error, 'reason', error)}). "
                "Start it, or give its address, such as http://127.0.0.1:8188."
            ) from error

    def _refusal(self, path: str, error: urllib.error.HTTPError) -> ClientError:
        text = error.read().decode(errors="replace")
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if path == "/prompt" and isinstance(answer, dict):
            return rejection(answer)
        return UnreachableError(f"{self.url}{path}: ComfyUI answered {error.code} {error.reason}. {text[:200]}".strip())


def outputs_of(entry: Mapping[str, Any]) -> Iterator[Output]:
    """Every file named in a run's history."""
    for node_id, results in (entry.get("outputs") or {}).items():
        for files in results.values():
            for file in files if isinstance(files, list) else []:
                if isinstance(file, dict) and "filename" in file:
                    yield Output(node_id, file["filename"], file.get("subfolder", ""), file.get("type", "output"))


def raise_failure(prompt_id: str, entry: Mapping[str, Any]) -> None:
    """Raise what stopped a run, if its history says that something did."""
    status = entry.get("status") or {}
    events = dict(status.get("messages") or [])
    if "execution_error" in events:
        raise failure(events["execution_error"])
    if "execution_interrupted" in events:
        raise CancelledError(
            f"Run {prompt_id} was interrupted at node {events['execution_interrupted'].get('node_id')}."
        )
    if status.get("status_str") == "error":
        raise ClientError(f"Run {prompt_id} failed, and ComfyUI does not say why; its log may.")


def is_end(event: Mapping[str, Any], prompt_id: str) -> bool:
    """Whether an event says that the run has ended, well or not."""
    data = event.get("data") or {}
    return event.get("type") == "executing" and data.get("node") is None and data.get("prompt_id") == prompt_id
