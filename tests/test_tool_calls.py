"""Tool calls, however a provider numbers, names and cuts them."""

import time
from typing import Any

import pytest
from recorded import Heard

from proxy.errors import ProviderError
from proxy.tool_calls import MAX_CALLS, MAX_SIZE, ToolCalls, pieces


def calls_of(*deltas: Any, relay: bool = False) -> list[dict[str, Any]]:
    """What a client makes of the deltas."""
    calls, heard = ToolCalls("chatcmpl-1"), Heard()
    for delta in deltas:
        heard.add({"tool_calls": calls.deltas(pieces(delta, relay=relay))})
    heard.add({"tool_calls": calls.end()})
    return heard.calls


def deltas(calls: ToolCalls, raw: Any) -> list[Any]:
    return calls.deltas(pieces(raw, relay=False))


def piece(index: Any = None, name: Any = None, arguments: Any = None, id: Any = None) -> Any:
    raw: dict[str, Any] = {"function": {"name": name, "arguments": arguments}, "id": id}
    return [raw if index is None else raw | {"index": index}]


A, B = '{"a":1}', '{"b":2}'
F, G, HALF = ("f", A), ("g", B), ("f", '{"a":"\ud800"}')
Rows = dict[str, tuple[list[Any], list[tuple[str, str]]]]
# More are in provider_cases/. Index, name, arguments, id of each piece; what they are together.
IN_PIECES: Rows = {
    "all at index 0, no ids": ([(0, *F), (0, *G), (0, *F)], [F, G, F]),
    "all at index 0": ([(0, *F, "d"), (0, *G, "c"), (0, *F, "e")], [F, G, F]),
    "the same function twice, no ids": ([(0, *F), (0, *F)], [F, F]),
    "half a character, no ids": ([(0, *HALF), (0, *F)], [HALF, F]),
    "no index, no ids": ([(None, *F), (None, *G)], [F, G]),
    "no index, in pieces": (
        [(None, "f", A[:3]), (None, "", A[3:]), (None, "g"), (None, "", B)],
        [F, G],
    ),
    "an index in the first piece only": ([(0, "f", None, "c"), (None, "", A)], [F]),
    "two in turns": ([(0, "f", None, "c"), (1, "g", None, "d"), (1, "", B), (0, "", A)], [F, G]),
    "a new id with each piece": ([(0, "f", None, "c"), (0, "", A, "d")], [F]),
    "id and name in each piece": ([(0, "f", A[:3], "c"), (0, "f", A[3:], "c")], [F]),
    "the name in each piece, no id": ([(0, "f", A[:3]), (0, "f", A[3:])], [F]),
    "the name in each piece, the id in the first": (
        [(0, "f", A[:3], "c"), (0, "f", A[3:]), (0, "f", "")],
        [F],
    ),
    "the name in each piece, the last without more": (
        [(0, "f", A[:3]), (0, "f", A[3:]), (0, "f", "")],
        [F],
    ),
    "the same function twice, no index": ([(None, *F), (None, *F)], [F, F]),
    "a name that grows": (
        [(0, "get_", None, "c"), (0, "get_weather", None, "c"), (0, "", A)],
        [("get_weather", A)],
    ),
    "the id with a second name": ([(0, "f"), (0, "f", A, "c")], [F]),
    "the id before the name": ([(0, None, None, "c"), (0, *F)], [F]),
    "the arguments before the name": ([(0, "", A, "c"), (0, "f")], [F]),
    "no arguments": ([(0, "f", None, "c")], [("f", "{}")]),
    "blank arguments": ([(0, "f", " ", "c")], [("f", "{}")]),
    "blanks before the arguments": ([(0, "f", " ", "c"), (0, "", A)], [F]),
    "a blank among the arguments": (
        [(0, "f", '{"a":"b', "c"), (0, "", " "), (0, "", 'c"}')],
        [("f", '{"a":"b c"}')],
    ),
    "an empty list of arguments": ([(0, "f", [], "c")], [("f", "{}")]),
    "an empty list with blanks": ([(0, "f", " [ ]\n", "c")], [("f", "{}")]),
    "an object of arguments": ([(0, "f", {"a": 1}, "c")], [F]),
    "nulls at both ends": ([(0,), (0, *F, "c"), (0,)], [F]),
    "unfinished calls before others": (
        [(0, "f", '{"a":'), (0, "g", "["), (0, *F)],
        [("f", '{"a":'), ("g", "["), F],
    ),
    "broken arguments": ([(0, "f", "a}"), (0, "f", "b")], [("f", "a}b")]),
    "a call without a name before another": ([(0, "", "{}", "c"), (1, *G, "d")], [G]),
    "a name that comes after another call": ([(0, "", A, "c"), (1, *G, "d"), (0, "f")], [G, F]),
    "arguments without a name": ([(0, "", "{}", "c")], []),
}
FLAT = {"name": "f", "arguments": {"a": 1}}
RAW: Rows = {  # the `tool_calls` of each delta
    "nothing but an index": ([[{"index": 0}], piece(0, *F, "c"), [{"index": 0}]], [F]),
    "two in one delta": ([[*piece(0, *F, "c"), *piece(1, *G, "d")]], [F, G]),
    "flat": ([[FLAT]], [F]),
    "of OpenAI's Responses": ([[FLAT | {"type": "function_call", "call_id": "c"}]], [F]),
    **{f"flat, the type {kind!r}": ([[FLAT | {"type": kind}]], [F]) for kind in (False, [], {})},
    "an index that is no number": ([[{"index": True, "function": FLAT}]], [F]),
    "indexes as text, in turns": (
        [[*piece("0", "f"), *piece("1", "g")], piece("0", "", A), piece("1", "", B)],
        [F, G],
    ),
    "no list": (["x", None, {}, 7], []),
    "a list of rubbish": ([["x", None, 7, []]], []),
}
CALLS = RAW | {
    name: ([piece(*one) for one in given], calls) for name, (given, calls) in IN_PIECES.items()
}


@pytest.mark.parametrize(("deltas", "calls"), CALLS.values(), ids=CALLS)
def test_calls(deltas: list[Any], calls: list[tuple[str, str]]) -> None:
    got = calls_of(*deltas)
    assert [(call["function"]["name"], call["function"]["arguments"]) for call in got] == calls
    assert {call["type"] for call in got} <= {"function"}


def test_a_call_is_named_once_and_its_name_waits_for_the_arguments() -> None:
    calls = ToolCalls("chatcmpl-1")
    assert not calls
    assert deltas(calls, piece(0, "f", None, "c")) == deltas(calls, piece(0, None, None, "d")) == []
    assert calls
    first = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}
    assert deltas(calls, piece(0, "f", "{", "c")) == [first]
    second = {"index": 0, "function": {"arguments": "}"}}
    assert deltas(calls, piece(0, "", "}", "d")) == [second]
    assert deltas(calls, piece(0)) == []
    assert calls.end() == []


def test_a_call_that_waits_is_sent_before_the_next() -> None:
    calls = ToolCalls("chatcmpl-1")
    deltas(calls, piece(0, "f"))
    (sent,) = deltas(calls, piece(1, "g"))
    assert (sent["function"]["name"], sent["id"]) == ("f", "call_1_0")
    assert [one["index"] for one in calls.end()] == [1, 0, 1]


def test_other_keys_of_a_call_are_relayed() -> None:
    function = {"name": "f", "arguments": "{}", "parsed": 1}
    raw = {"index": 0, "id": "c", "type": "function", "function": function, "signature": {"a": "x"}}
    later = {"index": 0, "function": {"arguments": ""}, "last": 1}
    (call,) = calls_of([raw | {"nothing": None}], [later], relay=True)
    assert call == raw | {"last": 1}
    (call,) = calls_of([raw | {"type": "builtin_function"}], relay=True)  # Moonshot's
    assert call == raw | {"type": "builtin_function"}
    (call,) = calls_of([raw])
    assert call.keys() == raw.keys() - {"signature"}


def custom(index: int, id: Any, text: str) -> Any:
    return [{"index": index, "id": id, "type": "custom", "custom": {"name": "f", "input": text}}]


OTHERS: dict[str, tuple[list[Any], list[str | None]]] = {
    "pieces": ([custom(0, "c", "a"), [{"index": 0, "custom": {"input": "b"}}]], ["ab"]),
    "two at one index": ([custom(0, "c", "a"), custom(0, "d", "b")], ["a", "b"]),
    "the type in each piece": ([custom(3, "c", "a"), custom(3, "c", "b")], ["ab"]),
    "then a function": ([custom(0, "c", "a"), piece(0, *F, "d")], ["a", None]),
    "after one": ([piece(0, *F, "d"), custom(0, "c", "a")], [None, "a"]),
}


@pytest.mark.parametrize(("deltas", "inputs"), OTHERS.values(), ids=OTHERS)
def test_calls_of_other_types_are_relayed(deltas: list[Any], inputs: list[str | None]) -> None:
    got = calls_of(*deltas)
    assert [call["custom"]["input"] if "custom" in call else None for call in got] == inputs


def test_in_a_message_each_is_a_call() -> None:
    """Even if all have the same index and id."""
    raw = [*piece(0, *F, "c"), *piece(0, *F, "c")]
    got = ToolCalls("x").deltas(pieces(raw, relay=False), is_message=True)
    assert [call["index"] for call in got] == [0, 1]


def test_the_number_and_the_size_of_calls_are_bounded() -> None:
    """Each costs more than its bytes."""
    assert len(calls_of([{"name": "f"}] * MAX_CALLS)) == 1
    assert len(calls_of(*[piece(n, *F, f"c{n}") for n in range(MAX_CALLS)])) == MAX_CALLS
    one_by_one = [piece(n, *F, f"c{n}") for n in range(MAX_CALLS + 1)]
    too_long = [piece(0, "f", "a" * (MAX_SIZE // 2), "c")] * 3
    for too_many in (one_by_one, [[{}] * (MAX_CALLS + 1)], too_long):
        with pytest.raises(ProviderError) as caught:
            calls_of(*too_many)
        assert caught.value.code == "provider_bad_answer"


def test_many_pieces_take_time_by_their_number() -> None:
    """Each of these asks whether the call before it is whole; by the square it were minutes."""
    calls = ToolCalls("chatcmpl-1")
    began = time.process_time()
    for _ in range(20_000):
        (delta,) = deltas(calls, piece(0, "f", "a" * 400 + "}"))
        assert delta["index"] == 0
    assert time.process_time() - began < 20
