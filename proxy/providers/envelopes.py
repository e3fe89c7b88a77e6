"""Reads the JSON of an error response, whatever its form: Cloudflare alone has five."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from proxy import strict_json
from proxy.providers.frames import as_word, first_object
from proxy.strict_json import JSON


@dataclass(frozen=True)
class Refusal:
    """An error response from the provider, or an error in a response of status 200."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)  # names in any case
    body: bytes = b""
    frame: JSON | None = None  # where the status is 200


def is_error(frame: JSON) -> bool:
    """Whether a frame reports an error, in any of the known forms."""
    if _ERROR_KEYS.isdisjoint(frame) and frame.get("object") != "error":  # most frames
        error = first_object(frame.get("choices")).get("error")
        return error is not None and _is_true(error)
    values = [frame.get(key) for key in ("error", "errors", "error_code", "internalCode")]
    status = frame.get("base_resp")  # MiniMax
    values.append(status.get("status_code") if isinstance(status, dict) else None)
    is_named = frame.get("success") is False or frame.get("object") == "error"
    return is_named or any(map(_is_true, values))


_ERROR_KEYS = frozenset({"error", "errors", "error_code", "internalCode", "success", "base_resp"})


def _is_true(value: Any) -> bool:
    return any(value.values()) if isinstance(value, dict) else bool(value) and value != "0"


@dataclass(frozen=True)
class Envelope:
    """The status, codes, types and sentences of an error response."""

    status: int  # of the response; for an error in a 200 the one that it names, or 0
    objects: list[JSON]  # inner ones first
    words: list[str]  # codes and types; numbers first
    prose: str  # a bounded piece of its sentences

    @classmethod
    def of(cls, refusal: Refusal) -> "Envelope":
        envelope = _json(refusal.body) if refusal.frame is None else refusal.frame
        objects = list(islice(_objects(envelope), _MOST_OBJECTS))
        words = [as_word(str(o[key])[:64]) for key in _WORDS for o in objects if o.get(key)]
        if page := re.fullmatch(rb"error code: ([0-9]{3,5})\s*", refusal.body[:40]):
            words.append(page[1].decode())  # Cloudflare's page in plain text
        words.sort(key=lambda word: not is_number(word))
        prose = _without_quotes("\n".join(_prose(objects))[:_MOST_PROSE])
        return cls(_status(refusal.status, objects), objects, words, prose)


def is_number(word: str) -> bool:
    """Whether it may be one of Cloudflare's error numbers."""
    return re.fullmatch("[0-9]{3,6}", word) is not None


_MOST_OBJECTS = 40
_MOST_PROSE = 4000  # characters that patterns are searched in


def _json(body: bytes) -> Any:
    try:
        return strict_json.loads_upstream(body)
    except strict_json.InvalidJSON:
        return None


def _objects(value: Any, depth: int = 0) -> Iterator[JSON]:
    """The objects of an envelope, inner ones first: Cloudflare's five, OpenAI's, a list (Google),
    flat (vLLM), a text (Ollama), FastAPI's `detail`, JSON inside of a message (a gateway)."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        value = _json(value.encode(errors="replace")) or value
    if isinstance(value, str):
        yield {"message": value}
    elif isinstance(value, list):
        for item in value[:10] if depth < _DEEPEST else ():
            yield from _objects(item, depth + 1)
    elif isinstance(value, dict):
        for key in _NESTED if depth < _DEEPEST else ():
            inner = value.get(key)
            is_prose = isinstance(inner, str) and key in _PROSE and inner.lstrip()[:1] not in "{["
            if inner and not is_prose:
                yield from _objects(inner, depth + 1)
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


def _prose(objects: list[JSON]) -> Iterator[str]:
    for one in objects:
        for key in _PROSE:
            if isinstance(text := one.get(key), str):
                yield text[:_MOST_PROSE]


def _without_quotes(prose: str) -> str:
    """Without quotations, which may be the caller's own text. Quoted names stay."""
    prose = re.sub(r"\binput(_value)?=.*", "", prose)  # pydantic's
    prose = re.sub(r"\bmessages = \[.*", "", prose, flags=re.S)  # llama.cpp's
    if "{" in prose:  # an error inside of an error, as Python prints it
        return prose
    return _QUOTED.sub(lambda quote: "…" if " " in quote[0] else quote[0], prose)


_QUOTED = re.compile(r"\"[^\"]*\"|(?<!\w)'[^']*'(?!\w)|`[^`]*`")


def _status(status: int, objects: list[JSON]) -> int:
    if not 200 <= status < 300:
        return status
    for one in objects:
        for key in ("http_status_code", "httpCode", "status_code", "status", "code"):
            if re.fullmatch("[45][0-9]{2}", text := str(one.get(key))):
                return int(text)
    return 0
