"""Tool calls: the pieces that a provider sends, and the calls in OpenAI's form.

Providers number parallel calls differently, or not at all. Here they are numbered again, from 0.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from proxy import strict_json
from proxy.errors import ProviderError
from proxy.strict_json import JSON

MAX_CALLS = 1000  # in one answer: OpenAI allows 128 tools
_MAX_REREAD = 64 * 1024  # characters


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
    index: int
    id: str
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    extra: JSON = field(default_factory=dict)
    function_extra: JSON = field(default_factory=dict)
    is_other: bool = False
    is_sent: bool = False

    def is_whole(self) -> bool:
        """Whether the arguments are a complete JSON object. Each piece may ask, so what is long is
        not read again: it counts as incomplete."""
        pieces = self.arguments
        if not pieces or len(pieces[0]) > _MAX_REREAD or not pieces[-1].rstrip().endswith("}"):
            return False
        text = "".join(pieces)
        self.arguments = [text]
        try:
            return isinstance(strict_json.loads_upstream(text.encode()), dict)
        except strict_json.InvalidJSON:
            return False


class ToolCalls:
    """The calls of one answer so far, and the deltas that make them."""

    def __init__(self, answer_id: str) -> None:
        self._answer_id = answer_id.removeprefix("chatcmpl-")
        self._calls: list[_Call] = []
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
            if call is None or _begins_another(call, piece):
                deltas += self.waiting()
                _check_number(len(self._calls) + 1)
                call = _Call(len(self._calls), piece.id, is_other=piece.begins_other)
                self._calls.append(call)
            self._by_index[piece.provider_index] = call
            deltas += self._delta(call, piece)
        return deltas

    def _delta(self, call: _Call, piece: Piece) -> list[JSON]:
        if call.is_other:
            return [{**piece.other, "index": call.index}] if piece.other else []
        call.id = call.id or piece.id
        if not call.is_sent:  # some send all of the name so far in each piece
            grows = piece.name.startswith(call.name)
            call.name = piece.name if grows else call.name + piece.name
        is_blank = not call.arguments and "".join(piece.arguments.split()) in ("", "[]")
        arguments = "" if is_blank else piece.arguments
        if arguments:
            call.arguments.append(arguments)
        if call.is_sent:
            if not (arguments or piece.extra or piece.function_extra):
                return []
            function = {"arguments": arguments, **piece.function_extra}
            return [{"index": call.index, "function": function, **piece.extra}]
        call.extra |= piece.extra
        call.function_extra |= piece.function_extra
        return self.waiting(call) if call.name and call.arguments else []

    def waiting(self, *calls: _Call) -> list[JSON]:
        """The calls given, or all, that have a name and are not sent yet."""
        deltas = []
        for call in calls or self._calls:
            if call.name and not call.is_sent:
                call.is_sent = True
                function = {"name": call.name, "arguments": "".join(call.arguments)}
                deltas.append(
                    {
                        "index": call.index,
                        "id": call.id or f"call_{self._answer_id}_{call.index}",
                        "type": "function",
                        "function": function | call.function_extra,
                        **call.extra,
                    }
                )
        return deltas

    def end(self) -> list[JSON]:
        """What is left: clients parse the arguments, so those of a call without any become {}."""
        deltas = self.waiting()
        for call in self._calls:
            if call.is_sent and not "".join(call.arguments).strip():
                deltas.append({"index": call.index, "function": {"arguments": "{}"}})
        return deltas


def _begins_another(call: _Call, piece: Piece) -> bool:
    """Whether the piece begins another call than the one at its index. Some servers give all calls
    the same index; some repeat id and name in each piece, or send a new id with each."""
    if piece.begins_other:
        return not call.is_other or piece.id not in ("", call.id)
    if not piece.name:
        return False
    if call.is_other or (piece.id and call.id):
        return piece.id != call.id and bool(call.name or call.is_other)
    if not call.name:
        return False
    if piece.provider_index is None and piece.name != call.name:
        return True
    return call.is_whole() or (bool(call.arguments) and piece.name != call.name)


def pieces(raw_calls: Any, *, relay: bool = False, is_message: bool = False) -> tuple[Piece, ...]:
    """The calls of a message, or the pieces of a delta, in OpenAI's form or flat, {name,
    arguments}. `relay`: with their other keys. Raises ProviderError if they are too many."""
    if not isinstance(raw_calls, list):
        return ()
    _check_number(len(raw_calls))
    calls = [raw for raw in raw_calls if isinstance(raw, dict)]
    return tuple(
        _piece(raw, position if is_message else _index(raw), relay)
        for position, raw in enumerate(calls)
    )


def _check_number(calls: int) -> None:
    if calls > MAX_CALLS:
        raise ProviderError("provider_bad_answer", seen=f"over {MAX_CALLS} tool calls")


def _index(raw: JSON) -> int | None:
    index = raw.get("index")
    return index if isinstance(index, int) and not isinstance(index, bool) else None


def _piece(raw: JSON, index: int | None, relay: bool) -> Piece:
    id = _text(raw.get("id") or raw.get("call_id"))
    function: JSON = raw["function"] if isinstance(raw.get("function"), dict) else raw
    is_flat = function is raw
    if is_flat and (raw.get("type") not in _FUNCTION_TYPES or not raw.keys() & _FUNCTION_KEYS):
        return Piece(index, id, "", "", other=raw)
    return Piece(
        index,
        id,
        _text(function.get("name")),
        _text(function.get("arguments")),
        _others(raw, _CALL_KEYS) if relay and not is_flat else {},
        _others(function, _FUNCTION_KEYS) if relay and not is_flat else {},
    )


_FUNCTION_TYPES = (None, "", "function", "function_call")
_CALL_KEYS = {"index", "id", "call_id", "type", "function"}
_FUNCTION_KEYS = {"name", "arguments"}


def _others(raw: JSON, keys: set[str]) -> JSON:
    return {name: value for name, value in raw.items() if name not in keys and value is not None}


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return strict_json.readable(value)
