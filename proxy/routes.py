"""HTTP: the guard, the models, the health checks, and what every response has."""

import time
import uuid

from flask import Blueprint, Response, g, request
from werkzeug.exceptions import MethodNotAllowed

from proxy import incoming, responses
from proxy.chat import Proxy, chat_completions
from proxy.config import Config
from proxy.errors import CallerError, OperatorError
from proxy.request_log import CLIENT_GONE, CUT, DONE, Entry

PATHS = ("/", "/v1/chat/completions", "/chat/completions")
MODELS_PATHS = ("/v1/models", "/models")

blueprint = Blueprint("chat", __name__)  # what needs a key
health = Blueprint("health", __name__)  # what needs none


@blueprint.before_app_request
def begin() -> None:
    """Give the request an id, the caller's own where it is short and clean, and a log entry."""
    g.entry = Entry(
        request_id=incoming.clean_id(request.headers.get("X-Request-Id")) or uuid.uuid4().hex,
        path=request.url_rule.rule if request.url_rule else None,
        retry=incoming.retry(),
    )
    g.answer_headers = {}


@blueprint.before_request
def guard() -> None:
    """Tier 1. Whether keys are set comes first: without any, no caller's key is wrong."""
    proxy = Proxy.current()
    config = proxy.config
    if not config.keys:
        raise OperatorError.misconfigured(*_variables(config, "WORKER_ACCESS_KEY"))
    g.entry.key = config.keys.owner(request.headers.get("Authorization", ""))
    if g.entry.key is None:
        raise CallerError.no_key()
    if proxy.count and request.method == "POST":
        proxy.count()
    if config.problems:
        raise OperatorError.misconfigured(*_variables(config))


def _variables(config: Config, prefix: str = "") -> list[str]:
    variables = {problem.variable for problem in config.problems}
    return sorted(variable for variable in variables if variable.startswith(prefix))


def models() -> Response:
    """GET: what callers may name as `model`, in OpenAI's form; clients fill their menus with it."""
    provider = Proxy.current().config.provider
    assert provider is not None  # otherwise there are problems, and the guard has refused
    of_each = {"object": "model", "created": 0, "owned_by": provider.name}  # no date is known
    return responses.json(
        {"object": "list", "data": [{"id": model, **of_each} for model in provider.models]}
    )


@health.before_request
def mark_probe() -> None:
    """Probes come every few seconds, so they are logged at the level debug."""
    g.entry.is_probe = True


def healthz() -> Response:
    """GET: this process is alive."""
    return responses.json({"status": "ok"})


def readyz() -> Response:
    """GET: 503 while misconfigured; otherwise how this process's last provider call ended.

    The provider is not asked.
    """
    proxy = Proxy.current()
    if proxy.config.problems:
        raise OperatorError.not_ready()
    last = None
    if proxy.last_outcome:
        outcome, ended = proxy.last_outcome
        last = {"outcome": outcome, "age_seconds": round(time.monotonic() - ended, 1)}
    return responses.json({"status": "ready", "provider": last})


# Flask's automatic OPTIONS would answer before the guard, and its strict slashes would redirect a
# URL without a path, with a body in HTML.
for path in PATHS:
    blueprint.add_url_rule(
        path,
        view_func=chat_completions,
        methods=["POST"],
        provide_automatic_options=False,
        strict_slashes=path != "/",
    )
for path in MODELS_PATHS:
    blueprint.add_url_rule(path, view_func=models, provide_automatic_options=False)
for probe in (healthz, readyz):
    health.add_url_rule(f"/{probe.__name__}", view_func=probe, provide_automatic_options=False)


@blueprint.app_errorhandler(404)
def not_found(_error: Exception) -> Response:
    message = "There is nothing at this path; POST to / or /v1/chat/completions."
    return responses.error(CallerError("not_found", message), g.entry)


@blueprint.app_errorhandler(405)
def method_not_allowed(error: MethodNotAllowed) -> Response:
    allowed = ", ".join(sorted(error.valid_methods or ()))
    return responses.error(CallerError.method(allowed), g.entry)


@blueprint.app_errorhandler(Exception)
def any_error(error: Exception) -> Response:
    return responses.error(error, g.entry)


@blueprint.after_app_request
def finish(response: Response) -> Response:
    """Add the headers that every response has; when it has ended, write its line in the log."""
    response.headers.update(g.answer_headers)
    response.headers["X-Request-Id"] = g.entry.request_id
    proxy, entry = Proxy.current(), g.entry
    entry.answered(response.status_code)

    def ended() -> None:
        if outcome := _provider_outcome(entry):
            proxy.last_outcome = (outcome, time.monotonic())
        entry.write()

    return responses.logged(response, entry, ended)


@blueprint.teardown_app_request
def shut_down(error: BaseException | None) -> None:
    """The server ended the request before there was a response: log that too."""
    if responses.is_shutdown(error):
        g.entry.ended = CUT
        g.entry.write()


def _provider_outcome(entry: Entry) -> str | None:
    """`done`, or the code of the provider's failure. None: the request says nothing about it."""
    if entry.provider is None or entry.ended == CLIENT_GONE or entry.code == "internal_error":
        return None
    failed = (entry.code or "").startswith("provider_") and entry.code != "provider_rejected_input"
    return entry.code if failed else DONE
