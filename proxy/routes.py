"""HTTP: the guard, the models, the health checks, and what every response has."""

import re
import time
import uuid

from flask import Blueprint, Response, current_app, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from proxy import incoming, responses
from proxy.chat import chat_completions
from proxy.errors import CallerError, OperatorError
from proxy.request_log import CLIENT_GONE, DONE, Entry, client_address
from proxy.settings import Settings
from proxy.strict_json import JSON

PATHS = ("/", "/v1/chat/completions", "/chat/completions")

blueprint = Blueprint("chat", __name__)  # what needs a key
health = Blueprint("health", __name__)  # what needs none


@blueprint.before_app_request
def begin() -> None:
    """Give the request an id, the caller's own where it is short and clean, and a log entry."""
    g.proxy, g.answer_headers = current_app.extensions["proxy"], {}
    headers = request.headers
    retry = headers.get("x-stainless-retry-count", "")
    g.entry = Entry(
        request_id=incoming.clean_id(headers.get("X-Request-Id")) or uuid.uuid4().hex,
        client=client_address(request.remote_addr or "", headers.get("X-Forwarded-For", "")),
        method=request.method if re.fullmatch("[A-Z]{3,7}", request.method) else "?",
        path=request.url_rule.rule if request.url_rule else incoming.clean_path(),
        retry=int(retry) if re.fullmatch("[0-9]{1,3}", retry) else None,
        is_probe=request.blueprint == health.name,
    )


@blueprint.before_request
def guard() -> None:
    """Tier 1. Whether keys are set comes first: without any, no caller's key is wrong."""
    config: Settings = g.proxy.config
    if not config.keys:
        raise _misconfigured(config, "WORKER_ACCESS_KEY")
    g.entry.key = config.keys.owner(request.headers.get("Authorization", ""))
    if g.entry.key is None:
        raise CallerError("invalid_api_key")
    if g.proxy.count and request.method == "POST":
        g.proxy.count(g.entry.key)
    if config.problems:
        raise _misconfigured(config)


def _misconfigured(config: Settings, prefix: str = "") -> OperatorError:
    """Names the settings that are missing or wrong, to callers who have shown a key."""
    variables = {problem.variable for problem in config.problems}
    fix = ", ".join(sorted(name for name in variables if name.startswith(prefix)))
    message = f"This proxy is misconfigured; its operator must fix {fix}."
    return OperatorError("proxy_misconfigured", message, fix=fix)


@blueprint.get("/v1/models")
@blueprint.get("/models")
@blueprint.get("/v1/models/<path:id>")  # an id may hold slashes, as in @cf/meta/llama
@blueprint.get("/models/<path:id>")
def models(id: str | None = None) -> Response:
    """GET: the models that callers may name, or one of them, in OpenAI's form."""
    provider = g.proxy.config.provider
    of_each = {"object": "model", "created": 0, "owned_by": provider.name}  # no date is known
    found: dict[str, JSON] = {name: {"id": name, **of_each} for name in provider.models}
    if id is None:
        return responses.json({"object": "list", "data": [*found.values()]})
    if id not in found:
        message = "There is no such model; GET /v1/models lists the models of this proxy."
        raise CallerError("not_found", message, param="model")
    return responses.json(found[id])


@health.get("/healthz")
def healthz() -> Response:
    """GET: this process is alive."""
    return responses.json({"status": "ok"})


@health.get("/readyz")
def readyz() -> Response:
    """GET: 503 while misconfigured; otherwise how this process's last provider call ended.

    The provider is not asked.
    """
    if g.proxy.config.problems:
        message = "This proxy is misconfigured; see its log, or run `python -m proxy check`."
        response = responses.error(OperatorError("proxy_misconfigured", message), g.entry)
        response.status_code = 503
        return response
    last = None
    if g.proxy.last_outcome:
        outcome, ended = g.proxy.last_outcome
        last = {"outcome": outcome, "age_seconds": round(time.monotonic() - ended, 1)}
    return responses.json({"status": "ready", "provider": last})


for path in PATHS:  # strict slashes would redirect a URL without a path, with a body in HTML
    strict = path != "/"
    blueprint.add_url_rule(path, None, chat_completions, methods=["POST"], strict_slashes=strict)

_HINTS = {  # by the path of another API that SDKs use by default: what to set there
    "/responses": (
        'With @ai-sdk/openai use openai.chat("MODEL") or createOpenAICompatible; with the OpenAI '
        'Agents SDK set_default_openai_api("chat_completions") or OpenAIChatCompletionsModel.'
    ),
    "/completions": (
        "With LlamaIndex use OpenAILike and set is_chat_model=True; with LangChain use ChatOpenAI."
    ),
}


@blueprint.app_errorhandler(Exception)
def failed(error: Exception) -> Response:
    """The error response, for whatever was raised."""
    return responses.error(_of_werkzeug(error) or error, g.entry)


def _of_werkzeug(error: Exception) -> CallerError | None:
    """Werkzeug's refusals in our form; its 5xx are a fault of this proxy."""
    if isinstance(error, NotFound):
        hint = _HINTS.get(request.path.rstrip("/").removeprefix("/v1"), "")
        message = f"There is nothing at this path; POST to / or /v1/chat/completions. {hint}"
        return CallerError("not_found", message.strip())
    if isinstance(error, MethodNotAllowed):
        allowed = sorted(error.valid_methods or ())
        headers = {"Allow": ", ".join(allowed)}  # required by RFC 9110, 15.5.6
        message = f"Only {' or '.join(allowed)} is allowed here."
        return CallerError("method_not_allowed", message, headers=headers)
    if isinstance(error, HTTPException) and str(error.code).startswith("4"):
        return CallerError("invalid_http", "The request, or its Host header, is not valid HTTP.")
    return None


@blueprint.after_app_request
def finish(response: Response) -> Response:
    """Add the headers that every response has; when it has ended, write its line in the log."""
    proxy, entry = g.proxy, g.entry
    response.headers.update(g.answer_headers)
    response.headers["X-Request-Id"] = entry.request_id
    entry.answered(response.status_code)
    if not response.is_streamed:
        response.content_length = len(response.data)
    response.response = responses.counted(response.iter_encoded(), entry)

    def ended() -> None:
        if entry.provider and entry.ended != CLIENT_GONE:
            proxy.last_outcome = (entry.code or DONE, time.monotonic())
        entry.write()

    response.call_on_close(ended)
    return response


@blueprint.teardown_app_request
def cut(error: BaseException | None) -> None:
    """The server ended the request before there was a response, as by SystemExit: log that too."""
    if error:
        g.entry.cut()
        g.entry.write()
