"""gunicorn finds this file where it is started in this folder: `gunicorn app:app`.

From elsewhere: `gunicorn -c FOLDER/gunicorn.conf.py app:app`. SIGHUP runs this file again in the
master, which wrong settings must not end.
"""

import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

chdir = str(Path(__file__).parent)
if chdir not in sys.path:
    sys.path.insert(0, chdir)

from proxy import environment  # noqa: E402
from proxy.environment import Problem  # noqa: E402
from proxy.settings import Settings  # noqa: E402

_OURS = ("PORT", "WEB_CONCURRENCY", "GRACEFUL_TIMEOUT")  # without these there is no server
_EVERYWHERE = "[::]" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104
_ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def _can_listen(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


_read = environment.read()
_settings = Settings(*_read)
_problems = [*_settings.problems]
if environment.in_use:
    _old = Settings(*environment.in_use)
    if _settings.port != _old.port and not _can_listen(_settings.port):
        _problems.append(Problem("PORT", "is in use, or not allowed"))
    if _problems:
        _log = logging.getLogger("gunicorn.error")
        _log.error("Not reloaded, the old settings stay: %s", "; ".join(map(str, _problems)))
        _read, _settings = environment.in_use, _old
elif _wrong := [problem for problem in _problems if problem.variable in _OURS]:
    sys.exit("\n".join(map(str, _wrong)))

bind = f"{_EVERYWHERE if _settings.is_public else '127.0.0.1'}:{_settings.port}"
workers = _settings.workers
worker_class = "proxy.worker.Worker"
graceful_timeout = _settings.graceful_timeout
timeout = 60  # of the worker's heartbeat; no limit for a request
keepalive = 20  # seconds; longer than aiohttp's clients keep a connection (15)
backlog = 2048
loglevel = "info" if _settings.log_level == "debug" else _settings.log_level  # debug quotes callers
forwarder_headers = ""  # no client, not even a local one, may set SCRIPT_NAME or PATH_INFO
control_socket_disable = True  # otherwise gunicorn creates a socket in the home directory


def on_starting(server: Any) -> None:
    """Block signals during a fork, where Python drops them; post_fork() unblocks them."""
    environment.in_use = _read
    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS),
    )


def post_fork(server: Any, worker: Any) -> None:
    """Let a worker that is still starting end at once on a signal.

    gunicorn sets a worker's signal handlers later. Until then those of the master put the signal
    into a queue that nobody reads, and the master waits the whole grace for the worker.
    """
    for end in _ENDS:
        signal.signal(end, lambda *_: os._exit(0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS)


def on_reload(server: Any) -> None:
    """Let the master hear the next signal while old workers finish their answers.

    gunicorn would wait until every worker's age is over that of the last worker before the reload.
    It ends the workers of the lowest age first, so new ones must still have a higher age.
    """
    environment.in_use = _read
    for worker in server.WORKERS.values():
        worker.age = server.worker_age + 0.5
