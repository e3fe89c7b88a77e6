"""`.env` under gunicorn and under `flask run`: the README says to set FLASK_SKIP_DOTENV=1."""

import http.client
import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import serving
from serving import ACCOUNT, DEADLINE, HOST, MODEL, PROVIDER_KEY, Server

from emulator import Emulator

KEY = "pa$HOME-${HOME}-x9Kd03jfW"


@pytest.fixture
def folder(tmp_path: Path, emulator: Emulator) -> Path:
    """A copy of the project, all of whose settings stand in `.env`."""
    settings = {
        "WORKER_ACCESS_KEY": KEY,
        "LLAMA_PROVIDER_API_KEY": PROVIDER_KEY,
        "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
        "LLAMA_PROVIDER_BASE_URL": emulator.url + "/client/v4/accounts/{account}/ai/run",
        "LLAMA_PROVIDER_MODELS": MODEL,
    }
    (tmp_path / "project").mkdir()
    folder = serving.copy_project(tmp_path / "project")
    lines = [f"{name}={value}\n" for name, value in settings.items()]
    (folder / ".env").write_text("".join(lines))
    return folder


@contextmanager
def flask_run(folder: Path, **env: str) -> Iterator[Server]:
    port = serving.free_port()
    command = [sys.executable, "-m", "flask", "run", "--port", str(port)]
    env = {"HOME": "/home/somebody", **env}
    with serving.started(command, port, env, folder.parent / "log", folder) as server:
        yield server


def status(server: Server) -> int:
    """Of a request with the key as it stands in `.env`."""
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}]})
    with closing(http.client.HTTPConnection(HOST, server.port, timeout=DEADLINE)) as connection:
        connection.request("POST", "/", body, {"Authorization": f"Bearer {KEY}"})
        return connection.getresponse().status


def test_gunicorn_takes_the_key_letter_for_letter(folder: Path) -> None:
    env = {"HOME": "/home/somebody"}
    with serving.gunicorn(env, folder.parent / "log", folder=folder) as server:
        assert status(server) == 200


def test_so_does_flask_run_when_told_to_leave_dot_env_alone(folder: Path) -> None:
    with flask_run(folder, FLASK_SKIP_DOTENV="1") as server:
        assert status(server) == 200


def test_else_flask_expands_it_first(folder: Path) -> None:
    """Flask's own reading of `.env` goes into the environment, which wins."""
    with flask_run(folder) as server:
        assert status(server) == 401
