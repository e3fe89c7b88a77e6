"""gunicorn finds this file where it is started in this folder: `gunicorn app:app`.

From elsewhere: `gunicorn -c FOLDER/gunicorn.conf.py app:app`.
"""

import socket
import sys
from pathlib import Path

chdir = str(Path(__file__).parent)
if chdir not in sys.path:  # a reload runs this file again
    sys.path.insert(0, chdir)

from proxy import environment  # noqa: E402
from proxy.settings import Settings  # noqa: E402

_settings = Settings(*environment.read())
_OURS = ("PORT", "WEB_CONCURRENCY", "GRACEFUL_TIMEOUT")  # without these there is no server
_wrong = [problem for problem in _settings.problems if problem.variable in _OURS]
if _wrong:
    sys.exit("\n".join(map(str, _wrong)))
_everywhere = "[::]" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104

bind = f"{_everywhere if _settings.is_public else '127.0.0.1'}:{_settings.port}"
workers = _settings.workers
worker_class = "proxy.worker.Worker"
graceful_timeout = _settings.graceful_timeout
timeout = 60  # of the worker's heartbeat; no limit for a request
keepalive = 20  # seconds; longer than aiohttp's clients keep a connection (15)
backlog = 2048
loglevel = "info" if _settings.log_level == "debug" else _settings.log_level  # debug quotes callers
forwarder_headers = ""  # no client, not even a local one, may set SCRIPT_NAME or PATH_INFO
control_socket_disable = True  # it would lie in the home directory
