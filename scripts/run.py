"""`make run`: serve on this machine, and show how to call it.

With a LLAMA_* or CLOUDFLARE_* setting it is the real provider; with none, the bundled emulator.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

from emulator import Emulator
from proxy import environ
from proxy.config import Config

ROOT = Path(__file__).parent.parent
HOST = "127.0.0.1"

OFFLINE = """\
OFFLINE: no LLAMA_* or CLOUDFLARE_* setting, so the answers come from an emulator on this machine,
not from a model. For real ones: cp .env.example .env, fill it in, and run this again.
"""

EXAMPLES = """
Serving on {url} (Ctrl-C ends it). {key_note}
Paste this into another terminal:

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
(pip install openai):

from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key={python_key})
story = [{{"role": "user", "content": "Tell me a short story about a brave knight."}}]
print(client.chat.completions.create(model="{model}", messages=story).choices[0].message.content)
"""

KEY_NOT_SHOWN = """Your key is not shown: give it to that terminal first,
export WORKER_ACCESS_KEY="$(.venv/bin/python -m scripts.run key)"
"""


def main(arguments: list[str]) -> int:
    """The exit status: gunicorn's, or 1 where the port cannot be had."""
    env, _ = environ.read()
    if arguments == ["key"]:
        print(env.get("WORKER_ACCESS_KEY", ""))
        return 0
    port = env.get("PORT", "").strip() or "8000"
    if not _is_free(port):
        print(f"Port {port} is taken, or no port; choose another: make run PORT=8001")
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with _provider(env) as settings, _gunicorn(port, settings) as server:
            if _answers(port, server):
                _show(f"http://{HOST}:{port}", settings, env)
            return server.wait()
    except KeyboardInterrupt:
        return 0


def _is_free(port: str) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, int(port)))
        except (OSError, OverflowError, ValueError):
            return False
    return True


@contextmanager
def _provider(env: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The settings to add: those that make it offline, with the emulator behind them, or none."""
    made = {} if env.get("WEB_CONCURRENCY", "").strip() else {"WEB_CONCURRENCY": "1"}
    if not any(env.get(name, "").strip() for name in ("WORKER_ACCESS_KEY", "WORKER_ACCESS_KEYS")):
        made["WORKER_ACCESS_KEY"] = secrets.token_urlsafe(24)
    if any(v.strip() for name, v in env.items() if name.startswith(("LLAMA_", "CLOUDFLARE_"))):
        yield made
        return
    print(OFFLINE, flush=True)
    with Emulator(gap=0.04) as emulator:
        yield made | {
            "LLAMA_PROVIDER_BASE_URL": f"{emulator.url}/client/v4/accounts/offline/ai/run",
            "LLAMA_PROVIDER_API_KEY": secrets.token_urlsafe(24),
        }


@contextmanager
def _gunicorn(port: str, settings: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "gunicorn", "--bind", f"{HOST}:{port}", "app:app"]
    server = subprocess.Popen(  # noqa: S603
        command,
        cwd=ROOT,
        env={**os.environ, **settings},
        start_new_session=True,  # Ctrl-C is for us alone: its workers would hear it twice
    )
    try:
        yield server
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def _answers(port: str, server: subprocess.Popen[bytes]) -> bool:
    """Wait until it does; False where it ended instead."""
    while server.poll() is None:
        with closing(HTTPConnection(HOST, int(port), timeout=5)) as connection, suppress(OSError):
            connection.request("GET", "/healthz")  # which leaves no line in the log
            connection.getresponse()
            return True
        time.sleep(0.05)
    return False


def _show(url: str, settings: Mapping[str, str], env: Mapping[str, str]) -> None:
    config = Config.from_env({**env, **settings})
    key, note = settings.get("WORKER_ACCESS_KEY", ""), "The key is made for this run."
    if not key:
        master = env.get("WORKER_ACCESS_KEY", "").strip()
        key, note = ("$WORKER_ACCESS_KEY", KEY_NOT_SHOWN) if master else ("YOUR_KEY", "")
    print(
        EXAMPLES.format(
            url=url,
            key=key,
            key_note=note,
            python_key='os.environ["WORKER_ACCESS_KEY"]' if key.startswith("$") else f'"{key}"',
            model=next(iter(config.provider.models)) if config.provider else "MODEL",
        ),
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
