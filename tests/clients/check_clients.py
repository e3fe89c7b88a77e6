"""The clients that people use, in front of gunicorn as shipped: `make test-clients`.

Each client is one small program in its own language: it reads what to do, a line a case, and prints
what it saw. The emulator counts what reached the provider. The name of this file keeps it out of
`make test`, which needs no Node.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
import serving
from serving import KEY, MODEL, Server

from emulator import Emulator

HERE = Path(__file__).parent
VENV = serving.ROOT / ".venv-clients"
EXAMPLES = serving.ROOT / "examples"
COMMANDS = {
    "node": ["node", "openai_node.mjs"],
    "vercel": ["node", "vercel_ai.mjs"],
    "langchain": [str(VENV / "bin" / "python"), "langchain_chat.py"],
    "streamlit": [str(VENV / "bin" / "python"), "streamlit_page.py"],
}

SAID = 'This is the emulator, not a model. You said: "Hi"'
HALF = "This is the emulator, not a "
UNENDED = 'This is the emulator, not a model. You said: ""'
USAGE = [1, 10, 11]  # in, out, total
OSLO = [["weather", {"city": "Oslo"}]]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]

COUNTS_IN_EACH_CHUNK = "[[sample=gemma4_openai_incremental_usage.sse]]"
CONTEXT = "[[status=413,code=5021]]"
PROVIDER_KEY = "[[status=401]]"
QUOTA = "[[status=429,code=4006]]"
PERHAPS_BILLED = "[[reset=headers]]"
PASSES = "[[status=500]]"
IN_3_SECONDS = "[[status=429,code=3021,retry_after=3]]"
IN_61_SECONDS = "[[status=429,code=3021,retry_after=61]]"
SILENT = "[[wait=30]]"
STALLS = "[[stall=4]]"  # after as many words
CUT = "[[close=middle,gap=0.01]]"
NO_DONE = "[[no_done]]"
OPTIONS = ("path", "key", "model", "tools", "settings", "fields", "request")
CLASSES: dict[str, dict[int | None, str]] = {  # of errors, by status; None: in a stream
    "node": {
        **{400: "BadRequestError", 401: "AuthenticationError", 502: "InternalServerError"},
        None: "APIError",
    },
    "vercel": {
        **{400: "AI_APICallError", 401: "AI_APICallError", 502: "AI_RetryError"},
        None: "object",
    },
    "langchain": {
        **{400: "OpenAIInvalidRequestError", 401: "OpenAIAuthenticationError"},
        **{502: "OpenAIAPIError", None: "APIError"},
    },
}


def case(name: str, said: str = "Hi", *fails: Any, reach: int = 1, **more: Any) -> Any:
    """`client-verb-what`; `reach` requests reach the provider, `more` is seen, save OPTIONS.
    `fails`: the status of an error, its code, and its class where it is not the usual one."""
    client, verb, *_ = name.split("-")
    options = {"said": said, **{key: more.pop(key) for key in OPTIONS if key in more}}
    if fails:
        status, code, *kind = fails
        kind = kind or [CLASSES[client][status]]
        more["error"] = {"class": kind[0], "status": status, "code": code}
        if (param := more.pop("param", None)) and client != "vercel":  # it does not read it
            more["error"]["param"] = param
    return pytest.param(client, verb, options, reach, more, id=name)


def after(seconds: float, spare: float = 2.0) -> dict[str, Any]:
    """Timers may be a little early; the spare time is for what else the machine does."""
    return {"seconds": pytest.approx(seconds + spare / 2 - 0.05, abs=spare / 2)}


ASKED_FOR = {"text": SAID, "finish": "stop", "usage": USAGE}
CALLED = {"tools": TOOLS, "finish": "tool_calls", "calls": OSLO}
ONE_TRY, ONE_MORE = {"maxRetries": 0}, {"maxRetries": 1}


def cases(
    client: str,
    ask: str,
    calls: str,
    *,
    context: Any = (),
    once: Any = ONE_MORE,
    stays: int = 1,
    **stream: Any,
) -> list[Any]:
    """What each client is asked. `ask`: its verb for a whole answer; `calls`: of a stream of calls;
    `stream`: what it needs to count in a stream."""
    called = CALLED if client != "vercel" else CALLED | {"finish": "tool-calls"}
    counts = called | {"usage": [1, 2, 3]}
    failed, ended = (None, "provider_failed"), {"finish": "error"} if client == "vercel" else {}
    return [
        case(f"{client}-{ask}", **ASKED_FOR),
        case(f"{client}-{ask}-base_url", path="", text=SAID),
        case(f"{client}-{ask}-tools", "Oslo", **counts),
        case(f"{client}-stream", **ASKED_FOR, **stream),
        case(f"{client}-stream-usage", COUNTS_IN_EACH_CHUNK, usage=[39, 5, 44], **stream),
        case(
            f"{client}-{calls}-tools", "Oslo", **(called if calls == "helper" else counts), **stream
        ),
        case(f"{client}-{ask}-key", "Hi", 401, "invalid_api_key", key="wrong", reach=0),
        case(
            f"{client}-stream-model",
            "Hi",
            400,
            "model_not_allowed",
            model="unknown",
            reach=0,
            param="model",
        ),
        case(
            f"{client}-{ask}-context",
            CONTEXT,
            400,
            "context_length_exceeded",
            *context,
            param="messages",
        ),
        case(f"{client}-{ask}-stays", PROVIDER_KEY, 502, "provider_auth_failed", reach=stays),
        case(f"{client}-stream-passes", PASSES, 502, "provider_failed", reach=3),
        case(
            f"{client}-{ask}-retry_after",
            IN_3_SECONDS,
            *(502, "provider_rate_limited"),
            settings=once,
            reach=2,
            **after(3),
        ),
        case(f"{client}-stream-cut", CUT, *failed, text=HALF, **ended),
        case(f"{client}-stream-no_done", NO_DONE, *failed, text=UNENDED, **ended),
    ]


TIMED_OUT = (SILENT, 502, "provider_timeout")
NODE = [
    *cases("node", "create", "helper"),
    case("node-create-id", request={"headers": {"X-Request-Id": "mine-1"}}, request_id="mine-1"),
    *(case(f"node-create-base_url[{path}]", path=path, text=SAID) for path in ("/", "/v1/")),
    case("node-helper", text=SAID, finish="stop", deltas=SAID),
    case("node-helper-cut", CUT, None, "provider_failed", deltas=HALF),
    case("node-stream-n", "Hi", 400, "invalid_parameter", fields={"n": 2}, reach=0, param="n"),
    case("node-stream-stays", PROVIDER_KEY, 502, "provider_auth_failed"),
    case("node-create-quota", QUOTA, 502, "provider_quota_exhausted"),
    case("node-create-billed", PERHAPS_BILLED, 502, "provider_failed"),
    case("node-create-long_wait", IN_61_SECONDS, 502, "provider_rate_limited"),
    # Its timeout: told to the proxy where it is the request's own, not where it is the client's.
    case("node-create-timeout_of_the_request", *TIMED_OUT, request={"timeout": 2000}),
    case(
        "node-create-timeout_told_by_hand",
        *TIMED_OUT,
        settings={"timeout": 2000, "defaultHeaders": {"X-Stainless-Timeout": "2"}},
    ),
    case(
        "node-create-timeout_of_the_client",
        SILENT,
        settings={"timeout": 1000},
        reach=3,
        error={"class": "APIConnectionTimeoutError"},
    ),
]
# It does not read X-Should-Retry: every 502 is tried again, unless it is told not to.
ONCE = (PROVIDER_KEY, 502, "provider_auth_failed", "AI_APICallError")
VERCEL = [
    *cases("vercel", "generate", "stream", stays=3),
    case("vercel-generate-stays_one_try", *ONCE, settings=ONE_TRY),
]
LANGCHAIN = [
    *cases(
        *("langchain", "invoke", "stream"),
        context=["OpenAIContextOverflowError"],
        once={"max_retries": 1},
        settings={"stream_usage": True},
    ),
    case("langchain-invoke-timeout", *TIMED_OUT, settings={"timeout": 2}),
]


See = Callable[..., Any]


@pytest.fixture(scope="session")
def programs() -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Those started so far, by their client."""
    started: dict[str, subprocess.Popen[bytes]] = {}
    yield started
    for process in started.values():
        process.communicate()  # its input ends, and so does it
        assert process.returncode == 0


@pytest.fixture
def see(proxy: Server, programs: dict[str, subprocess.Popen[bytes]]) -> See:
    """`see(client, verb, options)` is what that client saw of the proxy."""

    def see(client: str, verb: str, options: dict[str, Any]) -> Any:
        process = programs.get(client) or _start(client)
        programs[client] = process
        url = proxy.url + options.get("path", "/v1")
        told = {"verb": verb, "key": KEY, "model": MODEL, **options, "url": url}
        watchdog = Timer(serving.DEADLINE, process.kill)
        watchdog.start()
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(told).encode() + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
        watchdog.cancel()
        if not line:
            programs.pop(client).wait()
            pytest.fail("it ended, or had to be ended")
        return json.loads(line)

    return see


def _start(client: str) -> subprocess.Popen[bytes]:
    if client in ("langchain", "streamlit"):
        needs_venv()
    else:
        needs_node()
    env = serving.system_environment()
    pipe = subprocess.PIPE
    return subprocess.Popen(COMMANDS[client], cwd=HERE, env=env, stdin=pipe, stdout=pipe)


def needs_venv() -> None:
    if not VENV.exists():
        pytest.skip("the packages for Python are not installed: make test-clients")


def needs_node() -> None:
    if not shutil.which("node"):
        pytest.skip("Node is not installed: version 20 or newer is needed, with npm")
    elif not (HERE / "node_modules").exists():
        pytest.skip("the packages for Node are not installed: make test-clients")


def part(seen: Any, expected: Any) -> Any:
    """Of what was seen, that which is expected."""
    if isinstance(seen, dict) and isinstance(expected, dict):
        return {key: part(seen.get(key), value) for key, value in expected.items()}
    return seen


@pytest.mark.parametrize(
    ("client", "verb", "options", "reach", "expected"), [*NODE, *VERCEL, *LANGCHAIN]
)
def test_what_a_client_sees(
    see: See,
    emulator: Emulator,
    client: str,
    verb: str,
    options: dict[str, Any],
    reach: int,
    expected: dict[str, Any],
) -> None:
    seen = see(client, verb, options)
    assert ("error" in seen) == ("error" in expected), seen
    assert part(seen, expected) == expected
    assert len(emulator.requests) == reach
    if (error := seen.get("error", {})).get("status"):
        assert error["message"].endswith(f"Request id: {error['request_id']}")


@pytest.mark.parametrize(
    ("client", "verb", "said"),
    [
        pytest.param("node", "abort_whole", SILENT, id="node-abort_whole"),
        *(
            pytest.param(client, "abort_stream", STALLS, id=f"{client}-abort_stream")
            for client in ("node", "vercel", "langchain")
        ),
    ],
)
def test_a_client_that_leaves_takes_the_provider_with_it(
    see: See, emulator: Emulator, client: str, verb: str, said: str
) -> None:
    see(client, verb, {"said": said})
    (received,) = emulator.requests
    assert received.gone.wait(1)  # the client has left; its process has not


# --- the examples that make test does not run -----------------------------------------------------


def example(server: Server, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    env = serving.system_environment()
    env["PATH"] = f"{VENV / 'bin'}:{env['PATH']}"
    env |= {"WORKER_ACCESS_KEY": KEY, "PROXY_URL": server.url}
    text: Any = {"input": stdin, "capture_output": True, "text": True}
    return subprocess.run(command, cwd=HERE, env=env, timeout=serving.DEADLINE, **text)


def example_in_node(server: Server, said: str) -> subprocess.CompletedProcess[str]:
    """By stdin: then it finds the packages of this folder."""
    needs_node()
    text = (EXAMPLES / "openai_node.mjs").read_text()
    return example(server, "node", "--input-type=module", "-", said, stdin=text)


def example_in_langchain(server: Server, said: str) -> subprocess.CompletedProcess[str]:
    needs_venv()
    return example(server, "python", str(EXAMPLES / "langchain_chat.py"), said)


def example_in_llm(server: Server, said: str) -> subprocess.CompletedProcess[str]:
    needs_venv()
    return example(server, "sh", str(EXAMPLES / "llm.sh"), said)


@pytest.mark.parametrize(
    ("run", "printed"),
    [
        (example_in_node, [SAID, SAID]),
        (example_in_langchain, [SAID, SAID, "11 tokens"]),
        (example_in_llm, [SAID]),
    ],
)
def test_an_example(proxy: Server, emulator: Emulator, run: Any, printed: list[str]) -> None:
    result = run(proxy, "Hi")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == printed
    assert emulator.requests[-1].json["stream"] is True


@pytest.mark.parametrize("run", [example_in_node, example_in_langchain, example_in_llm])
def test_an_example_with_an_answer_that_breaks_off(proxy: Server, run: Any) -> None:
    result = run(proxy, NO_DONE)
    assert result.returncode == 1
    assert "The provider failed to answer. Request id: " in result.stderr


def test_the_streamlit_page(see: See, emulator: Emulator) -> None:
    seen = see("streamlit", "", {"path": "", "said": ["Hi", "Hi"]})
    assert seen == {
        "messages": [
            {"by": "user", "text": "Hi", "notes": []},
            {"by": "assistant", "text": SAID, "notes": []},
        ]
        * 2,
        "exceptions": 0,
    }
    first, second = [received.json for received in emulator.requests]
    assert first["stream"] is second["stream"] is True
    roles = [message["role"] for message in second["messages"]]
    assert roles == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("said", "text", "code", "words", "advice"),
    [
        (CUT, HALF, "provider_failed", "The provider failed to answer.", ""),
        (QUOTA, "", "provider_quota_exhausted", "This proxy's allowance", "does not help for"),
        (PROVIDER_KEY, "", "provider_auth_failed", "refused this proxy's own key", "does not help"),
        (PASSES, "", "provider_failed", "The provider failed to answer.", "in a few seconds"),
        (CONTEXT, "", "context_length_exceeded", "", ""),
    ],
    ids=["cut", "quota", "stays", "passes", "caller's"],
)
def test_the_streamlit_page_shows_an_error_in_the_proxys_words(
    see: See, said: str, text: str, code: str, words: str, advice: str
) -> None:
    seen = see("streamlit", "", {"path": "", "said": [said]})
    answer = seen["messages"][-1]
    assert (answer["text"], seen["exceptions"]) == (text.strip(), 0)
    (note,) = answer["notes"]
    told, _, advised = note.partition("\n\n")
    assert told.startswith(f"`{code}`: ")
    assert words in told
    assert "Request id: " in told
    assert advice in advised
    assert bool(advice) == bool(advised)


@pytest.mark.parametrize(
    ("said", "text"), [(SILENT, ""), (STALLS, "This is the emulator,")], ids=["silent", "stalls"]
)
def test_the_streamlit_pages_stop_button_closes_the_providers_stream(
    see: See, emulator: Emulator, said: str, text: str
) -> None:
    seen = see("streamlit", "", {"path": "", "said": ["Hi", said], "stop_after": 1.5})
    answer = seen["messages"][-1]
    assert answer == {"by": "assistant", "text": text, "notes": ["Stopped."]}
    _, received = emulator.requests
    assert received.gone.wait(1)  # the script has ended; its process has not
