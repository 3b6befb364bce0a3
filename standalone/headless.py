"""A ComfyUI of our own: started on a free port with this checkout as its custom node, and always stopped."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ..core.errors import HostError
from .host_location import CHECKOUT
from .stop_signals import stop_signals_raise, stop_signals_wait

PACKS: Mapping[str, Path] = {"motiongraft": CHECKOUT, "tiny_sd_pack": CHECKOUT / "tests" / "tiny_sd_pack"}
"""Custom nodes of a headless ComfyUI: this checkout, and the pack that lets it load toy checkpoints."""
FOLDERS = ("custom_nodes", "input", "models", "output", "temp", "user")
PORT_TRIES = 5
PORT_TAKEN = "already in use"
FAILURES = ("(IMPORT FAILED)", "Error while calling comfy_entrypoint", "did not return a", 'File "')
"""How a custom node that did not load shows in ComfyUI's log, on a line with its path. Source: ComfyUI nodes.py."""
LOG_TAIL_LINES = 40
POLL_S = 0.2
REQUEST_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 10.0
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens addresses on this machine, whatever proxy the environment names."""


class HeadlessComfyUI:
    """A running ComfyUI: `with HeadlessComfyUI(find_host(), folder) as comfyui: … comfyui.url …`.

    Everything it reads and writes lies in `base_directory`: models, input, output, and its log `comfyui.log`.
    """

    def __init__(
        self,
        host: Path,
        base_directory: Path,
        packs: Mapping[str, Path] = PACKS,
        *,
        python: str = sys.executable,
        start_timeout_s: float = 300.0,
    ) -> None:
        self.host = host
        self.base_directory = base_directory.resolve()
        self.packs = packs
        self.python = python
        self.start_timeout_s = start_timeout_s
        self.log = self.base_directory / "comfyui.log"
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._signals = contextlib.ExitStack()

    def __enter__(self) -> "HeadlessComfyUI":
        self._signals.enter_context(stop_signals_raise())
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            self._signals.close()

    def start(self) -> None:
        """Start ComfyUI and wait until it answers.

        Raises: HostError with the end of its log if it ends, loads one of our packs with an error, or never answers.
        """
        self._prepare_base_directory()
        for _ in range(PORT_TRIES):
            port = free_port()
            self._launch(port)
            if self._answers(port):
                self.url = f"http://127.0.0.1:{port}"
                return self._check_packs()
            self.stop()
        raise self._failure(f"found {PORT_TRIES} free ports and lost each of them to another program")

    def stop(self) -> None:
        """End ComfyUI and everything it started; harmless if it has ended."""
        process, self._process = self._process, None
        if process is None:
            return
        with stop_signals_wait():
            _signal_group(process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
            _signal_group(process, getattr(signal, "SIGKILL", signal.SIGTERM))
            process.wait()

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """The last lines of ComfyUI's log."""
        return "\n".join(self._log_lines()[-lines:])

    def _prepare_base_directory(self) -> None:
        for name in FOLDERS:
            (self.base_directory / name).mkdir(parents=True, exist_ok=True)
        for name, pack in self.packs.items():
            link = self.base_directory / "custom_nodes" / name
            if link.is_symlink():
                link.unlink()
            link.symlink_to(pack.resolve(), target_is_directory=True)

    def _launch(self, port: int) -> None:
        command = [self.python, str(self.host / "main.py"), *self._arguments(port)]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with self.log.open("wb") as log, stop_signals_wait():
            # A session of its own: Ctrl-C reaches us alone, and one signal reaches all that ComfyUI starts.
            self._process = subprocess.Popen(
                command,
                cwd=self.host,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _arguments(self, port: int) -> list[str]:
        arguments = ["--port", str(port), "--base-directory", str(self.base_directory)]
        arguments += ["--database-url", "sqlite:///:memory:", "--disable-api-nodes", "--disable-auto-launch"]
        return arguments if has_cuda(self.python) else [*arguments, "--cpu", "--use-pytorch-cross-attention"]

    def _answers(self, port: int) -> bool:
        """True once our ComfyUI answers on the port, False if another program took the port first."""
        assert self._process is not None
        limit = time.monotonic() + self.start_timeout_s
        while time.monotonic() < limit:
            if self._process.poll() is not None:
                if PORT_TAKEN in self.log_tail():
                    return False
                raise self._failure(f"ended with status {self._process.returncode}")
            if str(self.base_directory) in _arguments_of_server(port):
                return True
            time.sleep(POLL_S)
        raise self._failure(f"has not answered on port {port} for {self.start_timeout_s:.0f} s")

    def _check_packs(self) -> None:
        folders = [str(path) for name, pack in self.packs.items() for path in self._places(name, pack)]
        for line in self._log_lines():
            if any(mark in line for mark in FAILURES) and any(folder in line for folder in folders):
                raise self._failure(f"could not load a custom node ({line.strip()})")

    def _places(self, name: str, pack: Path) -> tuple[Path, Path]:
        return self.base_directory / "custom_nodes" / name, pack.resolve()

    def _failure(self, what: str) -> HostError:
        who = f"ComfyUI from {self.host}, run by {self.python},"
        return HostError(f"{who} {what}. Its log, {self.log}, ends with:\n{self.log_tail()}")

    def _log_lines(self) -> list[str]:
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.is_file() else []


def free_port() -> int:
    """A TCP port that no program used a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def has_cuda(python: str) -> bool:
    """Whether the torch of this Python sees an NVIDIA GPU. Asked in another process: importing torch takes memory."""
    if shutil.which("nvidia-smi") is None:
        return False
    question = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([python, "-c", question], capture_output=True, check=False).returncode == 0


def _arguments_of_server(port: int) -> list[str]:
    """The command line of the ComfyUI on this port, empty if none answers there."""
    try:
        with DIRECT.open(f"http://127.0.0.1:{port}/system_stats", timeout=REQUEST_TIMEOUT_S) as answer:
            stats: dict[str, Any] = json.load(answer)
        return list(stats["system"]["argv"])
    except (OSError, ValueError, KeyError, TypeError):  # not ours, or not yet
        return []


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, number)
        else:
            process.kill()
