"""Messages to the editor that queued a prompt, and to nobody else."""

from typing import Any

from comfy_execution.progress import get_progress_state
from server import PromptServer


def is_watched(node_id: str | None) -> bool:
    """Whether an editor is connected that queued the running prompt, and knows the node."""
    server = getattr(PromptServer, "instance", None)
    return node_id is not None and server is not None and server.client_id in server.sockets


def send(event: str, node_id: str | None, message: dict[str, Any]) -> None:
    """Send a message about a node that is watched. docs/events.md describes each event."""
    server = PromptServer.instance
    progress = get_progress_state()
    about = {
        "node_id": node_id,
        "display_node_id": progress.dynprompt.get_display_node_id(node_id),
        "prompt_id": progress.prompt_id,
    }
    server.send_sync(event, {**message, **about}, server.client_id)


def show_text(node_id: str | None, text: str) -> None:
    """A line on the node itself, in place of the one before."""
    if is_watched(node_id):
        PromptServer.instance.send_progress_text(text, node_id, PromptServer.instance.client_id)
