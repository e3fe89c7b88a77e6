"""Reads what a refusal means, for every provider: whose fault it is, and whether a retry helps.

A known number or word decides first, then what the prose shows, then the status; the tables are in
meanings.toml. Of the prose only facts reach the caller: numbers, and a place in the request.
"""

import re
from collections.abc import Mapping
from typing import Any

from proxy.errors import PROVIDER_CODES, CallerError, ProviderError, ProxyError
from proxy.providers import Provider, facts
from proxy.providers.envelopes import Envelope
from proxy.providers.frames import MEANINGS, as_word


def error(
    provider: Provider, now: int, status: int, headers: Mapping[str, str], body: bytes
) -> ProxyError:
    """An error response, or an error in a response of status 200, as one of our errors.
    `now`: seconds since 1970, UTC."""
    envelope = Envelope.of(status, body)
    # The message may be such a word. A 401 is about the key, whatever it says.
    words = envelope.words + ([as_word(envelope.prose)] if envelope.status != 401 else [])
    word = next(filter(_meaning, words), "")
    kind = _kind(envelope, word)
    if kind == "context_length_exceeded":
        return facts.context_exceeded(envelope.prose)
    if kind in _CALLERS:
        return _rejected(kind, envelope.places)
    options: dict[str, Any] = {"retry_after": facts.retry_after(headers, now)}
    if kind == "daily_allowance":
        kind = "provider_quota_exhausted"
        options["retry_after"] = 86400 - now % 86400  # renewed at 00:00 UTC
    elif kind == "answer_blocked" or _BLOCKED in envelope.prose:
        kind, options["message"] = "provider_bad_answer", _BLOCKED
    elif kind == "provider_not_found":
        options["fix"] = provider.address_settings
    elif kind == "provider_failed" and envelope.objects:
        options["retry"] = True  # complete; after a CDN's page the model may still be at work
    if headers.get("X-Should-Retry", "").lower() == "false":
        options["retry"] = False
    word = word or next(filter(str.isdecimal, envelope.words), "")
    seen = f"HTTP {status}, code {word}" if word else f"HTTP {status}"
    return ProviderError(kind, seen=seen, **options)


def _rejected(kind: str, places: list[str]) -> CallerError:
    place = next(iter(places), None)
    where = f"'{place}'" if place else "the messages and parameters"
    message = f"The provider rejected the request as invalid; check {where} against the model."
    return CallerError(kind, message, param=place)


_BLOCKED = "The provider blocked the model's answer by its own rules."
_BY_WORD: dict[str, str] = {
    str(word).replace("_", ""): kind for kind, words in MEANINGS["words"].items() for word in words
}
_BY_STATUS: dict[str, str] = MEANINGS["statuses"]
_BY_PROSE: list[tuple[str, list[int], re.Pattern[str]]] = [
    (rule["kind"], rule["statuses"], re.compile("|".join(rule["patterns"]), re.I))
    for rule in MEANINGS["prose"]
]
_QUOTA = next(pattern for kind, _, pattern in _BY_PROSE if kind == "provider_quota_exhausted")
_CALLERS = {
    *("invalid_json", "invalid_messages", "invalid_parameter", "request_too_large"),
    "provider_rejected_input",
}
_KEPT = PROVIDER_CODES | _CALLERS  # mean the same here, if the provider is this proxy again


def _kind(envelope: Envelope, word: str) -> str:
    """The kind of error: a code, `daily_allowance` or `answer_blocked`. `word`: the first known."""
    status, _, words, places, prose = envelope
    if " Request id: " in prose:  # all messages of this proxy end so
        for code in filter(_KEPT.__contains__, words):
            return code
    kind = _meaning(word)
    if kind and (status != 413 or kind == "context_length_exceeded"):  # else it can never pass
        is_quota = kind == "provider_rate_limited" and _QUOTA.search(prose)
        return "provider_quota_exhausted" if is_quota else kind
    is_of_input = status in (0, 400, 404, 422)
    if is_of_input and not _OF_LENGTH.issuperset(places):
        return "provider_rejected_input"
    for kind, statuses, pattern in _BY_PROSE:
        if status in statuses and pattern.search(prose):
            return kind
    if is_of_input and "model" in places:
        return "provider_model_unavailable"
    return _BY_STATUS.get(str(status)) or _of_rest(envelope)


def _meaning(word: str) -> str:
    """The kind that a known number or word means; `RateLimitError` is `rate_limit`."""
    plain = word.replace("_", "")
    return _BY_WORD.get(plain) or _BY_WORD.get(re.sub("(error|exception)$", "", plain), "")


_OF_LENGTH = {"messages", "max_tokens", "max_completion_tokens", "model"}


def _of_rest(envelope: Envelope) -> str:
    """The kind of error where nothing is known but whose fault it is."""
    status, objects, words, _, prose = envelope
    if status in (400, 422) and objects:
        is_cloudflares = any(_CLOUDFLARES & one.keys() for one in objects)
        return "provider_bad_answer" if is_cloudflares else "provider_rejected_input"
    if status == 0 and _OF_INPUT.search("\n".join([*words, prose])):
        return "provider_rejected_input"
    is_failure = status >= 500 or (status == 0 and (prose or words))
    return "provider_failed" if is_failure else "provider_bad_answer"


_CLOUDFLARES = {"success", "errors", "internalCode"}
_OF_INPUT = re.compile(
    r"\b(input|request)[ _]validation|\bvalidation_error|\bunprocessable_entity|\bbad_?request"
    r"|\binvalid[ _](request|input|parameter|argument)",
    re.I,
)
