"""The project's own commands as subprocesses, on the environment given and no other."""

import http.client
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.settings import Settings

ROOT = Path(__file__).parent.parent
HOST = "127.0.0.1"
DEADLINE = 30.0  # seconds; for conditions that are met at once on an idle machine

KEY = "tier1-Qm4xV9cT2hLw8sZr"
BEARER = {"Authorization": f"Bearer {KEY}"}
PROVIDER_KEY = "tier2-Ub7nK3pYd6GfJ0ae"
ACCOUNT = "5f0c91d27b3e4a68"
MODEL = "@cf/meta/llama-3.1-8b-instruct-fast"

# Every setting, blank: the environment wins over the developer's own `.env`, also where blank.
BLANK = dict.fromkeys(Settings({}).defaults, "")


def settings(provider_url: str, provider: str = "workers-ai", **more: str) -> dict[str, str]:
    """A complete environment of ours, for an emulator at that URL."""
    path = {"workers-ai": "/client/v4/accounts/{account}/ai/run", "openai": "/v1"}[provider]
    return {
        **BLANK,
        "WORKER_ACCESS_KEY": KEY,
        "LLAMA_PROVIDER": provider,
        "LLAMA_PROVIDER_API_KEY": PROVIDER_KEY,
        "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
        "LLAMA_PROVIDER_BASE_URL": provider_url + path,
        "LLAMA_PROVIDER_MODELS": MODEL,
        **more,
    }


def asking(prompt: Any = "Hi", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}], **fields}


def system_environment() -> dict[str, str]:
    """What any program needs, and nothing of this project's or of gunicorn's."""
    return {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def answers_http(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=DEADLINE)
    with closing(connection), suppress(OSError):
        connection.request("HEAD", "/")
        return bool(connection.getresponse())
    return False


@dataclass
class Server:
    """A server that runs; `log` is what it has written to stdout and stderr so far."""

    port: int
    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def log(self) -> str:
        return self.log_file.read_text("utf-8", "replace")

    def connect(self) -> socket.socket:
        return socket.create_connection((HOST, self.port), timeout=DEADLINE)


def popen(
    command: list[str], env: Mapping[str, str], log_file: Path, folder: Path = ROOT
) -> subprocess.Popen[bytes]:
    """A program of its own process group; what it writes goes to the file."""
    with log_file.open("wb") as log:
        return subprocess.Popen(
            command,
            cwd=folder,
            env={**system_environment(), "PYTHONUNBUFFERED": "1", **env},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


@contextmanager
def started(
    command: list[str], port: int, env: Mapping[str, str], log_file: Path, folder: Path = ROOT
) -> Iterator[Server]:
    """A server, awaited until it answers; nothing of it stays."""
    process = popen(command, env, log_file, folder)
    server = Server(port, process, log_file)
    try:
        wait_until(lambda: process.poll() is not None or answers_http(port))
        assert process.poll() is None, server.log
        yield server
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def gunicorn(
    env: Mapping[str, str],
    log_file: Path,
    *options: str,
    prefix: Sequence[str] = (),
    folder: Path = ROOT,
) -> Iterator[Server]:
    """gunicorn as shipped: no options, only the environment. It must end well too."""
    port, workers = free_port(), env.get("WEB_CONCURRENCY") or "1"
    env = {**env, "PORT": str(port), "WEB_CONCURRENCY": workers}
    command = [*prefix, sys.executable, "-m", "gunicorn", "app:app", *options]
    with started(command, port, env, log_file, folder) as server:
        yield server
    assert server.process.returncode == 0, server.log


def copy_project(folder: Path) -> Path:
    """What runs, in another folder, so that a test may have a `.env` there."""
    folder.mkdir(exist_ok=True)
    for name in ("app.py", "gunicorn.conf.py"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "proxy", folder / "proxy")  # with its bytecode: to compile takes time
    return folder


@dataclass
class HTTPAnswer:
    """One answer, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class _Bytes(io.BytesIO):
    """Bytes that http.client takes for a socket; it may close them after each answer."""

    def makefile(self, *_: object) -> "_Bytes":
        return self

    def close(self) -> None:
        pass


def answers(received: bytes) -> list[HTTPAnswer]:
    """The HTTP answers that the bytes of a connection hold; interim ones (1xx) are left out."""
    data = _Bytes(received)
    found = []
    while data.tell() < len(received):
        response = http.client.HTTPResponse(data, method="POST")  # type: ignore[arg-type]
        response.begin()
        found.append(HTTPAnswer(response.status, response.headers, response.read()))
    return found


def read_to_end(connection: socket.socket) -> bytes:
    """All that comes until the other side closes, in whatever way."""
    received = bytearray()
    with suppress(ConnectionError):
        while piece := connection.recv(65536):
            received += piece
    return bytes(received)


def read_until(connection: socket.socket, mark: bytes) -> bytes:
    received = b""
    while mark not in received:
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    return received
