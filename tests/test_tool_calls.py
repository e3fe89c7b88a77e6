"""Tool calls, however a provider numbers, names and cuts them."""

import json
import time
from typing import Any

import pytest

from proxy.errors import ProviderError
from proxy.tool_calls import MAX_CALLS, ToolCalls, pieces


def calls_of(*deltas: Any, relay: bool = False) -> list[dict[str, Any]]:
    """What a client makes of the deltas, as OpenAI's SDK does."""
    calls = ToolCalls("chatcmpl-1")
    got: list[dict[str, Any]] = []
    sent = [calls.deltas(pieces(delta, relay=relay)) for delta in deltas]
    for delta in [one for part in [*sent, calls.end()] for one in part]:
        delta = json.loads(json.dumps(delta))
        index = delta.pop("index")
        if index == len(got):
            got.append(delta)
        elif "custom" in delta:
            got[index]["custom"]["input"] += delta["custom"]["input"]
        else:
            got[index]["function"]["arguments"] += delta["function"].pop("arguments")
            got[index]["function"] |= delta.pop("function")
            got[index] |= delta
    assert all(call["id"] for call in got)
    return got


def piece(index: int | None = None, id: Any = None, name: Any = None, arguments: Any = None) -> Any:
    raw: dict[str, Any] = {"function": {"name": name, "arguments": arguments}, "id": id}
    return [raw if index is None else raw | {"index": index}]


F, G = ("f", '{"a":1}'), ("g", '{"b":2}')
CALLS: dict[str, tuple[list[Any], list[tuple[str, str]]]] = {
    "indexes from 0": ([piece(0, "c", "f", ""), piece(0, None, None, F[1])], [F]),
    "an index from 1": ([piece(1, "c", "f", ""), piece(1, None, None, F[1])], [F]),
    "all at index 0": ([piece(0, "c", *F), piece(0, "d", *G)], [F, G]),
    "all at index 0, in pieces": (
        [
            piece(0, "c", "f"),
            piece(0, None, None, F[1]),
            piece(0, "d", "g"),
            piece(0, "", "", G[1]),
        ],
        [F, G],
    ),
    "all at index 0, no ids": ([piece(0, None, *F), piece(0, None, *G)], [F, G]),
    "the same function twice, no ids": ([piece(0, None, *F), piece(0, None, *F)], [F, F]),
    "half a character, no ids": (
        [piece(0, None, "f", '{"a":"\ud800"}'), piece(0, None, *F)],
        [("f", '{"a":"\ud800"}'), F],
    ),
    "no index": ([piece(None, "c", *F), piece(None, "d", *G)], [F, G]),
    "no index, no ids": ([piece(None, None, *F), piece(None, None, *G)], [F, G]),
    "no index, in pieces": (
        [
            piece(None, None, "f", '{"a"'),
            piece(None, None, None, ":1}"),
            piece(None, None, "g"),
            piece(None, None, None, G[1]),
        ],
        [F, G],
    ),
    "an index in the first piece only": ([piece(0, "c", "f"), piece(None, None, None, F[1])], [F]),
    "two at once": (
        [
            [*piece(0, "c", "f"), *piece(1, "d", "g")],
            piece(1, None, None, G[1]),
            piece(0, None, None, F[1]),
        ],
        [F, G],
    ),
    "a new id with each piece": ([piece(0, "c", "f"), piece(0, "d", None, F[1])], [F]),
    "id and name in each piece": (
        [piece(0, "c", "f", '{"a"'), piece(0, "c", "f", ":1}")],
        [F],
    ),
    "the name in each piece, no id": (
        [piece(0, None, "f", '{"a"'), piece(0, None, "f", ":1}")],
        [F],
    ),
    "a name in pieces": (
        [piece(0, "c", "get_"), piece(0, None, "weather"), piece(0, None, None, F[1])],
        [("get_weather", F[1])],
    ),
    "a name that grows": (
        [piece(0, "c", "get_"), piece(0, "c", "get_weather"), piece(0, None, None, F[1])],
        [("get_weather", F[1])],
    ),
    "the id before the name": ([piece(0, "c"), piece(0, None, *F)], [F]),
    "the arguments before the name": ([piece(0, "c", None, F[1]), piece(0, None, "f")], [F]),
    "no arguments": ([piece(0, "c", "f")], [("f", "{}")]),
    "blank arguments": ([piece(0, "c", "f", " ")], [("f", "{}")]),
    "blanks before the arguments": ([piece(0, "c", "f", " "), piece(0, None, None, F[1])], [F]),
    "an empty list of arguments": ([piece(0, "c", "f", [])], [("f", "{}")]),
    "an empty list as text": ([piece(0, "c", "f", "[]")], [("f", "{}")]),
    "an empty list with blanks": ([piece(0, "c", "f", " [ ]\n")], [("f", "{}")]),
    "an object of arguments": ([piece(0, "c", "f", {"a": 1})], [F]),
    "nulls at the end": ([piece(0, "c", *F), piece(0)], [F]),
    "nulls at the start": ([piece(0), piece(0, "c", *F)], [F]),
    "nothing but an index": ([[{"index": 0}], piece(0, "c", *F), [{"index": 0}]], [F]),
    "flat": ([[{"name": "f", "arguments": {"a": 1}}]], [F]),
    "flat, of OpenAI's Responses": (
        [[{"type": "function_call", "call_id": "c", "name": "f", "arguments": F[1]}]],
        [F],
    ),
    "an unfinished call before the next": (
        [piece(0, None, "f", '{"a":'), piece(0, None, *G)],
        [("f", '{"a":'), G],
    ),
    "broken arguments": ([piece(0, None, "f", "a}"), piece(0, None, "f", "b")], [("f", "a}b")]),
    "a call without a name before another": ([piece(0, "c", None, "{}"), piece(1, "d", *G)], [G]),
    "a name that comes after another call": (
        [piece(0, "c", None, F[1]), piece(1, "d", *G), piece(0, None, "f")],
        [G, F],
    ),
    "arguments without a name": ([piece(0, "c", None, "{}")], []),
    "an index that is no number": (
        [[{"index": True, "function": {"name": "f", "arguments": F[1]}}]],
        [F],
    ),
    "no list": (["x", None, {}, 7], []),
    "a list of rubbish": ([["x", None, 7, []]], []),
}


@pytest.mark.parametrize(("deltas", "calls"), CALLS.values(), ids=CALLS)
def test_calls(deltas: list[Any], calls: list[tuple[str, str]]) -> None:
    got = calls_of(*deltas)
    assert [(call["function"]["name"], call["function"]["arguments"]) for call in got] == calls
    assert {call["type"] for call in got} <= {"function"}


def test_a_call_is_named_once_and_its_name_waits_for_the_arguments() -> None:
    calls = ToolCalls("chatcmpl-1")
    assert not calls
    assert calls.deltas(pieces(piece(0, "c", "f"), relay=False)) == []
    assert calls
    first = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}
    assert calls.deltas(pieces(piece(0, "c", "f", "{"), relay=False)) == [first]
    second = {"index": 0, "function": {"arguments": "}"}}
    assert calls.deltas(pieces(piece(0, "c", "f", "}"), relay=False)) == [second]
    assert calls.end() == []


def test_a_call_that_waits_is_sent_before_the_next() -> None:
    calls = ToolCalls("chatcmpl-1")
    calls.deltas(pieces(piece(0, None, "f"), relay=False))
    (sent,) = calls.deltas(pieces(piece(1, None, "g"), relay=False))
    assert (sent["function"]["name"], sent["id"]) == ("f", "call_1_0")
    assert [one["index"] for one in calls.end()] == [1, 0, 1]


SIGNED = {"extra_content": {"google": {"thought_signature": "x"}}, "nothing": None}


def test_other_keys_of_a_call_are_relayed() -> None:
    function = {"name": "f", "arguments": "{}", "parsed": 1}
    raw = {"index": 0, "id": "c", "type": "function", "function": function, **SIGNED}
    (call,) = calls_of([raw], relay=True)
    assert call["extra_content"] == SIGNED["extra_content"]
    assert call["function"] == function
    assert "nothing" not in call
    later = {"index": 0, "function": {"arguments": ""}, "signature": "x"}
    (call,) = calls_of([raw], [later], relay=True)
    assert call["signature"] == "x"
    (call,) = calls_of([raw])
    assert set(call) == {"id", "type", "function"}


def custom(index: int, id: Any, text: str) -> Any:
    return [{"index": index, "id": id, "type": "custom", "custom": {"name": "f", "input": text}}]


@pytest.mark.parametrize(
    ("deltas", "inputs"),
    [
        ([custom(0, "c", "a"), [{"index": 0, "custom": {"input": "b"}}]], ["ab"]),
        ([custom(0, "c", "a"), custom(0, "d", "b")], ["a", "b"]),
        ([custom(3, "c", "a"), custom(3, "c", "b")], ["ab"]),
        ([custom(0, "c", "a"), piece(0, "d", *F)], ["a", None]),
        ([piece(0, "d", *F), custom(0, "c", "a")], [None, "a"]),
    ],
    ids=["pieces", "two at one index", "the type in each piece", "then a function", "after one"],
)
def test_calls_of_other_types_are_relayed(deltas: list[Any], inputs: list[str | None]) -> None:
    got = calls_of(*deltas)
    assert [call["custom"]["input"] if "custom" in call else None for call in got] == inputs


def test_in_a_message_each_is_a_call() -> None:
    """Even if all have the same index and id."""
    raw = [*piece(0, "c", *F), *piece(0, "c", *F)]
    assert len(ToolCalls("x").deltas(pieces(raw, relay=False), is_message=True)) == 2


def test_the_number_of_calls_is_bounded() -> None:
    """Each costs more than its bytes."""
    assert len(calls_of([{"name": "f"}] * MAX_CALLS)) == 1
    assert len(calls_of(*[piece(n, f"c{n}", *F) for n in range(MAX_CALLS)])) == MAX_CALLS
    with pytest.raises(ProviderError) as caught:
        calls_of(*[piece(n, f"c{n}", *F) for n in range(MAX_CALLS + 1)])
    assert caught.value.code == "provider_bad_answer"
    with pytest.raises(ProviderError):
        pieces([{}] * (MAX_CALLS + 1), relay=False)


def test_many_pieces_take_time_by_their_number() -> None:
    """Each of these asks whether the call before it is whole; by the square it were minutes."""
    calls = ToolCalls("chatcmpl-1")
    began = time.process_time()
    for _ in range(20_000):
        (delta,) = calls.deltas(pieces(piece(0, None, "f", "a" * 400 + "}"), relay=False))
        assert delta["index"] == 0
    assert time.process_time() - began < 20
