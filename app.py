"""The parts joined: `gunicorn app:app` and `flask run` serve what is here."""

from collections.abc import Mapping

from flask import Flask

from proxy import environment, request_log, routes
from proxy.chat import Proxy
from proxy.incoming import Bodies
from proxy.rate_limit import Counter
from proxy.settings import Settings
from proxy.upstream import Upstream
from proxy.watchdog import Watchdog


def create_app(env: Mapping[str, str] | None = None) -> Flask:
    """The proxy, on the settings given; None: on the environment's and those of `.env`.

    Settings that make no sense are logged, a line each, and answered with 500 until mended.
    """
    config = Settings(*(environment.read() if env is None else (env, ())))
    request_log.start(config.log_level)
    for problem in config.problems:
        request_log.logger.error("%s", problem)
    for warning in config.warnings:
        request_log.logger.warning("%s", warning)
    app = Flask(__name__, static_folder=None)
    app.url_map.merge_slashes = False  # it would answer //x with a redirect, in HTML
    proxy = app.extensions["proxy"] = Proxy(
        config, Upstream(config.ca_bundle), Watchdog(), Bodies(config.max_request_bytes)
    )
    app.register_blueprint(routes.blueprint)
    app.register_blueprint(routes.health)
    if config.rate_limit:
        proxy.count = Counter(config.rate_limit).count
    return app


app = create_app()
