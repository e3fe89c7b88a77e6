"""openapi.json is what the proxy does: its lists are the code's, its schemas fit each answer."""

import copy
import json
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import serving
from flask.testing import FlaskClient
from serving import BEARER, MODEL, Server
from test_provider_cases import RECORDED, Row
from werkzeug.test import TestResponse

from app import create_app
from proxy import errors, routes
from proxy.chat_request import PARAMETERS, ChatRequest

DOCUMENT = json.loads((Path(__file__).parent.parent / "docs" / "openapi.json").read_text())
COMPONENTS = DOCUMENT["components"]
PATHS = DOCUMENT["paths"]
OPERATION = PATHS["/v1/chat/completions"]["post"]


def resolved(value: dict[str, Any]) -> dict[str, Any]:
    """A part of the document, or what its $ref points to."""
    if "$ref" not in value:
        return value
    _, _, kind, name = value["$ref"].split("/")
    found: dict[str, Any] = COMPONENTS[kind][name]
    return found


def schema_of(name: str) -> jsonschema_rs.Draft202012Validator:
    return validator({"$ref": f"#/components/schemas/{name}"})


def validator(schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator({"components": COMPONENTS, "allOf": [schema]})


def alternatives(responses: Iterator[dict[str, Any]]) -> dict[str, set[str]]:
    """Each error code of these responses, with the types of the responses that it is in."""
    found: dict[str, set[str]] = {}
    for response in responses:
        schema = resolved(response["content"]["application/json"]["schema"])
        if "error" in schema["properties"]:
            error = schema["properties"]["error"]["properties"]
            for code in error["code"]["enum"]:
                found.setdefault(code, set()).add(error["type"]["const"])
    return found


# --- its lists are the code's -------------------------------------------------------------------


def test_its_paths_are_the_proxys() -> None:
    rules = {rule.rule.replace("<path:id>", "{id}") for rule in create_app({}).url_map.iter_rules()}
    assert PATHS.keys() == rules


@pytest.mark.parametrize(
    "paths",
    [routes.PATHS, ("/v1/models", "/models"), ("/v1/models/{id}", "/models/{id}")],
    ids=["chat", "models", "model"],
)
def test_paths_of_one_operation_differ_only_in_their_names(paths: Sequence[str]) -> None:
    operations = [copy.deepcopy(operation) for path in paths for operation in PATHS[path].values()]
    for operation in operations:
        del operation["operationId"], operation["summary"]
    assert all(operation == operations[0] for operation in operations)


def test_generators_find_names() -> None:
    """An operation's id becomes a function, a schema's name a class: each is there once."""
    operations = [operation for item in PATHS.values() for operation in item.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    classes = [name.lower() for name in COMPONENTS["schemas"]]
    assert len(set(classes)) == len(classes)
    assert '"title"' not in json.dumps(COMPONENTS)  # it would be another name for the class


def test_its_parameters_are_those_that_are_checked() -> None:
    assert COMPONENTS["schemas"]["ChatRequest"]["properties"].keys() == PARAMETERS


def test_its_codes_and_types_are_those_of_errors() -> None:
    """In the list of all, and in the answer of each status."""
    all_of_them = {code: {errors.ProxyError(code).type} for code in errors.CODES}
    assert set(COMPONENTS["schemas"]["ErrorCode"]["enum"]) == all_of_them.keys()
    assert set(COMPONENTS["schemas"]["ErrorType"]["enum"]) == set.union(*all_of_them.values())
    assert alternatives(map(resolved, COMPONENTS["responses"].values())) == all_of_them
    for code in errors.CODES:
        response = OPERATION["responses"][str(errors.ProxyError(code).status)]
        assert code in alternatives(iter([resolved(response)]))


# --- its schemas fit each answer ----------------------------------------------------------------

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def asking(said: str = "Hi", **fields: Any) -> dict[str, Any]:
    return {"json": serving.asking(said, **fields)}


REQUESTS: dict[str, tuple[int, dict[str, Any]]] = {
    "whole": (200, asking()),
    "with ignored parameters": (200, asking(user="me", store=True)),
    "with a tool": (200, asking(tools=[TOOL])),
    "as JSON": (200, asking(response_format={"type": "json_object"})),
    "a stream": (200, asking(stream=True)),
    "a stream with usage": (200, asking(stream=True, stream_options={"include_usage": True})),
    "a stream with a tool": (200, asking(stream=True, tools=[TOOL])),
    "a stream of JSON": (200, asking(stream=True, response_format={"type": "json_object"})),
    "a stream that breaks off": (200, asking("[[reset=middle]]", stream=True)),
    "no JSON": (400, {"data": b"{"}),
    "no body": (400, {}),
    "no messages": (400, {"json": {}}),
    "a bad parameter": (400, asking(n=2)),
    "an unknown model": (400, asking(model="none")),
    "context exceeded": (400, asking("[[status=413,code=5021]]", user="me")),
    "input rejected": (400, asking("[[status=400,code=5006]]")),
    "no key": (401, asking() | {"headers": {}}),
    "a wrong key": (401, asking() | {"headers": {"Authorization": "Bearer wrong"}}),
    "another path": (404, asking() | {"path": "/v1/engines"}),
    "too large": (413, {"data": b" " * 2_000_000}),
    "unreachable": (502, asking("[[close=before]]", user="me")),
    "overloaded": (502, asking("[[status=429,code=3040]]")),
    "rate limited": (502, asking("[[status=429,retry_after=7]]")),
    "the free allowance": (502, asking("[[status=429,code=3036]]")),
    "the provider's 401": (502, asking("[[status=401]]")),
    "the provider's 404": (502, asking("[[status=404]]", stream=True)),
    "a withdrawn model": (502, asking("[[status=410,code=5028]]")),
    "garbage": (502, asking("[[garbage]]")),
    "a redirect": (502, asking("[[redirect=302]]")),
    **{method: (405, {"method": method}) for method in ("GET", "PUT", "OPTIONS", "TRACE", "BREW")},
}


def check(response: TestResponse, status: int, operation: dict[str, Any] = OPERATION) -> None:
    """The answer is one that the document has."""
    assert response.status_code == status
    documented = resolved(operation["responses"][str(status)])
    for name, reference in documented["headers"].items():
        header = resolved(reference)
        value: str | int | None = response.headers.get(name)
        assert value is not None or not header.get("required"), name
        if value is not None:
            value = int(value) if header["schema"].get("type") == "integer" else value
            validator(header["schema"]).validate(value)
    ours = {name for name in COMPONENTS["headers"] if name in response.headers}
    assert ours <= documented["headers"].keys()
    assert response.mimetype in documented["content"]
    if response.mimetype == "application/json":
        validator(documented["content"]["application/json"]["schema"]).validate(response.json)
    else:
        for event in response.get_data(as_text=True).removesuffix("\n\n").split("\n\n"):
            data = event.removeprefix("data: ")
            schema_of("Event").validate({"data": data})
            if data != "[DONE]":
                schema_of("EventData").validate(json.loads(data))
    response.close()


@cache
def client_of(base_url: str) -> FlaskClient:
    """One application for all requests to the emulator."""
    more = {"MAX_REQUEST_BYTES": "1000000", "LLAMA_PROVIDER_BASE_URL": base_url}
    return create_app(serving.settings("", **more)).test_client()


@pytest.mark.parametrize(("status", "asked"), REQUESTS.values(), ids=REQUESTS)
def test_each_answer_is_documented(env: dict[str, str], status: int, asked: dict[str, Any]) -> None:
    client = client_of(env["LLAMA_PROVIDER_BASE_URL"])
    check(client.open(**{"method": "POST", "path": "/", "headers": BEARER} | asked), status)


@pytest.mark.parametrize("row", RECORDED.values(), ids=RECORDED)
def test_each_answer_to_what_providers_sent_is_documented(row: Row) -> None:
    """Custom tool calls, refusals, counters, errors."""
    response = row.response()
    check(response, response.status_code)


FALLBACK = {"LLAMA_PROVIDER_MODELS": f"chat={MODEL}|@cf/other/model"}
SETTINGS = {
    "a fallback": (FALLBACK, "Hi", 200),
    "fallbacks that refuse": (FALLBACK, "[[status=429,code=3040]]", 502),
    "no key": ({"WORKER_ACCESS_KEY": ""}, "Hi", 500),
    "no key of the provider": ({"LLAMA_PROVIDER_API_KEY": ""}, "Hi", 500),
    "over the rate limit": ({"RATE_LIMIT": "1/day"}, "Hi", 429),
}


@pytest.mark.parametrize(("more", "said", "status"), SETTINGS.values(), ids=SETTINGS)
def test_each_answer_by_other_settings_is_documented(
    env: dict[str, str], more: dict[str, str], said: str, status: int
) -> None:
    client = create_app(env | more).test_client()
    client.post("/", headers=BEARER, buffered=True, **asking(said))
    check(client.post("/", headers=BEARER, **asking(said)), status)


READING = [
    ("/v1/models", {}, BEARER, 200),
    ("/models", {}, BEARER, 200),
    (f"/v1/models/{MODEL}", {}, BEARER, 200),
    (f"/models/{MODEL}", {}, {}, 401),
    ("/v1/models/none", {}, BEARER, 404),
    ("/models", {}, {}, 401),
    ("/models", {"LLAMA_PROVIDER_API_KEY": ""}, BEARER, 500),
    ("/healthz", {}, {}, 200),
    ("/readyz", {}, {}, 200),
    ("/readyz", {"LLAMA_PROVIDER_API_KEY": ""}, {}, 503),
]


@pytest.mark.parametrize(("path", "broken", "headers", "status"), READING)
def test_each_answer_to_a_get_is_documented(
    env: dict[str, str], path: str, broken: dict[str, str], headers: dict[str, str], status: int
) -> None:
    client = create_app(env | broken).test_client()
    client.post("/", headers=BEARER, buffered=True, **asking())  # so that there is an outcome
    item = path if path in PATHS else "/v1/models/{id}"
    operation = PATHS[item]["get"]
    check(client.get(path, headers=headers), status, operation)
    check(client.delete(path, headers=headers), 405, operation)


CALL = {"name": "f", "arguments": ""}


def by(role: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, **fields}]}


SCHEMA_ACCEPTS: dict[str, tuple[bool, Any]] = {
    "the least": (True, {}),
    "null is not given": (True, dict.fromkeys(PARAMETERS - {"messages"})),
    "anything else": (True, {"user": "me", "store": None}),
    "n": (False, {"n": 2}),
    "no tokens": (False, {"max_tokens": 0}),
    "true is no number": (False, {"temperature": True}),
    "a stop that is none": (False, {"stop": [1]}),
    "tools that are none": (False, {"tools": ["f"]}),
    "no messages": (False, {"messages": []}),
    "content is null": (False, by("user", content=None)),
    "no content": (False, by("user", tool_calls=[])),
    "null beside a call": (True, by("assistant", tool_calls=[{}])),
    "null beside a refusal": (True, by("assistant", refusal="No.")),
    "null beside an older call": (True, by("assistant", function_call=CALL)),
    "null beside nothing": (False, by("assistant", refusal=None)),
    "null beside an empty one": (False, by("assistant", audio={})),
    "null beside another's call": (False, by("user", content=None, tool_calls=[{}])),
    "an older call that is none": (False, by("assistant", content="", function_call={"name": "f"})),
    "functions": (True, {"functions": [{"name": "f"}], "function_call": "auto"}),
    "a whole number as any": (True, {"max_tokens": 4096.0}),
    "a broken number": (False, {"max_tokens": 6000.5}),
    "parts": (True, by("user", content=[{"type": "image_url"}])),
    "no parts": (False, by("user", content=[])),
    "a text without text": (False, by("user", content=[{"type": "text"}])),
}


@pytest.mark.parametrize(("fits", "fields"), SCHEMA_ACCEPTS.values(), ids=SCHEMA_ACCEPTS)
def test_the_request_that_is_documented_is_the_one_that_is_accepted(
    fits: bool, fields: dict[str, Any]
) -> None:
    body = serving.asking() | fields
    assert schema_of("ChatRequest").is_valid(body) is fits
    try:
        ChatRequest.from_json(json.dumps(body).encode(), ["m"], id="chatcmpl-1", created=1)
    except errors.CallerError:
        assert not fits
    else:
        assert fits


# --- whatever is sent ---------------------------------------------------------------------------


def with_our_model(document: dict[str, Any]) -> dict[str, Any]:
    """The document, with the model that is configured: its name is each deployment's own."""
    document = copy.deepcopy(document)
    request = document["components"]["schemas"]["ChatRequest"]
    request["properties"]["model"] = {"enum": [MODEL, None]}
    return document


def test_schemathesis(running_proxy: Server) -> None:
    """Valid and invalid requests that it makes of the document; all its checks are on.

    Three have nothing to look at: use_after_free and ensure_resource_availability need a resource
    to make and delete, object_level_authorization a second user's. Where the provider's verdict is
    that a request cannot work (a tool without a name), positive_data_acceptance is left out: the
    document says what this proxy accepts, not what a model does.
    """
    # Imported, and its cases made, here: at the top each process of pytest would do both.
    import schemathesis
    from hypothesis import settings
    from schemathesis.generation import GenerationMode
    from schemathesis.generation.hypothesis import builder
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    schemathesis.openapi.from_dict(DOCUMENT).validate()
    schema = schemathesis.openapi.from_dict(with_our_model(DOCUMENT))
    schema.config.generation.update(
        modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE], deterministic=True
    )
    checks = schemathesis.checks.CHECKS.get_all()
    assert len(checks) >= 14
    numbers = count()

    @settings(derandomize=True, max_examples=4, deadline=None, database=None)
    def conforms(case: schemathesis.Case) -> None:
        if case.path == "/" and next(numbers) % 5:
            return  # of its 460 cases: SCHEMA_ACCEPTS has one of each kind
        response = case.call(base_url=running_proxy.url, headers=BEARER)
        left_out = [positive_data_acceptance] * (b"provider_rejected_input" in response.content)
        wanted = [check for check in checks if check not in left_out]
        case.validate_response(response, checks=wanted, headers=BEARER)

    modes = list(builder.HypothesisTestMode)
    config = builder.HypothesisTestConfig(project=schema.config, modes=modes, seed=1)
    for path in ("/", "/v1/models", "/v1/models/{id}", "/healthz", "/readyz"):
        (operation,) = schema[path].values()
        builder.create_test(operation=operation, test_func=conforms, config=config)()
    assert next(numbers) > 400
