"""Tool calls: the pieces that a provider sends, and the deltas in OpenAI's form that they become.

Providers number parallel calls differently, or not at all. Here they are numbered again, from 0.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

from proxy import strict_json
from proxy.errors import ProviderError
from proxy.strict_json import JSON

MAX_CALLS = 1000  # in one answer: OpenAI allows 128 tools
_MAX_REREAD = 64 * 1024  # characters
_FUNCTION_TYPES = (None, "", "function", "function_call")
_CALL_KEYS = {"index", "id", "call_id", "type", "function"}
_FUNCTION_KEYS = {"name", "arguments"}


class Piece(NamedTuple):
    """A tool call, or the next piece of one, as an event or a message has it."""

    provider_index: int | None
    id: str
    name: str
    arguments: str  # JSON text, or a piece of it
    extra: JSON = {}  # noqa: RUF012  # other keys of the call, relayed
    function_extra: JSON = {}  # noqa: RUF012  # other keys of its `function`, relayed
    other: JSON = {}  # noqa: RUF012  # a call of another type, such as "custom", as it came

    @property
    def begins_other(self) -> bool:
        """Whether it begins a call of another type; its next pieces need not name the type."""
        return self.other.get("type") not in _FUNCTION_TYPES


@dataclass
class _Call:
    indexes: Iterator[int]
    default_id: str
    is_other: bool
    index: int = -1  # from `indexes`, once it is sent: a call without a name never is
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    extra: JSON = field(default_factory=dict)
    function_extra: JSON = field(default_factory=dict)
    is_sent: bool = False

    def add(self, piece: Piece) -> JSON | None:
        """The delta that the piece becomes; None if there is nothing to send yet."""
        self.id = self.id or piece.id
        if self.is_other:
            if self.index < 0:
                self.index = next(self.indexes)
            return {**piece.other, "index": self.index} if piece.other else None
        # Some send blanks or an empty list where a function has no arguments.
        is_blank = not self.arguments and "".join(piece.arguments.split()) in ("", "[]")
        arguments = "" if is_blank else piece.arguments
        if arguments:
            self.arguments.append(arguments)
        if self.is_sent:
            function = {"arguments": arguments, **piece.function_extra}
            is_more = arguments or piece.extra or piece.function_extra
            return {"index": self.index, "function": function, **piece.extra} if is_more else None
        grows = piece.name.startswith(self.name)  # some send all of it so far in each piece
        self.name = piece.name if grows else self.name + piece.name
        self.extra |= piece.extra
        self.function_extra |= piece.function_extra
        return self.first() if self.name and self.arguments else None

    def first(self) -> JSON:
        """The delta that begins the call."""
        self.is_sent, self.index = True, next(self.indexes)
        head = {"index": self.index, "id": self.id or self.default_id, "type": "function"}
        function = {"name": self.name, "arguments": "".join(self.arguments), **self.function_extra}
        return {**head, "function": function, **self.extra}

    def is_followed_by(self, piece: Piece) -> bool:
        """Whether the piece begins another call. Some servers give all calls the same index; some
        repeat id and name in each piece, or send a new id with each."""
        if piece.begins_other:
            return not self.is_other or piece.id not in ("", self.id)
        if not piece.name or not self.name:
            return bool(piece.name) and self.is_other
        if piece.id and self.id:
            return piece.id != self.id
        is_new_name = piece.name != self.name
        is_past_name = piece.provider_index is None or bool(self.arguments)
        return (is_new_name and is_past_name) or self._is_complete()

    def _is_complete(self) -> bool:
        """Whether the arguments are a JSON object. Each piece may ask, so what is long is not
        read again: it counts as incomplete."""
        pieces = self.arguments
        if not pieces or len(pieces[0]) > _MAX_REREAD or not pieces[-1].rstrip().endswith("}"):
            return False
        self.arguments = ["".join(pieces)]
        try:
            strict_json.loads_upstream(self.arguments[0].encode(errors="replace"))
        except strict_json.InvalidJSON:
            return False
        return True


class ToolCalls:
    """The calls of one answer so far, and the deltas that make them."""

    def __init__(self, answer_id: str) -> None:
        self._answer_id = answer_id.removeprefix("chatcmpl-")
        self._calls: list[_Call] = []
        self._indexes = count()
        self._by_index: dict[int | None, _Call] = {}  # the provider's index

    def __bool__(self) -> bool:
        return any(call.name or call.is_other for call in self._calls)

    def deltas(self, pieces: Iterable[Piece]) -> list[JSON]:
        """What the pieces add. A call's name may come in pieces: it is sent with the first of the
        arguments, or when something else follows. Raises ProviderError if they are too many."""
        deltas: list[JSON] = []
        for piece in pieces:
            call = self._by_index.get(piece.provider_index)
            if call is None and piece.provider_index is None and self._calls:
                call = self._calls[-1]
            if call is None or call.is_followed_by(piece):
                deltas += self.waiting()
                call = self._begin(piece)
            self._by_index[piece.provider_index] = call
            if delta := call.add(piece):
                deltas.append(delta)
        return deltas

    def _begin(self, piece: Piece) -> _Call:
        number = len(self._calls)
        _check_number(number + 1)
        default_id = f"call_{self._answer_id}_{number}"
        self._calls.append(_Call(self._indexes, default_id, piece.begins_other))
        return self._calls[-1]

    def waiting(self) -> list[JSON]:
        """The calls that have a name and are not sent yet."""
        return [call.first() for call in self._calls if call.name and not call.is_sent]

    def end(self) -> list[JSON]:
        """What is left: clients parse the arguments, so those of a call without any become {}."""
        deltas = self.waiting()
        for call in self._calls:
            if call.is_sent and not "".join(call.arguments).strip():
                deltas.append({"index": call.index, "function": {"arguments": "{}"}})
        return deltas


def pieces(raw_calls: Any, *, relay: bool = False, is_message: bool = False) -> tuple[Piece, ...]:
    """The calls of a message, or the pieces of a delta, in OpenAI's form or flat, {name,
    arguments}. `relay`: with their other keys. Raises ProviderError if they are too many."""
    if not isinstance(raw_calls, list):
        return ()
    _check_number(len(raw_calls))
    found = [_piece(raw, relay) for raw in raw_calls if isinstance(raw, dict)]
    if is_message:  # each is a call, even if all have the same index
        found = [piece._replace(provider_index=index) for index, piece in enumerate(found)]
    return tuple(found)


def _check_number(calls: int) -> None:
    if calls > MAX_CALLS:
        raise ProviderError("provider_bad_answer", seen=f"over {MAX_CALLS} tool calls")


def _piece(raw: JSON, relay: bool) -> Piece:
    index = raw["index"] if type(raw.get("index")) is int else None  # a bool is none
    id = _text(raw.get("id") or raw.get("call_id"))
    function = raw.get("function")
    if not isinstance(function, dict):
        if raw.get("type") not in _FUNCTION_TYPES or not raw.keys() & _FUNCTION_KEYS:
            return Piece(index, id, "", "", other=raw)
        function, relay = raw, False  # flat: its other keys belong to the provider's own form
    name, arguments = _text(function.get("name")), _text(function.get("arguments"))
    if not relay:
        return Piece(index, id, name, arguments)
    others = strict_json.others(raw, _CALL_KEYS), strict_json.others(function, _FUNCTION_KEYS)
    return Piece(index, id, name, arguments, *others)


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return strict_json.readable(value)
