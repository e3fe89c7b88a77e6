"""`make run`: serve on this machine, and print calls that are ready to paste.

With a LLAMA_* or CLOUDFLARE_* setting it uses the real provider; without one, the emulator.
"""

import hashlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from itertools import chain
from pathlib import Path

from emulator import Emulator
from proxy import environment
from proxy.settings import Settings

ROOT = Path(__file__).parent.parent
HOST = "127.0.0.1"
SECONDS_TO_STOP = 5

OFFLINE = f"""\
OFFLINE: no LLAMA_* or CLOUDFLARE_* setting, so the answers come from an emulator on this machine,
not from a model. For real ones: cp .env.example .env (in {ROOT}), fill it in, and run this again.
"""

NOT_READY = f"""\
Not ready, because settings are missing or wrong. Fix them in {ROOT / ".env"}
or in the environment, and run this again. (To try it offline, unset LLAMA_* and CLOUDFLARE_*.)"""

# Where to get what is missing, by provider.
_WORKERS_AI = "https://dash.cloudflare.com/?to=/:account/ai/workers-ai, then Use REST API"
WHERE = {
    "workers-ai": {
        "CLOUDFLARE_ACCOUNT_ID": f"{_WORKERS_AI}: copy the Account ID",
        "LLAMA_PROVIDER_API_KEY": f"{_WORKERS_AI}: Create a Workers AI API Token",
    },
    "openai": {
        "LLAMA_PROVIDER_BASE_URL": "your provider's documentation, e.g. https://api.openai.com/v1",
        "LLAMA_PROVIDER_MODELS": "your provider's list of models, e.g. gpt-4.1-mini",
    },
}

EXAMPLES = """
Serving on {url} (Ctrl-C ends it). Paste this into another terminal:

curl -X POST {url} \\
  -H "Content-Type: application/json" \\
  -H "Authorization: Bearer {key}" \\
  -d '{{
    "messages": [
      {{"role": "system", "content": "You are a helpful AI assistant."}},
      {{"role": "user", "content": "Tell me a short story about a brave knight."}}
    ]
  }}'

With -N, and "stream": true beside "messages", it comes word by word. The same with OpenAI's SDK
(pip install openai), to paste into a file or into python3:

from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key="{key}")
story = [{{"role": "user", "content": "Tell me a short story about a brave knight."}}]
print(client.chat.completions.create(model="{model}", messages=story).choices[0].message.content)

The key above is made for this run; the next run makes another. {own_key}
For the calls in README.md and examples/, set it first:

export WORKER_ACCESS_KEY={key}
"""


def main() -> int:
    """The exit status: gunicorn's, or 1 if the port or a setting is wrong."""
    env, unreadable = environment.read()
    port = env.get("PORT", "").strip() or "8000"
    if wrong := _wrong_port(port):
        print(wrong)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
        signal.signal(signal.SIGHUP, lambda *_: sys.exit(0))  # the terminal was closed
    try:
        with _provider(env, offline=not unreadable and _is_offline(env)) as settings:
            key, keys = _key_for_this_run(env)
            settings |= {"WORKER_ACCESS_KEYS": keys}
            config = Settings({**env, **settings}, unreadable)
            if config.problems:
                print(_not_ready(config, env))
                return 1
            with _gunicorn(port, settings) as server:
                if _answers(port, server):
                    _show(f"http://{HOST}:{port}", key, next(iter(config.provider.models)), env)
                return server.wait()
    except KeyboardInterrupt:
        return 0


def _wrong_port(port: str) -> str:
    """What is wrong with the port, and a free one; empty if nothing is."""
    if not port.isdecimal() or not 0 < int(port) < 65536:
        return f"PORT must be a number from 1 to 65535, such as: make run PORT={_free_port(8000)}"
    if reason := _not_free(int(port)):
        another = _free_port(int(port) + 1)
        return f"Port {port} {reason}; choose another: make run PORT={another}"
    return ""


def _free_port(first: int) -> int:
    """The first free port from this one on; from 8000 on if there is none."""
    ports = chain(range(first, 65536), range(8000, 65536))
    return next(port for port in ports if not _not_free(port))


def _not_free(port: int) -> str:
    """Why the port cannot be used; empty if it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError:
            return "is reserved for root"
        except OSError:
            return "is taken"
    return ""


def _is_offline(env: Mapping[str, str]) -> bool:
    return not any(
        value.strip() for name, value in env.items() if name.startswith(("LLAMA_", "CLOUDFLARE_"))
    )


def _key_for_this_run(env: Mapping[str, str]) -> tuple[str, str]:
    """A new key, and WORKER_ACCESS_KEYS with its digest added.

    The examples use it, so the user's own keys are never printed, and the examples work in any
    terminal and folder.
    """
    key, keys, name = secrets.token_urlsafe(24), env.get("WORKER_ACCESS_KEYS", ""), "make-run"
    while f"{name}:" in keys:
        name += "_"
    return key, f"{keys},{name}:sha256:{hashlib.sha256(key.encode()).hexdigest()}".strip(" ,")


@contextmanager
def _provider(env: Mapping[str, str], *, offline: bool) -> Iterator[dict[str, str]]:
    """The settings to add: if offline, those of an emulator that runs meanwhile."""
    added = {} if env.get("WEB_CONCURRENCY", "").strip() else {"WEB_CONCURRENCY": "1"}
    if not offline:
        yield added
        return
    print(OFFLINE, flush=True)
    with Emulator(gap=0.04) as emulator:
        yield added | {
            "LLAMA_PROVIDER_BASE_URL": f"{emulator.url}/client/v4/accounts/offline/ai/run",
            "LLAMA_PROVIDER_API_KEY": secrets.token_urlsafe(24),
        }


def _not_ready(config: Settings, env: Mapping[str, str]) -> str:
    where = WHERE.get(env.get("LLAMA_PROVIDER", "").strip().lower() or "workers-ai", {})
    lines = [f"Warning: {warning}" for warning in config.warnings]
    lines.append(NOT_READY)
    in_file = [problem for problem in config.problems if problem.variable == ".env"]
    for problem in in_file or config.problems:  # the others may come of an unreadable file
        lines.append(f"- {problem}")
        if problem.variable in where and not env.get(problem.variable, "").strip():
            lines.append(f"  Get it here: {where[problem.variable]}")
    return "\n".join(lines)


@contextmanager
def _gunicorn(port: str, settings: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "gunicorn", "--bind", f"{HOST}:{port}", "app:app"]
    server = subprocess.Popen(  # noqa: S603
        command,
        cwd=ROOT,
        env={**os.environ, **settings},
        start_new_session=True,  # only this process gets Ctrl-C: the workers would get it twice
    )
    try:
        yield server
    finally:
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ending, signal.SIG_IGN)  # a second Ctrl-C would leave the server behind
        if _responds(port):
            server.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                server.wait(SECONDS_TO_STOP)
        if server.poll() is None:  # it is still starting, and would print a traceback
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _answers(port: str, server: subprocess.Popen[bytes]) -> bool:
    """Wait until the server answers; False if it ended instead."""
    while server.poll() is None:
        if _responds(port):
            return True
        time.sleep(0.05)
    return False


def _responds(port: str) -> bool:
    with closing(HTTPConnection(HOST, int(port), timeout=1)) as connection:
        try:
            connection.request("GET", "/healthz")  # which leaves no line in the log
            connection.getresponse()
        except (OSError, HTTPException):
            return False
    return True


def _show(url: str, key: str, model: str, env: Mapping[str, str]) -> None:
    own = any(env.get(name, "").strip() for name in ("WORKER_ACCESS_KEY", "WORKER_ACCESS_KEYS"))
    own_key = "Your own keys work too."
    if not own:
        own_key = "A key that stays: WORKER_ACCESS_KEY in .env."
    print(EXAMPLES.format(url=url, key=key, model=model, own_key=own_key), flush=True)


if __name__ == "__main__":
    sys.exit("It takes no arguments: set the settings in .env." if sys.argv[1:] else main())
