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
_TOO_DEEP = f"it is nested deeper than {MAX_DEPTH} levels"


class InvalidJSON(Exception):
    """The text is not JSON; the message says what is wrong and where, and quotes nothing."""


def loads(body: bytes) -> Any:
    """Read a request body. Raises InvalidJSON."""
    brackets = _marks(body, MAX_MARKS).translate(None, b",:")
    value = _parse(_STRICT, body)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")  # the innermost level
    if brackets:
        raise InvalidJSON(_TOO_DEEP)
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
    """The items of an object whose key is not known and whose value is not null."""
    return {name: item for name, item in value.items() if name not in known and item is not None}


def _marks(body: bytes, maximum: int) -> bytes:
    """The marks outside of a JSON text's strings, with `{}` as `[]`. Raises InvalidJSON if they are
    more than the maximum."""
    outside = body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"', 2 * maximum + 2)[::2]
    marks = b"".join(outside).translate(_AS_BRACKETS, _NOT_MARKS)
    if len(marks) > maximum:
        raise InvalidJSON(f"it has more than {maximum} commas, colons and brackets outside strings")
    return marks


def _parse(decoder: json.JSONDecoder, body: bytes) -> Any:
    try:
        return decoder.decode(body.removeprefix(codecs.BOM_UTF8).decode())
    except UnicodeDecodeError as error:
        wrong = f"it is not UTF-8 (byte {error.start})"
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        wrong = f"it is not valid JSON ({place})" if error.doc.strip() else "it is empty"
    except RecursionError:
        wrong = _TOO_DEEP
    except ValueError:  # a whole number of more than 4300 digits
        wrong = _OUT_OF_RANGE
    raise InvalidJSON(wrong)


def _number(text: str) -> float:
    """An integer with the range of a float (to read thousands of digits takes the square of their
    number), or a float. It refuses the constants NaN and Infinity, which Python's json accepts."""
    if not math.isfinite(number := float(text)):
        raise InvalidJSON(_OUT_OF_RANGE)
    return int(text) if text.removeprefix("-").isdigit() else number


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise InvalidJSON("an object in it has the same key twice")
    return value


_NOT_MARKS = bytes(set(range(256)) - set(b",:[]{}"))
_AS_BRACKETS = bytes.maketrans(b"{}", b"[]")
_UPSTREAM = json.JSONDecoder(parse_constant=_number, parse_float=_number)
_STRICT = json.JSONDecoder(
    object_pairs_hook=_without_doubles,
    parse_constant=_number,
    parse_float=_number,
    parse_int=_number,
)
_ENCODE = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
