"""The start: what the log says first, and how the proxy notices that it is started wrongly."""

import json
import re
import runpy
import shlex
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import serving
from crowd import post
from serving import ROOT, Server, wait_until

from app import create_app
from emulator import Emulator
from proxy import __version__

WRONG_START = "gunicorn runs without this proxy's worker"


def errors_of(server: Server) -> list[str]:
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    return [line["message"] for line in lines if line["level"] == "error"]


@pytest.mark.parametrize(
    "options",
    [["--workers", "2"], ["-c", "{folder}/gunicorn.conf.py", "-k", "sync", "--preload"]],
    ids=str,
)
def test_gunicorn_without_our_worker_is_an_error_in_the_log(
    emulator: Emulator, tmp_path: Path, options: list[str]
) -> None:
    """From another folder, where gunicorn does not find its file."""
    (tmp_path / "project").mkdir()
    folder = serving.copy_project(tmp_path / "project")
    (folder / ".env").write_text("LOG_LEVEL=info\n")
    options = [part.format(folder=folder) for part in options]
    (line,) = serve_in(
        tmp_path, emulator, ["gunicorn", "--chdir", str(folder), *options, "app:app"]
    )
    assert line.startswith(WRONG_START)
    command = shlex.split(line.partition("Start it with: ")[2])
    conf = str(folder / "gunicorn.conf.py")
    assert command == ["gunicorn", "-c", conf, "app:app"]


def test_the_start_that_the_log_names_works(emulator: Emulator, tmp_path: Path) -> None:
    """Also where the application is loaded before its workers."""
    conf = str(ROOT / "gunicorn.conf.py")
    command = ["gunicorn", "-c", conf, "--preload", "app:app"]
    assert serve_in(tmp_path, emulator, command) == []


def serve_in(folder: Path, emulator: Emulator, command: list[str]) -> list[str]:
    """The errors in the log of the server that the command starts."""
    port = serving.free_port()
    command = [sys.executable, "-m", *command, "--bind", f"127.0.0.1:{port}"]
    env = serving.settings(emulator.url, WEB_CONCURRENCY="1")
    with serving.started(command, port, env, folder / "log", folder) as server:
        expected = int(command[command.index("--workers") + 1]) if "--workers" in command else 1
        wait_until(lambda: server.log.count(" starts") == expected)
        return errors_of(server)


@pytest.mark.parametrize(
    ("software", "loaded", "others", "count"),
    [
        pytest.param("", ["gunicorn.arbiter"], 0, 0, id="gunicorn --check-config"),
        pytest.param("gunicorn/27", [], 0, 0, id="a child of gunicorn's"),
        pytest.param("gunicorn/27", ["gunicorn.arbiter"], 0, 1, id="gunicorn without"),
        pytest.param("gunicorn/27", ["gunicorn.arbiter"], 2, 0, id="its second worker"),
    ],
)
def test_there_is_no_false_alarm(
    env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    software: str,
    loaded: list[str],
    others: int,
    count: int,
) -> None:
    for name in ("gunicorn.arbiter", "proxy.worker"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        if name in loaded:
            module = Mock(Arbiter=Mock(WORKERS=dict.fromkeys(range(others))))
            monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("SERVER_SOFTWARE", software)
    create_app(env)
    assert len([line for line in caplog.messages if WRONG_START in line]) == count


def test_a_stream_that_gunicorn_tears_is_cut_in_the_log(emulator: Emulator, tmp_path: Path) -> None:
    """The sync worker is ended by its master in the middle of an answer that takes long."""
    port = serving.free_port()
    command = [sys.executable, "-m", "gunicorn", "-k", "sync", "-t", "1", "app:app"]
    env = serving.settings(emulator.url, WEB_CONCURRENCY="1", PORT=str(port))
    with serving.started(command, port, env, tmp_path / "log") as server:
        with server.connect() as connection:
            connection.sendall(post("[[endless,gap=0.1]]", stream=True))
            assert b"[DONE]" not in serving.read_to_end(connection)
        wait_until(lambda: '"path":"/","key":"master"' in server.log)
        endings = re.findall('"stream":true.*"ended":"([a-z_]+)"', server.log)
    assert endings == ["cut"]


def test_the_first_line_names_the_version(
    env: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    create_app(env | {"LOG_LEVEL": "info"})
    assert caplog.messages[0] == f"llm-proxy {__version__} starts"


def test_app_py_says_how_it_is_served(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(ROOT / "app.py"), run_name="__main__")
    assert "gunicorn app:app" in str(exit.value.code)
