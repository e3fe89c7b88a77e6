"""The parts joined: `gunicorn app:app` and `flask run` serve what is here."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from flask import Flask

from proxy import __version__, environment, request_log, routes
from proxy.chat import Proxy
from proxy.incoming import Application
from proxy.settings import Settings


def create_app(env: Mapping[str, str] | None = None) -> Flask:
    """The proxy, on the settings given; None: on the environment's and those of `.env`.

    Problems of the settings are logged, a line each, and answered with 500 until they are fixed.
    """
    found = environment.in_use or environment.read() if env is None else (env, ())
    config = Settings(*found)
    request_log.start(config.log_level)
    request_log.logger.info("llm-proxy %s starts", __version__)
    _check_server()
    for problem in config.problems:
        request_log.logger.error("%s", problem)
    for warning in config.warnings:
        request_log.logger.warning("%s", warning)
    app = Application(__name__, static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False  # they would be answered before the guard
    app.url_map.merge_slashes = False  # it would answer //x with a redirect, in HTML
    app.extensions["proxy"] = Proxy(config)
    app.register_blueprint(routes.blueprint)
    app.register_blueprint(routes.health)
    return app


def _check_server() -> None:
    """Log an error if gunicorn serves without `gunicorn.conf.py`, which names our worker.

    The first worker logs it for all; the later ones find others in WORKERS.
    """
    arbiter = sys.modules.get("gunicorn.arbiter") if environment.is_gunicorn() else None
    if arbiter and "proxy.worker" not in sys.modules and not arbiter.Arbiter.WORKERS:
        request_log.logger.error(
            "gunicorn runs without this proxy's worker: it may answer one request at a time and "
            "cut long answers. Start it with: gunicorn -c %s app:app",
            shlex.quote(str(Path(__file__).with_name("gunicorn.conf.py"))),
        )


if __name__ == "__main__":
    sys.exit("app.py does not serve by itself. Start it with: make run, or: gunicorn app:app")

app = create_app()
