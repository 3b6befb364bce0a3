"""How a headless ComfyUI is started, watched and stopped, with small programs in ComfyUI's place."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from motiongraft.core.errors import HostError
from motiongraft.standalone import headless
from motiongraft.standalone.headless import HeadlessComfyUI

ROOT = Path(__file__).resolve().parents[2]
ANSWERING = """
    import http.server, json, sys
    port = int(sys.argv[sys.argv.index("--port") + 1])
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"system": {"argv": sys.argv}}).encode())
        def log_message(self, *arguments):
            pass
    try:
        server = http.server.HTTPServer(("127.0.0.1", port), Handler)
    except OSError:
        sys.exit(f"Port {port} is already in use on address 127.0.0.1.")
    server.serve_forever()
"""


def program(folder: Path, *parts: str) -> Path:
    (folder / "main.py").write_text("\n".join(map(textwrap.dedent, parts)))
    return folder


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/status")  # a dead process that nobody has asked after still takes signals
    return not status.is_file() or "\nState:\tZ" not in status.read_text()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "base"


def test_runs_inside_the_with_block_and_ends_with_all_its_children(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = """
        import signal, subprocess
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "60"])
        open("child.pid", "w").write(str(child.pid))
    """
    host = program(tmp_path, child, ANSWERING)
    monkeypatch.setattr(headless, "STOP_TIMEOUT_S", 0.2)
    with HeadlessComfyUI(host, base) as comfyui:
        process = comfyui._process
        assert process is not None
        assert comfyui.url.startswith("http://127.0.0.1:")
    assert process.returncode == -signal.SIGKILL
    assert not is_running(int((tmp_path / "child.pid").read_text()))


def test_links_the_checkout_and_replaces_a_link_that_moved(tmp_path: Path, base: Path) -> None:
    host = program(tmp_path, ANSWERING)
    (base / "custom_nodes").mkdir(parents=True)
    (base / "custom_nodes" / "motiongraft").symlink_to(tmp_path / "gone")
    with HeadlessComfyUI(host, base):
        assert (base / "custom_nodes" / "motiongraft").resolve() == ROOT
        assert (base / "custom_nodes" / "tiny_sd_pack" / "__init__.py").is_file()


def test_takes_another_port_when_one_is_taken(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = program(tmp_path, ANSWERING)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free = headless.free_port()
        ports = iter([taken.getsockname()[1], free])
        monkeypatch.setattr(headless, "free_port", lambda: next(ports))
        monkeypatch.setattr(headless, "REQUEST_TIMEOUT_S", 0.1)
        with HeadlessComfyUI(host, base) as comfyui:
            assert comfyui.url == f"http://127.0.0.1:{free}"


def test_an_early_end_shows_the_end_of_the_log(tmp_path: Path, base: Path) -> None:
    host = program(tmp_path, "import sys; print('loading'); sys.exit('no module named torch')")
    with pytest.raises(HostError, match=r"(?s)ended with status 1.*no module named torch"):
        HeadlessComfyUI(host, base).start()


def test_silence_ends_in_an_error_and_no_process(tmp_path: Path, base: Path) -> None:
    host = program(tmp_path, "import time; time.sleep(60)")
    comfyui = HeadlessComfyUI(host, base, start_timeout_s=0.5)
    with pytest.raises(HostError, match="has not answered on port"), comfyui:
        pass
    assert comfyui._process is None


@pytest.mark.parametrize(
    "line",
    [
        "   0.1 seconds (IMPORT FAILED): {link}",
        "Error while calling comfy_entrypoint in {link}: no such name",
        '  File "{link}/nodes/__init__.py", line 3, in <module>',
        '  File "{checkout}/nodes/__init__.py", line 3, in <module>',
    ],
)
def test_a_custom_node_that_did_not_load_is_an_error(tmp_path: Path, base: Path, line: str) -> None:
    line = line.format(link=base / "custom_nodes" / "motiongraft", checkout=ROOT)
    host = program(tmp_path, f"print({line!r}, flush=True)", ANSWERING)
    with pytest.raises(HostError, match="could not load a custom node"), HeadlessComfyUI(host, base):
        pass


def test_another_packs_failure_is_none_of_ours(tmp_path: Path, base: Path) -> None:
    host = program(tmp_path, "print('IMPORT FAILED: nodes_audio.py')", ANSWERING)
    with HeadlessComfyUI(host, base) as comfyui:
        assert "nodes_audio" in comfyui.log_tail()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_program_leaves_no_comfyui(tmp_path: Path, base: Path, number: signal.Signals) -> None:
    host = program(tmp_path, "import os; open('pid', 'w').write(str(os.getpid()))", ANSWERING)
    script = f"""
        import importlib.util, sys, time
        from pathlib import Path
        spec = importlib.util.spec_from_file_location("m", {str(ROOT / "__init__.py")!r},
            submodule_search_locations=[{str(ROOT)!r}])
        sys.modules["m"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        from m.standalone.headless import HeadlessComfyUI
        with HeadlessComfyUI(Path({str(host)!r}), Path({str(base)!r})):
            print("up", flush=True)
            time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == b"up\n"
        pid = int((tmp_path / "pid").read_text())
        assert is_running(pid)
        user.send_signal(number)
        user.wait(20)
    limit = time.monotonic() + 5
    while is_running(pid) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not is_running(pid)


def test_headless_needs_neither_torch_nor_comfyui() -> None:
    code = textwrap.dedent(f"""
        import sys
        sys.modules.update(dict.fromkeys(["torch", "comfy", "numpy", "safetensors"]))
        sys.argv = ["standalone", "find-host"]
        import runpy
        try:
            runpy.run_path({str(ROOT / "standalone")!r}, run_name="__main__")
        except SystemExit:
            pass
        import motiongraft.standalone.headless
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
