"""`python -m proxy`: check, keygen and usage, as an operator runs them."""

import io
import json
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest
import serving
from click.testing import CliRunner
from crowd import Provider
from serving import ACCOUNT, BLANK, HOST, KEY, MODEL, PROVIDER_KEY

from emulator import Emulator
from proxy import __version__
from proxy.__main__ import main, summed
from proxy.keys import digest
from proxy.settings import Settings

GOOD = {
    **BLANK,
    "WORKER_ACCESS_KEY": KEY,
    "LLAMA_PROVIDER_API_KEY": PROVIDER_KEY,
    "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
}
Check = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Check:
    """Runs `python -m proxy check` on these settings and no others; its status and lines."""

    def run(env: dict[str, str], *options: str) -> tuple[int, list[str]]:
        monkeypatch.setattr("os.environ", env)
        ran = CliRunner().invoke(main, ["check", *options], catch_exceptions=False)
        for secret in (KEY, PROVIDER_KEY, ACCOUNT, HOST, "s3cr3t"):
            assert secret not in ran.output
        return ran.exit_code, ran.output.splitlines()

    return run


# --- check ------------------------------------------------------------------------------------

LOCAL = {
    "LLAMA_PROVIDER": "openai",
    "LLAMA_PROVIDER_API_KEY": "",
    "LLAMA_PROVIDER_BASE_URL": "http://localhost:11434/v1",
    "LLAMA_PROVIDER_MODELS": "llama3.2",
}
MASTER = f"ok: tier 1: the key of master has the fingerprint {digest(KEY).hex()[:8]}"
WORKERS_AI = f"ok: tier 2: workers-ai, key {digest(PROVIDER_KEY).hex()[:8]}, models {MODEL}"
# fmt: off
LINES: dict[str, tuple[dict[str, str], int, list[str]]] = {
    "good": (
        {"WORKER_ACCESS_KEYS": "ci:sha256:" + "0f" * 32}, 0,
        [MASTER, "ok: tier 1: the key of ci has the fingerprint 0f0f0f0f", WORKERS_AI],
    ),
    "a local server needs no key": (
        LOCAL, 0, [MASTER, "ok: tier 2: openai, no key, models llama3.2"],
    ),
    "a warning": (
        {"LLAMA_PROVIDER_KEY": "s3cr3t-Zq8Wv2"}, 0,
        [MASTER, WORKERS_AI, "warning: LLAMA_PROVIDER_KEY: is not a setting of this proxy; did "
         "you mean LLAMA_PROVIDER_API_KEY?"],
    ),
    "problems of both tiers": (
        {"WORKER_ACCESS_KEYS": "s3cr3t-Zq8Wv2-long-enough",
         "LLAMA_PROVIDER_API_KEY": "Bearer s3cr3t-Zq8Wv2-long-enough"}, 1,
        [MASTER, "problem: WORKER_ACCESS_KEYS: must be name:key or name:sha256:hex, separated by "
         "commas", "problem: LLAMA_PROVIDER_API_KEY: must be the key alone, without Bearer or "
         "another name before it"],
    ),
}
# fmt: on


@pytest.mark.parametrize(("env", "status", "lines"), LINES.values(), ids=LINES)
def test_check_prints_a_line_for_each_fact(
    check: Check, env: dict[str, str], status: int, lines: list[str]
) -> None:
    assert check({**GOOD, **env}) == (status, lines)


def test_with_problems_the_provider_is_not_asked(check: Check, emulator: Emulator) -> None:
    status, lines = check({**serving.settings(emulator.url), "PORT": "s3cr3t"}, "--live")
    assert (status, lines[-1]) == (1, "problem: PORT: must be an integer over 0, at most 65535")
    assert emulator.requests == []


@pytest.mark.parametrize("provider", ["workers-ai", "openai"])
def test_live_asks_for_one_token_once(check: Check, emulator: Emulator, provider: str) -> None:
    status, lines = check(serving.settings(emulator.url, provider), "--live")
    assert (status, lines[-1]) == (0, "ok: live: the provider answered")
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
    check: Check, emulator: Emulator, refusal: tuple[int, int], hint: str
) -> None:
    emulator.refused = {MODEL: refusal}
    status, lines = check(serving.settings(emulator.url), "--live")
    assert status == 1
    assert lines[-1].startswith("problem: live: ")
    assert hint in lines[-1]


def test_live_says_that_nothing_is_at_the_address(check: Check) -> None:
    env = serving.settings(f"http://{HOST}:{serving.free_port()}")
    assert "fix: LLAMA_PROVIDER_BASE_URL" in check(env, "--live")[1][-1]


def http(status: int, body: object) -> bytes:
    data = json.dumps(body).encode()
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(data), data)


ANSWER = http(200, {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]})
LIMIT, ALWAYS = b'"max_tokens"', b"POST"  # what a request has that is refused
TOO_FEW = "Invalid 'max_tokens': integer below minimum value. Expected a value >= 16."
BAD_REQUESTS: dict[str, tuple[bytes, dict[str, str], int, int]] = {
    "too low a limit": (LIMIT, {"message": TOO_FEW, "param": "max_tokens"}, 2, 0),
    "its other name": (LIMIT, {"message": TOO_FEW, "param": "max_completion_tokens"}, 2, 0),
    "a limit, in prose": (LIMIT, {"message": TOO_FEW}, 2, 0),
    "the context": (LIMIT, {"message": "prose", "code": "context_length_exceeded"}, 2, 0),
    "a limit, always": (ALWAYS, {"message": TOO_FEW, "param": "max_tokens"}, 2, 1),
    "the messages": (ALWAYS, {"message": "Bad role.", "param": "messages"}, 1, 1),
}


@pytest.mark.parametrize(
    ("refused", "error", "asked", "status"), BAD_REQUESTS.values(), ids=BAD_REQUESTS
)
def test_live_believes_a_400_only_about_its_own_limit(
    check: Check, refused: bytes, error: dict[str, str], asked: int, status: int
) -> None:
    def talk(connection: socket.socket) -> None:
        is_refused = refused in provider.received(connection)
        connection.sendall(http(400, {"error": error}) if is_refused else ANSWER)

    with Provider(talk) as provider:
        exit_status, lines = check(serving.settings(provider.url, "openai"), "--live")
    assert [LIMIT in request for request in provider.requests] == [True, False][:asked]
    assert exit_status == status
    assert lines[-1].startswith("problem: live: " if status else "ok: live: the provider answered")
    assert error["message"] not in lines[-1]


# --- keygen, and the version ------------------------------------------------------------------


def test_a_key_is_shown_once_and_its_entry_works() -> None:
    made = [CliRunner().invoke(main, ["keygen", "alice"]).output.splitlines() for _ in range(2)]
    assert made[0] != made[1]
    key, entry = made[0][1], made[0][-1]
    assert len(key) >= 43
    config = Settings({**GOOD, "WORKER_ACCESS_KEYS": entry})
    assert config.problems == config.warnings == ()
    assert config.keys.owner(f"Bearer {key}") == "alice"
    assert key not in entry


@pytest.mark.parametrize("name", ["master", "", "a b", "a:b", "a,b", "x" * 65])
def test_keygen_refuses_a_name_that_no_entry_can_have(name: str) -> None:
    ran = CliRunner().invoke(main, ["keygen", name])
    assert (ran.exit_code, "must be 1 to 64 of" in ran.stderr) == (2, True)


def test_the_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["proxy", "--version"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(serving.ROOT / "proxy" / "__main__.py"), run_name="__main__")
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
    '{"log": "{no: JSON}"}',
    '{"log": "{}"}',
    '{"log": {"path": "/"}}',
    '{"a":' * 100_000,
    "\xff",  # sent as one byte, which is not UTF-8
]
TABLE = """\
day         key    model  requests  errors  prompt_tokens  completion_tokens  total_tokens
2026-11-24  -      -             1       1              7                  3            10
2026-11-24  alice  m             3       1             14                  6            20
2026-11-25  bob    m             1       0              7                  3            10
"""


class Terminal(io.BytesIO):
    """An stdin that is one."""

    def isatty(self) -> bool:
        return True


def test_usage_is_a_table_or_json() -> None:
    ran = CliRunner().invoke(main, ["usage"], input="\n".join(LOG + OTHERS).encode("latin-1"))
    others = f"{len(OTHERS)} lines are not about a chat completion\n"
    assert (ran.stdout, ran.stderr) == (TABLE, others)
    ran = CliRunner().invoke(main, ["usage", "--json"], input="\n".join(LOG))
    values = [
        ["2026-11-24", "-", "-", 1, 1, 7, 3, 10],
        ["2026-11-24", "alice", "m", 3, 1, 14, 6, 20],
    ]
    names = TABLE.split()[:8]
    assert json.loads(ran.stdout)[:2] == [dict(zip(names, row, strict=True)) for row in values]
    assert ran.stderr == ""


def test_an_empty_log_at_a_terminal() -> None:
    """The table has a head, and the person is told what it waits for."""
    ran = CliRunner().invoke(main, ["usage"], input=Terminal())
    assert ran.stdout.split() == TABLE.split()[:8]
    assert ran.stderr == "Reading the log from stdin; end it with Ctrl-D.\n"


WRAPPED = {
    "Docker's json-file": json.dumps({"log": line() + "\n", "stream": "stdout", "time": "x"}),
    "docker compose, in colour": "\x1b[36mproxy-1  | \x1b[0m" + line() + "\x1b[0m",
    "journalctl": "Nov 24 01:02:03 host gunicorn[12]: " + line(),
    "journalctl -o json": json.dumps({"_PID": "12", "MESSAGE": line(), "PRIORITY": "6"}),
    "a collector": json.dumps({"@timestamp": 1, "message": line(), "tags": ["a"]}),
    "wrapped twice": json.dumps({"message": json.dumps({"log": line()})}),
    "with a note like JSON": line(seen="{no: JSON}"),
}


@pytest.mark.parametrize("wrapped", WRAPPED.values(), ids=WRAPPED)
def test_what_a_platform_puts_round_a_line_is_removed(wrapped: str) -> None:
    assert summed([wrapped]) == summed([line()])
    assert summed([wrapped])[1] == 0


class Interrupted(io.BytesIO):
    """An stdin where the person types Ctrl-C."""

    def __next__(self) -> bytes:
        raise KeyboardInterrupt


def test_ctrl_c_ends_usage_without_a_traceback() -> None:
    ran = CliRunner().invoke(main, ["usage"], input=Interrupted())
    assert (ran.exit_code, ran.stdout, ran.stderr.strip()) == (1, "", "Aborted!")


def test_a_reader_that_ends_early_gets_no_traceback() -> None:
    """As in `usage < log | head -1`."""
    command = [sys.executable, "-m", "proxy", "usage"]
    env = {**serving.system_environment(), **BLANK}
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as pipe:
        ran = subprocess.run(
            command, input=LOG[0].encode(), stdout=pipe, stderr=-1, cwd=serving.ROOT, env=env
        )
    assert (ran.returncode, ran.stderr) == (1, b"")
