"""Tool calls: the pieces that a provider sends, and the deltas in OpenAI's form that they become.

Providers number parallel calls differently, or not at all. Here they are numbered again, from 0.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import StringIO
from itertools import count
from typing import Any, NamedTuple

from proxy import strict_json
from proxy.errors import ProviderError
from proxy.strict_json import JSON

MAX_CALLS = 1000  # in one answer: OpenAI allows 128 tools
MAX_SIZE = 8 * 1024**2  # characters of names and arguments in one answer
_MAX_REREAD = 64 * 1024  # characters
_FUNCTION_TYPES = ("", "function", "function_call")
_CALL_KEYS = {"index", "id", "call_id", "type", "function"}
_FUNCTION_KEYS = {"name", "arguments"}


class Piece(NamedTuple):
    """A tool call, or the next piece of one, as an event or a message has it."""

    provider_index: int | None
    id: str
    name: str
    arguments: str  # JSON text, or a piece of it
    rest: JSON  # keys to relay, `function` among them; or a call of another type, such as "custom"
    begins_other: bool  # a call of another type; its next pieces need not name the type


@dataclass
class _Call:
    indexes: Iterator[int]
    default_id: str
    is_other: bool
    index: int | None = None  # from `indexes`, once it is sent: a call without a name never is
    id: str = ""
    name: str = ""
    arguments: StringIO = field(default_factory=StringIO)
    rest: JSON = field(default_factory=lambda: {"function": {}})  # until it is sent

    def add(self, piece: Piece) -> JSON | None:
        """The delta that the piece becomes; None if there is nothing to send yet."""
        self.id = self.id or piece.id
        function = piece.rest.get("function")
        if self.is_other:
            self.index = next(self.indexes) if self.index is None else self.index
            return {**piece.rest, "index": self.index} if function is None else None
        if function is None:
            return None
        # Some send blanks or an empty list where a function has no arguments.
        is_blank = not self.arguments.tell() and "".join(piece.arguments.split()) in ("", "[]")
        arguments = "" if is_blank else piece.arguments
        self.arguments.write(arguments)
        if self.index is not None:
            is_more = arguments or piece.rest != {"function": {}}
            more = {**piece.rest, "function": {"arguments": arguments, **function}}
            return {"index": self.index, **more} if is_more else None
        grows = piece.name.startswith(self.name)  # some send all of it so far in each piece
        self.name = piece.name if grows else self.name + piece.name
        self.rest |= {**piece.rest, "function": {**self.rest["function"], **function}}
        return self.first() if self.name and self.arguments.tell() else None

    def first(self) -> JSON:
        """The delta that begins the call."""
        self.index = next(self.indexes)
        function = {"name": self.name, "arguments": self.arguments.getvalue()}
        head = {"index": self.index, "id": self.id or self.default_id, "type": "function"}
        return {**head, **self.rest, "function": function | self.rest["function"]}

    def is_followed_by(self, piece: Piece) -> bool:
        """Whether the piece begins another call. Some servers give all calls the same index; some
        repeat id and name in each piece, or send a new id, without a name, with each."""
        if piece.begins_other:
            return not self.is_other or piece.id not in ("", self.id)
        if not piece.name or not self.name:
            return bool(piece.name) and self.is_other
        if piece.id and self.id:
            return piece.id != self.id
        if piece.name != self.name:
            return piece.provider_index is None or self.arguments.tell() > 0
        repeats = piece.provider_index is not None and (self.id or not piece.arguments.strip())
        return not repeats and self._is_complete()

    def _is_complete(self) -> bool:
        """Whether the arguments are JSON. Each piece may ask, so what is long is not read again:
        it counts as incomplete."""
        if self.arguments.tell() > _MAX_REREAD:
            return False
        try:
            strict_json.loads_upstream(self.arguments.getvalue().encode(errors="replace"))
        except strict_json.InvalidJSON:
            return False
        return True


class ToolCalls:
    """The calls of one answer so far, and the deltas that make them."""

    def __init__(self, answer_id: str) -> None:
        self._answer_id = answer_id.removeprefix("chatcmpl-")
        self._calls: list[_Call] = []
        self._indexes = count()
        self._by_index: dict[int | None, _Call] = {}  # the provider's; None: the last one
        self._size = 0

    def __bool__(self) -> bool:
        return any(call.name or call.is_other for call in self._calls)

    def deltas(self, pieces: Iterable[Piece], *, is_message: bool = False) -> list[JSON]:
        """What the pieces add; in a message each is a call. Raises ProviderError if they are too
        many. A call's name may come in pieces: it is sent with the first of the arguments, or when
        another call begins, or at the end."""
        deltas: list[JSON] = []
        for piece in pieces:
            self._size += len(piece.name) + len(piece.arguments)
            call = self._by_index.get(piece.provider_index)
            if is_message or call is None or call.is_followed_by(piece):
                deltas += self._waiting()
                default_id = f"call_{self._answer_id}_{len(self._calls)}"
                call = _Call(self._indexes, default_id, piece.begins_other)
                self._calls.append(call)
            _check(len(self._calls), self._size)
            self._by_index[piece.provider_index] = self._by_index[None] = call
            if delta := call.add(piece):
                deltas.append(delta)
        return deltas

    def _waiting(self) -> list[JSON]:
        """The calls that have a name and are not sent yet."""
        return [call.first() for call in self._calls if call.name and call.index is None]

    def end(self) -> list[JSON]:
        """What is left: clients parse the arguments, so those of a call without any become {}."""
        deltas = self._waiting()
        for call in self._calls:
            if call.name and not call.arguments.tell():
                deltas.append({"index": call.index, "function": {"arguments": "{}"}})
        return deltas


def pieces(raw_calls: Any, *, relay: bool) -> list[Piece]:
    """The calls of a message, or the pieces of a delta, in OpenAI's form or flat, {name,
    arguments}. `relay`: with their other keys. Raises ProviderError if they are too many."""
    if not isinstance(raw_calls, list):
        return []
    _check(len(raw_calls))
    return [_piece(raw, relay) for raw in raw_calls if isinstance(raw, dict)]


def _check(calls: int, size: int = 0) -> None:
    if calls > MAX_CALLS or size > MAX_SIZE:
        seen = f"over {MAX_CALLS} tool calls, or {MAX_SIZE} characters of them"
        raise ProviderError("provider_bad_answer", seen=seen)


def _piece(raw: JSON, relay: bool) -> Piece:
    function = raw.get("function")
    rest: JSON = {"function": {}}
    if isinstance(function, dict):
        if relay:
            rest = strict_json.others(raw, _CALL_KEYS - ({"type"} if _is_other(raw) else set()))
            rest["function"] = strict_json.others(function, _FUNCTION_KEYS)
    elif raw.keys() & _FUNCTION_KEYS and not _is_other(raw):
        function = raw  # flat: its other keys belong to the provider's own form
    else:
        function, rest = {}, strict_json.others(raw, {"function"})
    begins_other = "function" not in rest and _is_other(rest)
    number = str(raw.get("index"))
    index = int(number) if number.isdecimal() else None
    id = _text(raw.get("id") or raw.get("call_id"))
    name, arguments = _text(function.get("name")), _text(function.get("arguments"))
    return Piece(index, id, name, arguments, rest, begins_other)


def _is_other(raw: JSON) -> bool:
    """Whether its type is another than a function's."""
    return isinstance(kind := raw.get("type"), str) and kind not in _FUNCTION_TYPES


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return strict_json.readable(value)
