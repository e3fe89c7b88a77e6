"""The start: what the log says first, and how the proxy notices that it is started wrongly."""

import json
import runpy
import shlex
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import serving
from conftest import Serve
from crowd import answer_to, post
from serving import ROOT, wait_until

from app import create_app
from proxy import __version__

WRONG_START = "gunicorn runs without this proxy's worker"
STARTS = {  # from another folder, where gunicorn does not find its file
    "without its file": ("--chdir '{folder}' --workers 2", True),
    "with another worker": ("-c '{folder}/gunicorn.conf.py' -k sync --preload", True),
    "as the log says": ("-c '{folder}/gunicorn.conf.py' --preload", False),
}


@pytest.mark.parametrize(("options", "is_wrong"), STARTS.values(), ids=STARTS)
def test_gunicorn_without_our_worker_is_an_error_in_the_log(
    serve: Serve, env: dict[str, str], tmp_path: Path, options: str, is_wrong: bool
) -> None:
    """One, for all workers, which names a start that works."""
    folder = serving.copy_project(tmp_path / "a project")
    given = shlex.split(options.format(folder=folder))
    with serve(env, *given, folder=tmp_path) as server:
        wait_until(lambda: server.log.count(" starts") == 1 + ("--workers" in options))
        lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    errors = [line["message"] for line in lines if line["level"] == "error"]
    assert len(errors) == is_wrong
    for error in errors:
        assert error.startswith(WRONG_START)
        assert error.endswith(f"with: gunicorn -c '{folder}/gunicorn.conf.py' app:app")


@pytest.mark.parametrize(
    ("software", "workers", "count"),
    [
        pytest.param("", 0, 0, id="gunicorn --check-config"),
        pytest.param("gunicorn/27", None, 0, id="a child of gunicorn's"),
        pytest.param("gunicorn/27", 0, 1, id="gunicorn without"),
        pytest.param("gunicorn/27", 2, 0, id="its second worker"),
    ],
)
def test_there_is_no_false_alarm(
    env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    software: str,
    workers: int | None,
    count: int,
) -> None:
    arbiter = Mock(Arbiter=Mock(WORKERS=dict.fromkeys(range(workers or 0))))
    monkeypatch.setitem(sys.modules, "gunicorn.arbiter", None if workers is None else arbiter)
    monkeypatch.delitem(sys.modules, "proxy.worker", raising=False)
    monkeypatch.setenv("SERVER_SOFTWARE", software)
    create_app(env)
    assert len([line for line in caplog.messages if WRONG_START in line]) == count


def test_the_first_line_names_the_version(
    env: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    create_app(env | {"LOG_LEVEL": "info"})
    assert caplog.messages[0] == f"llm-proxy {__version__} starts"


def test_app_py_says_how_it_is_served(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(ROOT / "app.py"), run_name="__main__")
    assert "gunicorn app:app" in str(exit.value.code)


@pytest.mark.parametrize(
    ("env", "status"),
    [
        pytest.param({"FLASK_SKIP_DOTENV": "1"}, 500, id="not with the README's variable"),
        pytest.param({}, 401, id="into the environment, which wins"),
    ],
)
def test_flask_run_expands_the_file(tmp_path: Path, env: dict[str, str], status: int) -> None:
    """500: the key is right, letter for letter, and other settings are missing."""
    key, port = "pa$HOME-${HOME}-x9Kd03jfW", serving.free_port()
    folder = serving.copy_project(tmp_path / "project")
    (folder / ".env").write_text(f"WORKER_ACCESS_KEY={key}\n")
    command = [sys.executable, "-m", "flask", "run", "--port", str(port)]
    env = {"HOME": "/home/somebody", **env}
    with serving.started(command, port, env, tmp_path / "log", folder) as server:
        assert answer_to(server, post("Hi", key=key)).status == status
