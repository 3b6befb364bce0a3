"""What can go wrong between a program and ComfyUI.

ClientError
├── UnreachableError   no ComfyUI answers, or it answers with an HTTP error
├── WorkflowError      ComfyUI did not queue the workflow
├── ExecutionError     a node raised an error while it ran
├── CancelledError     the run was interrupted or taken out of the queue
└── WaitTimeoutError   the run took longer than the caller would wait
"""

from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """A request that ComfyUI did not fulfil."""


class UnreachableError(ClientError):
    """No ComfyUI answers at this address, or not as ComfyUI does."""


class WorkflowError(ClientError):
    """ComfyUI found mistakes in the workflow; `node_errors` holds them as ComfyUI sent them, by node id."""

    def __init__(self, message: str, node_errors: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.node_errors = node_errors


class ExecutionError(ClientError):
    """A node raised an error; the graph stopped there."""

    def __init__(self, node_id: str, node_type: str, error: str, traceback: str) -> None:
        super().__init__(f"Node {node_id} ({node_type}) failed: {error.strip()}")
        self.node_id = node_id
        self.node_type = node_type
        self.error = error
        self.traceback = traceback


class CancelledError(ClientError):
    """The run was interrupted, or removed from the queue before it began."""


class WaitTimeoutError(ClientError):
    """The run goes on; only the waiting ended."""


def rejection(answer: Mapping[str, Any]) -> WorkflowError:
    """ComfyUI's refusal of a workflow in words: every node with its mistakes."""
    node_errors: Mapping[str, Any] = answer.get("node_errors") or {}
    lines = [f"ComfyUI did not accept the workflow: {_words(answer.get('error') or {})}"]
    for node_id, found in node_errors.items():
        for mistake in found.get("errors", []):
            lines.append(f"  node {node_id} ({found.get('class_type', '?')}): {_words(mistake)}")
    return WorkflowError("\n".join(lines), node_errors)


def failure(details: Mapping[str, Any]) -> ExecutionError:
    """An `execution_error` event as an exception."""
    error = f"{details.get('exception_type', 'error')}: {details.get('exception_message', '')}"
    return ExecutionError(
        str(details.get("node_id", "?")),
        str(details.get("node_type", "?")),
        error,
        "".join(details.get("traceback") or []),
    )


def _words(mistake: Mapping[str, Any] | str) -> str:
    if isinstance(mistake, str):
        return mistake
    parts = (mistake.get("message"), mistake.get("details"))
    return ": ".join(str(part) for part in parts if part) or "no reason given"
