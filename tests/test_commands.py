"""`python -m proxy`: check, keygen and usage, as an operator runs them."""

import http.server
import io
import json
import pty
import re
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import serving
from serving import ACCOUNT, BLANK, HOST, KEY, MODEL, PROVIDER_KEY

from emulator import Emulator
from proxy import __version__, keys
from proxy.__main__ import main
from proxy.report import summed
from proxy.settings import Settings

GOOD = {
    **BLANK,
    "WORKER_ACCESS_KEY": KEY,
    "LLAMA_PROVIDER_API_KEY": PROVIDER_KEY,
    "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
}


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> "type[_Command]":
    """Runs `python -m proxy` in this process, on the settings given and no others."""

    class Command(_Command):
        def __init__(self, env: dict[str, str], *arguments: str) -> None:
            monkeypatch.setattr("os.environ", env)
            self.status = main([*arguments])
            self.out, self.err = capsys.readouterr()

    return Command


class _Command:
    status: int
    out: str
    err: str

    def __init__(self, env: dict[str, str], *arguments: str) -> None: ...

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


# --- check ------------------------------------------------------------------------------------


def test_good_settings_are_told_by_fingerprint(command: type[_Command]) -> None:
    checked = command({**GOOD, "WORKER_ACCESS_KEYS": "ci:sha256:" + "0f" * 32}, "check")
    assert checked.status == 0
    assert checked.lines == [
        f"ok: tier 1: the key of master has the fingerprint {keys.digest(KEY).hex()[:8]}",
        "ok: tier 1: the key of ci has the fingerprint 0f0f0f0f",
        f"ok: tier 2: workers-ai, key {keys.digest(PROVIDER_KEY).hex()[:8]}, models {MODEL}",
    ]


LOCAL = {
    "WORKER_ACCESS_KEY": KEY,
    "LLAMA_PROVIDER": "openai",
    "LLAMA_PROVIDER_BASE_URL": "http://127.0.0.1:11434/v1",
    "LLAMA_PROVIDER_MODELS": "llama3.2",
}


def test_a_local_server_needs_no_key(command: type[_Command]) -> None:
    assert command(LOCAL, "check").lines[-1] == "ok: tier 2: openai, no key, models llama3.2"


SECRET = "s3cr3t-Zq8Wv2"  # part of each value below that must not be shown
BROKEN = {
    "tier 1": (
        {"WORKER_ACCESS_KEYS": f"{SECRET}-long-enough"},
        "WORKER_ACCESS_KEYS: must be name:key or name:sha256:hex, separated by commas",
    ),
    "tier 2": (
        {"LLAMA_PROVIDER_API_KEY": f"Bearer {SECRET}-long-enough"},
        "LLAMA_PROVIDER_API_KEY: must be the key alone, without Bearer or another name before it",
    ),
}


@pytest.mark.parametrize(("broken", "line"), BROKEN.values(), ids=BROKEN)
def test_a_broken_setting_is_one_exact_line(
    command: type[_Command], broken: dict[str, str], line: str
) -> None:
    checked = command({**GOOD, **broken}, "check")
    assert checked.status == 1
    assert [said for said in checked.lines if said.startswith("problem: ")] == [f"problem: {line}"]
    assert SECRET not in checked.out + checked.err


def test_every_problem_has_a_line(command: type[_Command]) -> None:
    checked = command({}, "check", "--live")
    assert checked.status == 1
    assert [line.split(":")[1].strip() for line in checked.lines] == [
        "WORKER_ACCESS_KEY",
        "LLAMA_PROVIDER_API_KEY",
        "CLOUDFLARE_ACCOUNT_ID",
        "live",
    ]


def test_a_warning_has_a_line_and_is_no_failure(command: type[_Command]) -> None:
    checked = command({**GOOD, "LLAMA_PROVIDER_KEY": SECRET}, "check")
    assert checked.status == 0
    line = "is not a setting of this proxy; did you mean LLAMA_PROVIDER_API_KEY?"
    assert checked.lines[-1] == f"warning: LLAMA_PROVIDER_KEY: {line}"
    assert SECRET not in checked.out


LIVE = {
    "no token": ("", {"LLAMA_PROVIDER_API_KEY": "another-Ub7nK3pYd6Gf"}, "the token is at fault"),
    "no account": ("/x", {}, "the account, or the base URL is at fault"),
    "no network": (None, {}, "the network, or the base URL is at fault"),
}


@pytest.mark.parametrize(("path", "settings", "told"), LIVE.values(), ids=LIVE)
def test_live_says_what_is_at_fault(
    command: type[_Command], path: str | None, settings: dict[str, str], told: str
) -> None:
    with Emulator(key=PROVIDER_KEY) as emulator:
        env = serving.settings(emulator.url, **settings)
        if path is None:
            with socket.create_server((HOST, 0)) as listener:
                nobody = f"http://{HOST}:{listener.getsockname()[1]}"
            env = serving.settings(nobody, **settings)
        elif path:
            env["LLAMA_PROVIDER_BASE_URL"] = emulator.url + path
        checked = command(env, "check", "--live")
    assert checked.status == 1
    assert checked.lines[-1].startswith(f"problem: live: {told} (provider_")
    assert "fix: " in checked.lines[-1]
    for secret in (KEY, PROVIDER_KEY, ACCOUNT, "another-Ub7n", HOST):
        assert secret not in checked.out


@pytest.mark.parametrize("provider", ["workers-ai", "openai"])
def test_live_asks_one_token_once(
    command: type[_Command], emulator: Emulator, provider: str
) -> None:
    checked = command(serving.settings(emulator.url, provider), "check", "--live")
    assert (checked.status, checked.lines[-1]) == (0, "ok: live: the provider answered")
    (received,) = emulator.requests
    assert received.json["max_tokens"] == 1


class Retired:
    """A model that the provider has no more, or that refuses the question."""

    def __init__(self, said: str) -> None:
        self.said = said

    def __call__(self, body: bytes, *_: object, **more: object) -> object:
        from proxy.chat_request import ChatRequest

        body = body.replace(b'"Hi"', json.dumps(self.said).encode())
        return ChatRequest.from_json(body, [MODEL], id="chatcmpl-1", created=1)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("[[status=410,code=5028]]", "problem: live: the model is at fault"),
        ("[[status=429,code=4006]]", "problem: live: the plan, whose allowance is used up, is at"),
        ("[[status=500]]", "problem: live: the provider is at fault"),
        ("[[status=400,code=5006]]", "problem: live: the model, the token or the base URL is at"),
    ],
    ids=["model", "plan", "provider", "question"],
)
def test_live_tells_the_rest_apart(
    command: type[_Command],
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    told: str,
) -> None:
    class Asking:
        from_json = staticmethod(Retired(said))

    monkeypatch.setattr("proxy.check.ChatRequest", Asking)
    checked = command(serving.settings(emulator.url), "check", "--live")
    assert checked.lines[-1].startswith(told)


class Refusing(http.server.BaseHTTPRequestHandler):
    """An OpenAI-compatible server that refuses with a 400 what `refuses` says."""

    refuses: Callable[[dict[str, Any]], bool]
    error: dict[str, Any]
    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        refused = type(self).refuses(body)
        message = {"role": "assistant", "content": "Hi"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = json.dumps({"error": self.error} if refused else {"choices": [choice]}).encode()
        self.send_response(400 if refused else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


def has_limit(body: dict[str, Any]) -> bool:
    return "max_tokens" in body


def always(_: dict[str, Any]) -> bool:
    return True


TOO_FEW = "Invalid 'max_tokens': integer below minimum value. Expected a value >= 16."
BAD_REQUESTS = {
    "too low a limit": (has_limit, {"message": TOO_FEW, "param": "max_tokens"}, 2, 0),
    "a limit of another name": (
        has_limit,
        {"message": "Use 'max_completion_tokens' instead.", "param": "max_tokens"},
        2,
        0,
    ),
    "a limit, in prose": (has_limit, {"message": TOO_FEW}, 2, 0),
    "the context": (has_limit, {"message": "x", "code": "context_length_exceeded"}, 2, 0),
    "a limit, always": (always, {"message": TOO_FEW, "param": "max_tokens"}, 2, 1),
    "nothing in particular": (always, {"message": "Bad request."}, 2, 1),
    "the messages": (always, {"message": "Bad role.", "param": "messages"}, 1, 1),
}


@pytest.mark.parametrize(
    ("refuses", "error", "asked", "status"), BAD_REQUESTS.values(), ids=BAD_REQUESTS
)
def test_live_believes_a_400_only_about_its_own_limit(
    command: type[_Command],
    refuses: Callable[[dict[str, Any]], bool],
    error: dict[str, Any],
    asked: int,
    status: int,
) -> None:
    fields = {"refuses": staticmethod(refuses), "error": error, "asked": []}
    handler: Any = type("Handler", (Refusing,), fields)
    with http.server.HTTPServer((HOST, 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        env = serving.settings(f"http://{HOST}:{server.server_port}", "openai")
        checked = command(env, "check", "--live")
        server.shutdown()
    assert (checked.status, len(handler.asked)) == (status, asked)
    assert [has_limit(body) for body in handler.asked] == [True, False][:asked]
    expected = "problem: live: " if status else "ok: live: the provider answered"
    assert checked.lines[-1].startswith(expected)
    assert str(error["message"]) not in checked.out


# --- keygen -----------------------------------------------------------------------------------


def test_a_key_is_shown_once_and_its_entry_works(command: type[_Command]) -> None:
    made = [command({}, "keygen", "alice").lines for _ in range(2)]
    assert made[0] != made[1]
    key, entry = made[0][1], made[0][-1]
    assert len(key) >= 43
    config = Settings({**GOOD, "WORKER_ACCESS_KEYS": entry})
    assert config.problems == config.warnings == ()
    assert config.keys.owner(f"Bearer {key}") == "alice"
    assert key not in entry


@pytest.mark.parametrize("name", ["master", "", "a b", "a:b", "a,b", "x" * 65])
def test_a_name_that_would_not_do_is_refused(
    command: type[_Command], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command({}, "keygen", name)
    assert ended.value.code == 2
    assert "must be 1 to 64 of" in capsys.readouterr().err


# --- usage ------------------------------------------------------------------------------------


def line(**fields: object) -> str:
    known = {
        "time": "2026-11-24T01:02:03.004Z",
        "path": "/",
        "key": "alice",
        "model": "m",
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "ended": "done",
    }
    return json.dumps({**known, **fields})


LOG = [
    line(method="POST"),
    line(path="/v1/chat/completions", ended="client_gone", prompt_tokens=None),
    line(ended="cut", completion_tokens=None),
    "2026-11-24T01:02:03+00:00 app[web.1]: " + line(key=None, model=None, ended="refused"),
    line(time="2026-11-25T00:00:00.000Z", key="bob"),
    line(path="/v1/models"),
    line(path=None),
    line(method="GET", ended="refused"),
    '{"time": "2026-11-24T01:02:03.004Z", "level": "error", "message": "PORT: odd"}',
    "[2026-11-24 01:02:03] Booting worker",
    line()[:40],
    "",
    "[]",
]


def test_the_log_is_summed_up_by_day_key_and_model() -> None:
    names = ("day", "key", "model", "requests", "errors")
    tokens = ("prompt_tokens", "completion_tokens", "total_tokens")
    rows, others = summed(LOG)
    assert [tuple(row[name] for name in (*names, *tokens)) for row in rows] == [
        ("2026-11-24", "-", "-", 1, 1, 7, 3, 10),
        ("2026-11-24", "alice", "m", 3, 1, 14, 6, 20),
        ("2026-11-25", "bob", "m", 1, 0, 7, 3, 10),
    ]
    assert others == 8


WRAPPED = {
    "Docker's json-file": json.dumps({"log": line() + "\n", "stream": "stdout", "time": "x"}),
    "docker compose": "proxy-1  | " + line(),
    "docker compose, in colour": "\x1b[36mproxy-1  | \x1b[0m" + line() + "\x1b[0m",
    "journalctl": "Nov 24 01:02:03 host gunicorn[12]: " + line(),
    "journalctl -o json": json.dumps({"_PID": "12", "MESSAGE": line(), "PRIORITY": "6"}),
    "Kubernetes": "2026-11-24T01:02:03.004Z stdout F " + line(),
    "a collector": json.dumps({"@timestamp": 1, "message": line(), "tags": ["a"]}),
    "wrapped twice": json.dumps({"message": json.dumps({"log": line()})}),
    "with a note like JSON": line(seen="{no: JSON}"),
}


@pytest.mark.parametrize("wrapped", WRAPPED.values(), ids=WRAPPED)
def test_what_a_platform_puts_round_a_line_is_removed(wrapped: str) -> None:
    assert summed([wrapped]) == summed([line()])
    assert summed([wrapped])[1] == 0


@pytest.mark.parametrize(
    "other",
    [json.dumps({"log": "{no: JSON}"}), json.dumps({"log": {"path": "/"}}), "{", '{"log": "{}"}'],
)
def test_what_wraps_no_line_is_another_line(other: str) -> None:
    assert summed([other]) == ([], 1)


def test_the_version(command: type[_Command], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command({}, "--version")
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"llm-proxy {__version__}\n"


def usage(**options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "proxy", "usage"]
    env = {**serving.system_environment(), **BLANK}
    return subprocess.Popen(command, cwd=serving.ROOT, env=env, stderr=subprocess.PIPE, **options)


def test_on_a_terminal_usage_says_what_it_waits_for() -> None:
    """And Ctrl-C ends it without a traceback."""
    ours, theirs = pty.openpty()
    with open(ours, "wb", buffering=0) as keyboard, open(theirs, "rb", buffering=0) as terminal:
        with usage(stdin=terminal, stdout=subprocess.PIPE, start_new_session=True) as process:
            assert process.stderr
            told = process.stderr.readline()
            assert told == b"Reading the log from stdin; end it with Ctrl-D.\n"
            process.send_signal(signal.SIGINT)
            assert (process.wait(serving.DEADLINE), process.stderr.read()) == (130, b"")
        with usage(stdin=terminal, stdout=subprocess.PIPE, start_new_session=True) as process:
            keyboard.write(line().encode() + b"\n\x04")
            assert process.stdout
            assert b"alice" in process.stdout.read()
            assert process.wait(serving.DEADLINE) == 0


def test_a_reader_that_ends_early_gets_no_traceback() -> None:
    """As in `usage < log | head -1`."""
    with usage(stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.write("\n".join(LOG).encode())
        process.stdin.close()
        assert process.wait(serving.DEADLINE) == 141
        assert b"Traceback" not in (told := process.stderr.read())
        assert b"Error" not in told


def test_only_a_terminal_is_told_what_usage_waits_for(
    command: type[_Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    for is_terminal in (True, False):
        log = io.StringIO(line())
        monkeypatch.setattr(log, "isatty", lambda is_terminal=is_terminal: is_terminal)
        monkeypatch.setattr("sys.stdin", log)
        assert ("Ctrl-D" in command({}, "usage").err) is is_terminal


@pytest.mark.parametrize(("raised", "status"), [(KeyboardInterrupt, 130), (BrokenPipeError, 141)])
def test_what_ends_a_command_is_its_exit_status(
    monkeypatch: pytest.MonkeyPatch, raised: type[BaseException], status: int
) -> None:
    def ended(*_: object, **__: object) -> int:
        raise raised

    monkeypatch.setattr("proxy.report.run", ended)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert main(["usage"]) == status


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "proxy", "usage", *arguments]
    return subprocess.run(
        command,
        input="\n".join(LOG),
        capture_output=True,
        text=True,
        check=True,
        cwd=serving.ROOT,
        env={**serving.system_environment(), **BLANK},
    )


def test_usage_is_a_table() -> None:
    ran = run()
    head, *rows = ran.stdout.splitlines()
    assert re.split(" +", head)[:5] == ["day", "key", "model", "requests", "errors"]
    assert re.split(" +", rows[1]) == ["2026-11-24", "alice", "m", "3", "1", "14", "6", "20"]
    assert len({len(row) for row in rows}) == 1
    assert ran.stderr == "8 lines are not about a chat completion\n"


def test_usage_is_json_where_it_is_asked_for() -> None:
    assert json.loads(run("--json").stdout) == summed(LOG)[0]


def test_what_was_passed_over_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `python -m proxy` runs it, in this process."""
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(LOG)))
    monkeypatch.setattr("sys.argv", ["proxy", "usage", "--json"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(serving.ROOT / "proxy" / "__main__.py"), run_name="__main__")
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == (summed(LOG)[0], "8 lines are not about a chat completion\n")


def test_an_empty_log_is_an_empty_table(
    command: type[_Command], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    empty = tmp_path / "log"
    empty.touch()
    with empty.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        summed_up = command({}, "usage")
    assert (summed_up.status, len(summed_up.lines), summed_up.err) == (0, 1, "")
