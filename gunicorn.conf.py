"""gunicorn finds this file by itself, so `gunicorn app:app` is the whole command."""

import os
import socket
import sys

from proxy import environ


def _whole(name: str, default: int, least: int, most: int) -> int:
    text = _env.get(name, "").strip() or str(default)
    if not text.isdecimal() or not least <= int(text) <= most:
        sys.exit(f"{name}: must be a whole number from {least} to {most}")
    return int(text)


_env, _ = environ.read()
_everywhere = "[::]" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104
_host = _everywhere if _env.get("PORT", "").strip() else "127.0.0.1"  # a platform sets PORT
_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

bind = f"{_host}:{_whole('PORT', 8000, 1, 65535)}"
workers = _whole("WEB_CONCURRENCY", min(_cores, 4), 1, 64)
worker_class = "proxy.worker.Worker"
graceful_timeout = _whole("GRACEFUL_TIMEOUT", 25, 1, 86400)  # seconds for open answers
timeout = 60  # of the worker's heartbeat; no limit for a request
keepalive = 5  # seconds, also for the headers of a request to come
backlog = 2048
_level = _env.get("LOG_LEVEL", "").strip().lower()
loglevel = _level if _level in ("warning", "error", "critical") else "info"  # debug quotes callers
forwarder_headers = ""  # no client, not even a local one, may set SCRIPT_NAME or PATH_INFO
control_socket_disable = True  # it would lie in the home directory
