"""`python -m proxy`: check, keygen and usage, as an operator runs them."""

import http.server
import io
import json
import pty
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

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


class Ran(NamedTuple):
    status: int
    lines: list[str]


Command = Callable[..., Ran]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `python -m proxy` in this process, on the settings given and no others."""

    def run(env: dict[str, str], *arguments: str) -> Ran:
        monkeypatch.setattr("os.environ", env)
        status = main([*arguments])
        out, err = capsys.readouterr()
        for secret in (KEY, PROVIDER_KEY, ACCOUNT, HOST, "s3cr3t"):
            assert secret not in out + err
        return Ran(status, out.splitlines())

    return run


# --- check ------------------------------------------------------------------------------------


def test_good_settings_have_a_line_each(command: Command) -> None:
    assert command({**GOOD, "WORKER_ACCESS_KEYS": "ci:sha256:" + "0f" * 32}, "check") == (
        0,
        [
            f"ok: tier 1: the key of master has the fingerprint {keys.digest(KEY).hex()[:8]}",
            "ok: tier 1: the key of ci has the fingerprint 0f0f0f0f",
            f"ok: tier 2: workers-ai, key {keys.digest(PROVIDER_KEY).hex()[:8]}, models {MODEL}",
        ],
    )


LOCAL = {
    "LLAMA_PROVIDER": "openai",
    "LLAMA_PROVIDER_API_KEY": "",
    "LLAMA_PROVIDER_BASE_URL": "http://localhost:11434/v1",
    "LLAMA_PROVIDER_MODELS": "llama3.2",
}
LINES = {
    "a local server needs no key": (LOCAL, 0, "ok: tier 2: openai, no key, models llama3.2"),
    "a problem of tier 1": (
        {"WORKER_ACCESS_KEYS": "s3cr3t-Zq8Wv2-long-enough"},
        1,
        "problem: WORKER_ACCESS_KEYS: must be name:key or name:sha256:hex, separated by commas",
    ),
    "a problem of tier 2": (
        {"LLAMA_PROVIDER_API_KEY": "Bearer s3cr3t-Zq8Wv2-long-enough"},
        1,
        "problem: LLAMA_PROVIDER_API_KEY: must be the key alone, without Bearer or another name "
        "before it",
    ),
    "a warning": (
        {"LLAMA_PROVIDER_KEY": "s3cr3t-Zq8Wv2"},
        0,
        "warning: LLAMA_PROVIDER_KEY: is not a setting of this proxy; did you mean "
        "LLAMA_PROVIDER_API_KEY?",
    ),
}


@pytest.mark.parametrize(("env", "status", "line"), LINES.values(), ids=LINES)
def test_the_last_line(command: Command, env: dict[str, str], status: int, line: str) -> None:
    checked = command({**GOOD, **env}, "check")
    assert (checked.status, checked.lines[-1]) == (status, line)
    assert len([text for text in checked.lines if text.startswith("problem")]) == status


def test_every_problem_has_a_line_and_the_provider_is_not_asked(command: Command) -> None:
    checked = command({}, "check", "--live")
    assert checked.status == 1
    assert [line.split(":")[:2] for line in checked.lines] == [
        ["problem", " WORKER_ACCESS_KEY"],
        ["problem", " LLAMA_PROVIDER_API_KEY"],
        ["problem", " CLOUDFLARE_ACCOUNT_ID"],
    ]


@pytest.mark.parametrize("provider", ["workers-ai", "openai"])
def test_live_asks_for_one_token_once(command: Command, emulator: Emulator, provider: str) -> None:
    checked = command(serving.settings(emulator.url, provider), "check", "--live")
    assert (checked.status, checked.lines[-1]) == (0, "ok: live: the provider answered")
    (received,) = emulator.requests
    assert received.json["max_tokens"] == 1


LIVE = {
    "token": ((401, 10000), "LLAMA_PROVIDER_API_KEY"),
    "account": ((404, 7003), "CLOUDFLARE_ACCOUNT_ID"),
    "model": ((410, 5028), "LLAMA_PROVIDER_MODELS"),
    "plan": ((429, 4006), "plan"),
    "provider": ((500, 3043), "provider_failed"),
    "question": ((400, 5006), "provider_rejected_input"),
}


@pytest.mark.parametrize(("refusal", "hint"), LIVE.values(), ids=LIVE)
def test_live_says_what_to_fix(
    command: Command, emulator: Emulator, refusal: tuple[int, int], hint: str
) -> None:
    emulator.refused = {MODEL: refusal}
    checked = command(serving.settings(emulator.url), "check", "--live")
    assert checked.status == 1
    assert checked.lines[-1].startswith("problem: live: ")
    assert hint in checked.lines[-1]


def test_live_says_that_nothing_is_at_the_address(command: Command) -> None:
    env = serving.settings(f"http://{HOST}:{serving.free_port()}")
    assert "fix: LLAMA_PROVIDER_BASE_URL" in command(env, "check", "--live").lines[-1]


class Refusing(http.server.BaseHTTPRequestHandler):
    """An OpenAI-compatible server that refuses with a 400 what `refuses` says."""

    refuses: Callable[[dict[str, Any]], bool]
    error: dict[str, Any]
    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        refused = type(self).refuses(body)
        choice = {"message": {"content": "Hi"}, "finish_reason": "stop"}
        answer = json.dumps({"error": self.error} if refused else {"choices": [choice]}).encode()
        self.send_response(400 if refused else 200)
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
OTHER_NAME = "Use 'max_completion_tokens' instead."
BAD_REQUESTS = {
    "too low a limit": (has_limit, {"message": TOO_FEW, "param": "max_tokens"}, 2, 0),
    "another name": (has_limit, {"message": OTHER_NAME, "param": "max_tokens"}, 2, 0),
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
    command: Command,
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
    assert [has_limit(body) for body in handler.asked] == [True, False][:asked]
    expected = "problem: live: " if status else "ok: live: the provider answered"
    assert checked.status == status
    assert checked.lines[-1].startswith(expected)
    assert str(error["message"]) not in checked.lines[-1]


# --- keygen -----------------------------------------------------------------------------------


def test_a_key_is_shown_once_and_its_entry_works(command: Command) -> None:
    made = [command({}, "keygen", "alice").lines for _ in range(2)]
    assert made[0] != made[1]
    key, entry = made[0][1], made[0][-1]
    assert len(key) >= 43
    config = Settings({**GOOD, "WORKER_ACCESS_KEYS": entry})
    assert config.problems == config.warnings == ()
    assert config.keys.owner(f"Bearer {key}") == "alice"
    assert key not in entry


@pytest.mark.parametrize("name", ["master", "", "a b", "a:b", "a,b", "x" * 65])
def test_keygen_refuses_a_name_that_no_entry_can_have(
    command: Command, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command({}, "keygen", name)
    assert "must be 1 to 64 of" in capsys.readouterr().err


def test_the_version(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        command({}, "--version")
    assert capsys.readouterr().out == f"llm-proxy {__version__}\n"


# --- usage ------------------------------------------------------------------------------------


def line(**fields: object) -> str:
    known = {
        "time": "2026-11-24T01:02:03.004Z",
        "method": "POST",
        "path": "/",
        "key": "alice",
        "model": "m",
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "ended": "done",
    }
    return json.dumps({**known, **fields})


LOG = [
    line(),
    line(path="/v1/chat/completions", ended="client_gone", prompt_tokens=None),
    line(ended="cut", completion_tokens=None),
    "2026-11-24T01:02:03+00:00 app[web.1]: " + line(key=None, model=None, ended="refused"),
    line(time="2026-11-25T00:00:00.000Z", key="bob"),
]
OTHERS = [
    line(path="/v1/models", key="carol"),
    line(path=None),
    line(method="GET", ended="refused"),
    '{"time": "2026-11-24T01:02:03.004Z", "level": "error", "message": "PORT: odd"}',
    "[2026-11-24 01:02:03] Booting worker",
    line()[:40],
    "",
    "[]",
    "{",
    '{"log": "{no: JSON}"}',
    '{"log": "{}"}',
    '{"log": {"path": "/"}}',
]
TABLE = """
day         key    model  requests  errors  prompt_tokens  completion_tokens  total_tokens
2026-11-24  -      -             1       1              7                  3            10
2026-11-24  alice  m             3       1             14                  6            20
2026-11-25  bob    m             1       0              7                  3            10
"""
OTHER_LINES = f"{len(OTHERS)} lines are not about a chat completion\n"


@pytest.fixture
def usage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`python -m proxy usage`, in this process."""

    def run(text: str, *options: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        monkeypatch.setattr("sys.argv", ["proxy", "usage", *options])
        with pytest.raises(SystemExit, match="0"):
            runpy.run_path(str(serving.ROOT / "proxy" / "__main__.py"), run_name="__main__")

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGPIPE)}
    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_usage_is_a_table(usage: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    usage("\n".join(LOG + OTHERS))
    assert capsys.readouterr() == (TABLE.lstrip(), OTHER_LINES)


def test_usage_is_json_if_asked_for(
    usage: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    usage("\n".join(LOG), "--json")
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out)[1] == {
        "day": "2026-11-24",
        "key": "alice",
        "model": "m",
        "requests": 3,
        "errors": 1,
        "prompt_tokens": 14,
        "completion_tokens": 6,
        "total_tokens": 20,
    }


def test_the_table_of_an_empty_log_has_a_head(
    usage: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    usage("")
    out, err = capsys.readouterr()
    assert (out.split(), err) == (TABLE.split()[:8], "")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_only_a_terminal_shows_what_usage_waits_for(
    command: Command, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    log, messages = io.StringIO(line()), io.StringIO()
    monkeypatch.setattr(log, "isatty", lambda: is_terminal)
    monkeypatch.setattr("sys.stdin", log)
    monkeypatch.setattr("sys.stderr", messages)
    assert len(command({}, "usage").lines) == 2
    assert ("end it with Ctrl-D" in messages.getvalue()) is is_terminal


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


def usage_process(stdin: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "proxy", "usage"],
        cwd=serving.ROOT,
        env={**serving.system_environment(), **BLANK},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def test_ctrl_c_ends_usage_without_a_traceback() -> None:
    ours, theirs = pty.openpty()
    with open(ours, "wb"), open(theirs, "rb") as terminal, usage_process(terminal) as process:
        assert process.stderr
        assert process.stderr.readline() == b"Reading the log from stdin; end it with Ctrl-D.\n"
        process.send_signal(signal.SIGINT)
        assert (process.wait(serving.DEADLINE), process.stderr.read()) == (-signal.SIGINT, b"")


def test_a_reader_that_ends_early_gets_no_traceback() -> None:
    """As in `usage < log | head -1`."""
    with usage_process(subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.write("\n".join(LOG).encode())
        process.stdin.close()
        assert process.wait(serving.DEADLINE) == -signal.SIGPIPE
        assert process.stderr.read() == b""
