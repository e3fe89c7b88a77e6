"""JSON as RFC 8259 has it, and no looser."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import strict_json
from proxy.strict_json import (
    MAX_MARKS,
    MAX_UPSTREAM_MARKS,
    InvalidJSON,
    dumps,
    loads,
    loads_upstream,
    readable,
)

OUT_OF_RANGE = "a number in it is out of range, NaN or Infinity"
quick = settings(max_examples=80, derandomize=True, deadline=None, database=None)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=())),  # lone surrogates too
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"{}", {}),
        (b'{"a":[1,-2.5,true,false,null,""]}', {"a": [1, -2.5, True, False, None, ""]}),
        (b' \t\r\n{"a" : 1} \n', {"a": 1}),
        (b'"\\u00e9\\n"', "é\n"),
        ('"é 👋🏽 世界"'.encode(), "é 👋🏽 世界"),
        (b'"\\ud800"', "\ud800"),  # a lone surrogate is valid JSON
        (b'"\\ud83d\\udc4b"', "👋"),  # a pair is one character
        (b"1e308", 1e308),
        (b"1e-999", 0.0),
        (b"9" * 309, int("9" * 309)),
        (b"\xef\xbb\xbf{}", {}),  # a byte order mark
        (b'[{"a":1},{"a":2}]', [{"a": 1}, {"a": 2}]),  # the same key, in two objects
    ],
)
@pytest.mark.parametrize("read", [loads, loads_upstream])
def test_what_is_json(read: Any, body: bytes, value: Any) -> None:
    assert read(body) == value


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "it is not valid JSON (line 1, column 1)"),
        (b"   ", "it is not valid JSON (line 1, column 4)"),
        (b'{"secret": oops}', "it is not valid JSON (line 1, column 12)"),
        (b'{\n "a": 1,\n}', "it is not valid JSON (line 3, column 1)"),
        (b'{"a":1} secret', "it is not valid JSON (line 1, column 9)"),
        (b"{'secret':1}", "it is not valid JSON (line 1, column 2)"),
        (b'"secret\n"', "it is not valid JSON (line 1, column 8)"),
        (b"NaN", OUT_OF_RANGE),
        (b'{"secret":Infinity}', OUT_OF_RANGE),
        (b"[-Infinity]", OUT_OF_RANGE),
        (b"1e400", OUT_OF_RANGE),
        (b"[-1e400]", OUT_OF_RANGE),
        (b"9" * 4301, OUT_OF_RANGE),
        (b"\xff\xfe{\x00}\x00", "it is not UTF-8 (byte 0)"),  # UTF-16 with a mark
        (b"{}\xef\xbb\xbf", "it is not valid JSON (line 1, column 3)"),  # not before it
        (b'"secret \xff"', "it is not UTF-8 (byte 8)"),
        (b'"\xed\xa0\x80"', "it is not UTF-8 (byte 1)"),  # a surrogate in bytes
        (b'"\xc0\xaf"', "it is not UTF-8 (byte 1)"),  # an overlong form
        (b'"secret \xe2\x82', "it is not UTF-8 (byte 8)"),  # cut inside a character
    ],
)
@pytest.mark.parametrize("read", [loads, loads_upstream])
def test_what_is_not_json(read: Any, body: bytes, message: str) -> None:
    """The message says what is wrong and where, and quotes nothing."""
    with pytest.raises(InvalidJSON) as caught:
        read(body)
    assert str(caught.value) == message
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_utf_16_without_a_mark_is_not_json() -> None:
    """Python's json would guess the encoding and read it."""
    with pytest.raises(InvalidJSON):
        loads('{"a":1}'.encode("utf-16-le"))


@pytest.mark.parametrize(
    "body", [b'{"a":1,"a":2}', b'[{"x":{"a":1,"b":2,"a":1}}]', b'{"a":1,"\\u0061":2}']
)
def test_a_key_given_twice_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJSON, match=r"^an object in it has the same key twice$"):
        loads(body)


def test_a_key_given_twice_by_the_provider_is_let_be() -> None:
    """Each token costs a reading: the provider's keys are not counted."""
    assert loads_upstream(b'{"a":1,"a":2}') == {"a": 2}


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    return (opening * depth + "1" + closing * depth).encode()


@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_nesting(brackets: tuple[str, str]) -> None:
    """64 levels are read, 65 refused."""
    levels = brackets[0].count("[") + brackets[0].count("{")
    assert loads(nested(64 // levels, *brackets))
    with pytest.raises(InvalidJSON, match=r"^it is nested deeper than 64 levels$"):
        loads(b"[" + nested(64 // levels, *brackets) + b"]")


@pytest.mark.parametrize(
    "body", [b"[" * 65 + b"]" * 65, b"[1," + b"[" * 64 + b"]" * 64 + b"]"], ids=["empty", "later"]
)
def test_nesting_counts_wherever_it_is(body: bytes) -> None:
    with pytest.raises(InvalidJSON, match="deeper than 64"):
        loads(body)


@pytest.mark.parametrize("read", [loads, loads_upstream])
@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}")])
def test_nesting_of_any_depth_is_no_crash(read: Any, brackets: tuple[str, str]) -> None:
    with pytest.raises(InvalidJSON, match="deeper than 64"):
        read(nested(100_000, *brackets))
    with pytest.raises(InvalidJSON):
        read(brackets[0].encode() * 100_000)


@pytest.mark.parametrize(
    "text", ["[" * 100, "{" * 100, '\\"[' * 70, "]" * 100, "\\" + "[" * 99, 'a\\\\"[{']
)
def test_brackets_inside_strings_do_not_count(text: str) -> None:
    body = json.dumps({"a": [text, text], text: text}).encode()
    assert loads(body) == {"a": [text, text], text: text}


def test_many_brackets_side_by_side_are_not_deep() -> None:
    assert loads(b"[" + b"[[]]," * 10_000 + b"[]]")[0] == [[]]


READERS = pytest.mark.parametrize(
    ("read", "maximum"),
    [(loads, MAX_MARKS), (loads_upstream, MAX_UPSTREAM_MARKS)],
    ids=["caller", "provider"],
)
ITEMS = {  # of a list, each with its comma and the number of its marks
    "objects": (b"{},", 3),
    "lists": (b"[],", 3),
    "numbers": (b"0,", 1),
    "strings": (b'"",', 1),
    "pairs": (b'{"a":0},', 4),
    "an escaped quote": (b'"\\",",', 1),
    "an escaped backslash": (b'"\\\\",', 1),
    "both": (b'"\\\\\\",\\\\",', 1),
}


@pytest.mark.parametrize(
    ("read", "maximum", "name"),
    [*((loads, MAX_MARKS, name) for name in ITEMS), (loads_upstream, MAX_UPSTREAM_MARKS, "pairs")],
)
def test_the_number_of_values_is_bounded(read: Any, maximum: int, name: str) -> None:
    """By what stands between them."""
    item, marks = ITEMS[name]
    count = (maximum - 2) // marks
    assert len(read(b"[" + item * count + b"0]")) == count + 1
    with pytest.raises(InvalidJSON, match=rf"^it has more than {maximum} commas, colons"):
        read(b"[" + item * (count + 1) + b"0]" + b" " * MAX_UPSTREAM_MARKS)


@READERS
@pytest.mark.parametrize("text", [",", "[{", '"', "\\", '\\",:', ', \\"a\\": [1]'])
def test_marks_in_strings_are_text(read: Any, maximum: int, text: str) -> None:
    value = {"content": text * (maximum + 1), "more": [text, 1]}
    assert read(json.dumps(value).encode()) == value


@pytest.mark.parametrize("body", [b'"' * 1_000_000, b"\\" * 1_000_000, b'{"' + b"," * 1_000_000])
def test_marks_of_what_is_not_json(body: bytes) -> None:
    with pytest.raises(InvalidJSON, match=r"^it is not valid JSON \(line 1, column "):
        loads(body)


@pytest.mark.parametrize("number", [b"9" * 310, b"-" + b"1" * 309, b"1" + b"0" * 4299])
def test_a_callers_integer_is_no_larger_than_a_float(number: bytes) -> None:
    with pytest.raises(InvalidJSON, match=OUT_OF_RANGE):
        loads(b'{"seed":' + number + b"}")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"a": [1, "é"]}, b'{"a":[1,"\\u00e9"]}'),
        ("\ud800", b'"\\ud800"'),
        ("\u2028", b'"\\u2028"'),
        ("a\nb", b'"a\\nb"'),
    ],
)
def test_what_is_written_is_compact_ascii_on_one_line(value: Any, written: bytes) -> None:
    assert dumps(value) == written


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_nan_is_never_written(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps({"a": number})


def test_readable_is_for_people() -> None:
    assert readable({"city": "Zürich", "n": [1, 2]}) == '{"city":"Zürich","n":[1,2]}'


@quick
@given(values)
def test_what_is_written_is_read_again(value: Any) -> None:
    assert loads(dumps(value)) == value
    assert loads_upstream(dumps(value)) == value


def depth(value: Any) -> int:
    """Levels of lists and objects."""
    if not isinstance(value, list | dict):
        return 0
    return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)


def count(value: Any) -> int:
    """Commas, colons and brackets."""
    if not isinstance(value, list | dict):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    colons = len(value) if isinstance(value, dict) else 0
    return 2 + colons + max(0, len(value) - 1) + sum(map(count, inner))


@quick
@given(values)
def test_the_marks_are_those_outside_of_strings(value: Any) -> None:
    for written in (dumps(value), json.dumps(value, indent=1, ensure_ascii=True).encode()):
        marks = strict_json._marks(written, 10_000)
        assert len(marks) == count(value)
        assert not strict_json._is_deeper_than(depth(value), marks)
        assert not depth(value) or strict_json._is_deeper_than(depth(value) - 1, marks)


json_like = st.lists(
    st.sampled_from([*'[]{},:"\\ \n0123eE.-+', "null", "true", '"a"', "NaN", "1e999", "\u20ac"])
).map("".join)


@quick
@given(st.binary() | json_like.map(str.encode) | values.map(dumps))
def test_reading_is_total(body: bytes) -> None:
    """Any bytes give a value, the same as Python's, or InvalidJSON."""
    for read in (loads, loads_upstream):
        try:
            value = read(body)
        except InvalidJSON as error:
            assert str(error)
        else:
            assert value == json.loads(body)
