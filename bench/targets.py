"""What is measured, how each is started, and how it is asked."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trustme

from bench.load import HOST, Ask, run
from bench.processes import (
    HERE,
    LOAD_CORE,
    PROXY_CORE,
    ROOT,
    NotReady,
    free_port,
    process,
    program,
)

CLIENT_KEY = "bench-tier1-Rw5yN8kTe2Zq"
PROVIDER_KEY = "bench-tier2-Hj3vM7cXa9Ls"
MODEL = "@cf/meta/llama-3.1-8b-instruct-fast"
API = "/client/v4/accounts/bench/ai"
START_TIMEOUT = 60.0  # seconds
_PEERS = HERE / "peers"
_BIN = ROOT / ".venv" / "bin"
_NODE = _PEERS / "node_modules"
_PORTKEY = "@portkey-ai/gateway/build/start-server.js"
_PROMPT = "Write one short paragraph about the history of the bicycle, please."


@dataclass(frozen=True)
class Target:
    """Something that is asked. Without a command it is the stand-in itself."""

    name: str
    port: int = field(default_factory=free_port)
    command: tuple[str | Path, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    cwd: Path | None = None  # None: a new folder, with the files
    files: dict[Path, dict[str, object]] = field(default_factory=dict)  # and what is filled in
    path: str = "/"
    key: str = CLIENT_KEY
    model: str | None = None  # None: whatever is served without being named
    headers: dict[str, str] = field(default_factory=dict)
    https_port: int = 0  # of the stand-in
    ca_bundle: str = ""  # who signed its certificate

    def ask(self, marker: str = "", *, padding: int = 0, **expected: int) -> Ask:
        """A request that the stand-in answers as the marker says, with so many bytes more."""
        system = {"role": "system", "content": "You are a helpful AI assistant."}
        user = {"role": "user", "content": f"{marker} {_PROMPT}{padding * '.'}"}
        fields: dict[str, Any] = {"messages": [system, user]}
        fields |= {"model": self.model} if self.model else {}
        fields |= {"stream": True} if "tokens" in expected else {}
        body = json.dumps(fields).encode()
        headers = {
            "Host": f"{HOST}:{self.port}",
            "Authorization": f"Bearer {self.key}",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **self.headers,
        }
        lines = [f"POST {self.path} HTTP/1.1", *map(": ".join, headers.items()), "", ""]
        return Ask(self.port, "\r\n".join(lines).encode() + body, **expected)

    def errors(self, marker: str = "", **expected: int) -> dict[str, int]:
        """What is wrong with one answer; nothing, where it is as it must be."""
        return run(self.ask(marker, **expected), clients=1, times=1, deadline=10).errors

    def verify(self) -> None:
        """It answers rightly, whole and streamed, and no wrong key. Raises NotReady."""
        wrong = self.errors("[[size=1000]]", size=1000)
        wrong |= self.errors("[[tokens=5,gap=0.01]]", tokens=5)
        refusals = replace(self, key="wrong").errors().keys()
        if wrong or not refusals & {"status 400", "status 401", "status 403"}:
            raise NotReady(f"{self.name}: {wrong or 'it accepts a wrong key'}")


@dataclass(frozen=True)
class Running:
    """A target's process, None for the stand-in, and the seconds to its first answer."""

    pid: int | None
    start: float | None


@contextmanager
def running(target: Target, cores: list[int] = PROXY_CORE) -> Iterator[Running]:
    """Start it, see that it answers, and end it. Raises NotReady."""
    if not target.command:
        yield Running(None, None)
        return
    started = time.monotonic()
    with process(target.command, target.env, target.cwd, target.files, cores) as child:
        while target.errors():
            if child.poll() is not None or time.monotonic() > started + START_TIMEOUT:
                raise NotReady(f"{target.name} does not start")
            time.sleep(0.002)
        yield Running(child.pid, time.monotonic() - started)


@contextmanager
def stand_in() -> Iterator[Target]:
    """The provider, on the core of the load, as a target: `direct`. Raises NotReady."""
    nginx = program("nginx", "apt install nginx")
    build = subprocess.run([nginx, "-V"], capture_output=True, text=True, check=True).stderr
    modules = build.partition("--modules-path=")[2].partition(" ")[0]
    if not Path(modules, "ngx_http_lua_module.so").exists():
        raise NotReady("nginx has no Lua: apt install libnginx-mod-http-lua")
    command = (nginx, "-p", ".", "-c", "nginx.conf", "-e", "stderr")
    with TemporaryDirectory(prefix="bench-") as folder:
        authority, certificate = trustme.CA(), Path(folder, "provider.pem")
        authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(certificate)
        authority.cert_pem.write_to_path(ca_bundle := Path(folder, "ca.pem"))
        target = Target(
            "direct",
            path=f"{API}/run/{MODEL}",
            key=PROVIDER_KEY,
            https_port=free_port(),
            ca_bundle=str(ca_bundle),
        )
        names = {
            "PORT": target.port,
            "HTTPS_PORT": target.https_port,
            "CERTIFICATE": certificate,
            "PROVIDER_KEY": PROVIDER_KEY,
            "MODULES": modules,
        }
        files = dict.fromkeys((HERE / "stand_in").iterdir(), names)
        with running(replace(target, command=command, files=files), LOAD_CORE):
            yield target


def ours(provider: Target, workers: int = 1) -> Target:
    """The proxy as shipped, but for the address: with PORT it would listen on all of them."""
    port = free_port()
    env = {
        "WEB_CONCURRENCY": str(workers),
        "WORKER_ACCESS_KEY": CLIENT_KEY,
        "LLAMA_PROVIDER": "workers-ai",
        "LLAMA_PROVIDER_API_KEY": PROVIDER_KEY,
        "LLAMA_PROVIDER_BASE_URL": f"http://{HOST}:{provider.port}{API}/run",
    }
    command = (_BIN / "gunicorn", "-b", f"{HOST}:{port}", "app:app")
    return Target("ours", port, command, env | dict.fromkeys(_AS_SHIPPED, ""), ROOT)


def ours_over_https(provider: Target) -> Target:
    """The same, with TLS to the provider."""
    target = ours(provider)
    url = f"https://{HOST}:{provider.https_port}{API}/run"
    env = {"LLAMA_PROVIDER_BASE_URL": url, "LLAMA_PROVIDER_CA_BUNDLE": provider.ca_bundle}
    return replace(target, name="ours, https", env=target.env | env)


_AS_SHIPPED = (  # whatever the environment or `.env` says
    "WORKER_ACCESS_KEYS",
    "LLAMA_PROVIDER_CA_BUNDLE",
    "LLAMA_PROVIDER_MODELS",
    "LLAMA_PROVIDER_TIMEOUT",
    "LLAMA_PROVIDER_IDLE_TIMEOUT",
    "LLAMA_PROVIDER_TOTAL_TIMEOUT",
    "MAX_REQUEST_BYTES",
    "RATE_LIMIT",
    "RATE_LIMIT_STORAGE",
    "GRACEFUL_TIMEOUT",
    "LOG_LEVEL",
    "PORT",
)


def usual_peers(provider: Target) -> list[Target]:
    """The peers that need no long installation."""
    env = {"CLIENT_KEY": CLIENT_KEY, "PROVIDER_KEY": PROVIDER_KEY}
    env["URL"] = f"http://{HOST}:{provider.port}{provider.path}"
    nginx, naive, fastapi = free_port(), free_port(), free_port()
    return [
        Target(
            "nginx",
            nginx,
            (program("nginx", "apt install nginx"), "-p", ".", "-c", "nginx.conf", "-e", "stderr"),
            files={_PEERS / "nginx.conf": _names(nginx, provider)},
        ),
        Target(
            "naive",
            naive,
            (_BIN / "gunicorn", "-b", f"{HOST}:{naive}", "naive:app"),
            env,
            _PEERS,
        ),
        Target(
            "fastapi-aiohttp",
            fastapi,
            (
                *(ROOT / ".venv-bench/bin/uvicorn", "--port", str(fastapi)),
                *("--no-access-log", "--log-level", "warning", "fastapi_aiohttp:app"),
            ),
            env,
            _PEERS,
        ),
    ]


def slow_to_install(provider: Target) -> list[Target]:
    """The Worker that this project began from, and two gateways."""
    workerd, portkey, litellm = free_port(), free_port(), free_port()
    binary = next((_NODE / "@cloudflare").glob("workerd-*/bin/workerd"), _NODE)
    return [
        Target(
            "workerd",
            workerd,
            (binary, "serve", "worker.capnp"),
            files=dict.fromkeys(
                (_PEERS / "worker.capnp", _PEERS / "worker.js"), _names(workerd, provider)
            ),
        ),
        Target(
            "portkey",
            portkey,
            (
                *(program("node", "install Node.js 20"), _NODE / _PORTKEY),
                *(f"--port={portkey}", "--headless"),
            ),
            {"NODE_ENV": "production"},
            path="/v1/chat/completions",
            key=PROVIDER_KEY,  # it has none of its own
            model=MODEL,
            headers={
                "x-portkey-provider": "workers-ai",
                "x-portkey-workers-ai-account-id": "bench",
                "x-portkey-custom-host": f"http://{HOST}:{provider.port}{API}/run",
            },
        ),
        Target(
            "litellm",
            litellm,
            (
                *(ROOT / ".venv-litellm/bin/litellm", "--config", "litellm.yaml"),
                *("--host", HOST, "--port", str(litellm), "--num_workers", "1"),
            ),
            {
                "HF_HUB_OFFLINE": "1",
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "LITELLM_LOG": "ERROR",
                "LITELLM_TELEMETRY": "False",
            },
            files={_PEERS / "litellm.yaml": _names(litellm, provider)},
            path="/v1/chat/completions",
            model="llama",
        ),
    ]


def _names(port: int, provider: Target) -> dict[str, object]:
    """What the files of peers have between two @."""
    return {
        "PORT": port,
        "PROVIDER": provider.port,
        "API": API,
        "MODEL": MODEL,
        "CLIENT_KEY": CLIENT_KEY,
        "PROVIDER_KEY": PROVIDER_KEY,
    }
