"""gunicorn finds this file by itself, so `gunicorn app:app` is the whole command."""

import socket
import sys

from proxy import environ
from proxy.config import Config, Server

_config = Config.from_env(*environ.read())
_wrong = [problem for problem in _config.problems if problem.variable in Server.VARIABLES]
if _wrong:
    sys.exit("\n".join(map(str, _wrong)))
_server = _config.server
_everywhere = "[::]" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104

bind = f"{_everywhere if _server.everywhere else '127.0.0.1'}:{_server.port}"
workers = _server.workers
worker_class = "proxy.worker.Worker"
graceful_timeout = _server.graceful_timeout
timeout = 60  # of the worker's heartbeat; no limit for a request
keepalive = 5  # seconds, also for the headers of a request to come
backlog = 2048
loglevel = "info" if _config.log_level == "debug" else _config.log_level  # debug quotes callers
forwarder_headers = ""  # no client, not even a local one, may set SCRIPT_NAME or PATH_INFO
control_socket_disable = True  # it would lie in the home directory
