"""Reads what a refusal means, for every provider: whose fault it is, and whether a retry helps.

A known number or word decides first, then what the prose shows, then the status; the tables are in
meanings.toml. Of the prose only facts reach the caller: numbers, and a place in the request.
"""

import re
from typing import Any

from proxy.errors import PROVIDER_CODES, CallerError, ProviderError, ProxyError
from proxy.providers import facts
from proxy.providers.envelopes import Envelope, Refusal, is_number
from proxy.providers.frames import MEANINGS, as_word
from proxy.strict_json import JSON


def error(refusal: Refusal, *, now: int, address_settings: str) -> ProxyError:
    """The refusal as one of our errors. `now`: seconds since 1970, UTC; `address_settings`: what
    the operator should check if the provider knows no such address."""
    envelope = Envelope.of(refusal)
    kind, word = _kind(envelope)
    kind = _code_of_this_proxy(envelope.objects) or kind
    if kind == "context_length_exceeded":
        return facts.context_exceeded(envelope.prose)
    if kind == "provider_rejected_input":
        return facts.rejected_input(envelope.objects, envelope.prose)
    if kind in _KEPT:
        message = "The provider, another proxy like this one, rejected the request."
        return CallerError(kind, message, param=facts.place(envelope.objects, ""))
    options: dict[str, Any] = {"seen": f"HTTP {refusal.status}{word}"}
    wait = facts.retry_after(refusal.headers, now)
    if kind == "daily_allowance":
        kind, wait = "provider_quota_exhausted", 86400 - now % 86400  # renewed at 00:00 UTC
    elif kind == "answer_blocked" or _BLOCKED in envelope.prose:
        kind, options["message"] = "provider_bad_answer", _BLOCKED
    elif kind == "provider_not_found":
        options["fix"] = address_settings
    elif kind == "provider_failed" and envelope.objects:
        options["retry"] = True  # complete; after a CDN's page the model may still be at work
    if refusal.headers.get("X-Should-Retry", "").lower() == "false":
        options["retry"] = False
    return ProviderError(kind, retry_after=wait, **options)


_BLOCKED = "The provider blocked the model's answer by its own rules."


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


def _kind(envelope: Envelope) -> tuple[str, str]:
    """The kind of error: a code, `daily_allowance` or `answer_blocked`. And for the log the word or
    number that decided it."""
    for word in envelope.words:
        if kind := _MEANING.get(word):
            if envelope.status == 413 and kind != "context_length_exceeded":
                break  # this request can never pass
            if kind == "provider_rate_limited" and _QUOTA.search(envelope.prose):
                kind = "provider_quota_exhausted"
            return kind, f", code {word}"
    number = next(filter(is_number, envelope.words), "")
    return _kind_of_rest(envelope), f", code {number}" if number else ""


def _kind_of_rest(envelope: Envelope) -> str:
    """The kind of error where no number and no word is known."""
    status, objects, prose = envelope.status, envelope.objects, envelope.prose
    params = {str(one["param"]) for one in objects if one.get("param")} - {"None", "null"}
    is_placed = any(param not in _OF_LENGTH and facts.is_place(param) for param in params)
    for kind, statuses, pattern in _BY_PROSE:
        is_possible = not is_placed or kind == "provider_rejected_input"
        if is_possible and status in statuses and pattern.search(prose):
            return kind
    if status in (0, 400, 404, 422) and "model" in (*params, facts.place(objects, "")):
        return "provider_model_unavailable"
    if status != 401 and (word := as_word(prose)) in _MEANING:  # the message is such a word
        return _MEANING[word]
    if status == 404 and re.search(r"\bmodels?\b", prose, re.I):
        return "provider_model_unavailable"
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status in (400, 422) and objects:
        is_cloudflares = any(not _CLOUDFLARES.isdisjoint(one) for one in objects)
        return "provider_bad_answer" if is_cloudflares else "provider_rejected_input"
    if status == 0 and (not _CALLERS.isdisjoint(envelope.words) or _OF_INPUT.search(prose)):
        return "provider_rejected_input"
    is_failure = status >= 500 or (status == 0 and bool(prose or envelope.words))
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


def _code_of_this_proxy(objects: list[JSON]) -> str | None:
    """The code, if the provider is this proxy again (all its messages end with the request id) and
    means there what it means here."""
    for one in objects:
        if " Request id: " in str(one.get("message")) and one.get("code") in _OURS:
            return str(one["code"])
    return None
