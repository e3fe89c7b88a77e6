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
from proxy.settings import Settings

ALICE = "alice-Kx7Wq2Rt9Zb4"
OTHERS = {"WORKER_ACCESS_KEYS": f"alice:{ALICE}"}


def status(client: FlaskClient, key: str = KEY, path: str = "/", body: object = None) -> int:
    body = body or {"messages": [{"role": "user", "content": "Hi"}]}
    return client.post(path, json=body, headers={"Authorization": f"Bearer {key}"}).status_code


def limited(env: dict[str, str], rate: str, **more: str) -> FlaskClient:
    return create_app({**env, **OTHERS, "RATE_LIMIT": rate, **more}).test_client()


# --- in memory --------------------------------------------------------------------------------


def test_over_the_limit_is_429_in_our_form(env: dict[str, str]) -> None:
    client = limited(env, "2/minute")
    assert [status(client) for _ in range(3)] == [200, 200, 429]
    response = client.post("/", json={}, headers={"Authorization": f"Bearer {KEY}"})
    error = response.get_json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limited")
    assert 1 <= int(response.headers["Retry-After"]) <= 61
    assert error["message"].endswith(response.headers["X-Request-Id"])


@pytest.mark.parametrize(("rate", "retry"), [("1/minute", "true"), ("1/hour", "false")])
def test_a_long_wait_is_not_slept_through(env: dict[str, str], rate: str, retry: str) -> None:
    client = limited(env, rate)
    assert status(client) == 200
    response = client.post("/", json={}, headers={"Authorization": f"Bearer {KEY}"})
    assert response.status_code == 429
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


# --- settings ---------------------------------------------------------------------------------


def warned(env: dict[str, str], **more: str) -> list[str]:
    return [str(warning) for warning in Settings({**env, **more}).warnings]


def test_several_workers_without_redis_are_told_what_that_means(env: dict[str, str]) -> None:
    assert warned(env, RATE_LIMIT="60/minute", WEB_CONCURRENCY="3") == [
        "RATE_LIMIT: each of the 3 workers counts alone, so up to 3 times as many pass; "
        "set RATE_LIMIT_STORAGE to count together"
    ]
    assert warned(env, RATE_LIMIT="60/minute", WEB_CONCURRENCY="1") == []
    redis = {"RATE_LIMIT_STORAGE": "redis://127.0.0.1:6379/0"}
    assert warned(env, RATE_LIMIT="60/minute", WEB_CONCURRENCY="3", **redis) == []
    assert warned(env, **redis) == ["RATE_LIMIT_STORAGE: has no effect without RATE_LIMIT"]


STORAGES = {
    "redis://127.0.0.1": True,
    "redis://127.0.0.1:6379/0": True,
    "rediss://:p%2Fw@redis.example.org:6380/1": True,
    "redis://user:pw@[::1]:6379": True,
    "rediss://:pw@h:1/0?ssl_cert_reqs=none": True,
    "redis://:p/w@127.0.0.1:6379/0": False,
    "redis://:p#w@127.0.0.1:6379/0": False,
    "redis://host:abc/0": False,
    "redis://host:0/0": False,
    "redis://[::1": False,
    "redis://": False,
    "redis://host/0?socket_timeout=x": False,
    "redis://host/0?foo=bar": False,
    "redis://host/zero": False,
    "redis+cluster://host": False,
    "memory://": False,
}


@pytest.mark.parametrize(("url", "fits"), STORAGES.items())
def test_a_storage_that_the_client_could_not_read_is_a_problem(
    env: dict[str, str], url: str, fits: bool
) -> None:
    """Else it would keep the worker from starting, with the URL in its traceback."""
    env = {**env, "RATE_LIMIT": "1/day", "RATE_LIMIT_STORAGE": url}
    config = Settings(env)
    assert [str(p.variable) for p in config.problems] == ["RATE_LIMIT_STORAGE"] * (not fits)
    assert not any(url in str(problem) for problem in config.problems)
    assert create_app(env)


def test_a_password_of_redis_is_not_shown(env: dict[str, str]) -> None:
    storage = "redis://:s3cr3t@127.0.0.1:6379/0"
    config = Settings({**env, "RATE_LIMIT": "1/day", "RATE_LIMIT_STORAGE": storage})
    assert config.rate_limit
    assert config.rate_limit.storage == storage
    assert "s3cr3t" not in repr(config)


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
