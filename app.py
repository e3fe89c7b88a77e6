"""The parts joined: `gunicorn app:app` and `flask run` serve what is here."""

import logging
from collections.abc import Mapping

from flask import Flask
from flask.logging import default_handler

from proxy import environ
from proxy.config import Config
from proxy.routes import Proxy, blueprint
from proxy.upstream import Upstream


def create_app(env: Mapping[str, str] | None = None) -> Flask:
    """The proxy, on the settings given; None: on the environment's and those of `.env`.

    Settings that make no sense are logged, a line each, and answered with 500 until mended.
    """
    config = Config.from_env(*(environ.read() if env is None else (env, ())))
    app = Flask(__name__, static_folder=None)
    app.url_map.merge_slashes = False  # it would answer //x with a redirect, in HTML
    app.extensions["proxy"] = Proxy(config, Upstream())
    app.register_blueprint(blueprint)
    logger = logging.getLogger("proxy")
    logger.addHandler(default_handler)
    logger.setLevel(config.log_level.upper())
    for problem in config.problems:
        logger.error("%s", problem)
    for warning in config.warnings:
        logger.warning("%s", warning)
    return app


app = create_app()
