"""Alive, ready, and what callers may name: the paths that cost no money."""

import json
from contextlib import ExitStack
from typing import Any

import openai
import pytest
import serving
from conftest import Serve
from crowd import answer_to, opened, outcome_of, post, read_all
from flask.testing import FlaskClient
from serving import ACCOUNT, HOST, KEY, MODEL, PROVIDER_KEY, read_until

from app import create_app
from emulator import Emulator

BEARER = {"Authorization": f"Bearer {KEY}"}
PROBES = ["/healthz", "/readyz"]
MODELS = ["/v1/models", "/models"]
READ_ONLY = [*PROBES, *MODELS, f"/v1/models/{MODEL}"]


def ask(client: FlaskClient, said: str, **fields: Any) -> None:
    body = {"messages": [{"role": "user", "content": said}], **fields}
    client.post("/", json=body, headers=BEARER, buffered=True)


def ready(client: FlaskClient) -> dict[str, Any]:
    response = client.get("/readyz")
    assert response.status_code == 200
    told: dict[str, Any] = response.get_json()
    return told


# --- alive and ready --------------------------------------------------------------------------


@pytest.mark.parametrize("env_of", [lambda env: env, lambda _: {}], ids=["set", "misconfigured"])
def test_alive_is_all_that_healthz_tells(env: dict[str, str], env_of: Any) -> None:
    """No key is needed, and misconfigured is not dead."""
    response = create_app(env_of(env)).test_client().get("/healthz")
    assert (response.status_code, response.get_json()) == (200, {"status": "ok"})
    assert response.headers["X-Request-Id"]


@pytest.mark.parametrize(
    "broken",
    [{"WORKER_ACCESS_KEY": ""}, {"CLOUDFLARE_ACCOUNT_ID": ""}, {"LOG_LEVEL": "loud"}],
    ids=str,
)
def test_misconfigured_is_not_ready(env: dict[str, str], broken: dict[str, str]) -> None:
    """Which settings is for the log, and for `python -m proxy check`: no key was shown here."""
    response = create_app({**env, **broken}).test_client().get("/readyz")
    assert response.status_code == 503
    error = response.get_json()["error"]
    assert (error["type"], error["code"]) == ("proxy_error", "proxy_misconfigured")
    assert response.headers["X-Should-Retry"] == "false"
    assert not any(name in response.text for name in broken)


@pytest.mark.parametrize(
    ("said", "stream", "outcome"),
    [
        ("Hi", False, "done"),
        ("Hi", True, "done"),
        ("[[status=401]]", False, "provider_auth_failed"),
        ("[[status=400,code=5006]]", False, "provider_rejected_input"),
        ("[[reset=headers]]", True, "provider_failed"),
    ],
)
def test_ready_says_how_the_last_call_of_the_provider_ended(
    client: FlaskClient, said: str, stream: bool, outcome: str
) -> None:
    assert ready(client) == {"status": "ready", "provider": None}
    ask(client, said, stream=stream)
    ask(client, "Hi", n=2)  # this does not reach the provider
    called = ready(client)["provider"]
    assert called["outcome"] == outcome
    assert 0 <= called["age_seconds"] < serving.DEADLINE


@pytest.mark.parametrize("path", READ_ONLY)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_they_are_only_read(client: FlaskClient, method: str, path: str) -> None:
    response = client.open(path, method=method, headers=BEARER)
    assert response.status_code == 405
    assert response.headers["Allow"] == "GET, HEAD"
    assert response.get_json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", READ_ONLY)
def test_head_is_get_without_the_body(client: FlaskClient, path: str) -> None:
    response = client.head(path, headers=BEARER)
    assert (response.status_code, response.data) == (200, b"")


def test_a_thousand_probes_ask_the_provider_nothing(
    proxy: serving.Server, emulator: Emulator
) -> None:
    with proxy.connect() as connection:
        for path in ["/readyz"] * 999:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: proxy\r\n\r\n".encode())
            assert read_until(connection, b"}").startswith(b"HTTP/1.1 200 ")
    last = b"GET /readyz HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n"
    assert answer_to(proxy, last).status == 200
    assert emulator.requests == []


def test_a_proxy_that_drains_takes_no_new_connection(
    serve: Serve, env: dict[str, str], emulator: Emulator
) -> None:
    """So a balancer sees that it is not ready, while open requests go on to their end."""
    with serve(env) as server, ExitStack() as stack:
        (connection,) = opened(server, post("[[first=2]] Hi"), 1, stack)
        serving.wait_until(lambda: emulator.requests)
        server.process.terminate()
        serving.wait_until(lambda: not serving.answers_http(server.port))
        assert [outcome_of(received) for received in read_all([connection])] == ["done"]
        server.process.wait(serving.DEADLINE)


# --- models -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODELS)
def test_the_models_are_those_that_callers_may_name(env: dict[str, str], path: str) -> None:
    env["LLAMA_PROVIDER_MODELS"] = f"small={MODEL},@cf/meta/another"
    response = create_app(env).test_client().get(path, headers=BEARER)
    assert response.status_code == 200
    assert response.get_json() == {
        "object": "list",
        "data": [
            {"id": name, "object": "model", "created": 0, "owned_by": "workers-ai"}
            for name in ("small", "@cf/meta/another")
        ],
    }


ENCODED = MODEL.replace("@", "%40").replace("/", "%2F")


@pytest.mark.parametrize("path", MODELS)
@pytest.mark.parametrize(
    ("written", "id"),
    [("small", "small"), (MODEL, MODEL), (ENCODED, MODEL), (ENCODED.lower(), MODEL)],
    ids=["alias", "with slashes", "percent-encoded", "encoded in lower case"],
)
def test_one_model_can_be_retrieved(env: dict[str, str], path: str, written: str, id: str) -> None:
    env["LLAMA_PROVIDER_MODELS"] = f"small=@cf/meta/another,{MODEL}"
    response = create_app(env).test_client().get(f"{path}/{written}", headers=BEARER)
    assert response.status_code == 200
    model = {"id": id, "object": "model", "created": 0, "owned_by": "workers-ai"}
    assert response.get_json() == model


@pytest.mark.parametrize("path", MODELS)
@pytest.mark.parametrize("id", ["x", "@cf/meta", f"{MODEL}/", f"{MODEL}%00", "%C3%A9"])
def test_an_unknown_model_is_not_found(client: FlaskClient, path: str, id: str) -> None:
    response = client.get(f"{path}/{id}", headers=BEARER)
    error = response.get_json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (404, "not_found", "model")
    assert "GET /v1/models" in error["message"]


def test_openais_sdk_retrieves_a_model(proxy: serving.Server) -> None:
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=KEY, max_retries=0) as sdk:
        assert sdk.models.retrieve(MODEL).id == MODEL
        with pytest.raises(openai.NotFoundError):
            sdk.models.retrieve("gpt-4o")


@pytest.mark.parametrize("path", [*MODELS, "/v1/models/x", f"/models/{MODEL}"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}], ids=["none", "wrong"])
def test_the_models_are_behind_the_key(
    client: FlaskClient, path: str, headers: dict[str, str]
) -> None:
    response = client.get(path, headers=headers)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert MODEL not in response.text


@pytest.mark.parametrize("path", READ_ONLY)
def test_nothing_is_revealed(client: FlaskClient, path: str) -> None:
    ask(client, "a private prompt")
    shown = json.dumps(client.get(path, headers=BEARER).get_json())
    for secret in (KEY, PROVIDER_KEY, ACCOUNT, "private", HOST):
        assert secret not in shown


@pytest.mark.parametrize(("path", "lines"), [*((path, 0) for path in PROBES), ("/models", 1)])
def test_probes_leave_no_line(
    capsys: pytest.CaptureFixture[str], env: dict[str, str], path: str, lines: int
) -> None:
    create_app(env).test_client().get(path, headers=BEARER).close()
    shown = capsys.readouterr().out.splitlines()
    assert len([line for line in shown if "request_id" in line]) == lines
