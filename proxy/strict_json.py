"""Reads and writes JSON exactly as RFC 8259 defines it.

Python's json also accepts NaN, Infinity, 1e400 and UTF-16, keeps the last of two equal keys, and
raises RecursionError on deep nesting.
"""

import codecs
import json
import math
from typing import Any

JSON = dict[str, Any]  # a JSON object

MAX_DEPTH = 64
# Many values take much more time than a long text, so the marks between them are counted before
# they are read: `, : [ ] { }` outside of strings.
MAX_MARKS = 400_000  # a message with a role and a content has 6
MAX_UPSTREAM_MARKS = 1_000_000  # a token with 20 top_logprobs has about 280
_OUT_OF_RANGE = "a number in it is out of range, NaN or Infinity"
_MAX_DIGITS = 309  # of an integer, the same range as that of floats


class InvalidJSON(ValueError):
    """The text is not JSON; the message says what is wrong and where, and quotes nothing."""


def loads(body: bytes) -> Any:
    """Read a request body. Raises InvalidJSON."""
    marks = _marks(body, MAX_MARKS)
    value = _parse(_STRICT, body)
    if _is_deeper_than(MAX_DEPTH, marks):
        raise InvalidJSON(f"it is nested deeper than {MAX_DEPTH} levels")
    return value


def loads_upstream(data: bytes) -> Any:
    """Read a provider's JSON. It is called for each token, so keys and depth are not checked.
    Raises InvalidJSON."""
    if len(data) > MAX_UPSTREAM_MARKS:
        _marks(data, MAX_UPSTREAM_MARKS)
    return _parse(_UPSTREAM, data)


def dumps(value: Any) -> bytes:
    """Compact ASCII: any string goes through, lone surrogates too. Raises ValueError on NaN."""
    return _ENCODE(value).encode("ascii")


def readable(value: Any) -> str:
    """JSON as text inside of another text, with its letters as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def others(value: JSON, known: set[str]) -> JSON:
    """The keys of an object that are not known, without those that are null."""
    return {name: item for name, item in value.items() if name not in known and item is not None}


def _marks(body: bytes, maximum: int) -> bytes:
    """The marks of a JSON text, in their order, without those in its strings. Raises InvalidJSON if
    they are more than the maximum."""
    outside = body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"', 2 * maximum + 2)[::2]
    marks = b"".join(outside).translate(None, _NOT_MARKS)
    if len(marks) > maximum:
        raise InvalidJSON(
            f"it has more than {maximum} commas, colons and brackets outside of strings"
        )
    return marks


def _parse(decoder: json.JSONDecoder, body: bytes) -> Any:
    try:
        return decoder.decode(body.removeprefix(codecs.BOM_UTF8).decode())
    except InvalidJSON:
        raise
    except UnicodeDecodeError as error:
        wrong = f"it is not UTF-8 (byte {error.start})"
    except json.JSONDecodeError as error:
        wrong = f"it is not valid JSON (line {error.lineno}, column {error.colno})"
    except RecursionError:
        wrong = f"it is nested deeper than {MAX_DEPTH} levels"
    except ValueError:  # a whole number of more than 4300 digits
        wrong = _OUT_OF_RANGE
    raise InvalidJSON(wrong)


def _is_deeper_than(depth: int, marks: bytes) -> bool:
    """Whether valid JSON with these marks is deeper. Each step removes its innermost level."""
    brackets = marks.translate(_AS_BRACKETS, b",:")
    while brackets and depth:
        brackets, depth = brackets.replace(b"[]", b""), depth - 1
    return bool(brackets)


def _finite(text: str) -> float:
    """A float; it also reads the constants NaN and Infinity, which Python's json accepts."""
    if not math.isfinite(number := float(text)):
        raise InvalidJSON(_OUT_OF_RANGE)
    return number


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:  # reading them takes the square of their number
        raise InvalidJSON(_OUT_OF_RANGE)
    return int(digits)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise InvalidJSON("an object in it has the same key twice")
    return value


_MARKS = b",:[]{}"
_NOT_MARKS = bytes(set(range(256)) - set(_MARKS))
_AS_BRACKETS = bytes.maketrans(b"{}", b"[]")
_UPSTREAM = json.JSONDecoder(parse_constant=_finite, parse_float=_finite)
_STRICT = json.JSONDecoder(
    parse_constant=_finite,
    parse_float=_finite,
    parse_int=_integer,
    object_pairs_hook=_without_doubles,
)
_ENCODE = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
