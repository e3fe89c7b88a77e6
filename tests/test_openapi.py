"""openapi.json is what the proxy does: its lists are the code's, its schemas fit each answer."""

import copy
import json
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import serving
from serving import BEARER, MODEL, Server
from test_chat_request import BAD_MESSAGES, GOOD_MESSAGES
from test_chat_request import PARAMETERS as PARAMETER_VALUES
from test_provider_cases import RECORDED, Row
from werkzeug.test import TestResponse

from app import create_app
from proxy import errors, routes
from proxy.chat_request import PARAMETERS

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
    names = {"operationId": "", "summary": ""}
    operations = [operation | names for path in paths for operation in PATHS[path].values()]
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
NO_TIER_2 = {"LLAMA_PROVIDER_API_KEY": ""}
FALLBACK = {"LLAMA_PROVIDER_MODELS": f"chat={MODEL}|@cf/other/model"}


def asking(prompt: str = "Hi", **fields: Any) -> dict[str, Any]:
    return {"json": serving.asking(prompt, **fields)}


def get(path: str, **options: Any) -> dict[str, Any]:
    return {"method": "GET", "path": path, **options}


REQUESTS: dict[str, tuple[int, dict[str, Any], dict[str, str]]] = {  # the last: other settings
    "whole": (200, asking(), {}),
    "with ignored parameters": (200, asking(user="me", store=True), {}),
    "with a tool": (200, asking(tools=[TOOL]), {}),
    "a stream": (200, asking(stream=True), {}),
    "a stream with a tool": (200, asking(stream=True, tools=[TOOL]), {}),
    "a stream that breaks off": (200, asking("[[reset=middle]]", stream=True), {}),
    "from a fallback": (200, asking(), FALLBACK),
    "no JSON": (400, {"data": b"{"}, {}),
    "no messages": (400, {"json": {}}, {}),
    "a bad parameter": (400, asking(n=2), {}),
    "an unknown model": (400, asking(model="none"), {}),
    "context exceeded": (400, asking("[[status=413,code=5021]]", user="me"), {}),
    "no key": (401, asking() | {"headers": {}}, {}),
    "a wrong key": (401, asking() | {"headers": {"Authorization": "Bearer wrong"}}, {}),
    "another path": (404, asking() | {"path": "/v1/engines"}, {}),
    "too large": (413, asking("Hi" * 1000), {"MAX_REQUEST_BYTES": "1000"}),
    "over the rate limit": (429, asking(), {"RATE_LIMIT": "1/day"}),
    "no key is set": (500, asking(), {"WORKER_ACCESS_KEY": ""}),
    "no key of the provider": (500, asking(), NO_TIER_2),
    "unreachable": (502, asking(), {"LLAMA_PROVIDER_BASE_URL": "http://127.0.0.1:1"}),
    "no HTTP": (502, asking("[[garbage]]"), {}),
    "fallbacks refuse": (502, asking("[[status=429,code=3040]]"), FALLBACK),
    **{f"{path} by DELETE": (405, get(path, method="DELETE"), {}) for path in PATHS},
    "the models": (200, get("/v1/models"), {}),
    "a model": (200, get(f"/v1/models/{MODEL}"), {}),
    "a model, no key": (401, get(f"/models/{MODEL}", headers={}), {}),
    "a model, unknown": (404, get("/v1/models/none"), {}),
    "the models, no key": (401, get("/models", headers={}), {}),
    "the models, no key of the provider": (500, get("/models"), NO_TIER_2),
    "healthy": (200, get("/healthz"), {}),
    "ready": (200, get("/readyz"), {}),
    "not ready": (503, get("/readyz"), NO_TIER_2),
}


def check(response: TestResponse, status: int, operation: dict[str, Any]) -> None:
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


@pytest.mark.parametrize(("status", "asked", "more"), REQUESTS.values(), ids=REQUESTS)
def test_each_answer_is_documented(
    env: dict[str, str], status: int, asked: dict[str, Any], more: dict[str, str]
) -> None:
    client = create_app(env | more).test_client()
    client.post("/", headers=BEARER, buffered=True, **asking())  # so that there is an outcome
    asked = {"method": "POST", "path": "/", "headers": BEARER} | asked
    item = PATHS.get(asked["path"], PATHS["/v1/models/{id}"])
    check(client.open(**asked), status, *item.values())


@pytest.mark.parametrize("row", RECORDED.values(), ids=RECORDED)
def test_each_answer_to_what_providers_sent_is_documented(row: Row) -> None:
    """Custom tool calls, refusals, counters, errors."""
    response = row.response()
    check(response, response.status_code, OPERATION)


def test_the_request_that_is_documented_is_the_one_that_is_accepted() -> None:
    """What test_chat_request has: the proxy accepts the good, and refuses the bad."""
    good: list[Any] = [{"messages": [message]} for message in GOOD_MESSAGES]
    bad: list[Any] = [{"messages": [message]} for same in BAD_MESSAGES.values() for message in same]
    for name, (good_values, bad_values) in PARAMETER_VALUES.items():
        good += [serving.asking(**{name: value}) for value in [*good_values, None]]
        bad += [serving.asking(**{name: value}) for value in bad_values]
    good += [serving.asking(unknown=[None]), serving.asking(max_tokens=4096.0)]
    bad += [{}, {"messages": []}, {"messages": "Hi"}]
    fits = schema_of("ChatRequest").is_valid
    assert [body for body in good if not fits(body)] == []
    assert [body for body in bad if fits(body)] == []


# --- whatever is sent ---------------------------------------------------------------------------


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
    document = copy.deepcopy(DOCUMENT)
    properties = document["components"]["schemas"]["ChatRequest"]["properties"]
    properties["model"] = {"enum": [MODEL, None]}  # each deployment's own
    schema = schemathesis.openapi.from_dict(document)
    schema.config.generation.update(
        modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE], deterministic=True
    )
    checks = schemathesis.checks.CHECKS.get_all()
    assert len(checks) >= 14
    numbers = count()

    @settings(derandomize=True, max_examples=4, deadline=None, database=None)
    def conforms(case: schemathesis.Case) -> None:
        if case.path == "/" and next(numbers) % 5:
            return  # of its 460 cases: test_chat_request has more of each kind
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
