"""Bytes <-> JSON values, as RFC 8259 has it and no looser.

Python's json reads NaN, Infinity, 1e400 and UTF-16, takes the last of two equal keys, and meets
deep nesting with RecursionError; each of these has got past somebody's checks.
"""

import json
import math
from typing import Any

JSON = dict[str, Any]  # an object, which is all that any message here is

MAX_DEPTH = 64


class InvalidJSON(ValueError):
    """The text is not JSON; the message says what is wrong and where, and quotes nothing."""


def loads(body: bytes) -> Any:
    """Read what a stranger sent. Raises InvalidJSON."""
    value = _parse(_STRICT, _decode(body))
    brackets = body.count(b"[") + body.count(b"{")  # as many as there are levels, at least
    if brackets > MAX_DEPTH and _deeper_than(MAX_DEPTH, value):
        raise InvalidJSON(f"it is nested deeper than {MAX_DEPTH} levels")
    return value


def loads_upstream(data: bytes) -> Any:
    """Read what the provider sent, once for each token: no check of keys. Raises InvalidJSON."""
    return _parse(_UPSTREAM, _decode(data))


def dumps(value: Any) -> bytes:
    """Compact ASCII: any string goes through, lone surrogates too. Raises ValueError on NaN."""
    return _ENCODE(value).encode("ascii")


def readable(value: Any) -> str:
    """JSON for people to read, inside another string."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _decode(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidJSON(f"it is not UTF-8 (byte {error.start})") from None


def _parse(decoder: json.JSONDecoder, text: str) -> Any:
    try:
        return decoder.decode(text)
    except InvalidJSON:
        raise
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InvalidJSON(f"it is not valid JSON ({place})") from None
    except RecursionError:
        raise InvalidJSON(f"it is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:  # an integer of more than 4300 digits
        raise InvalidJSON("a number in it is out of range") from None


def _deeper_than(depth: int, value: Any) -> bool:
    """Whether it is nested so: level by level, since recursion is what the limit is against."""
    level = [value]
    for _ in range(depth):
        containers = [value for value in level if isinstance(value, dict | list)]
        level = [v for c in containers for v in (c.values() if isinstance(c, dict) else c)]
    return any(isinstance(value, dict | list) for value in level)


def _refuse_constant(_name: str) -> None:
    raise InvalidJSON("NaN and Infinity are not JSON")


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise InvalidJSON("a number in it is out of range")
    return number


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise InvalidJSON("an object in it has the same key twice")
    return value


_UPSTREAM = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
_STRICT = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_without_doubles
)
_ENCODE = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
