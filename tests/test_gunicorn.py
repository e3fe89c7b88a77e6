"""gunicorn as shipped, in front of the emulator: its streams, its settings and its start."""

import re
import socket
import subprocess
import sys

import pytest
import serving
from conftest import Serve
from crowd import answer_to, error_of, post, request
from serving import DEADLINE, Server, read_until

from emulator import Emulator


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_a_token_arrives_before_the_provider_sends_the_next(
    proxy: Server, emulator: Emulator, framing: str
) -> None:
    """The emulator falls silent after two words, and the client has both."""
    with proxy.connect() as connection:
        connection.sendall(post(f"[[framing={framing},stall=2]]", stream=True))
        received = read_until(connection, b'"content":"is "')
        assert b"[DONE]" not in received
        assert b'"error"' not in received  # nor did it come with the end by a deadline
        assert not emulator.requests[0].done.is_set()


def test_what_gunicorn_itself_needs_must_make_sense() -> None:
    """A line for each variable, without its value, and an end."""
    wrong = {"PORT": "70000", "WEB_CONCURRENCY": "65", "GRACEFUL_TIMEOUT": "25s"}
    result = subprocess.run(
        [sys.executable, "-m", "gunicorn", "app:app"],
        cwd=serving.ROOT,
        env={**serving.system_environment(), **serving.BLANK, **wrong},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert result.returncode != 0
    lines = result.stderr.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [*wrong]
    assert not set(wrong.values()) & set(result.stderr.split())


def test_with_broken_settings_it_serves_500_and_says_why_once(
    serve: Serve, emulator: Emulator
) -> None:
    """A missing key must not take down the health check."""
    env = serving.settings(emulator.url, LLAMA_PROVIDER_API_KEY="", LOG_LEVEL="loud")
    with serve(env) as server:
        assert error_of(answer_to(server, request())) == (500, "proxy_misconfigured")
        assert answer_to(server, request(b"", line="GET /healthz HTTP/1.1")).status == 200
        for name in ("LLAMA_PROVIDER_API_KEY", "LOG_LEVEL"):
            assert server.log.count(f'"{name}: ') == 1


def test_it_listens_where_it_should(proxy: Server) -> None:
    """With PORT set, as a platform does, on all addresses, IPv6's too."""
    found = re.findall(r"Listening at: http://(\S+):[0-9]+ ", proxy.log)
    assert found in (["[::]"], ["0.0.0.0"])  # noqa: S104
    if found == ["[::]"] and socket.has_ipv6:
        with socket.create_connection(("::1", proxy.port), timeout=DEADLINE):
            pass
