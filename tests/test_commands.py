"""`python -m proxy`: check, keygen and usage, as an operator runs them."""

import io
import json
import os
import runpy
import socket
import subprocess
import sys

import pytest
import serving
from click.testing import CliRunner, Result
from crowd import Provider, response
from serving import ACCOUNT, BLANK, HOST, KEY, MODEL, PROVIDER_KEY

from emulator import Emulator
from proxy import __version__
from proxy.__main__ import main, summed
from proxy.keys import digest
from proxy.settings import Settings

GOOD = serving.settings("https://api.cloudflare.com")


def run(*arguments: str, stdin: bytes | io.BytesIO = b"", **env: str) -> Result:
    """`python -m proxy`, with these variables and no others."""
    only = {**dict.fromkeys(os.environ), **env}
    return CliRunner().invoke(main, arguments, stdin, only, catch_exceptions=False)


def check(env: dict[str, str], *options: str) -> tuple[int, list[str]]:
    """The status and the lines of `check`, which show no secret."""
    ran = run("check", *options, **env)
    for secret in (KEY, PROVIDER_KEY, ACCOUNT, HOST, "s3cr3t"):
        assert secret not in ran.output
    return ran.exit_code, ran.output.splitlines()


# --- check ------------------------------------------------------------------------------------

MASTER = f"ok: tier 1: the key of master has the fingerprint {digest(KEY).hex()[:8]}"
WORKERS_AI = f"ok: tier 2: workers-ai, key {digest(PROVIDER_KEY).hex()[:8]}, models {MODEL}"
NEAR = "is not a setting of this proxy; did you mean LLAMA_PROVIDER_API_KEY?"
NAMED = "must be name:key or name:sha256:hex, separated by commas"
ALONE = "must be the key alone, without Bearer or another name before it"
LINES = {
    "good": (
        {"WORKER_ACCESS_KEYS": "ci:sha256:" + "0f" * 32},
        [MASTER, "ok: tier 1: the key of ci has the fingerprint 0f0f0f0f", WORKERS_AI],
    ),
    "a local server needs no key": (
        serving.settings("http://localhost", "openai", LLAMA_PROVIDER_API_KEY=""),
        [MASTER, f"ok: tier 2: openai, no key, models {MODEL}"],
    ),
    "a warning": (
        {"LLAMA_PROVIDER_KEY": "s3cr3t-Zq8Wv2"},
        [MASTER, WORKERS_AI, f"warning: LLAMA_PROVIDER_KEY: {NEAR}"],
    ),
    "problems of both tiers": (
        {"WORKER_ACCESS_KEYS": "s3cr3t-Zq8Wv2", "LLAMA_PROVIDER_API_KEY": "Bearer s3cr3t-Zq8Wv2"},
        [
            *(MASTER, f"problem: WORKER_ACCESS_KEYS: {NAMED}"),
            f"problem: LLAMA_PROVIDER_API_KEY: {ALONE}",
        ],
    ),
}


@pytest.mark.parametrize(("env", "lines"), LINES.values(), ids=LINES)
def test_check_prints_a_line_for_each_fact(env: dict[str, str], lines: list[str]) -> None:
    status = 1 if "problem" in lines[-1] else 0
    assert check({**GOOD, **env}) == (status, lines)


def test_with_problems_the_provider_is_not_asked(emulator: Emulator) -> None:
    status, lines = check({**serving.settings(emulator.url), "PORT": "s3cr3t"}, "--live")
    assert (status, lines[-1]) == (1, "problem: PORT: must be an integer over 0, at most 65535")
    assert emulator.requests == []


OK = "ok: live: the provider answered"


@pytest.mark.parametrize("provider", ["workers-ai", "openai"])
def test_live_asks_for_one_token_once(emulator: Emulator, provider: str) -> None:
    status, lines = check(serving.settings(emulator.url, provider), "--live")
    assert (status, lines[-1]) == (0, OK)
    (received,) = emulator.requests
    assert received.json["max_tokens"] == 1


LIVE = {  # the status and the code of a refusal, and what the line names
    (401, 10000): "fix: LLAMA_PROVIDER_API_KEY",
    (500, 3043): "code: provider_failed",
}


@pytest.mark.parametrize(("refusal", "named"), LIVE.items(), ids=str)
def test_live_says_what_to_fix(emulator: Emulator, refusal: tuple[int, int], named: str) -> None:
    emulator.refused = {MODEL: refusal}
    status, lines = check(serving.settings(emulator.url), "--live")
    assert (status, lines[-1][:15]) == (1, "problem: live: ")
    assert named in lines[-1]
    assert len(emulator.requests) == 1


def test_live_says_that_nothing_is_at_the_address() -> None:
    env = serving.settings(f"http://{HOST}:{serving.free_port()}")
    assert "fix: LLAMA_PROVIDER_BASE_URL" in check(env, "--live")[1][-1]


ANSWER = response({"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]})
LIMIT, ALWAYS = b'"max_tokens"', b"POST"  # what a request has that is refused
TOO_FEW = "Invalid 'max_tokens': integer below minimum value. Expected a value >= 16."
BAD_REQUESTS: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "too low a limit": (LIMIT, {"message": TOO_FEW, "param": "max_tokens"}, 2, OK),
    "its other name": (LIMIT, {"message": TOO_FEW, "param": "max_completion_tokens"}, 2, OK),
    "a limit, in prose": (LIMIT, {"message": TOO_FEW}, 2, OK),
    "the context": (LIMIT, {"message": "prose", "code": "context_length_exceeded"}, 2, OK),
    "always": (ALWAYS, {"message": TOO_FEW, "param": "max_tokens"}, 2, "param: max_tokens"),
    "the messages": (ALWAYS, {"message": "Bad role.", "param": "messages"}, 1, "param: messages"),
}


@pytest.mark.parametrize(
    ("refused", "error", "asked", "line"), BAD_REQUESTS.values(), ids=BAD_REQUESTS
)
def test_live_believes_a_400_only_about_its_own_limit(
    refused: bytes, error: dict[str, str], asked: int, line: str
) -> None:
    def talk(connection: socket.socket) -> None:
        is_refused = refused in provider.received(connection)
        connection.sendall(response({"error": error}, status="400 X") if is_refused else ANSWER)

    with Provider(talk) as provider:
        status, lines = check(serving.settings(provider.url, "openai"), "--live")
    assert [LIMIT in request for request in provider.requests] == [True, False][:asked]
    assert (status == 0) == (line == OK)
    assert line in lines[-1]
    assert error["message"] not in lines[-1]


# --- keygen, and the version ------------------------------------------------------------------


def test_a_key_is_shown_once_and_its_entry_works() -> None:
    made, again = [run("keygen", "alice").output.splitlines() for _ in range(2)]
    assert made != again
    key, entry = made[1], made[-1]
    assert len(key) >= 43
    found = Settings({**GOOD, "WORKER_ACCESS_KEYS": entry})
    assert found.problems == found.warnings == ()
    assert found.keys.owner(f"Bearer {key}") == "alice"
    assert key not in entry


@pytest.mark.parametrize("name", ["master", "", "a b", "a:b", "a,b", "x" * 65])
def test_keygen_refuses_a_name_that_no_entry_can_have(name: str) -> None:
    ran = run("keygen", name)
    assert (ran.exit_code, "must be 1 to 64 of" in ran.stderr) == (2, True)


def test_the_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["proxy", "--version"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(serving.ROOT / "proxy" / "__main__.py"), run_name="__main__")
    assert capsys.readouterr().out == f"llm-proxy {__version__}\n"


# --- usage ------------------------------------------------------------------------------------


LINE = (
    '{"time": "2026-11-24T01:02:03.004Z", "method": "POST", "path": "/", "key": "alice", '
    '"model": "m", "prompt_tokens": 7, "completion_tokens": 3, "ended": "done"}'
)


def line(**fields: object) -> str:
    return json.dumps({**json.loads(LINE), **fields})


LOG = [
    LINE,
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
    LINE[:40],
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
COLUMNS = TABLE.split()[:8]


def test_usage_is_a_table_or_json() -> None:
    ran = run("usage", stdin="\n".join(LOG + OTHERS).encode("latin-1"))
    others = f"{len(OTHERS)} lines are not about a chat completion\n"
    assert (ran.stdout, ran.stderr) == (TABLE, others)
    ran = run("usage", "--json", stdin="\n".join(LOG).encode())
    alice = ["2026-11-24", "alice", "m", 3, 1, 14, 6, 20]
    assert json.loads(ran.stdout)[1] == dict(zip(COLUMNS, alice, strict=True))
    assert ran.stderr == ""


class Terminal(io.BytesIO):
    """An stdin that is one."""

    def isatty(self) -> bool:
        return True


def test_an_empty_log_at_a_terminal() -> None:
    """The table has a head, and the person is told what it waits for."""
    ran = run("usage", stdin=Terminal())
    assert ran.stdout.split() == COLUMNS
    assert ran.stderr == "Reading the log from stdin; end it with Ctrl-D.\n"


WRAPPED = {
    "Docker's json-file": json.dumps({"log": LINE + "\n", "stream": "stdout", "time": "x"}),
    "docker compose, in colour": "\x1b[36mproxy-1  | \x1b[0m" + LINE + "\x1b[0m",
    "journalctl": "Nov 24 01:02:03 host gunicorn[12]: " + LINE,
    "journalctl -o json": json.dumps({"_PID": "12", "MESSAGE": LINE, "PRIORITY": "6"}),
    "wrapped twice": json.dumps({"message": json.dumps({"log": LINE})}),
    "with a note like JSON": line(seen="{no: JSON}"),
}


@pytest.mark.parametrize("wrapped", WRAPPED.values(), ids=WRAPPED)
def test_what_a_platform_puts_round_a_line_is_removed(wrapped: str) -> None:
    assert summed([wrapped]) == summed([LINE])
    assert summed([wrapped])[1] == 0


class Interrupted(io.BytesIO):
    """An stdin where the person types Ctrl-C."""

    def __next__(self) -> bytes:
        raise KeyboardInterrupt


def test_ctrl_c_ends_usage_without_a_traceback() -> None:
    ran = run("usage", stdin=Interrupted())
    assert (ran.exit_code, ran.stdout, ran.stderr.strip()) == (1, "", "Aborted!")


def test_a_reader_that_ends_early_gets_no_traceback() -> None:
    """As in `usage < log | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as pipe:
        ran = subprocess.run(
            [sys.executable, "-m", "proxy", "usage"],
            input=LOG[0].encode(),
            stdout=pipe,
            stderr=subprocess.PIPE,
            cwd=serving.ROOT,
            env={**serving.system_environment(), **BLANK},
        )
    assert (ran.returncode, ran.stderr) == (1, b"")
