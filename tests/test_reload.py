"""SIGHUP: new settings at once, also while old answers last; wrong ones change nothing."""

import os
import signal
import socket
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import serving
from crowd import answer_to, outcome, outcome_of, post, workers
from serving import DEADLINE, HOST, Server, read_to_end, read_until, wait_until

from emulator import Emulator

FIRST_WORD = b'"content":"This "'
GRACE = 25
GUNICORN = [sys.executable, "-m", "gunicorn", "app:app"]


class Project:
    """A copy of the project whose settings are in its `.env`, and gunicorn serving it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.env_file = serving.copy_project(folder) / ".env"
        port = serving.free_port()
        more = {"PORT": f"{port}", "WEB_CONCURRENCY": "1", "GRACEFUL_TIMEOUT": f"{GRACE}"}
        self.settings = serving.settings(url, **more)
        self.write()
        self.starting = serving.started(GUNICORN, port, {}, folder / "log", folder)

    def write(self, **changes: str) -> None:
        settings = self.settings | changes
        lines = [f"{name}={value}\n" for name, value in settings.items()]
        self.env_file.write_text("".join(lines), "utf-8", "surrogateescape")


@pytest.fixture
def project(tmp_path: Path, emulator: Emulator) -> Project:
    return Project(tmp_path, emulator.url)


def reload(server: Server) -> None:
    """Returns when the reload has begun: when it is in the log."""
    before = server.log.count("Handling signal: hup")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.log.count("Handling signal: hup") > before)


def is_let_in(server: Server, key: str) -> bool:
    return outcome(answer_to(server, post("Hi", key=key))) == "done"


def test_wrong_settings_keep_the_old_ones(project: Project) -> None:
    """Whatever is wrong: a line in the log names it, and the service goes on."""
    with project.starting as server, socket.create_server((HOST, 0)) as listener:
        wrong = {
            "PORT: must": {"PORT": "abc"},
            "PORT: is in use": {"PORT": f"{listener.getsockname()[1]}"},
            "LLAMA_PROVIDER": {"LLAMA_PROVIDER": "nobody"},
            ".env: is not UTF-8": {"LOG_LEVEL": "\udcff"},  # the byte FF
        }
        for number, (name, changes) in enumerate(wrong.items(), start=1):
            project.write(**{"WORKER_ACCESS_KEY": f"not-yet-valid-{number:06}", **changes})
            reload(server)
            wait_until(lambda number=number: server.log.count("Not reloaded") == number)
            line = next(x for x in reversed(server.log.splitlines()) if "Not reloaded" in x)
            assert f" the old settings stay: {name}" in line
            assert is_let_in(server, serving.KEY)
        wait_until(lambda: len(workers(server)) == 1)
        booted = server.log.count("Booting")
        os.kill(*workers(server), signal.SIGKILL)  # the worker in its place is as it was
        wait_until(lambda: server.log.count("Booting") > booted)
        assert is_let_in(server, serving.KEY)
        project.write(WORKER_ACCESS_KEY="the-new-key-Zq8Wv2Lp")
        reload(server)
        wait_until(lambda: is_let_in(server, "the-new-key-Zq8Wv2Lp"))
        assert server.log.count("Not reloaded") == len(wrong)
        assert "Traceback" not in server.log


def test_a_second_reload_need_not_wait_for_old_answers(project: Project) -> None:
    """A key that it removes is refused soon, and the old answers go on to their end."""
    with project.starting as server, server.connect() as stream:
        stream.sendall(post("[[gap=0.4,words=12]]", stream=True))
        head = read_until(stream, FIRST_WORD)
        keys = [serving.KEY, "the-second-key-Zq8Wv2", "the-third-key-Hm3Rt6"]
        for old, new in pairwise(keys):
            project.write(WORKER_ACCESS_KEY=new)
            started = time.monotonic()
            reload(server)
            wait_until(lambda key=new: is_let_in(server, key))
            wait_until(lambda key=old: not is_let_in(server, key))
            assert time.monotonic() - started < GRACE / 2
        assert outcome_of(head + read_to_end(stream)) == "done"
        wait_until(lambda: len(workers(server)) == 1)


def test_sigterm_after_a_reload_is_heard_at_once(project: Project, emulator: Emulator) -> None:
    """Else its grace begins when that of the reload is over, later than a supervisor kills."""
    project.write(GRACEFUL_TIMEOUT="6")
    with project.starting as server, server.connect() as stream:
        stream.sendall(post("[[endless,gap=0.2]]", stream=True))
        head = read_until(stream, FIRST_WORD)
        old = workers(server)
        reload(server)
        wait_until(lambda: set(workers(server)) - set(old))
        started = time.monotonic()
        server.process.terminate()
        wait_until(lambda: "Handling signal: term" in server.log)
        assert time.monotonic() - started < 4
        assert outcome_of(head + read_to_end(stream)) == "internal_error"
        assert server.process.wait(DEADLINE) == 0
        assert "out of memory" not in server.log


@pytest.mark.parametrize(
    ("ending", "seconds"),
    [(signal.SIGTERM, 0), (signal.SIGTERM, 0.2), (signal.SIGTERM, 0.6), (signal.SIGINT, 0.2)],
)
def test_a_start_that_is_ended_ends_at_once(
    emulator: Emulator, tmp_path: Path, ending: signal.Signals, seconds: float
) -> None:
    """At any moment, without a word of memory or a traceback; Ctrl-C goes to all processes."""
    env = serving.settings(emulator.url, PORT=str(serving.free_port()), WEB_CONCURRENCY="2")
    process = serving.popen(GUNICORN, env, tmp_path / "log")
    wait_until(lambda: "Booting" in (tmp_path / "log").read_text())
    time.sleep(seconds)
    (os.killpg if ending == signal.SIGINT else os.kill)(process.pid, ending)
    assert process.wait(GRACE - 5) == 0
    for unwanted in ("out of memory", "Traceback"):
        assert unwanted not in (tmp_path / "log").read_text()
