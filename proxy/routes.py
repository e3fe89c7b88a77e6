"""HTTP: the guard, the models, the health checks, and what every response has."""

import re
import time
import uuid

from flask import Blueprint, Response, g, request
from werkzeug.exceptions import BadHost, HTTPException, MethodNotAllowed

from proxy import incoming, responses
from proxy.chat import Proxy, chat_completions
from proxy.errors import CallerError, OperatorError
from proxy.request_log import CLIENT_GONE, DONE, Entry, client_address
from proxy.settings import Settings
from proxy.strict_json import JSON

PATHS = ("/", "/v1/chat/completions", "/chat/completions")
MODELS_PATHS = ("/v1/models", "/models")

blueprint = Blueprint("chat", __name__)  # what needs a key
health = Blueprint("health", __name__)  # what needs none


@blueprint.before_app_request
def begin() -> None:
    """Give the request an id, the caller's own where it is short and clean, and a log entry."""
    headers = request.headers
    g.entry = Entry(
        request_id=incoming.clean_id(headers.get("X-Request-Id")) or uuid.uuid4().hex,
        client=client_address(request.remote_addr or "", headers.get("X-Forwarded-For", "")),
        method=incoming.clean_method(),
        path=request.url_rule.rule if request.url_rule else incoming.clean_path(_is_key),
        retry=incoming.retry(),
    )
    g.answer_headers = {}


def _is_key(text: str) -> bool:
    """Whether it is a key of either tier."""
    config = Proxy.current().config
    is_providers = config.provider is not None and text == config.provider.key != ""
    return is_providers or config.keys.owner(f"Bearer {text}") is not None


@blueprint.before_request
def guard() -> None:
    """Tier 1. Whether keys are set comes first: without any, no caller's key is wrong."""
    proxy = Proxy.current()
    config = proxy.config
    if not config.keys:
        raise _misconfigured(config, "WORKER_ACCESS_KEY")
    g.entry.key = config.keys.owner(request.headers.get("Authorization", ""))
    if g.entry.key is None:
        raise CallerError("invalid_api_key")
    if proxy.count and request.method == "POST":
        proxy.count(g.entry.key)
    if config.problems:
        raise _misconfigured(config)


def _misconfigured(config: Settings, prefix: str = "") -> OperatorError:
    """Names the settings that are missing or wrong, to callers who have shown a key."""
    variables = {problem.variable for problem in config.problems}
    fix = ", ".join(sorted(name for name in variables if name.startswith(prefix)))
    message = f"This proxy is misconfigured; its operator must fix {fix}."
    return OperatorError("proxy_misconfigured", message, fix=fix)


def models(id: str | None = None) -> Response:
    """GET: the models that callers may name, or one of them, in OpenAI's form."""
    provider = Proxy.current().config.provider
    assert provider is not None  # otherwise there are problems, and the guard has refused
    of_each = {"object": "model", "created": 0, "owned_by": provider.name}  # no date is known
    found: dict[str, JSON] = {name: {"id": name, **of_each} for name in provider.models}
    if id is None:
        return responses.json({"object": "list", "data": [*found.values()]})
    if id not in found:
        message = "There is no such model; GET /v1/models lists the models of this proxy."
        raise CallerError("not_found", message, param="model")
    return responses.json(found[id])


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
        message = "This proxy is misconfigured; see its log, or run `python -m proxy check`."
        return responses.error(OperatorError("proxy_misconfigured", message), g.entry, status=503)
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
    for rule in (path, f"{path}/<path:id>"):  # an id may hold slashes, as in @cf/meta/llama
        blueprint.add_url_rule(rule, view_func=models, provide_automatic_options=False)
for probe in (healthz, readyz):
    health.add_url_rule(f"/{probe.__name__}", view_func=probe, provide_automatic_options=False)


_HINTS = {  # what to change in the client, by the path in lower case; the first match counts
    r".*/responses(/.*)?": (
        'With @ai-sdk/openai use openai.chat("MODEL") or createOpenAICompatible; with the OpenAI '
        'Agents SDK set_default_openai_api("chat_completions") or OpenAIChatCompletionsModel.'
    ),
    r".*(?<!/chat)/completions/*": (
        "With LlamaIndex use OpenAILike and set is_chat_model=True; with LangChain use ChatOpenAI."
    ),
    r".*/(chat/completions|models)(/.*)?": (
        "The base URL of an SDK is this proxy's address and /v1; nothing else belongs before or "
        "after the path."
    ),
    r".*(/(embeddings|images|audio|moderations|files|batches|assistants|threads|realtime"
    r"|fine_tuning|rerank|messages|api/chat|api/generate|api/tags)(/.*)?|:\w*generatecontent)": (
        "This proxy offers OpenAI's chat completions and no other API."
    ),
}


@blueprint.app_errorhandler(404)
def not_found(_error: Exception) -> Response:
    hints = [hint for path, hint in _HINTS.items() if re.fullmatch(path, request.path.lower())]
    message = "There is nothing at this path; POST to / or /v1/chat/completions."
    return responses.error(CallerError("not_found", " ".join([message, *hints[:1]])), g.entry)


@blueprint.app_errorhandler(405)
def method_not_allowed(error: MethodNotAllowed) -> Response:
    allowed = sorted(error.valid_methods or ())
    message = f"Only {' or '.join(allowed)} is allowed here."
    headers = {"Allow": ", ".join(allowed)}  # required by RFC 9110, 15.5.6
    return responses.error(CallerError("method_not_allowed", message, headers=headers), g.entry)


@blueprint.app_errorhandler(HTTPException)
def invalid_http(error: HTTPException) -> Response:
    """Werkzeug's other refusals; its 5xx are a fault of this proxy."""
    if not str(error.code).startswith("4"):
        return any_error(error)
    is_host = isinstance(error, BadHost)
    wrong = "Host header is missing or malformed" if is_host else "request is not valid HTTP"
    return responses.error(CallerError("invalid_http", f"The {wrong}."), g.entry)


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
        g.entry.cut()
        g.entry.write()


def _provider_outcome(entry: Entry) -> str | None:
    """`done`, or the code of the provider's failure. None: the request says nothing about it."""
    if entry.provider is None or entry.ended == CLIENT_GONE or entry.code == "internal_error":
        return None
    failed = (entry.code or "").startswith("provider_") and entry.code != "provider_rejected_input"
    return entry.code if failed else DONE
