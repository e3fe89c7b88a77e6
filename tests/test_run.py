"""`make run`, less the making of .venv: what a newcomer sees, and that nothing of it stays."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import serving
from serving import ACCOUNT, BLANK, DEADLINE, HOST, KEY, PROVIDER_KEY, Server

COMMAND = [sys.executable, "-m", "scripts.run"]


@contextmanager
def run(log_file: Path, **env: str) -> Iterator[Server]:
    port = serving.free_port()
    env = {**BLANK, "HOME": "/home/somebody", "PORT": str(port), **env}
    with serving.started(COMMAND, port, env, log_file) as server:
        serving.wait_until(lambda: "Serving on" in server.log and "messages=" in server.log)
        yield server


@pytest.fixture(scope="module")
def running_offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run(tmp_path_factory.mktemp("run") / "log") as server:
        yield server


@pytest.fixture
def offline(running_offline: Server) -> Server:
    assert running_offline.process.poll() is None
    return running_offline


def printed_curl(log: str) -> str:
    found = re.search(r"^curl .*?(?<!\\)\n  \}'$", log, re.DOTALL | re.MULTILINE)
    assert found, log
    return found[0]


def gunicorns(log: str) -> set[int]:
    """The processes that gunicorn named in its log: itself, and its worker."""
    return {int(pid) for pid in re.findall(r"\[([0-9]+)\] \[INFO\]", log)}


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_says_that_it_is_offline(offline: Server) -> None:
    assert "OFFLINE" in offline.log
    assert f"http://{HOST}:{offline.port}" in offline.log


def bash(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=serving.system_environment(),
    )


def test_the_curl_that_it_prints_works_as_it_stands(offline: Server) -> None:
    curl = printed_curl(offline.log)
    result = bash(curl + " --silent --write-out '\\n%{http_code}'")
    body, _, status = result.stdout.rpartition("\n")
    assert status == "200", result
    assert "Tell me a short story about a brave knight." in body
    assert bash(curl).returncode == 0


def test_it_streams_as_the_text_below_it_says(offline: Server) -> None:
    curl = printed_curl(offline.log).replace('"messages": [', '"stream": true, "messages": [')
    result = bash(curl.replace("curl ", "curl -N --silent ", 1))
    assert result.stdout.startswith("data: {")
    assert result.stdout.endswith("data: [DONE]\n\n")


def test_the_python_that_it_prints_works_as_it_stands(offline: Server) -> None:
    start = offline.log.index("from openai import OpenAI")
    code = "".join(offline.log[start:].partition(".content)")[:2])
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=serving.system_environment(),
    )
    assert result.returncode == 0, result.stderr
    assert "brave knight" in result.stdout


def test_the_key_is_made_for_each_run(offline: Server, tmp_path: Path) -> None:
    with run(tmp_path / "log") as another:
        keys = {
            found[1]
            for found in (
                re.search('Authorization: Bearer ([^"]+)', server.log)
                for server in (offline, another)
            )
            if found
        }
    assert len(keys) == 2


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_and_leaves_nothing_behind(tmp_path: Path, how: signal.Signals) -> None:
    """Ctrl-C goes to the whole process group, a service manager's SIGTERM to its first process."""
    with run(tmp_path / "log") as server:
        started = gunicorns(server.log)
        assert len(started) == 2
        if how is signal.SIGINT:
            os.killpg(server.process.pid, how)
        else:
            server.process.send_signal(how)
        assert server.process.wait(DEADLINE) == 0
        serving.wait_until(lambda: not any(map(is_running, started)))
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, server.port))
        assert "Traceback" not in server.log


def ends(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The command, where it ends by itself."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=serving.ROOT,
        env={**serving.system_environment(), **BLANK, **env},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


def test_a_taken_port_is_one_line() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = str(taken.getsockname()[1])
        result = ends(PORT=port)
    assert result.returncode == 1
    lines = (result.stdout + result.stderr).splitlines()
    assert len(lines) == 1
    assert port in lines[0]


@pytest.mark.parametrize("port", ["abc", "70000", "-1"])
def test_a_port_that_is_none_is_one_line(port: str) -> None:
    result = ends(PORT=port)
    assert result.returncode == 1
    assert len((result.stdout + result.stderr).splitlines()) == 1


def test_with_a_setting_it_is_the_real_provider_and_says_what_is_missing(tmp_path: Path) -> None:
    """And a key of the operator's own is not shown."""
    env = {"CLOUDFLARE_ACCOUNT_ID": ACCOUNT, "WORKER_ACCESS_KEY": KEY}
    with run(tmp_path / "log", **env) as server:
        assert "OFFLINE" not in server.log
        assert "LLAMA_PROVIDER_API_KEY: " in server.log
        curl = printed_curl(server.log)
        assert "$WORKER_ACCESS_KEY" in curl
        result = bash(f"export WORKER_ACCESS_KEY='{KEY}'\n{curl} --silent")
        assert '"proxy_misconfigured"' in result.stdout
        assert "LLAMA_PROVIDER_API_KEY" in result.stdout
    for secret in (KEY, ACCOUNT):
        assert secret not in server.log


def test_the_key_is_printed_where_it_is_asked_for() -> None:
    """That is how the printed text has it put into the other terminal."""
    result = ends("key", WORKER_ACCESS_KEY="pa$HOME-x9Kd03jfW=")
    assert (result.returncode, result.stdout) == (0, "pa$HOME-x9Kd03jfW=\n")


def test_named_keys_alone_are_not_shown_and_the_advice_makes_sense(tmp_path: Path) -> None:
    """No master key is set and none is made, so there is none to export."""
    env = {
        "WORKER_ACCESS_KEYS": "alice:alices-key-0123456789",
        "LLAMA_PROVIDER_API_KEY": PROVIDER_KEY,
        "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
    }
    with run(tmp_path / "log", **env) as server:
        log = server.log
    assert "alices-key-0123456789" not in log
    assert PROVIDER_KEY not in log
    if "-m scripts.run key" in log:
        assert ends("key", **env).stdout.strip(), "it advises to export an empty key"
