"""Where ComfyUI is installed on this machine."""

import os
import sys
from pathlib import Path

from ..core.errors import HostError

CHECKOUT = Path(__file__).absolute().parents[1]
ENVIRONMENT_VARIABLE = "COMFYUI_PATH"
DEFAULT_HOST = Path("~/comfy/ComfyUI")
"""Where `comfy install` puts ComfyUI on Linux. Source: Comfy-Org/comfy-cli, constants.py, DEFAULT_COMFY_WORKSPACE."""


def find_host() -> Path:
    """The ComfyUI to run: $COMFYUI_PATH, else the one whose custom_nodes/ holds this checkout, else ~/comfy/ComfyUI.

    Raises: HostError naming every folder it looked in. A set $COMFYUI_PATH is the only one looked in.
    """
    candidates = _candidates()
    for candidate in candidates:
        if is_host(candidate):
            return candidate.resolve()
    raise HostError(_nothing_found(candidates))


def is_host(folder: Path) -> bool:
    """Whether this is the root folder of a ComfyUI."""
    return (folder / "main.py").is_file() and (folder / "comfy" / "model_patcher.py").is_file()


def main() -> int:
    """Print the path of the ComfyUI in use; exit status 1 and where it was sought if there is none."""
    try:
        print(find_host())  # noqa: T201 - a command's answer
    except HostError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _candidates() -> list[Path]:
    chosen = os.environ.get(ENVIRONMENT_VARIABLE)
    if chosen:
        return [Path(chosen).expanduser().absolute()]
    above = [path.parents[1] for path in (CHECKOUT, CHECKOUT.resolve()) if path.parent.name == "custom_nodes"]
    return [*dict.fromkeys(above), DEFAULT_HOST.expanduser()]


def _nothing_found(candidates: list[Path]) -> str:
    places = ", ".join(map(str, candidates))
    return (
        f"No ComfyUI found. Looked for main.py and comfy/ in: {places}. "
        f"Set {ENVIRONMENT_VARIABLE} to the folder that holds ComfyUI's main.py, or install one with "
        "`pip install comfy-cli && comfy install`."
    )
