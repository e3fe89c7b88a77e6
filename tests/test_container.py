"""The Dockerfile, without Docker: what it copies is enough to run, read-only and as nobody."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

import pytest
import requests
import serving
from serving import BEARER, ROOT, asking


def lines_of(name: str) -> list[str]:
    """The lines of a file that say something; what goes on in the next is one."""
    lines = (ROOT / name).read_text().replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


INSTRUCTIONS = [line.split(maxsplit=1) for line in lines_of("Dockerfile")]


def arguments(name: str) -> list[str]:
    """What follows that instruction, in all stages."""
    return [rest for instruction, rest in INSTRUCTIONS if instruction == name]


def is_ignored(path: Path) -> bool:
    """Whether .dockerignore keeps it out: the last pattern that fits it, or a parent, decides."""
    ignored = False
    for pattern in lines_of(".dockerignore"):
        wanted = pattern.removeprefix("!")
        for part in (path, *path.parents[:-1]):
            name = part.name if wanted.startswith("**/") else str(part)
            if fnmatch(name, wanted.removeprefix("**/")):
                ignored = not pattern.startswith("!")
    return ignored


# --- what it says ---------------------------------------------------------------------------------


def test_it_has_two_stages_of_one_python_and_the_locked_packages() -> None:
    assert arguments("FROM") == ["python:3.13-slim AS build", "python:3.13-slim"]
    assert any("--no-deps --require-hashes -r requirements.txt" in run for run in arguments("RUN"))
    first, *_ = (ROOT / "Dockerfile").read_text().splitlines()
    assert not first.startswith("# syntax")  # which would be fetched from the network


def test_it_runs_the_same_command_and_not_as_root() -> None:
    assert json.loads(arguments("CMD")[0]) == shlex.split("gunicorn app:app")
    assert all(int(number) > 0 for number in arguments("USER")[-1].split(":"))
    assert arguments("STOPSIGNAL") == ["SIGTERM"]


def test_docker_is_told_to_wait_longer_than_open_answers_may_take() -> None:
    for name in ("Dockerfile", "README.md", "docs/deploy.md"):
        for command in (ROOT / name).read_text().splitlines():
            if "docker run" in command and command.endswith("llm-proxy"):
                assert "--stop-timeout 30" in command, name


def test_what_docker_is_given() -> None:
    given = ["app.py", "gunicorn.conf.py", "proxy/providers/workers_ai.py", "requirements.txt"]
    secret = [".env", ".env.production", "proxy/.env"]
    useless = ["proxy/__pycache__/chat.pyc", ".git/config", ".venv/bin/python", "tests/serving.py"]
    assert not any(is_ignored(Path(path)) for path in given)
    assert [path for path in secret + useless if not is_ignored(Path(path))] == []


# --- what it does ---------------------------------------------------------------------------------


@pytest.fixture
def image() -> Iterator[Path]:
    """A folder that anybody may read and nobody may write, with what the Dockerfile copies."""
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    copied = [folder, *serving.copy_project(folder).rglob("*")]
    for path in copied:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder
    for path in copied:
        path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def as_nobody() -> list[str]:
    """What to put before a command that root runs, so that it runs as a user who owns nothing."""
    if os.geteuid():
        return []
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    # Python may lie in root's home: where the machine allows, nobody may read everything.
    readers = [*nobody, "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    for prefix in (readers, nobody):
        with suppress(OSError):
            if not subprocess.run([*prefix, sys.executable, "-c", "import flask"]).returncode:
                return prefix
    pytest.skip("no other user can run this Python")


def environment(port: int) -> dict[str, str]:
    """The Dockerfile's, with this Python's commands and that port, and the settings needed."""
    variables = dict(pair.split("=", 1) for rest in arguments("ENV") for pair in rest.split())
    assert variables["PATH"] == "/venv/bin:$PATH"
    assert variables["PORT"] == "8000" == arguments("EXPOSE")[0]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    nothing = f"http://{serving.HOST}:{serving.free_port()}"
    settings = serving.settings(nothing, "openai", WEB_CONCURRENCY="1")
    return {**settings, **variables, "PATH": path, "PORT": str(port)}


def test_it_copies_what_runs(image: Path) -> None:
    assert arguments("COPY")[-2:] == ["app.py gunicorn.conf.py ./", "proxy ./proxy/"]
    assert {path.name for path in image.iterdir()} == {"app.py", "gunicorn.conf.py", "proxy"}


def test_it_serves_is_healthy_and_ends(
    image: Path, as_nobody: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = serving.free_port()
    env = environment(port)
    command = [*as_nobody, *json.loads(arguments("CMD")[0])]
    healthcheck = json.loads(arguments("HEALTHCHECK")[0].partition("CMD")[2])
    monkeypatch.setenv("PATH", env["PATH"])  # where Popen looks for the command

    def health() -> int:
        proxied = {**env, "http_proxy": f"http://{serving.HOST}:1"}  # Docker may set it
        return subprocess.run(healthcheck, env=proxied, stderr=subprocess.DEVNULL).returncode

    assert health() == 1
    with serving.started(command, port, env, tmp_path / "log", image) as server:
        assert health() == 0
        if as_nobody:
            assert Path(f"/proc/{server.process.pid}").stat().st_uid == 65534
        url = f"http://127.0.0.2:{port}"  # it listens on all addresses
        answer = requests.post(url, json=asking(), headers=BEARER, timeout=serving.DEADLINE)
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "provider_unreachable"
    assert server.process.returncode == 0, server.log
    check = [*as_nobody, sys.executable, "-m", "proxy", "check"]
    assert subprocess.run(check, cwd=image, env=env, capture_output=True).returncode == 0
