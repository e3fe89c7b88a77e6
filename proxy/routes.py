"""HTTP: the guard, the models, the health checks, and what every response has."""

import re
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
    )
    g.entry.is_probe = request.blueprint == health.name


@blueprint.before_request
def guard() -> None:
    """Check the key, the rate limit and the settings. Without keys, only theirs are named."""
    config: Settings = g.proxy.config
    if config.keys:
        g.entry.key = config.keys.owner(request.headers.get("Authorization", ""))
        if g.entry.key is None:
            message = "A valid key is needed, in the header 'Authorization: Bearer KEY'."
            headers = {"WWW-Authenticate": "Bearer"}  # required by RFC 9110, 15.5.2
            raise CallerError("invalid_api_key", message, headers=headers)
        if g.proxy.count and request.method == "POST":
            g.proxy.count(g.entry.key)
    if config.problems:
        prefix = "" if config.keys else "WORKER_ACCESS_KEY"
        names = {problem.variable for problem in config.problems}
        fix = ", ".join(sorted(name for name in names if name.startswith(prefix)))
        message = f"This proxy is misconfigured; its operator must fix {fix}."
        raise OperatorError("proxy_misconfigured", message, fix=fix)


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
def readyz() -> tuple[Response, int]:
    """GET: 503 while misconfigured; otherwise how this process's last provider call ended.

    The provider is not asked.
    """
    if g.proxy.config.problems:
        message = "This proxy is misconfigured; see its log, or run `python -m proxy check`."
        return responses.error(OperatorError("proxy_misconfigured", message), g.entry), 503
    last = None
    if entry := g.proxy.last_asked:
        age = round((entry.elapsed_ms() - entry.total_ms) / 1000, 1)
        last = {"outcome": entry.code or DONE, "age_seconds": age}
    return responses.json({"status": "ready", "provider": last}), 200


for path in PATHS:  # strict slashes would redirect a URL without a path, with a body in HTML
    blueprint.post(path, strict_slashes=path != "/")(chat_completions)

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
    """The error response, for whatever was raised. Werkzeug's 5xx are a fault of this proxy."""
    if isinstance(error, NotFound):
        hint = _HINTS.get(request.path.rstrip("/").removeprefix("/v1"), "")
        message = f"There is nothing at this path; POST to / or /v1/chat/completions. {hint}"
        error = CallerError("not_found", message.strip())
    elif isinstance(error, MethodNotAllowed):
        allowed = sorted(error.valid_methods or ())
        headers = {"Allow": ", ".join(allowed)}  # required by RFC 9110, 15.5.6
        message = f"Only {' or '.join(allowed)} is allowed here."
        error = CallerError("method_not_allowed", message, headers=headers)
    elif isinstance(error, HTTPException) and str(error.code).startswith("4"):
        error = CallerError("invalid_http", "The request, or its Host header, is not valid HTTP.")
    return responses.error(error, g.entry)


@blueprint.after_app_request
def finish(response: Response) -> Response:
    """Add the headers that every response has; when it has ended, write its line in the log."""
    proxy, entry = g.proxy, g.entry
    response.headers.update(g.answer_headers | {"X-Request-Id": entry.request_id})
    entry.status = None if entry.ended == CLIENT_GONE else response.status_code
    response.response = responses.counted(response.iter_encoded(), entry)

    def ended() -> None:
        entry.write()
        if entry.provider and entry.ended != CLIENT_GONE:
            proxy.last_asked = entry

    response.call_on_close(ended)
    return response


@blueprint.teardown_app_request
def cut(error: BaseException | None) -> None:
    """The server ended the request before there was a response, as by SystemExit: log that too."""
    if error:
        g.entry.failed(error)
        g.entry.write()
