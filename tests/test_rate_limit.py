"""Rates: counted for each key's name, in memory or in Redis, and only where a limit is set."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import serving
from conftest import Serve
from crowd import answer_to, post
from flask.testing import FlaskClient
from serving import BEARER, HOST, KEY, asking, wait_until

from app import create_app
from proxy import rate_limit

ALICE = "alice-Kx7Wq2Rt9Zb4"


def status(client: FlaskClient, key: str = KEY, path: str = "/", body: object = None) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    return client.post(path, json=body or asking(), headers=headers).status_code


def limited(env: dict[str, str], rate: str, **more: str) -> FlaskClient:
    env = {**env, "WORKER_ACCESS_KEYS": f"alice:{ALICE}", "RATE_LIMIT": rate, **more}
    return create_app(env).test_client()


def test_without_a_limit_its_library_is_not_imported(env: dict[str, str]) -> None:
    script = "import sys, app; app.create_app(dict(RATE_LIMIT='')); print('limits' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=serving.ROOT, env=env, capture_output=True, text=True
    )
    assert ran.stdout.splitlines()[-1] == "False", ran.stderr


# --- in memory --------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "retry"), [("2/minute", "true"), ("2/hour", "false")])
def test_over_the_limit_is_429(env: dict[str, str], rate: str, retry: str) -> None:
    """A retry is not advised if the wait is too long for an SDK."""
    client = limited(env, rate)
    assert [status(client) for _ in range(3)] == [200, 200, 429]
    response = client.post("/", json={}, headers=BEARER)
    error = response.get_json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limited")
    assert error["message"].endswith(response.headers["X-Request-Id"])
    assert response.headers["X-Should-Retry"] == retry
    assert (int(response.headers["Retry-After"]) > 60) == (retry == "false")


def test_each_name_has_one_count_for_all_paths(env: dict[str, str]) -> None:
    client = limited(env, "2/minute")
    paths = ("/", "/v1/chat/completions", "/chat/completions")
    assert [status(client, path=path) for path in paths] == [200, 200, 429]
    assert status(client, ALICE) == 200


def test_a_window_ends(env: dict[str, str]) -> None:
    client = limited(env, "1/second")
    assert status(client) == 200
    wait_until(lambda: status(client) == 200)


def test_a_stranger_and_a_reader_are_not_counted(env: dict[str, str]) -> None:
    client = limited(env, "1/minute")
    assert [status(client, "wrong") for _ in range(3)] == [401] * 3
    assert [client.get("/models", headers=BEARER).status_code, status(client)] == [200, 200]


def test_the_order_of_checks(env: dict[str, str]) -> None:
    """The key comes before the limit, the limit before other settings, these before the body."""
    client = limited(env, "1/minute", LLAMA_PROVIDER_TIMEOUT="soon")
    assert [status(client, "wrong"), status(client, body=[1]), status(client)] == [401, 500, 429]
    client = limited(env, "1/minute")
    assert [status(client, body=[1]), status(client, body=[1])] == [400, 429]
    client = limited(env, "1/minute", RATE_LIMIT_STORAGE="redis//127.0.0.1")
    assert [status(client), status(client)] == [500, 500]  # nothing can be counted


# --- in Redis ---------------------------------------------------------------------------------


def test_a_good_storage_does_not_keep_the_worker_from_starting(env: dict[str, str]) -> None:
    for url in ("redis://user:pw@[::1]", "rediss://:p%2Fw@h.org:6380/1?ssl_cert_reqs=none"):
        assert limited(env, "1/day", RATE_LIMIT_STORAGE=url)


@contextmanager
def redis_server(folder: Path, port: int, *more: str) -> Iterator[str]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server here; on Debian: apt install redis-server")
    options = ["--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no", *more]
    log = folder / "redis.log"
    server = serving.popen([program, *options], {}, log, folder)
    try:
        wait_until(lambda: b"Ready to accept" in log.read_bytes())
        yield f"redis://{HOST}:{port}/0"
    finally:
        server.terminate()
        server.wait(serving.DEADLINE)


def test_all_processes_share_one_limit_in_redis(
    serve: Serve, env: dict[str, str], tmp_path: Path
) -> None:
    with redis_server(tmp_path, serving.free_port()) as url:
        env = {**env, "RATE_LIMIT": "10/hour", "RATE_LIMIT_STORAGE": url}
        client = limited(env, "10/hour")
        with serve(env) as server:
            asks = [lambda: status(client), lambda: answer_to(server, post("Hi")).status]
            assert [asks[number % 2]() for number in range(14)] == [200] * 10 + [429] * 4
        assert status(client, ALICE) == 200


def test_a_redis_that_is_down_lets_requests_pass(
    env: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log says so once until it is asked again; where it comes back, the limit does."""
    port = serving.free_port()
    url = f"redis://:s3cr3t@{HOST}:{port}/0"
    client = limited(env, "1/hour", RATE_LIMIT_STORAGE=url)
    assert [status(client) for _ in range(3)] == [200, 200, 200]
    message = "RATE_LIMIT_STORAGE: cannot be used (ConnectionError); no limit for 5 seconds"
    assert caplog.text.count(message) == 1
    monkeypatch.setattr(rate_limit, "PAUSE", 0.0)
    client = limited(env, "1/hour", RATE_LIMIT_STORAGE=url)
    assert status(client) == 200
    with redis_server(tmp_path, port, "--requirepass", "s3cr3t"):
        wait_until(lambda: status(client) == 429)
    assert status(client) == 200
    assert "s3cr3t" not in caplog.text
