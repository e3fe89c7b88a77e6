"""What is measured, and how each is started; names between two @ are filled in by `process`."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from bench.load import HOST, Ask
from bench.processes import (
    CLIENT_KEY,
    HERE,
    MODEL,
    PROVIDER_KEY,
    PROXY_CORE,
    ROOT,
    RUN_PATH,
    NotReady,
    free_port,
    process,
)

START_TIMEOUT = 60.0  # seconds
_PEERS = HERE / "peers"
_ADDRESS = f"http://{HOST}:@PROVIDER@"


@dataclass(frozen=True)
class Target:
    """Something that is asked. Without a command it is the stand-in itself."""

    name: str
    command: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    files: tuple[Path, ...] = ()
    path: str = "/"
    key: str = CLIENT_KEY
    model: str | None = None  # None: whatever is served without being asked
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Running:
    """A target that answers."""

    target: Target
    port: int
    pid: int | None
    start: float  # seconds to the first right answer

    def ask(self, marker: str = "", *, padding: int = 0, **expected: int) -> Ask:
        """A request that the stand-in answers as the marker says, with so many bytes more."""
        body = self.body(marker, stream="tokens" in expected, padding=padding)
        lines = [f"POST {self.target.path} HTTP/1.1", f"Host: {HOST}:{self.port}"]
        headers = self.headers() | {"Content-Length": str(len(body))}
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return Ask(self.port, "\r\n".join([*lines, "", ""]).encode() + body, **expected)

    def headers(self, key: str | None = None) -> dict[str, str]:
        authorization = f"Bearer {self.target.key if key is None else key}"
        more = {"Content-Type": "application/json", **self.target.headers}
        return {"Authorization": authorization, **more}

    def body(self, marker: str, *, stream: bool, padding: int = 0) -> bytes:
        prompt = f"{marker} Write one short paragraph about the history of the bicycle, please."
        messages = [{"role": "user", "content": prompt + padding * "."}]
        system = {"role": "system", "content": "You are a helpful AI assistant."}
        body: dict[str, Any] = {"messages": [system, *messages]}
        if self.target.model:
            body["model"] = self.target.model
        return json.dumps(body | ({"stream": True} if stream else {})).encode()


@contextmanager
def running(target: Target, provider: int, cores: list[int] = PROXY_CORE) -> Iterator[Running]:
    """Start it, see that it answers, and end it. Raises NotReady."""
    if not target.command:
        yield Running(target, provider, None, 0.0)
        return
    port, started = free_port(), time.monotonic()
    with process(
        target.command,
        port=port,
        env=target.env,
        cwd=target.cwd,
        files=target.files,
        cores=cores,
        PROVIDER=str(provider),
    ) as child:
        soon = Running(target, port, child.pid, 0.0)
        while not _answers(soon):
            if child.poll() is not None or time.monotonic() > started + START_TIMEOUT:
                raise NotReady(f"{target.name} does not start")
            time.sleep(0.002)
        yield Running(target, port, child.pid, time.monotonic() - started)


def verify(run: Running) -> None:
    """It answers rightly, whole and streamed, and no wrong key. Raises NotReady."""
    if _post(run, "[[size=100]]")[1] != "word " * 20 + "end.":
        raise NotReady(f"{run.target.name}: a whole answer is wrong")
    if _post(run, "[[tokens=5,gap=0.01]]", stream=True)[1].count("t=") != 5:
        raise NotReady(f"{run.target.name}: a stream is wrong")
    if _post(run, "", key="wrong")[0] not in (400, 401, 403):
        raise NotReady(f"{run.target.name}: a wrong key is no error")


def _answers(run: Running) -> bool:
    with suppress(OSError, HTTPException):
        return _post(run, "")[0] == 200
    return False


def _post(
    run: Running, marker: str, *, stream: bool = False, key: str | None = None
) -> tuple[int, str]:
    """The status, and the text where there is one."""
    connection = HTTPConnection(HOST, run.port, timeout=10)
    body = run.body(marker, stream=stream)
    connection.request("POST", run.target.path, body, run.headers(key))
    response = connection.getresponse()
    answer = response.read().decode()
    connection.close()
    if response.status != 200:
        return response.status, ""
    if not stream:
        return 200, _text(json.loads(answer), "message")
    *events, done, nothing = answer.split("\n\n")
    if (done, nothing) != ("data: [DONE]", ""):
        return 200, ""
    frames = [json.loads(event.removeprefix("data: ")) for event in events]
    return 200, "".join(_text(frame, "delta") for frame in frames)


def _text(frame: Any, part: str) -> str:
    """What it says, in OpenAI's form, or in Workers AI's where nothing is translated."""
    if "choices" in frame:
        choices = frame["choices"]
        return (choices[0][part].get("content") or "") if choices else ""
    text: str = frame.get("result", frame)["response"]
    return text


# --- the targets ------------------------------------------------------------------------------

_FOR_PEERS = {
    "URL": f"{_ADDRESS}@PATH@",
    "CLIENT_KEY": "@CLIENT_KEY@",
    "PROVIDER_KEY": "@PROVIDER_KEY@",
}


def ours(workers: int = 1) -> Target:
    """The proxy as shipped, but for the address: with PORT it would listen on all of them."""
    return Target(
        "ours",
        ["@ROOT@/.venv/bin/gunicorn", "-b", f"{HOST}:@PORT@", "app:app"],
        cwd=ROOT,
        env={
            "WEB_CONCURRENCY": str(workers),
            "WORKER_ACCESS_KEY": "@CLIENT_KEY@",
            "LLAMA_PROVIDER": "workers-ai",
            "LLAMA_PROVIDER_API_KEY": "@PROVIDER_KEY@",
            "LLAMA_PROVIDER_BASE_URL": f"{_ADDRESS}{RUN_PATH}",
            **dict.fromkeys(_NOT_SET, ""),
        },
    )


_NOT_SET = (  # whatever the environment or `.env` says
    "WORKER_ACCESS_KEYS",
    "LLAMA_PROVIDER_MODELS",
    "LLAMA_PROVIDER_TIMEOUT",
    "LLAMA_PROVIDER_IDLE_TIMEOUT",
    "LLAMA_PROVIDER_TOTAL_TIMEOUT",
    "MAX_REQUEST_BYTES",
    "GRACEFUL_TIMEOUT",
    "LOG_LEVEL",
    "PORT",
)

DIRECT = Target("direct", path=f"{RUN_PATH}/{MODEL}", key=PROVIDER_KEY)
USUAL = [
    DIRECT,
    ours(),
    Target(
        "nginx",
        ["nginx", "-p", "@FOLDER@/", "-c", "nginx.conf", "-e", "stderr"],
        files=(_PEERS / "nginx.conf",),
    ),
    Target(
        "naive",
        ["@ROOT@/.venv/bin/gunicorn", "-b", f"{HOST}:@PORT@", "naive:app"],
        cwd=_PEERS,
        env=_FOR_PEERS,
    ),
    Target(
        "fastapi-aiohttp",
        [
            *("@ROOT@/.venv-bench/bin/uvicorn", "--port", "@PORT@"),
            *("--no-access-log", "--log-level", "warning", "fastapi_aiohttp:app"),
        ],
        cwd=_PEERS,
        env=_FOR_PEERS,
    ),
]
SLOW_TO_INSTALL = [
    Target(
        "workerd",
        ["@ROOT@/bench/peers/node_modules/.bin/workerd", "serve", "@FOLDER@/worker.capnp"],
        files=(_PEERS / "worker.capnp", _PEERS / "worker.js"),
    ),
    Target(
        "portkey",
        [
            *("node", "node_modules/@portkey-ai/gateway/build/start-server.js"),
            *("--port=@PORT@", "--headless"),
        ],
        cwd=_PEERS,
        env={"NODE_ENV": "production"},
        path="/v1/chat/completions",
        key=PROVIDER_KEY,  # it has none of its own
        model=MODEL,
        headers={
            "x-portkey-provider": "workers-ai",
            "x-portkey-workers-ai-account-id": "bench",
            "x-portkey-custom-host": f"{_ADDRESS}{RUN_PATH}",
        },
    ),
    Target(
        "litellm",
        [
            *("@ROOT@/.venv-bench-litellm/bin/litellm", "--config", "@FOLDER@/litellm.yaml"),
            *("--host", HOST, "--port", "@PORT@", "--num_workers", "1"),
        ],
        files=(_PEERS / "litellm.yaml",),
        env={
            "HF_HUB_OFFLINE": "1",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
            "LITELLM_TELEMETRY": "False",
        },
        path="/v1/chat/completions",
        model="llama",
    ),
]
