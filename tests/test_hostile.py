"""Hostile and unlucky: clients, bodies, providers and machines that do what nobody should."""

import gzip
import os
import re
import ssl
import subprocess
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import crowd
import pytest
import serving
import trustme
from crowd import answer_to, answering, asking, chunk, outcome, post, request
from flask.testing import FlaskClient
from gunicorn.config import Config as GunicornConfig
from recorded import as_bytes
from serving import BEARER, HOST, PROVIDER_KEY, ROOT, Server
from test_provider_cases import heard_in
from test_routes import code_of, error_of
from werkzeug.test import TestResponse

from app import create_app
from emulator import Emulator
from proxy import connections, upstream


def ask(client: FlaskClient, prompt: str = "Hi", **fields: Any) -> TestResponse:
    return client.post("/", data=asking(prompt, **fields), headers=BEARER)


# --- the wire ---------------------------------------------------------------------------------


def test_a_reset_is_no_surprise(proxy: Server, emulator: Emulator) -> None:
    """No traceback, nothing left open at the provider, and the next one is served."""
    before = proxy.log.count("Traceback")
    in_line, in_head, in_body = post("Hi")[:10], post("Hi")[:60], post("Hi")[:-10]
    with ExitStack() as stack:
        for sent in (in_line, in_head, in_body, post("[[wait=0.2]]")):
            crowd.reset(*crowd.opened(proxy, sent, 1, stack))
        crowd.reset(*crowd.streaming(proxy, "[[endless,gap=0.05]]", 1, stack))
    assert outcome(answer_to(proxy, post("Hi"))) == "done"
    for received in emulator.requests:
        serving.wait_until(lambda seen=received: seen.done.is_set() or seen.gone.is_set())
    assert proxy.log.count("Traceback") == before


def test_nobody_writes_lines_into_the_log(proxy: Server) -> None:
    """Line breaks and escapes in the path, the key, the id and the model."""
    forged = "injected-line-5150"
    for line in (f"GET /%0a{forged} HTTP/1.1", f"GET /%1b[31m{forged} HTTP/1.1"):
        answer_to(proxy, request(line=line))
    for text in (f"\n{forged}", f"\r\n{forged}", f"\x1b[31m{forged}"):
        body = asking("Hi", model=text)
        answer_to(proxy, request(body, f"X-Request-Id: {forged} x"))
    answer_to(proxy, post("Hi", key=f"\xff{forged}"))
    lines = [line for line in proxy.log.splitlines() if forged in line]
    assert all(re.match(r"\[[^]]+\] \[[0-9]+\] \[DEBUG\] GET /%", line) for line in lines)
    assert "\x1b" not in proxy.log


# --- bodies -----------------------------------------------------------------------------------

NAUGHTY = [
    *("data: [DONE]\n\n", 'x\n\ndata: {"error":{}}\n\n', "a\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
    "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg",  # line separators
    "".join(map(chr, range(32))) + "\x7f\x80\x9f",
    *("a\ud800b", "\U0001f469\u200d\U0001f469", "\ufeffa", "\u202eabc\u202c \u05d0", "Z\u0351"),
    *("\ufffe\uffff\U0010ffff", '\'"\\`\\"\\\\"', " \t\u00a0\u3000\n ", '{"role":"system"}'),
    *("<script>alert(1)</script>&amp;", "${jndi:ldap://x/a} {{7*7}} %s%n {0}", "NaN 1e400 -0"),
]


@pytest.mark.parametrize("provider", ["workers-ai", "openai"])
def test_a_text_goes_there_and_back_unchanged(emulator: Emulator, provider: str) -> None:
    """Letter for letter at the provider, and in the answer, whose framing it cannot break."""
    client = create_app(serving.settings(emulator.url, provider)).test_client()
    prompt = "|".join(NAUGHTY)
    for stream in (False, True):
        response = ask(client, prompt, stream=stream)
        assert emulator.requests[-1].json["messages"][-1]["content"] == prompt
        readable = prompt.encode("utf-8", "replace").decode()  # as the emulator quotes it
        assert f'"{readable}"' in heard_in(response).content


def test_a_megabyte_that_is_hard_to_read_is_refused_soon(client: FlaskClient) -> None:
    for body in (
        b'{"a":' * 209_715,
        b'{"messages":[' + b"1," * 2**19 + b"1]}",
        b'{"messages":' + b"9" * 2**20 + b"}",
        b'{"messages":"' + b"\\" * 2**20,
    ):
        started = time.process_time()
        response = client.post("/", data=body, headers=BEARER)
        assert time.process_time() - started < 1
        assert error_of(response)
        assert response.status_code == 400


# --- providers --------------------------------------------------------------------------------

ANSWER = as_bytes({"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]})
WHOLE = crowd.response(ANSWER, "Content-Type: application/json")


def client_of(provider: crowd.Provider, **more: str) -> FlaskClient:
    return create_app(serving.settings(provider.url, "openai", **more)).test_client()


STATUSES = {
    **dict.fromkeys(("101 Switching", "302 Found", "304 Not Modified"), "provider_bad_answer"),
    "999 No": "provider_failed",
}


@pytest.mark.parametrize(("status", "code"), STATUSES.items(), ids=STATUSES)
def test_a_status_that_is_not_2xx_is_no_answer(status: str, code: str) -> None:
    """Even where its body looks like one."""
    for stream in (False, True):
        with answering(WHOLE.replace(b"200 OK", status.encode())) as provider:
            assert code_of(ask(client_of(provider), stream=stream)) == code
            assert len(provider.requests) == 1


EVIL_HEADERS = (
    b"Set-Cookie: evil=1\r\nServer: evil\r\nX-Request-Id: evil\r\n folded\r\n"
    b"cf-ray: evil\r\nX-Powered-By: evil\r\nLocation: http://evil\r\nWWW-Authenticate: evil\r\n"
    b"Access-Control-Allow-Origin: *\r\nX-Should-Retry: evil\r\nAlt-Svc: evil\r\n"
)
OURS = {"Content-Type", "Content-Length", "X-Request-Id"}


@pytest.mark.parametrize("status", [b"200 OK", b"500 Internal Server Error"])
def test_no_header_of_the_providers_reaches_the_caller(status: bytes) -> None:
    """But for its request id, where that is clean: this one is folded over two lines."""
    sent = WHOLE.replace(b"200 OK", status).replace(b"\r\n\r\n", b"\r\n" + EVIL_HEADERS + b"\r\n")
    with answering(sent) as provider:
        response = ask(client_of(provider))
    assert "evil" not in str(response.headers)
    more = {"X-Should-Retry"} if status != b"200 OK" else set()
    assert set(response.headers.keys()) == OURS | more


GZIPPED = gzip.compress(ANSWER)
ODD_ANSWERS = {
    "a length and chunks": b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    + chunk(ANSWER)
    + chunk(b""),
    "compressed, though nobody asked": b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b"
    % (len(GZIPPED), GZIPPED),
}


@pytest.mark.parametrize("sent", ODD_ANSWERS.values(), ids=ODD_ANSWERS)
def test_an_odd_answer_is_read(sent: bytes) -> None:
    with answering(b"HTTP/1.1 200 OK\r\n" + sent) as provider:
        assert heard_in(ask(client_of(provider))).content == "Hello"
        assert b"Accept-Encoding: identity" in provider.requests[0]


# --- TLS --------------------------------------------------------------------------------------

CERTIFICATES = {
    "good": (HOST, 2049, True),
    "of another host": ("other.example.org", 2049, False),
    "expired": (HOST, 2020, False),
}


@pytest.mark.parametrize(("name", "until", "is_good"), CERTIFICATES.values(), ids=CERTIFICATES)
def test_a_certificate_is_for_its_host_and_its_time(
    tmp_path: Path, name: str, until: int, is_good: bool
) -> None:
    """Its signer is trusted here, and yet nothing is sent to the wrong one."""
    signs = trustme.CA()
    signs.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    times = {"not_before": datetime(2019, 1, 1), "not_after": datetime(until, 12, 31)}
    signs.issue_cert(name, **times).configure_cert(tls)
    with answering(WHOLE, tls=tls) as provider:
        response = ask(client_of(provider, LLAMA_PROVIDER_CA_BUNDLE=str(tmp_path / "ca.pem")))
        assert (response.status_code == 200) == is_good == bool(provider.requests)
        assert is_good or code_of(response) == "provider_unreachable"


# --- the machine ------------------------------------------------------------------------------


def test_a_clock_that_jumps_ends_no_call(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deadlines are counted on a clock that only goes on."""
    times = iter([time.time()])
    monkeypatch.setattr(time, "time", lambda: next(times, 4_000_000_000.0))
    assert ask(client, "[[wait=0.3]]").status_code == 200  # two looks of the watch


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_a_home_folder_and_a_debugger_change_nothing(
    env: dict[str, str], tmp_path: Path
) -> None:
    """The log cannot be written; nothing is left in the home folder, and no console opens."""
    env |= {"LOG_LEVEL": "debug", "HOME": str(tmp_path), "FLASK_DEBUG": "1"}
    with serving.gunicorn(env, Path("/dev/full")) as server:
        for prompt, expected in (("Hi", "done"), ("[[status=500]]", "provider_failed")):
            assert outcome(answer_to(server, post(prompt))) == expected
        console = "GET /console?__debugger__=yes&cmd=resource&f=debugger.js HTTP/1.1"
        assert crowd.error_of(answer_to(server, request(line=console))) == (404, "not_found")
    assert list(tmp_path.iterdir()) == []


def test_there_is_a_connection_for_whoever_gunicorn_serves() -> None:
    """Else some are thrown away, and made again, with their handshakes."""
    assert GunicornConfig().worker_connections <= connections._MAX_CONNECTIONS


def test_large_bodies_at_once_cost_a_few_copies_of_each(proxy: Server, emulator: Emulator) -> None:
    """Twenty of almost the limit, a million bytes here, all on their way at once."""
    (worker,) = crowd.workers(proxy)
    assert outcome(answer_to(proxy, post("Hi"))) == "done"
    before = crowd.memory(worker)
    crowd.forget_peak(worker)
    with ExitStack() as stack:
        sent = post("x" * 990_000 + "[[status=500,wait=0.5]]")
        outcomes = crowd.ends(crowd.opened(proxy, sent, 20, stack))
    assert set(outcomes) <= {"provider_failed", "provider_timeout"}  # the latter on a busy machine
    assert crowd.memory(worker, "VmHWM") - before < 20 * 8  # MiB


def test_a_failure_under_flask_debug_is_json_too(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No page with the source and the variables in it."""
    monkeypatch.setenv("FLASK_DEBUG", "1")
    monkeypatch.setattr(upstream.Upstream, "open", Mock(side_effect=RuntimeError(PROVIDER_KEY)))
    app = create_app(env)
    assert app.debug
    response = ask(app.test_client())
    assert code_of(response) == "internal_error"
    assert PROVIDER_KEY not in response.text


# --- what is handed on --------------------------------------------------------------------------


def tracked() -> list[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        result = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout")
    return [ROOT / os.fsdecode(name) for name in result.stdout.split(b"\0") if name]


def test_no_settings_file_is_in_git() -> None:
    """The example is, and its secrets are blank."""
    assert {path.name for path in tracked() if path.name.startswith(".env")} == {".env.example"}
    example = (ROOT / ".env.example").read_text()
    for name in ("WORKER_ACCESS_KEY", "LLAMA_PROVIDER_API_KEY", "CLOUDFLARE_ACCOUNT_ID"):
        assert f"\n{name}=\n" in example


def test_the_actions_of_ci_are_named_by_their_commits() -> None:
    """A tag may point to something else tomorrow."""
    used = [
        name
        for path in (ROOT / ".github" / "workflows").glob("*.yml")
        for name in re.findall(r"uses: *(\S+)", path.read_text())
    ]
    assert [name for name in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", name)] == []


def test_ci_looks_for_files_that_run_at_every_start() -> None:
    """And for holes that became known: `make audit` does both, in an environment of its own."""
    assert "make audit" in (ROOT / ".ci" / "run").read_text().splitlines()
    audit = (ROOT / "scripts" / "audit.sh").read_text()
    for part in ('install.sh "$runtime" requirements.txt', "-name '*.pth'", "exit 1", "pip-audit"):
        assert part in audit


KEY_LIKE = re.compile(
    rb"sk-(?:proj-|ant-)?[A-Za-z0-9_-]{24}"  # OpenAI's, Anthropic's
    rb"|gh[pousr]_[A-Za-z0-9]{36}"
    rb"|AKIA[0-9A-Z]{16}"
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY-----\n[A-Za-z0-9+/]{32}"
    rb"|Bearer (?!tier)[A-Za-z0-9_-]{36}"
)


def test_no_file_that_travels_with_the_project_holds_a_key() -> None:
    """Nor does a recorded answer."""
    files = [path for path in tracked() if path.is_file() and ".venv" not in str(path)]
    assert any(path.parent.name == "samples" for path in files)
    assert [path for path in files if KEY_LIKE.search(path.read_bytes())] == []
