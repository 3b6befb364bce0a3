"""Installs ComfyUI where `find_host` looks for it."""

import importlib.metadata
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ..core.errors import HostError
from .host_location import DEFAULT_HOST, ENVIRONMENT_VARIABLE, find_host

TORCH_PACKAGES = ("torch", "torchvision", "torchaudio")
SHOWN_LINES = 5


def find_or_install_host() -> Path:
    """The ComfyUI in use; where none is named and none is there, a new one in ~/comfy/ComfyUI.

    Raises: HostError with what was tried and what to do by hand.
    """
    try:
        return find_host()
    except HostError as missing:
        folder = DEFAULT_HOST.expanduser()
        if os.environ.get(ENVIRONMENT_VARIABLE) or folder.exists():
            raise  # somebody chose a place: nothing is put elsewhere, and nothing is overwritten
        sys.stderr.write(f"No ComfyUI here yet. Installing one into {folder}; this takes some minutes.\n")
        try:
            _install(folder)
        except (subprocess.CalledProcessError, OSError) as error:
            raise HostError(f"{missing}\nInstalling it here failed: {_reason(error)}") from error
        return find_host()


def _install(folder: Path) -> None:
    """ComfyUI's files into `folder`, and what it needs into this Python, whose torch stays as it is."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        # Its own environment: comfy-cli's dependencies are none of ComfyUI's.
        tools = Path(temporary)
        _run(sys.executable, "-m", "venv", temporary)
        _run(str(tools / "bin" / "python"), "-m", "pip", "install", "comfy-cli")
        options = ("--skip-manager", "--skip-torch-or-directml", "--skip-requirement", "--cpu")
        comfy = (str(tools / "bin" / "comfy"), "--skip-prompt", f"--workspace={folder}")
        _run(*comfy, "install", "--version", "latest", *options)
    _run(sys.executable, "-m", "pip", "install", "-r", str(folder / "requirements.txt"), *_installed_torch())


def _installed_torch() -> list[str]:
    versions = {distribution.name: distribution.version for distribution in importlib.metadata.distributions()}
    return [f"{name}=={versions[name]}" for name in TORCH_PACKAGES if name in versions]


def _run(*command: str) -> None:
    environment = {**os.environ, "DO_NOT_TRACK": "1"}
    subprocess.run(
        command,
        check=True,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def _reason(error: subprocess.CalledProcessError | OSError) -> str:
    if isinstance(error, OSError):
        return str(error)
    command, lines = " ".join(error.cmd), [line for line in error.output.splitlines() if line.strip()]
    shown = [line for line in lines if line.startswith(("fatal:", "error:", "ERROR:"))] or lines
    ending = "\n".join(shown[-SHOWN_LINES:])
    return f"`{command}` ended with status {error.returncode}:\n{ending}"
