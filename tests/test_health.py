"""Alive, ready, and what callers may name: the paths that cost no money."""

import json
from typing import Any

import pytest
import serving
from conftest import Serve
from crowd import outcome_of, post
from flask.testing import FlaskClient
from serving import ACCOUNT, BEARER, HOST, KEY, MODEL, PROVIDER_KEY, asking

from app import create_app
from emulator import Emulator

MODELS = ["/v1/models", "/models"]
PUBLIC = ["/healthz", "/readyz"]
READ_ONLY = [*PUBLIC, *MODELS, f"/v1/models/{MODEL}"]


def ask(client: FlaskClient, prompt: str, **fields: Any) -> None:
    client.post("/", json=asking(prompt, **fields), headers=BEARER, buffered=True)


# --- alive and ready --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [{"WORKER_ACCESS_KEY": ""}, {"CLOUDFLARE_ACCOUNT_ID": ""}, {"LOG_LEVEL": "loud"}],
    ids=str,
)
def test_misconfigured_is_alive_but_not_ready(env: dict[str, str], broken: dict[str, str]) -> None:
    """Which settings is for the log, and for `python -m proxy check`: no key was shown here."""
    client = create_app({**env, **broken}).test_client()
    response = client.get("/readyz")
    assert response.status_code == 503
    error = response.get_json()["error"]
    assert (error["type"], error["code"]) == ("proxy_error", "proxy_misconfigured")
    assert response.headers["X-Should-Retry"] == "false"
    assert not any(name in response.text for name in broken)
    response = client.get("/healthz")
    assert (response.status_code, response.get_json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("prompt", "stream", "outcome"),
    [
        ("Hi", False, "done"),
        ("Hi", True, "done"),
        ("[[status=401]]", False, "provider_auth_failed"),
        ("[[status=400,code=5006]]", False, "provider_rejected_input"),
        ("[[reset=headers]]", True, "provider_failed"),
    ],
)
def test_ready_says_how_the_last_call_of_the_provider_ended(
    client: FlaskClient, prompt: str, stream: bool, outcome: str
) -> None:
    assert client.get("/readyz").json == {"status": "ready", "provider": None}
    ask(client, prompt, stream=stream)
    ask(client, "Hi", n=2)  # this does not reach the provider, and the next says nothing of it
    with client.post("/", json=asking(stream=True), headers=BEARER) as left:
        assert next(left.iter_encoded())
    response = client.get("/readyz")
    assert response.status_code == 200
    called = response.get_json()["provider"]
    assert called["outcome"] == outcome
    assert 0 <= called["age_seconds"] < serving.DEADLINE


@pytest.mark.parametrize("path", READ_ONLY)
def test_they_are_only_read_and_reveal_nothing(client: FlaskClient, path: str) -> None:
    ask(client, "a private prompt")
    shown = client.get(path, headers=BEARER)
    assert shown.status_code == 200
    assert shown.headers["X-Request-Id"]
    secrets = (KEY, PROVIDER_KEY, ACCOUNT, "private", HOST)
    assert not any(secret in shown.text for secret in secrets)
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert client.get(path, headers=headers).status_code == (200 if path in PUBLIC else 401)
    head = client.head(path, headers=BEARER)
    assert (head.status_code, head.data) == (200, b"")
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        response = client.open(path, method=method, headers=BEARER)
        assert response.status_code == 405
        assert response.headers["Allow"] == "GET, HEAD"
        assert response.get_json()["error"]["code"] == "method_not_allowed"


def test_probes_ask_the_provider_nothing(client: FlaskClient, emulator: Emulator) -> None:
    for path in 500 * ["/readyz", "/healthz"]:
        assert client.get(path).status_code == 200
    assert emulator.requests == []


def test_a_proxy_that_drains_takes_no_new_connection(
    serve: Serve, env: dict[str, str], emulator: Emulator
) -> None:
    """So a balancer sees that it is not ready, while open requests go on to their end."""
    with serve(env) as server, server.connect() as connection:
        connection.sendall(post("[[first=2]] Hi"))
        serving.wait_until(lambda: emulator.requests)
        server.process.terminate()
        serving.wait_until(lambda: not serving.answers_http(server.port))
        assert outcome_of(serving.read_to_end(connection)) == "done"


@pytest.mark.parametrize(
    ("level", "logged"), [("info", ["/models"]), ("debug", ["/healthz", "/readyz", "/models"])]
)
def test_probes_are_logged_for_debugging_only(
    capsys: pytest.CaptureFixture[str], env: dict[str, str], level: str, logged: list[str]
) -> None:
    client = create_app(env | {"LOG_LEVEL": level}).test_client()
    for path in ("/healthz", "/readyz", "/models"):
        client.get(path, headers=BEARER).close()
    lines = map(json.loads, capsys.readouterr().out.splitlines())
    assert [line["path"] for line in lines if "path" in line] == logged


# --- models -----------------------------------------------------------------------------------


ENCODED = MODEL.replace("@", "%40").replace("/", "%2F")


@pytest.mark.parametrize("path", MODELS)
def test_the_models_are_those_that_callers_may_name(env: dict[str, str], path: str) -> None:
    """An id may have slashes, encoded or not."""
    env["LLAMA_PROVIDER_MODELS"] = f"small=@cf/meta/another,{MODEL}"
    client = create_app(env).test_client()
    small, large = (
        {"id": name, "object": "model", "created": 0, "owned_by": "workers-ai"}
        for name in ("small", MODEL)
    )
    response = client.get(path, headers=BEARER)
    assert response.status_code == 200
    assert response.get_json() == {"object": "list", "data": [small, large]}
    assert client.get(f"{path}/small", headers=BEARER).get_json() == small
    for written in (MODEL, ENCODED, ENCODED.lower()):
        assert client.get(f"{path}/{written}", headers=BEARER).get_json() == large


@pytest.mark.parametrize("path", MODELS)
@pytest.mark.parametrize("id", ["x", "@cf/meta", f"{MODEL}/", f"{MODEL}%00", "%C3%A9"])
def test_an_unknown_model_is_not_found(client: FlaskClient, path: str, id: str) -> None:
    assert client.get(f"{path}/{id}").status_code == 401
    response = client.get(f"{path}/{id}", headers=BEARER)
    error = response.get_json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (404, "not_found", "model")
    assert "GET /v1/models" in error["message"]
