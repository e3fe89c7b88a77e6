"""The emulator over real HTTP: what it says when well, and each way it misbehaves on demand."""

import contextlib
import hashlib
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import crowd
import jsonschema_rs
import pytest
import requests
import serving
from recorded import SAMPLES, Heard
from serving import DEADLINE, ROOT, asking, read_until, wait_until

from emulator import Emulator
from emulator.directives import Faults

FOLDER = ROOT / "tests" / "samples"
NATIVE = "/client/v4/accounts/0123/ai/run/@cf/meta/llama-3-8b-instruct"
OPENAI = "/v1/chat/completions"
HELLO = "Hello, Ærø!"
SAID = f'This is the emulator, not a model. You said: "{HELLO}"'
USAGE = {"prompt_tokens": 2, "completion_tokens": 11, "total_tokens": 13}
both_paths = pytest.mark.parametrize("path", [NATIVE, OPENAI], ids=["native", "openai"])
each_way = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def post(emulator: Emulator, path: str, prompt: Any = HELLO, **fields: Any) -> requests.Response:
    body = asking(prompt, **fields)
    return requests.post(emulator.url + path, json=body, timeout=5, allow_redirects=False)


def events(content: bytes) -> list[Any]:
    """The JSON of every event of a whole stream, which must end by [DONE]."""
    *frames, done, rest = content.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


@contextlib.contextmanager
def raw(emulator: Emulator, prompt: str, *, stream: bool) -> Iterator[socket.socket]:
    """A socket that has sent one request."""
    sent = crowd.post(prompt, stream=stream, line=f"POST {NATIVE} HTTP/1.1", keep=True)
    with socket.create_connection(emulator.server_address, timeout=5) as connection:
        connection.sendall(sent)
        yield connection


def object_of(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*required]}


def list_of(items: Any, **limits: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **limits}


def tuple_of(*schemas: Any, **more: Any) -> dict[str, Any]:
    """The schema of a list that has an instance of each of these."""
    return {"type": "array", "prefixItems": [*schemas], "minItems": len(schemas), **more}


# --- what it says -----------------------------------------------------------------------------

PARAMETERS = object_of(
    city={"type": "string"},
    days={"type": "integer"},
    share={"type": "number"},
    exact={"type": ["boolean", "null"]},
    unit={"type": "string", "enum": ["C", "F"]},
    hours=list_of({"type": "integer"}),
    place=object_of(zip={"type": "string"}),
)
FUNCTIONS = [{"name": "get_weather", "parameters": PARAMETERS}, {"name": "second"}]
VALUES = [HELLO, 1, 1.5, True, "C", [1], {"zip": HELLO}]
ARGUMENTS = dict(zip(PARAMETERS["properties"], VALUES, strict=True))
PARTS = [{"type": "text", "text": text} for text in ("Hello, ", "Ærø!")]


@pytest.mark.parametrize("content", [HELLO, PARTS], ids=["string", "parts"])
def test_native(emulator: Emulator, content: Any) -> None:
    answer = post(emulator, NATIVE, content)
    result = {"response": SAID, "tool_calls": [], "usage": USAGE}
    assert answer.json() == {"result": result, "success": True, "errors": [], "messages": []}
    assert len(answer.headers["cf-ai-req-id"]) == 36 and answer.headers["cf-ray"]
    stream = post(emulator, NATIVE, content, stream=True)
    assert stream.headers["content-type"] == "text/event-stream"
    *words, last = events(stream.content)
    assert "".join(chunk["response"] for chunk in words) == SAID
    assert len(words) == 11 and all(chunk["p"] for chunk in words)
    assert last == {"response": "", "usage": USAGE}


@each_way
def test_native_tool_call(emulator: Emulator, stream: bool) -> None:
    answer = post(emulator, NATIVE, tools=FUNCTIONS, stream=stream)
    result = events(answer.content)[0] if stream else answer.json()["result"]
    assert result["tool_calls"] == [{"name": "get_weather", "arguments": ARGUMENTS}]
    assert not result["response"]


@each_way
def test_openai(emulator: Emulator, stream: bool) -> None:
    """As OpenAI's SDK understands it. Before the end of a stream its usage is null."""

    def heard(path: str, **fields: Any) -> Heard:
        options = {"stream": stream, "stream_options": {"include_usage": True}}
        answer = post(emulator, path, model="m", **options, **fields)
        assert answer.headers["x-request-id"]
        parts = events(answer.content) if stream else [answer.json()]
        kinds = {(part["object"], part["model"]) for part in parts}
        assert kinds == {("chat.completion" + ".chunk" * stream, "m")}
        assert {part.pop("usage") for part in parts[:-1]} <= {None}
        return Heard.of(*parts)

    for path in (OPENAI, "/chat/completions"):
        said = heard(path)
        assert (said.content, said.finish, said.usage) == (SAID, "stop", USAGE)
    called = heard(OPENAI, tools=[{"type": "function", "function": one} for one in FUNCTIONS])
    ((name, arguments),) = called.functions
    assert (name, called.content, called.finish) == ("get_weather", "", "tool_calls")
    assert json.loads(arguments) == ARGUMENTS


def test_a_stream_tells_its_usage_where_it_is_asked_for(emulator: Emulator) -> None:
    chunks = events(post(emulator, OPENAI, stream=True).content)
    assert not any("usage" in chunk for chunk in chunks)


def test_the_tool_that_was_chosen_is_called(emulator: Emulator) -> None:
    choice = {"type": "function", "function": {"name": "second"}}
    answer = post(emulator, NATIVE, tools=FUNCTIONS, tool_choice=choice).json()
    assert answer["result"]["tool_calls"] == [{"name": "second", "arguments": {}}]


def test_a_tool_result_is_answered_in_words(emulator: Emulator) -> None:
    result = {"role": "tool", "content": "rain"}
    answer = post(emulator, NATIVE, tools=FUNCTIONS, messages=[result]).json()
    assert '"rain"' in answer["result"]["response"]


def test_max_tokens_cuts(emulator: Emulator) -> None:
    native = post(emulator, NATIVE, max_tokens=3).json()["result"]
    assert (native["response"], native["usage"]["completion_tokens"]) == ("This is the", 3)
    choice = post(emulator, OPENAI, max_tokens=3).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("This is the", "length")


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
def test_json_mode(emulator: Emulator, kind: str) -> None:
    answer = post(emulator, NATIVE, response_format={"type": kind}).json()
    assert answer["result"]["response"] == {"emulator": True, "you_said": HELLO}


NODE = {"$ref": "#/$defs/Node"}
NODE_OR_NULL = {"anyOf": [NODE, {"type": "null"}]}
TREE = object_of(
    "children", "parent", children=list_of(NODE), parent=NODE_OR_NULL, like={"allOf": [NODE]}
)
PATTERNS = ("^@[a-zA-Z0-9_]+$", r"^([A-Z]{2}|[^a-z]{3})-\d{3,5}(?:-.\W)?$", "Ærø")
FORMATS = ["date-time", "date", "time", "duration", "email", "hostname"]
FORMATS += ["ipv4", "ipv6", "uri", "uuid", "unheard-of"]
DIFFERENT: list[Any] = [
    {"type": "integer", "minimum": 5},
    {"type": "number"},
    {"type": "boolean"},
    {"type": "string", "maxLength": 2},
    {"type": "string", "pattern": "^[a-z]+$"},
    {"enum": ["a", "b", "c"]},
    object_of("a", a={}),
]
SCHEMAS: dict[str, Any] = {
    "empty": {},
    "numbers": tuple_of(
        {"type": "integer", "minimum": 7, "maximum": 9, "multipleOf": 4},
        {"type": "integer", "maximum": -5},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.1},
        {"type": "number", "minimum": 3.1, "multipleOf": 0.5},
        {"enum": [0, None]},
        {"const": 0},
    ),
    "strings": tuple_of(
        {"type": "string", "maxLength": 3},
        {"type": "string", "minLength": 40},
        {"type": "string", "pattern": r"^\w*$", "minLength": 12},
        *({"type": "string", "pattern": pattern} for pattern in PATTERNS),
        *({"type": "string", "format": name} for name in FORMATS),
    ),
    "lists": tuple_of(
        list_of({"type": "string"}, minItems=3),
        list_of({"type": "null"}, maxItems=0),
        list_of(False, prefixItems=[{"type": "integer"}, {"const": "x"}]),
        tuple_of({"type": "number"}, {"type": "number"}, maxItems=2),
        *(list_of(items, minItems=2, uniqueItems=True) for items in DIFFERENT),
    ),
    "objects": tuple_of(
        {"type": "object", "required": ["a", "b"]},
        {"properties": {"a": {"items": {"minimum": 3}}}, "required": ["a", "z"]},  # no type
        {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2},
    ),
    "any of": tuple_of(
        list_of({"anyOf": [{"type": "null"}, {"type": "string"}]}),
        {"anyOf": [False, {"type": "boolean"}]},
        {
            **object_of("kind", kind={"type": "string"}),
            "anyOf": [{"properties": {"kind": {"const": "a"}, "n": {"type": "integer"}}}],
        },
    ),
    "all of": {
        "allOf": [object_of("a", a={"$ref": "#/$defs/A"}), {"$ref": "#/$defs/B"}],
        "$defs": {"A": list_of({"type": "null"}, minItems=1), "B": object_of("b", b={"const": 1})},
    },
    "references": tuple_of(
        {"anyOf": [{"type": "integer"}]},
        {"$ref": "#/prefixItems/0/anyOf/0", "description": "by its place"},
        {"$ref": "#/definitions/x~1y"},
        {**object_of("kind", kind={"type": "string"}), "$ref": "#/$defs/A"},
        **{"definitions": {"x/y": {"enum": ["Oslo", "Bergen"]}}},
        **{"$defs": {"A": {"properties": {"kind": {"const": "a"}}}}},
    ),
    "tree": {**NODE, "$defs": {"Node": TREE}},
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_json_schema_gets_an_instance(emulator: Emulator, schema: Any) -> None:
    wrapped = {"name": "answer", "strict": True, "schema": schema}
    wanted = {"type": "json_schema", "json_schema": wrapped}
    choice = post(emulator, OPENAI, response_format=wanted).json()["choices"][0]
    value = json.loads(choice["message"]["content"])
    jsonschema_rs.validator_for(schema, validate_formats=True).validate(value)
    whole = post(emulator, NATIVE, response_format=wanted).json()
    assert whole["result"]["response"] == value
    chunks = events(post(emulator, NATIVE, response_format=wanted, stream=True).content)
    assert json.loads("".join(chunk["response"] for chunk in chunks)) == value


# --- what it refuses --------------------------------------------------------------------------

UNFILLABLE = [
    object_of("a", a={"$ref": "#"}),
    {"type": "integer", "minimum": 3, "maximum": 2},
    {"type": "string", "pattern": "a(?!a)a", "maxLength": 1},
    {"type": "string", "pattern": "("},
    list_of(False, minItems=1),
    list_of({"const": 1}, minItems=2, uniqueItems=True),
    {"$ref": "#/$defs/Nowhere"},
    {"type": "colour"},
    {"anyOf": [False]},
]
WANTED = [{"type": "json_schema", "json_schema": schema} for schema in UNFILLABLE]
BAD_INPUTS = [b"not JSON", b"[]", b"{}", b'{"messages": []}', crowd.asking(HELLO, tools="x")]
BAD_INPUTS += [crowd.asking(HELLO, response_format=wanted) for wanted in WANTED]


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        *(("POST", NATIVE, body, (400, 5006)) for body in BAD_INPUTS),
        ("POST", "/elsewhere", b"{}", (400, 7003)),
        ("GET", NATIVE, b"", (405, 7001)),
    ],
)
def test_refusals(
    emulator: Emulator, method: str, path: str, body: bytes, expected: tuple[int, int]
) -> None:
    answer = requests.request(method, emulator.url + path, data=body, timeout=5)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == expected


def test_another_key_is_refused() -> None:
    with Emulator(key="right") as emulator:
        openai, native = (post(emulator, path) for path in (OPENAI, NATIVE))
    assert (openai.status_code, native.status_code) == (401, 401)
    assert openai.json()["error"]["type"] == "authentication_error"
    assert native.json() == json.loads((FOLDER / "err_401_10000_auth.json").read_bytes())


@pytest.mark.parametrize(
    "directive",
    [
        *("wait=1,rest=middle", "wait=-1", "wait=nan", "silent=1", "reset=never", "status=99"),
        *("words=0", "sample=../../README.md", "code=3040", "endless,framing=length"),
    ],
)
def test_a_wrong_directive_is_named(emulator: Emulator, directive: str) -> None:
    answer = post(emulator, NATIVE, f"[[{directive}]]")
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
    said = post(emulator, NATIVE, text).json()["result"]["response"]
    quoted = "[[package]] Hi, Ærø!" if "=0" in text else text
    assert said.endswith(f'You said: "{quoted}"')


def test_the_document_has_every_directive() -> None:
    table = (ROOT / "docs" / "emulator.md").read_text().partition("| directive |")[2]
    cells = " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith("|"))
    named = set(re.findall(r"`([a-z_]+)[=`]", cells))
    assert named == {field.name for field in fields(Faults)}


# --- directives, but for those whose absence the tests of the proxy would notice -----------------


@both_paths
def test_json_for_stream_and_sse_for_whole(emulator: Emulator, path: str) -> None:
    whole = post(emulator, path, "[[json_for_stream]]", stream=True)
    assert whole.headers["content-type"] == "application/json" and whole.json()
    assert events(post(emulator, path, "[[sse_for_whole]]").content)


@both_paths
@each_way
def test_huge_and_gzip(emulator: Emulator, path: str, stream: bool) -> None:
    """The size is that of the body, or of its longest event."""
    for directive, encoding in (("huge=200000", None), ("gzip=200000", "gzip")):
        answer = post(emulator, path, f"[[{directive}]]", stream=stream)
        assert answer.headers.get("content-encoding") == encoding
        content = answer.content
        assert events(content) if stream else json.loads(content)
        longest = max(content.split(b"\n\n"), key=len)
        assert len(longest + b"\n\n" * stream) == 200_000


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_replayed_byte_for_byte(emulator: Emulator, name: str) -> None:
    answer, sample = post(emulator, NATIVE, f"[[sample={name}]]"), SAMPLES[name]
    assert answer.content == (FOLDER / name).read_bytes()
    assert answer.status_code == sample["http_status"]
    assert answer.headers["content-type"] == sample["content_type"]
    assert sample["headers"].items() <= dict(answer.headers).items()


@each_way
@pytest.mark.parametrize("end", ["reset", "close"])
@pytest.mark.parametrize("place", ["before", "headers", "middle"])
def test_cut(emulator: Emulator, end: str, place: str, stream: bool) -> None:
    received, is_reset = b"", False
    with raw(emulator, f"[[{end}={place}]]", stream=stream) as connection:
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            is_reset = True
    head, _, body = received.partition(b"\r\n\r\n")
    assert is_reset == (end == "reset")
    assert (bool(head), bool(body)) == (place != "before", place == "middle")
    assert not body.endswith((b"}", b"0\r\n\r\n"))
    assert not emulator.requests[0].done.is_set()


@pytest.mark.parametrize(
    ("framing", "header"),
    [("chunked", "transfer-encoding"), ("length", "content-length"), ("close", "connection")],
)
def test_framing(emulator: Emulator, framing: str, header: str) -> None:
    answer = post(emulator, NATIVE, f"[[framing={framing}]]", stream=True)
    names = {name.lower() for name in answer.headers}
    assert names & {"transfer-encoding", "content-length", "connection"} == {header}
    assert events(answer.content)
    assert emulator.requests[0].done.wait(2)


GONE = [("silent", b""), ("gap=60", b'"This "'), ("endless", b'"This "'), ("no_end", b"[DONE]")]


@pytest.mark.parametrize(("directive", "seen"), GONE)
def test_gone_is_seen_at_once(emulator: Emulator, directive: str, seen: bytes) -> None:
    with raw(emulator, f"[[{directive}]]", stream=True) as connection:
        read_until(connection, seen)
    wait_until(lambda: emulator.requests)
    assert emulator.requests[0].gone.wait(1)
    assert not emulator.requests[0].done.is_set()


# --- the server -------------------------------------------------------------------------------


def test_a_chunked_request_is_read(emulator: Emulator) -> None:
    data = json.dumps(asking(HELLO)).encode()
    answer = requests.post(emulator.url + NATIVE, data=iter([data[:9], data[9:]]), timeout=5)
    assert answer.json()["result"]["response"] == SAID


def test_its_own_pages(emulator: Emulator) -> None:
    assert "emulator" in requests.get(emulator.url, timeout=5).text
    headers = {"Authorization": "Bearer secret"}
    requests.post(emulator.url + NATIVE, json=asking(), headers=headers, timeout=5)
    emulator.requests.extend(emulator.requests * 100)
    shown = requests.get(f"{emulator.url}/requests", timeout=5)
    assert (shown.json()["count"], len(shown.json()["requests"])) == (101, 100)
    mask = "Bearer …" + hashlib.sha256(b"secret").hexdigest()[:8]
    assert shown.json()["requests"][0]["headers"]["authorization"] == mask
    assert "secret" not in shown.text
    assert requests.delete(f"{emulator.url}/requests", timeout=5).json()["count"] == 0
    assert emulator.requests == []


def test_leaving_closes_everything() -> None:
    with Emulator() as emulator, raw(emulator, "[[silent]]", stream=False) as connection:
        wait_until(lambda: emulator.requests)
        emulator.__exit__(None, None, None)
        assert serving.read_to_end(connection) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(emulator.server_address, timeout=1)
    assert emulator.requests[0].gone.is_set()


# --- the program ------------------------------------------------------------------------------

PROGRAM = [sys.executable, "-W", "error", "-m", "emulator", "--key", serving.KEY, "--port"]


def test_program(tmp_path: Path) -> None:
    port = serving.free_port()
    with serving.started([*PROGRAM, f"{port}"], port, {}, tmp_path / "log") as server:
        url, headers = server.url + NATIVE, serving.BEARER
        assert requests.post(url, json=asking(), headers=headers, timeout=5).json()["success"]
        serving.wait_until(lambda: server.log == f"emulator listening on {server.url}\n")
    assert server.process.returncode == 0


def test_program_on_a_taken_port(emulator: Emulator) -> None:
    command = [*PROGRAM, str(emulator.server_address[1])]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert "cannot listen" in ended.stderr
