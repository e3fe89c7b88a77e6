"""`make run`, less the making of .venv: what a newcomer sees, and that nothing of it stays."""

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import serving
from serving import ACCOUNT, BLANK, DEADLINE, HOST, KEY, PROVIDER_KEY, Server

from emulator import Emulator
from proxy import environment
from proxy.settings import Settings
from scripts.run import _key_for_this_run, main

COMMAND = [sys.executable, "-m", "scripts.run"]


@contextmanager
def run(log_file: Path, *prefix: str, folder: Path = serving.ROOT, **env: str) -> Iterator[Server]:
    port = serving.free_port()
    env = {"HOME": "/home/somebody", **env, "PORT": str(port)}
    with serving.started([*prefix, *COMMAND], port, env, log_file, folder) as server:
        serving.wait_until(lambda: "export WORKER_ACCESS_KEY=" in server.log)
        yield server


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run(tmp_path_factory.mktemp("run") / "log", **BLANK) as server:
        yield server


def printed_curl(log: str) -> str:
    (call,) = re.findall(r"^curl .*?(?<!\\)\n  \}'$", log, re.DOTALL | re.MULTILINE)
    return str(call)


def printed_export(log: str) -> str:
    (line,) = re.findall("^export .*$", log, re.MULTILINE)
    return str(line)


def gunicorns(log: str) -> set[int]:
    """The processes that gunicorn named in its log: itself, and its worker."""
    return {int(pid) for pid in re.findall(r"\[([0-9]+)\] \[INFO\]", log)}


def is_running(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def has_ended(server: Server, how: signal.Signals, *, group: bool = True) -> bool:
    """It ends well on a signal, to its whole process group or not, and leaves nothing behind."""
    started = gunicorns(server.log)
    assert len(started) == 2
    (os.killpg if group else os.kill)(server.process.pid, how)
    assert server.process.wait(DEADLINE) == 0
    serving.wait_until(lambda: not any(map(is_running, started)))
    socket.create_server((HOST, server.port)).close()
    return "Traceback" not in server.log


def test_it_says_that_it_is_offline_and_its_key_for_this_run(offline: Server) -> None:
    address, key = f"http://{HOST}:{offline.port}", "the next run makes another"
    for part in ("OFFLINE", address, key, "WORKER_ACCESS_KEY in .env"):
        assert part in offline.log


def paste(script: str, folder: Path = Path("/"), shell: str = "bash") -> str:
    """What a text prints in another terminal: another folder, nothing of the server's settings."""
    options = {"cwd": folder, "env": serving.system_environment(), "timeout": DEADLINE}
    result = subprocess.run([shell, "-c", script], capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_calls_that_it_prints_work_as_they_stand(offline: Server) -> None:
    curl = printed_curl(offline.log)
    assert "Tell me a short story about a brave knight." in paste(curl + " --fail")
    streamed = curl.replace('"messages": [', '"stream": true, "messages": [')
    printed = paste(streamed.replace("curl ", "curl -N --silent ", 1))
    assert printed.startswith("data: {")
    assert printed.endswith("data: [DONE]\n\n")
    code = "".join(offline.log.partition("from openai import OpenAI")[1:]).partition("\n\n")[0]
    assert "brave knight" in paste(code, shell=sys.executable)


def test_the_export_that_it_prints_makes_the_examples_work(offline: Server) -> None:
    script = f"PROXY_URL={offline.url} sh {serving.ROOT}/examples/curl.sh"
    assert "tool_calls" in paste(f"{printed_export(offline.log)}\n{script}")


def test_under_nohup_a_closed_terminal_does_not_end_it(tmp_path: Path) -> None:
    with run(tmp_path / "log", "nohup", **BLANK) as server:
        os.killpg(server.process.pid, signal.SIGHUP)
        assert "brave knight" in paste(printed_curl(server.log))
        assert has_ended(server, signal.SIGTERM, group=False)


@pytest.mark.parametrize("delay", [0.0, 0.5])
def test_it_ends_while_it_starts(tmp_path: Path, delay: float) -> None:
    """At any moment of the start: quickly, without a traceback, and with nothing left behind."""
    log_file, env = tmp_path / "log", {**BLANK, "PORT": str(serving.free_port())}
    process = serving.popen(COMMAND, env, log_file)
    serving.wait_until(lambda: "OFFLINE" in log_file.read_text())  # its own imports are done
    with suppress(subprocess.TimeoutExpired):
        process.wait(delay)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(DEADLINE) == 0
    log_text = log_file.read_text()
    assert "Traceback" not in log_text
    serving.wait_until(lambda: not any(map(is_running, gunicorns(log_text))))


Ends = Callable[..., tuple[int, str]]


@pytest.fixture
def ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Ends:
    """The command, where it ends by itself, in this process; its file is `.env` in tmp_path."""

    def main_with(**env: str) -> tuple[int, str]:
        monkeypatch.setattr(environment, "ENV_FILE", tmp_path / ".env")
        monkeypatch.setattr(os, "environ", {**BLANK, **env})
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        return main(), capsys.readouterr().out

    return main_with


def test_a_port_that_cannot_be_used_is_one_line_that_names_a_free_one(ends: Ends) -> None:
    wrong = dict.fromkeys(("abc", "70000", "-1", "0", "²", "8000.0"), "a number from 1 to 65535")
    with socket.create_server((HOST, 0)) as listener:
        taken = str(listener.getsockname()[1])
        for port, reason in {taken: f"Port {taken} is taken", **wrong}.items():
            status, text = ends(PORT=port)
            assert status == 1
            found = re.fullmatch(rf".*{reason}.* make run PORT=([0-9]+)\n", text)
            assert found, text
            assert found[1] != taken


def test_an_argument_is_refused() -> None:
    result = subprocess.run([*COMMAND, "key"], cwd=serving.ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, "")
    assert "no arguments" in result.stderr


# --- with keys of the user's own ------------------------------------------------------------------

OWN_KEYS = {
    "master": {"WORKER_ACCESS_KEY": KEY},
    "named": {"WORKER_ACCESS_KEYS": f"alice:{KEY}"},
    "digest": {"WORKER_ACCESS_KEYS": f"alice:sha256:{hashlib.sha256(KEY.encode()).hexdigest()}"},
    "name taken": {"WORKER_ACCESS_KEYS": f"make-run:{KEY}, make-run_:{KEY[::-1]},"},
    "both": {"WORKER_ACCESS_KEY": KEY, "WORKER_ACCESS_KEYS": f" bob:{KEY[::-1]} "},
    "none": {},
}


@pytest.mark.parametrize("own", OWN_KEYS.values(), ids=OWN_KEYS)
def test_each_run_has_a_key_that_is_valid_beside_the_own_keys(own: dict[str, str]) -> None:
    env = {**serving.settings("http://127.0.0.1:9"), "WORKER_ACCESS_KEY": "", **own}
    key, keys = _key_for_this_run(env)
    settings = Settings({**env, "WORKER_ACCESS_KEYS": keys})
    assert not settings.problems
    assert (settings.keys.owner(f"Bearer {key}") or "").startswith("make-run")
    assert bool(settings.keys.owner(f"Bearer {KEY}")) == bool(own)
    assert key not in keys
    assert key != _key_for_this_run(env)[0]


def test_an_own_key_in_the_file_works_and_is_not_shown(tmp_path: Path) -> None:
    folder = serving.copy_project(tmp_path / "a folder's name")
    lines = "".join(f"{name}={value}\n" for name, value in OWN_KEYS["both"].items())
    (folder / ".env").write_text(lines)
    for name in ("scripts", "emulator"):
        shutil.copytree(serving.ROOT / name, folder / name)
    with run(tmp_path / "log", folder=folder) as server:
        assert "Your own keys work too" in server.log
        curl, export = printed_curl(server.log), printed_export(server.log)
        for shell in filter(shutil.which, ("bash", "dash", "zsh")):
            assert "brave knight" in paste(f"{export}\n{curl}", tmp_path, shell)
        own = curl.replace(export.partition("=")[2], KEY)
        assert KEY in own
        assert "brave knight" in paste(own)
        assert has_ended(server, signal.SIGHUP)  # its terminal was closed
    assert KEY not in server.log


# --- with settings that are missing or wrong ------------------------------------------------------

NOT_READY = {
    "no token": (
        {"CLOUDFLARE_ACCOUNT_ID": ACCOUNT, "WORKER_ACCESS_KEY": KEY},
        ["LLAMA_PROVIDER_API_KEY: ", "Create a Workers AI API Token"],
    ),
    "no account": (
        {"LLAMA_PROVIDER_API_KEY": PROVIDER_KEY},
        ["CLOUDFLARE_ACCOUNT_ID: ", "https://dash.cloudflare.com/"],
    ),
    "nothing but the provider": (
        {"LLAMA_PROVIDER": "openai"},
        ["LLAMA_PROVIDER_BASE_URL: ", "LLAMA_PROVIDER_MODELS: "],
    ),
    "a wrong limit, offline": ({"RATE_LIMIT": "many"}, ["RATE_LIMIT: "]),
    "a wrong account": (
        {"CLOUDFLARE_ACCOUNT_ID": "not an id", "LLAMA_PROVIDER_API_KEY": PROVIDER_KEY},
        ["CLOUDFLARE_ACCOUNT_ID: must be"],
    ),
    "a misspelt name": (
        {"LLAMA_PROVIDER_API_KY": PROVIDER_KEY},
        ["LLAMA_PROVIDER_API_KY: ", "LLAMA_PROVIDER_API_KEY: ", "CLOUDFLARE_ACCOUNT_ID: "],
    ),
}


@pytest.mark.parametrize("name", NOT_READY)
def test_it_says_what_is_missing_and_shows_no_example(ends: Ends, name: str) -> None:
    env, expected = NOT_READY[name]
    status, text = ends(**env)
    assert status == 1
    assert [part for part in expected if part not in text] == []
    assert "Not ready, because" in text
    assert ("Get it here: " in text) == ("wrong" not in name)
    for absent in ("curl", "Serving", "import", "export", KEY, ACCOUNT, PROVIDER_KEY):
        assert absent not in text


def test_a_file_that_cannot_be_read_is_a_problem_and_not_offline(
    ends: Ends, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_bytes("# für mich\n".encode("latin-1"))
    status, text = ends()
    assert (status, "OFFLINE" in text, "Not ready, because" in text) == (1, False, True)
    (problem,) = [line for line in text.splitlines() if line.startswith("- ")]
    assert problem.startswith("- .env: ")


def test_with_complete_settings_it_is_the_real_provider(tmp_path: Path, emulator: Emulator) -> None:
    with run(tmp_path / "log", **serving.settings(emulator.url)) as server:
        assert "OFFLINE" not in server.log
        assert "brave knight" in paste(printed_curl(server.log))
        assert has_ended(server, signal.SIGINT)  # Ctrl-C
    assert len(emulator.requests) == 1
    assert [secret for secret in (KEY, PROVIDER_KEY, ACCOUNT) if secret in server.log] == []
