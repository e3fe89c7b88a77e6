"""Instances of a JSON schema, for structured output and for the arguments of tool calls.

Strings repeat the prompt if the schema allows it. The keywords `not`, `if` and `patternProperties`
are ignored.
"""

import math
import re
from re import _compiler, _parser  # type: ignore[attr-defined]  # private, but the only parser
from typing import Any

Json = dict[str, Any]


class UnfillableError(LookupError):
    """No instance of the schema was found."""


def instance(schema: Any, prompt: str) -> Any:
    """A value that fits the schema, with all its properties; recursion ends as early as it can."""
    try:
        return _Filler(schema, prompt).fill(schema, ())
    except (re.error, RecursionError) as error:
        raise UnfillableError(f"a schema that cannot be followed: {error}") from None


# Keywords that show the type of a schema without `type`.
_KEYWORDS = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}

_MOST_TURNS = 100
_FORMATS = {
    "date-time": "2026-01-31T12:00:00Z",
    "date": "2026-01-31",
    "time": "12:00:00Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "123e4567-e89b-42d3-a456-426614174000",
}


class _Filler:
    """Fills the parts of one schema.

    `path` holds the references that are being followed; with another `turn` values are others.
    """

    def __init__(self, root: Any, prompt: str) -> None:
        self.root, self.prompt, self.turn = root, prompt, 0

    def fill(self, schema: Any, path: tuple[str, ...]) -> Any:
        schema, path = self._flat(schema, path)
        for name in ("anyOf", "oneOf"):
            if options := schema.pop(name, None):
                return self._first(schema, options, path)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][self.turn % len(schema["enum"])]
        return getattr(self, f"_{_kind(schema)}")(schema, path)

    def _flat(self, schema: Any, path: tuple[str, ...]) -> tuple[Json, tuple[str, ...]]:
        """The schema as one object without `$ref` and `allOf`, and the path to it."""
        flat = _merged([schema])
        parts = flat.pop("allOf", [])
        if reference := flat.pop("$ref", None):
            if reference in path:
                raise UnfillableError(f"{reference} holds itself")
            path = (*path, reference)
            parts = [*parts, self._find(reference)]
        for part in parts:
            inner, path = self._flat(part, path)
            flat = _merged([inner, flat])
        return flat, path

    def _find(self, reference: str) -> Any:
        """What a JSON pointer such as #/$defs/City leads to."""
        found = self.root
        for name in reference.removeprefix("#").split("/")[1:]:
            name = name.replace("~1", "/").replace("~0", "~")
            found = found[int(name)] if isinstance(found, list) else found[name]
        return found

    def _first(self, base: Json, options: list[Any], path: tuple[str, ...]) -> Any:
        """An instance of the first option that has one."""
        reason = UnfillableError("no option is left")
        for option in options:
            try:
                return self.fill(_merged([base, option]), path)
            except UnfillableError as error:
                reason = error
        raise reason

    def _object(self, schema: Json, path: tuple[str, ...]) -> Json:
        required = schema.get("required", [])
        more = schema.get("additionalProperties", True)
        properties = {**dict.fromkeys(required, more), **schema.get("properties", {})}
        filled = {}
        for name, inner in properties.items():
            try:
                filled[name] = self.fill(inner, path)
            except UnfillableError:
                if name in required:
                    raise
        while len(filled) < schema.get("minProperties", 0):
            filled[f"key{len(filled) + 1}"] = self.fill(more, path)
        return filled

    def _array(self, schema: Json, path: tuple[str, ...]) -> list[Any]:
        least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        filled = [self.fill(inner, path) for inner in schema.get("prefixItems", [])]
        before = self.turn
        try:
            while len(filled) < min(max(least, 1), most):
                value = self.fill(schema.get("items", True), path)
                if not schema.get("uniqueItems") or value not in filled:
                    filled.append(value)
                elif self.turn - before == _MOST_TURNS:
                    raise UnfillableError("the items cannot differ")
                else:
                    self.turn += 1
        except UnfillableError:
            if len(filled) < least:
                raise
        finally:
            self.turn = before
        return filled

    def _string(self, schema: Json, _path: tuple[str, ...]) -> str:
        if text := _FORMATS.get(schema.get("format", "")):
            return text
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        text = self.prompt if self.turn == 0 else f"{self.turn} {self.prompt}"
        text = (text or "x").ljust(least, "x")[:most]
        pattern = schema.get("pattern")
        if pattern is None or re.search(pattern, text):
            return text
        return _matching(pattern, least + self.turn)

    def _integer(self, schema: Json, _path: tuple[str, ...]) -> int:
        return int(_number(schema, 1 + self.turn, 1))

    def _number(self, schema: Json, _path: tuple[str, ...]) -> float:
        return _number(schema, 1.5 + self.turn, None)

    def _boolean(self, _schema: Json, _path: tuple[str, ...]) -> bool:
        return self.turn % 2 == 0

    def _null(self, _schema: Json, _path: tuple[str, ...]) -> None:
        return None


def _kind(schema: Json) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0]
    if kind:
        return str(kind)
    return next((k for k, words in _KEYWORDS.items() if any(w in schema for w in words)), "string")


def _merged(schemas: list[Any]) -> Json:
    """One schema that asks for what all of them ask for."""
    merged: Json = {}
    for schema in schemas:
        if schema is False:
            raise UnfillableError("nothing fits the schema false")
        for name, value in ({} if schema is True else schema).items():
            if name == "properties":
                known = merged.get(name, {})
                both = {key: {"allOf": [known[key], value[key]]} for key in known.keys() & value}
                value = {**known, **value, **both}
            if name in ("required", "allOf"):
                value = [*merged.get(name, []), *value]
            merged[name] = value
    return merged


def _number(schema: Json, usual: float, factor: Any) -> float:
    """The usual number if it is within the limits, else one that is."""
    above: float = schema.get("exclusiveMinimum", -math.inf)
    below: float = schema.get("exclusiveMaximum", math.inf)
    low: float = max(schema.get("minimum", above), above)
    high: float = min(schema.get("maximum", below), below)
    factor = schema.get("multipleOf", factor)
    for number in filter(math.isfinite, (usual, low, low + 1, high, high - 1, (low + high) / 2)):
        steps = (math.ceil(number / factor), number // factor) if factor else (number,)
        for found in [step * (factor or 1) for step in steps]:
            if low <= found <= high and above < found < below:
                return float(found)
    raise UnfillableError("no number is within the limits")


# --- patterns -------------------------------------------------------------------------------------

_CHARACTERS = "a0A_- ." + "".join(map(chr, range(33, 0x250)))


def _matching(pattern: str, least: int) -> str:
    """A text that the regular expression matches, of at least that length where it allows it."""
    parsed = _parser.parse(pattern)
    for repeats in range(least + 1):
        text = _text(parsed, repeats)
        if len(text) >= least and re.search(pattern, text):
            return text
    raise UnfillableError("no text was found for the pattern")


def _text(parsed: Any, repeats: int) -> str:
    """What a parsed pattern matches, if each part that may repeat does so about that often."""
    text = ""
    for name, value in parsed:
        match str(name):
            case "LITERAL":
                text += chr(value)
            case "IN" | "NOT_LITERAL" | "ANY":
                one = _compiler.compile(_parser.SubPattern(parsed.state, [(name, value)]))
                text += next(filter(one.match, _CHARACTERS))
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                low, high, inner = value
                text += _text(inner, repeats) * min(max(low, repeats), high)
            case "SUBPATTERN":
                text += _text(value[-1], repeats)
            case "BRANCH":
                text += _text(value[1][0], repeats)
            case _:  # a place, such as ^ or $
                pass
    return text
