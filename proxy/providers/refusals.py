"""Reads what a refusal means, for every provider: whose fault it is, and whether a retry helps.

A known number or word decides first, then what the prose shows, then the status; the tables are in
meanings.toml. Of the prose only facts reach the caller: numbers, and a place in the request.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from proxy import strict_json
from proxy.errors import PROVIDER_CODES, CallerError, ProviderError, ProxyError
from proxy.providers import facts
from proxy.providers.frames import MEANINGS, as_word, first_object
from proxy.strict_json import JSON

_Entries = list[JSON]  # the objects of an error response that may say what is wrong


@dataclass(frozen=True)
class Refusal:
    """An error response from the provider, or an error in a response of status 200."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)  # names in any case
    body: bytes = b""
    frame: JSON | None = None  # where the status is 200


def in_frame(frame: JSON) -> bool:
    """Whether a frame reports an error, in any of the known forms."""
    if _ERROR_KEYS.isdisjoint(frame) and frame.get("object") != "error":  # most frames
        choices = frame.get("choices")
        return bool(choices) and _is_true(first_object(choices).get("error"))
    values = [frame.get(key) for key in ("error", "errors", "error_code", "internalCode")]
    status = frame.get("base_resp")  # MiniMax
    values.append(status.get("status_code") if isinstance(status, dict) else None)
    is_error = frame.get("success") is False or frame.get("object") == "error"
    return is_error or any(map(_is_true, values))


_ERROR_KEYS = frozenset({"error", "errors", "error_code", "internalCode", "success", "base_resp"})


def _is_true(value: Any) -> bool:
    return any(value.values()) if isinstance(value, dict) else bool(value)


def error(refusal: Refusal, *, now: int, address_settings: str) -> ProxyError:
    """The refusal as one of our errors. `now`: seconds since 1970, UTC; `address_settings`: what
    the operator should check if the provider knows no such address."""
    envelope = _json(refusal.body) if refusal.frame is None else refusal.frame
    entries = list(islice(_entries(envelope), _MOST_ENTRIES))
    prose = _without_quotes("\n".join(_prose(entries))[:_MOST_PROSE])
    number = _page_number(refusal.body)
    kind, word = _kind(_status(refusal.status, entries), entries, prose, number)
    kind = _code_of_this_proxy(entries) or kind
    if kind == "context_length_exceeded":
        return facts.context_exceeded(prose)
    if kind == "provider_rejected_input":
        return facts.rejected_input(entries, prose)
    if kind in _KEPT:
        message = "The provider, another proxy like this one, rejected the request."
        return CallerError(kind, message, param=facts.place(entries, ""))
    options: dict[str, Any] = {"seen": f"HTTP {refusal.status}{word}"}
    wait = facts.retry_after(refusal.headers, now)
    if kind == "daily_allowance":
        kind, wait = "provider_quota_exhausted", 86400 - now % 86400  # renewed at 00:00 UTC
    elif kind == "answer_blocked":
        kind, options["message"] = "provider_bad_answer", _BLOCKED
    elif kind == "provider_not_found":
        options["fix"] = address_settings
    elif kind == "provider_failed" and entries:
        options["retry"] = True  # complete; after a CDN's page the model may still be at work
    if refusal.headers.get("X-Should-Retry", "").lower() == "false":
        options["retry"] = False
    return ProviderError(kind, retry_after=wait, **options)


_BLOCKED = "The provider blocked the model's answer by its own rules."
_MOST_ENTRIES = 40
_MOST_PROSE = 4000  # characters that patterns are searched in


# --- what a response says ---------------------------------------------------------------------


def _json(body: bytes) -> Any:
    try:
        return strict_json.loads_upstream(body)
    except strict_json.InvalidJSON:
        return None


def _entries(value: Any, depth: int = 0) -> Iterator[JSON]:
    """The objects of an envelope, inner ones first: Cloudflare's five, OpenAI's, a list (Google),
    flat (vLLM), a text (Ollama), FastAPI's `detail`, JSON inside of a message (a gateway)."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        value = _json(value.encode(errors="replace")) or value
    if isinstance(value, str):
        yield {"message": value}
    elif isinstance(value, list):
        for item in value[:10] if depth < _DEEPEST else ():
            yield from _entries(item, depth + 1)
    elif isinstance(value, dict):
        for key in _NESTED if depth < _DEEPEST else ():
            inner = value.get(key)
            is_prose = isinstance(inner, str) and key in _PROSE and inner.lstrip()[:1] not in "{["
            if inner and not is_prose:
                yield from _entries(inner, depth + 1)
        yield value


_DEEPEST = 4
_NESTED = (
    *("error", "errors", "detail", "details", "metadata", "raw", "message", "body", "cause"),
    *("base_resp", "choices", "innererror"),
)
_WORDS = (
    *("code", "error_code", "errorCode", "internalCode", "err_code", "status_code", "type"),
    *("error_type", "status", "reason", "name"),
)
_PROSE = ("message", "msg", "description", "error_msg", "error_message", "status_msg", "title")


def _prose(entries: _Entries) -> Iterator[str]:
    for entry in entries:
        for key in _PROSE:
            if isinstance(text := entry.get(key), str):
                yield text[:_MOST_PROSE]


def _without_quotes(prose: str) -> str:
    """Without what it quotes, which may be the caller's own text; names are left."""
    prose = re.sub(r"\binput(_value)?=.*", "", prose)  # pydantic's
    prose = re.sub(r"\bmessages = \[.*", "", prose, flags=re.S)  # llama.cpp's
    if "{" in prose:  # an error inside of an error, as Python prints it
        return prose
    return _QUOTED.sub(lambda quote: "…" if " " in quote[0] else quote[0], prose)


_QUOTED = re.compile(r"\"[^\"]*\"|(?<!\w)'[^']*'(?!\w)|`[^`]*`")


def _page_number(body: bytes) -> str:
    """The number of Cloudflare's page in plain text."""
    found = re.fullmatch(rb"error code: ([0-9]{3,5})\s*", body[:40])
    return found[1].decode() if found else ""


def _status(status: int, entries: _Entries) -> int:
    """That of the response; for an error in a 200, the one that it names, else 0."""
    if not 200 <= status < 300:
        return status
    for entry in entries:
        for key in ("http_status_code", "httpCode", "status_code", "status", "code"):
            if re.fullmatch("[45][0-9]{2}", text := str(entry.get(key))):
                return int(text)
    return 0


# --- what it means ----------------------------------------------------------------------------

_MEANING: dict[str, str] = {
    str(word): kind
    for table in ("numbers", "words")
    for kind, words in MEANINGS[table].items()
    for word in words
}
_BY_STATUS: dict[int, str] = {
    s: kind for kind, statuses in MEANINGS["statuses"].items() for s in statuses
}
_BY_PROSE: list[tuple[str, frozenset[int], re.Pattern[str]]] = [
    (rule["kind"], frozenset(rule["statuses"]), re.compile("|".join(rule["patterns"]), re.I))
    for rule in MEANINGS["prose"]
]
_QUOTA = next(p for kind, _, p in _BY_PROSE if kind == "provider_quota_exhausted")
_NUMBER = re.compile("[0-9]{3,6}")


def _kind(status: int, entries: _Entries, prose: str, number: str) -> tuple[str, str]:
    """What kind of error it is, a code of ours or one of the two that `error` knows, and the known
    word or number that shows it, for the log."""
    words = [as_word(str(entry[key])[:64]) for key in _WORDS for entry in entries if entry.get(key)]
    words = sorted([*filter(None, [number]), *words], key=lambda word: not _NUMBER.fullmatch(word))
    for word in words:
        if kind := _MEANING.get(word):
            if status == 413 and kind != "context_length_exceeded":
                break  # this request can never pass
            if kind == "provider_rate_limited" and _QUOTA.search(prose):
                kind = "provider_quota_exhausted"
            return kind, f", code {word}"
    numbers = [word for word in words if _NUMBER.fullmatch(word)]
    return _kind_of_rest(status, entries, prose, words), f", code {numbers[0]}" if numbers else ""


def _kind_of_rest(status: int, entries: _Entries, prose: str, words: list[str]) -> str:
    """Where no number and no word is known."""
    params = {str(entry["param"]) for entry in entries if entry.get("param")} - {"None", "null"}
    is_placed = any(param not in _OF_LENGTH and facts.is_place(param) for param in params)
    for kind, statuses, pattern in _BY_PROSE:
        is_possible = not is_placed or kind == "provider_rejected_input"
        if is_possible and status in statuses and pattern.search(prose):
            return kind
    if status in (0, 400, 404, 422) and "model" in params:
        return "provider_model_unavailable"
    if status == 404 and re.search(r"\bmodels?\b", prose, re.I):
        return "provider_model_unavailable"
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status in (400, 422) and entries:
        is_cloudflares = any(not _CLOUDFLARES.isdisjoint(entry) for entry in entries)
        return "provider_bad_answer" if is_cloudflares else "provider_rejected_input"
    if status == 0 and (_CALLERS & set(words) or _OF_INPUT.search(prose)):
        return "provider_rejected_input"
    is_failure = status >= 500 or (status == 0 and bool(prose or words))
    return "provider_failed" if is_failure else "provider_bad_answer"


_CLOUDFLARES = {"success", "errors", "internalCode"}
_OF_LENGTH = {"messages", "prompt", "input", "max_tokens", "max_completion_tokens", "model"}
_CALLERS = {
    *("invalid_request_error", "bad_request", "bad_request_error", "badrequesterror"),
    *("validation_error", "invalid_argument", "invalid_request", "unprocessable_entity"),
}
_OF_INPUT = re.compile(r"\b(input|request) validation\b|\binvalid (request|input|parameter)", re.I)


_KEPT = ("invalid_json", "invalid_messages", "invalid_parameter", "request_too_large")
_OURS = {*PROVIDER_CODES, *_KEPT, "context_length_exceeded", "provider_rejected_input"}


def _code_of_this_proxy(entries: _Entries) -> str | None:
    """The code, if the provider is this proxy again (all its messages end with the request id) and
    means there what it means here."""
    for entry in entries:
        if " Request id: " in str(entry.get("message")) and entry.get("code") in _OURS:
            return str(entry["code"])
    return None
