"""Rates: counted for each key's name, in memory or in Redis, and only where a limit is set."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import serving
from conftest import Serve
from crowd import answer_to, post
from flask.testing import FlaskClient
from serving import HOST, KEY, Server, wait_until

from app import create_app

ALICE = "alice-Kx7Wq2Rt9Zb4"
OTHERS = {"WORKER_ACCESS_KEYS": f"alice:{ALICE}"}


def status(client: FlaskClient, key: str = KEY, path: str = "/", body: object = None) -> int:
    body = body or {"messages": [{"role": "user", "content": "Hi"}]}
    return client.post(path, json=body, headers={"Authorization": f"Bearer {key}"}).status_code


def limited(env: dict[str, str], rate: str, **more: str) -> FlaskClient:
    return create_app({**env, **OTHERS, "RATE_LIMIT": rate, **more}).test_client()


# --- in memory --------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "retry"), [("2/minute", "true"), ("2/hour", "false")])
def test_over_the_limit_is_429(env: dict[str, str], rate: str, retry: str) -> None:
    """A retry is not advised if the wait is too long for an SDK."""
    client = limited(env, rate)
    assert [status(client) for _ in range(3)] == [200, 200, 429]
    response = client.post("/", json={}, headers={"Authorization": f"Bearer {KEY}"})
    error = response.get_json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limited")
    assert error["message"].endswith(response.headers["X-Request-Id"])
    assert response.headers["X-Should-Retry"] == retry
    assert (int(response.headers["Retry-After"]) > 60) == (retry == "false")


def test_each_name_has_its_own_count(env: dict[str, str]) -> None:
    client = limited(env, "1/minute")
    assert [status(client), status(client), status(client, ALICE)] == [200, 429, 200]


def test_all_paths_are_one_count(env: dict[str, str]) -> None:
    client = limited(env, "2/minute")
    paths = ("/", "/v1/chat/completions", "/chat/completions")
    assert [status(client, path=path) for path in paths] == [200, 200, 429]


def test_a_window_ends(env: dict[str, str]) -> None:
    client = limited(env, "1/second")
    assert status(client) == 200
    wait_until(lambda: status(client) == 200)


def test_a_stranger_and_a_reader_are_not_counted(env: dict[str, str]) -> None:
    client = limited(env, "1/minute")
    assert [status(client, "wrong") for _ in range(3)] == [401] * 3
    for _ in range(3):
        response = client.get("/models", headers={"Authorization": f"Bearer {KEY}"})
        assert response.status_code == 200
    assert status(client) == 200


def test_the_order_of_checks(env: dict[str, str]) -> None:
    """The key comes before the limit, the limit before other settings, these before the body."""
    client = limited(env, "1/minute", LLAMA_PROVIDER_TIMEOUT="soon")
    assert [status(client, "wrong"), status(client, body=[1]), status(client)] == [401, 500, 429]
    client = limited(env, "1/minute")
    assert [status(client, body=[1]), status(client, body=[1])] == [400, 429]


# --- a storage --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1",
        "redis://user:pw@[::1]:6379",
        "rediss://:p%2Fw@redis.example.org:6380/1?ssl_cert_reqs=none",
    ],
)
def test_a_good_storage_does_not_keep_the_worker_from_starting(
    env: dict[str, str], url: str
) -> None:
    assert limited(env, "1/day", RATE_LIMIT_STORAGE=url)


def test_a_storage_that_cannot_be_reached_lets_requests_pass(
    env: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    nobody = f"redis://:s3cr3t@{HOST}:{serving.free_port()}/0"
    client = limited(env, "1/hour", RATE_LIMIT_STORAGE=nobody)
    assert [status(client) for _ in range(3)] == [200, 200, 200]
    message = "RATE_LIMIT_STORAGE: cannot be used (ConnectionError); no limit for 5 seconds"
    assert caplog.text.count(message) == 1
    assert "s3cr3t" not in caplog.text


# --- Redis ------------------------------------------------------------------------------------


@contextmanager
def redis_server(folder: Path, port: int, *more: str) -> Iterator[str]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server here; on Debian: apt install redis-server")
    options = ["--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no", *more]
    with (folder / "redis.log").open("wb") as log:
        server = subprocess.Popen([program, *options], cwd=folder, stdout=log, stderr=log)
    try:
        wait_until(lambda: b"Ready to accept" in (folder / "redis.log").read_bytes())
        yield f"redis://{HOST}:{port}/0"
    finally:
        server.terminate()
        server.wait(serving.DEADLINE)


def test_two_processes_share_one_limit_in_redis(
    serve: Serve, env: dict[str, str], tmp_path: Path
) -> None:
    with redis_server(tmp_path, serving.free_port()) as url:
        env = {**env, **OTHERS, "RATE_LIMIT": "10/hour", "RATE_LIMIT_STORAGE": url}
        with serve(env) as one, serve(env) as other:
            answers = [answer_to([one, other][number % 2], post("Hi")) for number in range(14)]
            assert [answer.status for answer in answers] == [200] * 10 + [429] * 4
            assert answer_to(other, post("Hi", key=ALICE)).status == 200


def passes(server: Server) -> bool:
    started = time.monotonic()
    answer = answer_to(server, post("Hi"))
    assert answer.status in (200, 429)
    assert time.monotonic() - started < serving.DEADLINE
    return answer.status == 200


def test_a_redis_that_is_down_lets_requests_pass(
    serve: Serve, env: dict[str, str], tmp_path: Path
) -> None:
    """The log says so; and where it comes back, the limit does."""
    port = serving.free_port()
    url = f"redis://:s3cr3t@{HOST}:{port}/0"
    env = {**env, "RATE_LIMIT": "1/hour", "RATE_LIMIT_STORAGE": url}
    with serve(env) as server:
        assert [passes(server) for _ in range(3)] == [True] * 3
        assert "RATE_LIMIT_STORAGE: cannot be used (ConnectionError)" in server.log
        with redis_server(tmp_path, port, "--requirepass", "s3cr3t"):
            wait_until(lambda: not passes(server))
        assert passes(server)
        assert "s3cr3t" not in server.log
