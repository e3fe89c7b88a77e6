"""Reads the JSON of an error response, whatever its form: Cloudflare alone has five."""

import re
from collections.abc import Iterator
from itertools import islice, takewhile
from typing import Any, NamedTuple

from proxy import strict_json
from proxy.chat_request import PARAMETERS
from proxy.providers.frames import as_word, first_object
from proxy.strict_json import JSON


def is_error(frame: JSON) -> bool:
    """Whether a frame reports an error, in any of the known forms."""
    errors = [frame.get(key) for key in ("error", "errors", "error_code", "internalCode")]
    errors.append(first_object(frame.get("choices")).get("error"))
    errors.append(first_object([frame.get("base_resp")]).get("status_code"))  # MiniMax
    errors.append(first_object([frame.get("x_groq")]).get("error"))
    is_named = frame.get("success") is False or "error" in (frame.get("object"), frame.get("type"))
    return is_named or any(map(_reports_error, errors))


def _reports_error(value: Any) -> bool:
    """Some send a false error with answers: null, {}, 0, "0", or an object of only false values."""
    return any(value.values()) if isinstance(value, dict) else bool(value) and value != "0"


class Envelope(NamedTuple):
    """What an error response says, or an error in a response of status 200."""

    status: int  # of the response; for an error in a 200 the one that it names, or 0
    objects: list[JSON]  # inner ones first
    words: list[str]  # codes and types; numbers first
    places: list[str]  # in the request, such as `messages[0].content`
    prose: str  # a bounded piece of its sentences

    @classmethod
    def of(cls, status: int, body: bytes) -> "Envelope":
        is_answer = 200 <= status < 300
        value = _json(body, body.decode(errors="replace") if is_answer else None)
        objects = list(islice(_objects(value), _MOST_OBJECTS))
        if is_answer:
            texts = (str(one.get(key)) for one in objects for key in _STATUSES)
            status = next((int(text) for text in texts if re.fullmatch("[45][0-9]{2}", text)), 0)
        words = [as_word(str(one[key])[:64]) for key in _WORDS for one in objects if one.get(key)]
        if page := re.fullmatch(rb"error code: ([0-9]{3,5})\s*", body[:40]):
            words.append(page[1].decode())  # Cloudflare's page in plain text
        words.sort(key=str.isdecimal, reverse=True)
        texts = (one[key] for one in objects for key in _PROSE if isinstance(one.get(key), str))
        prose = _without_quotes("\n".join(dict.fromkeys(texts))[:_MOST_PROSE])
        return cls(status, objects, words, _places(objects, prose), prose)


_MOST_OBJECTS = 80
_MOST_PROSE = 4000  # characters that patterns are searched in
_DEEPEST = 4
_NESTED = (
    *("error", "errors", "detail", "details", "metadata", "raw", "message", "body", "cause"),
    *("base_resp", "choices", "innererror", "x_groq"),
)
_STATUSES = ("http_status_code", "httpCode", "status_code", "status", "code")
_WORDS = (
    *("code", "error_code", "errorCode", "internalCode", "err_code", "status_code", "type"),
    *("error_type", "status", "reason", "name"),
)
_PROSE = ("message", "msg", "description", "error_msg", "error_message", "status_msg", "title")


def _json(text: bytes, otherwise: Any) -> Any:
    try:
        return strict_json.loads_upstream(text)
    except strict_json.InvalidJSON:
        return otherwise


def _objects(value: Any, depth: int = 0) -> Iterator[JSON]:
    """The objects of an envelope, inner ones first: Cloudflare's five, OpenAI's, a list (Google),
    flat (vLLM), a text (Ollama), FastAPI's `detail`, JSON inside of a message (a gateway)."""
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        value = _json(value.encode(errors="replace"), value)
    if isinstance(value, str):
        yield {"message": value}
    elif isinstance(value, list) and depth < _DEEPEST:
        for item in value[:10]:
            yield from _objects(item, depth + 1)
    elif isinstance(value, dict):
        for key in _NESTED if depth < _DEEPEST else ():
            yield from _objects(value.get(key), depth + 1)
        yield value


def _places(objects: list[JSON], prose: str) -> list[str]:
    """The places in the request: OpenAI's `param`, FastAPI's `loc`, or a JSON pointer in prose."""
    found = [str(one.get("param")) for one in objects]
    locs = [one["loc"][:6] for one in objects if isinstance(one.get("loc"), list)]
    found += [".".join(map(str, loc)).removeprefix("body.") for loc in locs]
    found += _POINTER.findall(prose)[:20]
    return list(filter(None, map(_place, found)))


_POINTER = re.compile(r"'/([a-z_]{1,40}(?:/[a-z_0-9]{1,40}){0,8})")


def _place(text: str) -> str:
    """`messages/0/content` as `messages[0].content`; empty if it is no place in a request."""
    first, *steps = re.split(r"[][./]+", text[:200])
    if first not in PARAMETERS:
        return ""
    # In these two fields have fixed names; elsewhere a name may be the caller's text.
    if first not in ("messages", "tools") or not re.fullmatch("[0-9]{1,6}", "".join(steps[:1])):
        return first
    names = takewhile(re.compile("[a-z_]{1,40}").fullmatch, steps[1:3])
    return ".".join([f"{first}[{steps[0]}]", *names])


def _without_quotes(prose: str) -> str:
    """Without quotations, which may be the caller's own text. Quoted names stay."""
    prose = re.sub(r"\binput(_value)?=.*", "", prose)  # pydantic's
    prose = re.sub(r"\bmessages = \[.*", "", prose, flags=re.S)  # llama.cpp's
    if "{" in prose:  # an error inside of an error, as Python prints it
        return prose
    return _QUOTED.sub(lambda quote: "…" if " " in quote[0] else quote[0], prose)


_QUOTED = re.compile(r"\"[^\"]*\"|(?<!\w)'[^']*'(?!\w)|`[^`]*`")
