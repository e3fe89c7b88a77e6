"""The emulator over real HTTP: what it says when well, and each way it misbehaves on demand."""

import contextlib
import gzip
import hashlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import jsonschema_rs
import pytest
import requests
from serving import ROOT, asking, read_until

from emulator import Emulator
from emulator.directives import Faults

SAMPLES = ROOT / "tests" / "samples"
INDEX = json.loads((SAMPLES / "index.json").read_text("utf-8"))["samples"]
NATIVE = "/client/v4/accounts/0123/ai/run/@cf/meta/llama-3-8b-instruct"
OPENAI = "/v1/chat/completions"
SAID = 'This is the emulator, not a model. You said: "Hello, Ærø!"'
PATHS = pytest.mark.parametrize("path", [NATIVE, OPENAI], ids=["native", "openai"])


def object_of(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*required]}


def list_of(items: Any, **limits: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **limits}


# The properties of a tool's parameters, and what the emulator calls it with.
PROPERTIES = {
    "city": ({"type": "string"}, "rain in Oslo?"),
    "days": ({"type": "integer"}, 1),
    "share": ({"type": "number"}, 1.5),
    "exact": ({"type": ["boolean", "null"]}, True),
    "unit": ({"type": "string", "enum": ["C", "F"]}, "C"),
    "hours": (list_of({"type": "integer"}), [1]),
    "place": (
        {"type": "object", "properties": {"zip": {"type": "string"}}},
        {"zip": "rain in Oslo?"},
    ),
}
PARAMETERS = {"type": "object", "properties": {key: kind for key, (kind, _) in PROPERTIES.items()}}
WEATHER = {"name": "get_weather", "parameters": PARAMETERS}
ARGUMENTS = {key: value for key, (_, value) in PROPERTIES.items()}


def post(emulator: Emulator, path: str, body: Any, **options: Any) -> requests.Response:
    return requests.post(
        emulator.url + path, json=body, timeout=5, allow_redirects=False, **options
    )


def events(content: bytes) -> list[Any]:
    """The JSON of every event of a whole stream, which must end by [DONE]."""
    *frames, done, rest = content.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


@contextlib.contextmanager
def raw(emulator: Emulator, body: Any) -> Iterator[socket.socket]:
    """A socket that has sent one request."""
    data = json.dumps(body).encode()
    head = f"POST {NATIVE} HTTP/1.1\r\nHost: emulator\r\nContent-Length: {len(data)}\r\n\r\n"
    with socket.create_connection(emulator.server_address, timeout=5) as connection:
        connection.sendall(head.encode() + data)
        yield connection


def read_to_end(connection: socket.socket) -> tuple[bytes, str]:
    """Everything that comes, and how it ended: "fin" or "rst"."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        return received, "rst"
    return received, "fin"


# --- what it says -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    ["Hello, Ærø!", [{"type": "text", "text": "Hello, "}, {"type": "text", "text": "Ærø!"}]],
    ids=["string", "parts"],
)
def test_native(emulator: Emulator, content: Any) -> None:
    usage = {"prompt_tokens": 2, "completion_tokens": 11, "total_tokens": 13}
    answer = post(emulator, NATIVE, asking(content))
    result = {"response": SAID, "tool_calls": [], "usage": usage}
    assert answer.json() == {"result": result, "success": True, "errors": [], "messages": []}
    assert len(answer.headers["cf-ai-req-id"]) == 36 and answer.headers["cf-ray"]
    stream = post(emulator, NATIVE, asking(content, stream=True))
    *words, last = events(stream.content)
    assert stream.headers["content-type"] == "text/event-stream"
    assert "".join(chunk["response"] for chunk in words) == SAID
    assert len(words) == 11 and all(chunk["p"] for chunk in words)
    assert last == {"response": "", "usage": usage}


@pytest.mark.parametrize("path", [OPENAI, "/chat/completions"])
def test_openai_whole(emulator: Emulator, path: str) -> None:
    answer = post(emulator, path, asking("Hello, Ærø!", model="m"))
    said = answer.json()
    assert (said["object"], said["model"]) == ("chat.completion", "m")
    assert said["usage"]["total_tokens"] == 13
    (choice,) = said["choices"]
    assert choice["message"] == {"role": "assistant", "content": SAID, "refusal": None}
    assert choice["finish_reason"] == "stop" and answer.headers["x-request-id"]


@pytest.mark.parametrize("with_usage", [False, True])
def test_openai_stream(emulator: Emulator, with_usage: bool) -> None:
    options = {"include_usage": with_usage}
    body = asking("Hello, Ærø!", model="m", stream=True, stream_options=options)
    chunks = events(post(emulator, OPENAI, body).content)
    if with_usage:
        last = chunks.pop()
        assert last["choices"] == [] and last["usage"]["completion_tokens"] == 11
    role, *words, finish = (chunk["choices"][0] for chunk in chunks)
    assert role["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert "".join(word["delta"]["content"] for word in words) == SAID
    assert (finish["delta"], finish["finish_reason"]) == ({}, "stop")
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all(chunk.get("usage", "absent") is None for chunk in chunks) == with_usage


@pytest.mark.parametrize("stream", [False, True])
def test_native_tool_call(emulator: Emulator, stream: bool) -> None:
    body = asking("rain in Oslo?", tools=[WEATHER], stream=stream)
    answer = post(emulator, NATIVE, body)
    result = events(answer.content)[0] if stream else answer.json()["result"]
    assert result["tool_calls"] == [{"name": "get_weather", "arguments": ARGUMENTS}]
    assert not result["response"]


def test_openai_tool_call(emulator: Emulator) -> None:
    body = asking("rain in Oslo?", tools=[{"type": "function", "function": WEATHER}])
    choice = post(emulator, OPENAI, body).json()["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert (call["type"], call["function"]["name"]) == ("function", "get_weather")
    assert call["id"] and json.loads(call["function"]["arguments"]) == ARGUMENTS
    chunks = events(post(emulator, OPENAI, {**body, "stream": True}).content)
    _, *choices, last = [chunk["choices"][0] for chunk in chunks]
    calls = [choice["delta"]["tool_calls"][0] for choice in choices]
    assert calls[0]["id"] and calls[0]["function"]["name"] == "get_weather"
    assert len(calls) > 3 and not any("id" in call for call in calls[1:])
    arguments = "".join(call["function"]["arguments"] for call in calls)
    assert json.loads(arguments) == ARGUMENTS
    assert last["finish_reason"] == "tool_calls"


def test_a_tool_result_is_answered_in_words(emulator: Emulator) -> None:
    body = {"messages": [{"role": "tool", "content": "rain"}], "tools": [WEATHER]}
    assert '"rain"' in post(emulator, NATIVE, body).json()["result"]["response"]


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
def test_json_mode(emulator: Emulator, kind: str) -> None:
    body = asking("Hello, Ærø!", response_format={"type": kind})
    expected = {"emulator": True, "you_said": "Hello, Ærø!"}
    assert post(emulator, NATIVE, body).json()["result"]["response"] == expected
    message = post(emulator, OPENAI, body).json()["choices"][0]["message"]
    assert json.loads(message["content"]) == expected


NODE = {"$ref": "#/$defs/Node"}
PATTERNS = {
    "handle": "^@[a-zA-Z0-9_]+$",
    "plate": r"^([A-Z]{2}|[^a-z]{3})-\d{3,5}(?:-.\W)?$",
    "said": "Ærø",
}
FORMATS = (
    *("date-time", "date", "time", "duration", "email", "hostname"),
    *("ipv4", "ipv6", "uri", "uuid", "unheard-of"),
)
SCHEMAS: dict[str, Any] = {
    "empty": {},
    "types": PARAMETERS,
    "required without properties": {"type": "object", "required": ["a", "b"]},
    "no type": {"properties": {"a": {"items": {"minimum": 3}}}, "required": ["a", "z"]},
    "list at the top": list_of({"type": "string"}, minItems=3),
    "few items": list_of({"type": "null"}, maxItems=0),
    "tuple": list_of(False, prefixItems=[{"type": "integer"}, {"const": "x"}]),
    "tuple of exact length": {
        **{"type": "array", "prefixItems": [{"type": "number"}, {"type": "number"}]},
        **{"minItems": 2, "maxItems": 2},
    },
    "enum of numbers": {"enum": [0, None]},
    "falsy const": object_of("a", a={"const": 0}),
    "integer limits": {"type": "integer", "minimum": 7, "maximum": 9, "multipleOf": 4},
    "negative": {"type": "integer", "maximum": -5},
    "number exclusive": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.1},
    "number steps": {"type": "number", "minimum": 3.1, "multipleOf": 0.5},
    "short": {"type": "string", "maxLength": 3},
    "long": {"type": "string", "minLength": 40},
    "any of": list_of({"anyOf": [{"type": "null"}, {"type": "string"}]}),
    "any of, with siblings": {
        **object_of("kind", kind={"type": "string"}),
        "anyOf": [{"properties": {"kind": {"const": "a"}, "n": {"type": "integer"}}}],
    },
    "an option that nothing fits": {"anyOf": [False, {"type": "boolean"}]},
    "all of": {
        "allOf": [
            object_of("a", a={"type": "integer"}),
            {"properties": {"b": {"$ref": "#/$defs/B"}}, "required": ["b"]},
            {"$ref": "#/$defs/C"},
        ],
        "$defs": {
            "B": list_of({"type": "boolean"}, minItems=1),
            "C": {"required": ["c"], "properties": {"c": {"enum": ["c"]}}},
        },
    },
    "reference": {
        "properties": {"from": {"$ref": "#/$defs/Place", "description": "start"}},
        "required": ["from"],
        "$defs": {"Place": {"enum": ["Oslo", "Bergen"]}},
    },
    "reference, older form": {
        "properties": {"a/b": {"$ref": "#/definitions/x~1y"}},
        "required": ["a/b"],
        "definitions": {"x/y": {"type": "integer"}},
    },
    "reference by place": object_of(
        "a", "b", a={"anyOf": [{"type": "integer"}]}, b={"$ref": "#/properties/a/anyOf/0"}
    ),
    "tree": {
        **NODE,
        "$defs": {
            "Node": {
                **object_of(
                    *("name", "children", "parent"),
                    name={"type": "string"},
                    children=list_of(NODE),
                    parent={"anyOf": [NODE, {"type": "null"}]},
                    like={"allOf": [NODE]},
                ),
                "additionalProperties": False,
            }
        },
    },
    "holds the root": object_of("next", next={"anyOf": [{"$ref": "#"}, {"type": "null"}]}),
    "map": {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2},
    "unique strings": list_of({"maxLength": 2}, minItems=4, uniqueItems=True),
    "unique words": list_of({"enum": ["a", "b", "c"]}, minItems=3, uniqueItems=True),
    "unique, of each kind": object_of(
        integers=list_of({"type": "integer", "minimum": 5}, minItems=2, uniqueItems=True),
        numbers=list_of({"type": "number"}, minItems=2, uniqueItems=True),
        booleans=list_of({"type": "boolean"}, minItems=2, uniqueItems=True),
        matches=list_of({"type": "string", "pattern": "^[a-z]+$"}, minItems=2, uniqueItems=True),
        objects=list_of(object_of("a", a={}), minItems=2, uniqueItems=True),
    ),
    "one property, limited twice": {
        **{"properties": {"kind": {"type": "string"}}, "required": ["kind"]},
        **{"$ref": "#/$defs/A", "$defs": {"A": {"properties": {"kind": {"const": "a"}}}}},
    },
    "patterns": object_of(
        *PATTERNS, **{name: {"type": "string", "pattern": p} for name, p in PATTERNS.items()}
    ),
    "pattern of a length": {"type": "string", "pattern": r"^\w*$", "minLength": 12},
    "formats": object_of(**{name: {"type": "string", "format": name} for name in FORMATS}),
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_json_schema_gets_an_instance(emulator: Emulator, schema: Any) -> None:
    wrapped = {"name": "answer", "strict": True, "schema": schema}
    wanted = {"type": "json_schema", "json_schema": wrapped}
    body = asking("Hello, Ærø!", response_format=wanted)
    choice = post(emulator, OPENAI, body).json()["choices"][0]
    value = json.loads(choice["message"]["content"])
    jsonschema_rs.validator_for(schema, validate_formats=True).validate(value)
    chunks = events(post(emulator, NATIVE, {**body, "stream": True}).content)
    assert json.loads("".join(chunk["response"] for chunk in chunks)) == value


@pytest.mark.parametrize(
    "schema",
    [
        object_of("a", a={"$ref": "#"}),
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "string", "pattern": "a(?!a)a", "maxLength": 1},
        list_of(False, minItems=1),
        list_of({"const": 1}, minItems=2, uniqueItems=True),
        {"$ref": "#/$defs/Nowhere"},
        {"type": "colour"},
        {"anyOf": [False]},
        {"type": "string", "pattern": "("},
    ],
)
def test_a_schema_without_an_instance_is_bad_input(emulator: Emulator, schema: Any) -> None:
    wanted = {"type": "json_schema", "json_schema": schema}
    answer = post(emulator, NATIVE, asking("Hello", response_format=wanted))
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, 5006)


def test_the_tool_that_was_chosen_is_called(emulator: Emulator) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("first", "second")]
    choice = {"type": "function", "function": {"name": "second"}}
    answer = post(emulator, OPENAI, asking("Hello", tools=tools, tool_choice=choice)).json()
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "second", "arguments": "{}"}


def test_max_tokens_cuts(emulator: Emulator) -> None:
    native = post(emulator, NATIVE, asking("Hello", max_tokens=3)).json()["result"]
    assert (native["response"], native["usage"]["completion_tokens"]) == ("This is the", 3)
    choice = post(emulator, OPENAI, asking("Hello", max_tokens=3)).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("This is the", "length")


# --- what it refuses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "expected"),
    [
        ("POST", NATIVE, b"not JSON", 400, [5006]),
        ("POST", NATIVE, b"[]", 400, [5006]),
        ("POST", NATIVE, b"{}", 400, [5006]),
        ("POST", NATIVE, b'{"messages": []}', 400, [5006]),
        ("POST", NATIVE, b'{"messages": [{"content": "a"}], "tools": "x"}', 400, [5006]),
        ("POST", "/elsewhere", b"{}", 400, [7003, 7000]),
        ("GET", NATIVE, b"", 405, [7001]),
        ("POST", OPENAI, b"{}", 400, "invalid_request_error"),
    ],
)
def test_refusals(
    emulator: Emulator, method: str, path: str, body: bytes, status: int, expected: Any
) -> None:
    answer = requests.request(method, emulator.url + path, data=body, timeout=5)
    assert answer.status_code == status
    said = answer.json()
    assert expected == (
        said["error"]["type"] if path == OPENAI else [error["code"] for error in said["errors"]]
    )


def test_another_key_is_refused() -> None:
    with Emulator(key="right") as emulator:
        for key, status in (("right", 200), ("wrong", 401)):
            headers = {"Authorization": f"Bearer {key}"}
            native = post(emulator, NATIVE, asking("Hello"), headers=headers)
            openai = post(emulator, OPENAI, asking("Hello"), headers=headers)
            assert (native.status_code, openai.status_code) == (status, status)
        sample = json.loads((SAMPLES / "err_401_10000_auth.json").read_text())
        assert native.json() == sample


@PATHS
@pytest.mark.parametrize(
    "directive",
    [
        *("wait=1,rest=middle", "wait=-1", "wait=nan", "silent=1", "reset=never", "status=99"),
        *("words=0", "sample=../../README.md", "code=3040", "endless,framing=length"),
    ],
)
def test_a_wrong_directive_is_named(emulator: Emulator, path: str, directive: str) -> None:
    answer = post(emulator, path, asking(f"[[{directive}]]"))
    assert answer.status_code == 400
    assert directive.split(",")[-1] in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "text",
    [
        *("[[1, 2], [3, 4]]", "[[package]]\nname = 'x'", "[[status]]\ncode = 1", "[[wait]]"),
        *("see [[Main Page]] and [[Help:Contents|the help]]", "[[name=value]]", "[[wiat=1]]"),
        *("[[silent, holy]]", "if [[ -f file ]]; then", "[[]]", "[[a]] [[b"),
        "[[wait=0]][[package]] Hi, [[gap=0]] Ærø! [[wait=0,first=0]]",
    ],
)
def test_only_directives_are_left_out_of_the_quotation(emulator: Emulator, text: str) -> None:
    said = post(emulator, NATIVE, asking(text)).json()["result"]["response"]
    quoted = "[[package]] Hi, Ærø!" if "=0" in text else text
    assert said.endswith(f'You said: "{quoted}"')


def test_the_document_has_every_directive() -> None:
    table = (ROOT / "docs" / "emulator.md").read_text().partition("| directive |")[2]
    cells = " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith("|"))
    named = set(re.findall(r"`([a-z_]+)[=`]", cells))
    assert named == {field.name for field in fields(Faults)}


# --- directives, but for those whose absence the tests of the proxy would notice -----------------


@PATHS
def test_json_for_stream_and_sse_for_whole(emulator: Emulator, path: str) -> None:
    whole = post(emulator, path, asking("Hello [[json_for_stream]]", stream=True))
    assert whole.headers["content-type"] == "application/json" and whole.json()
    stream = post(emulator, path, asking("Hello [[sse_for_whole]]"))
    assert events(stream.content)


@PATHS
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("size", [1000, 200_000])
def test_huge_and_gzip(emulator: Emulator, path: str, stream: bool, size: int) -> None:
    huge = post(emulator, path, asking(f"[[huge={size}]]", stream=stream))
    packed = post(emulator, path, asking(f"[[gzip={size}]]", stream=stream), stream=True)
    body = packed.raw.read(decode_content=False)
    assert packed.headers["content-encoding"] == "gzip" and len(body) < size
    for content in (huge.content, gzip.decompress(body)):
        if stream:
            longest = max(content.split(b"\n\n"), key=len)
            assert len(longest + b"\n\n") == size and events(content)
        else:
            assert len(content) == size and json.loads(content)


@pytest.mark.parametrize("sample", INDEX, ids=lambda sample: sample["file"])
def test_samples_are_replayed_byte_for_byte(emulator: Emulator, sample: dict[str, Any]) -> None:
    answer = post(emulator, NATIVE, asking(f"[[sample={sample['file']}]]", stream=True))
    assert answer.content == (SAMPLES / sample["file"]).read_bytes()
    assert answer.status_code == sample["http_status"]
    assert answer.headers["content-type"] == sample["content_type"]
    assert sample["headers"].items() <= dict(answer.headers).items()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("end", ["reset", "close"])
@pytest.mark.parametrize("place", ["before", "headers", "middle"])
def test_cut(emulator: Emulator, end: str, place: str, stream: bool) -> None:
    with raw(emulator, asking(f"Hello [[{end}={place}]]", stream=stream)) as connection:
        received, how = read_to_end(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    assert how == {"reset": "rst", "close": "fin"}[end]
    assert (bool(head), bool(body)) == (place != "before", place == "middle")
    assert not body.endswith((b"}", b"0\r\n\r\n"))
    assert not emulator.requests[0].done.is_set()


@pytest.mark.parametrize(
    ("framing", "header"),
    [("chunked", "transfer-encoding"), ("length", "content-length"), ("close", "connection")],
)
def test_framing(emulator: Emulator, framing: str, header: str) -> None:
    answer = post(emulator, NATIVE, asking(f"Hello [[framing={framing}]]", stream=True))
    names = {name.lower() for name in answer.headers}
    assert names & {"transfer-encoding", "content-length", "connection"} == {header}
    assert events(answer.content)
    assert emulator.requests[0].done.wait(2)


def test_wait(emulator: Emulator) -> None:
    started = time.monotonic()
    assert post(emulator, NATIVE, asking("Hello [[wait=0.1]]")).json()["success"]
    assert time.monotonic() - started >= 0.1


@pytest.mark.parametrize(
    ("directive", "stream", "seen"),
    [
        ("silent", False, b""),
        ("wait=60", False, b""),
        ("first=60", True, b"\r\n\r\n"),
        ("gap=60", True, b'"This "'),
        ("drip_headers=60", False, b"H"),
        ("drip_body=60", False, b"\r\n\r\n"),
        ("stall=0", False, b"\r\n\r\n"),
        ("stall=900", True, b"[DONE]"),
        ("no_end", True, b"[DONE]"),
        ("endless", True, b'"This "'),
        ("endless,gap=0.001", True, b'"This "'),
    ],
)
def test_gone_is_seen_at_once(
    emulator: Emulator, directive: str, stream: bool, seen: bytes
) -> None:
    with raw(emulator, asking(f"Hello [[{directive}]]", stream=stream)) as connection:
        received = read_until(connection, seen) if seen else b""
    while not emulator.requests:  # the client may be faster than the thread that serves it
        time.sleep(0.001)
    assert emulator.requests[0].gone.wait(1)
    assert not emulator.requests[0].done.is_set()
    assert not received.endswith(b"0\r\n\r\n")


# --- the server -------------------------------------------------------------------------------


def test_a_chunked_request_is_read(emulator: Emulator) -> None:
    data = json.dumps(asking("Hello, Ærø!")).encode()
    answer = requests.post(emulator.url + NATIVE, data=iter([data[:9], data[9:]]), timeout=5)
    assert answer.json()["result"]["response"] == SAID


def test_its_own_pages(emulator: Emulator) -> None:
    assert "emulator" in requests.get(emulator.url, timeout=5).text
    post(emulator, NATIVE, asking("Hello"), headers={"Authorization": "Bearer secret"})
    emulator.requests.extend(emulator.requests * 100)
    shown = requests.get(f"{emulator.url}/requests", timeout=5)
    assert (shown.json()["count"], len(shown.json()["requests"])) == (101, 100)
    mask = "Bearer …" + hashlib.sha256(b"secret").hexdigest()[:8]
    assert shown.json()["requests"][0]["headers"]["authorization"] == mask
    assert "secret" not in shown.text
    assert requests.delete(f"{emulator.url}/requests", timeout=5).json()["count"] == 0
    assert emulator.requests == []


def test_leaving_closes_everything() -> None:
    before = threading.active_count()
    with Emulator() as emulator, raw(emulator, asking("[[silent]]")) as connection:
        while not emulator.requests:
            time.sleep(0.001)
        emulator.__exit__(None, None, None)
        assert read_to_end(connection) == (b"", "fin")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(emulator.server_address, timeout=1)
    assert threading.active_count() <= before + 1  # a thread may be in its last breath


# --- the program ------------------------------------------------------------------------------


@contextlib.contextmanager
def program(*options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-W", "error", "-m", "emulator", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def test_program() -> None:
    with program("--port", "0", "--gap", "0", "--key", "right") as process:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("emulator listening on http://127.0.0.1:")
        headers = {"Authorization": "Bearer right"}
        url = line.split()[-1] + NATIVE
        answer = requests.post(url, json=asking("Hello"), headers=headers, timeout=5)
        assert answer.json()["success"]
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=5) == ("", "")
        assert process.returncode == 0


def test_program_on_a_taken_port(emulator: Emulator) -> None:
    with program("--port", str(emulator.server_address[1])) as process:
        out, error = process.communicate(timeout=5)
    assert (process.returncode, out, error.count("\n")) == (1, "", 1)
    assert "cannot listen" in error
