"""`.env` under `flask run`: the README says to set FLASK_SKIP_DOTENV=1."""

import sys
from pathlib import Path

import pytest
import serving
from crowd import answer_to, post

KEY = "pa$HOME-${HOME}-x9Kd03jfW"


@pytest.mark.parametrize(
    ("env", "status"),
    [
        pytest.param({"FLASK_SKIP_DOTENV": "1"}, 500, id="the key letter for letter"),
        pytest.param({}, 401, id="Flask expands it first, into the environment, which wins"),
    ],
)
def test_the_key_of_the_file(tmp_path: Path, env: dict[str, str], status: int) -> None:
    """500: the right key, and the other settings are missing."""
    folder = tmp_path / "project"
    folder.mkdir()
    (serving.copy_project(folder) / ".env").write_text(f"WORKER_ACCESS_KEY={KEY}\n")
    port = serving.free_port()
    command = [sys.executable, "-m", "flask", "run", "--port", str(port)]
    env = {"HOME": "/home/somebody", **env}
    with serving.started(command, port, env, tmp_path / "log", folder) as server:
        assert answer_to(server, post("Hi", key=KEY)).status == status
