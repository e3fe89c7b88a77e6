"""JSON as RFC 8259 has it, and no looser."""

import json
from typing import Any

import pytest

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
each_reader = pytest.mark.parametrize("read", [loads, loads_upstream])


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a":[1,-2.5,true,false,null,""]}', {"a": [1, -2.5, True, False, None, ""]}),
        (b' \t\r\n{"a" : 1} \n', {"a": 1}),
        ('"\\u00e9\\n é 👋🏽 世界"'.encode(), "é\n é 👋🏽 世界"),
        (b'"\\ud800"', "\ud800"),  # a lone surrogate is valid JSON
        (b'"\\ud83d\\udc4b"', "👋"),  # a pair is one character
        (b"[1e308,1e-999,0]", [1e308, 0.0, 0]),
        (b"1" * 309, int("1" * 309)),
        (b"-" + b"1" * 30, -int("1" * 30)),
        (b"\xef\xbb\xbf{}", {}),  # a byte order mark
        (b'[{"a":1},{"a":2}]', [{"a": 1}, {"a": 2}]),  # the same key, in two objects
    ],
)
@each_reader
def test_what_is_json(read: Any, body: bytes, value: Any) -> None:
    assert read(body) == value


NOT_JSON = {
    b"": "it is empty",
    b" \n ": "it is empty",
    b'{"secret": oops}': "it is not valid JSON (line 1, column 12)",
    b'{\n "a": 1,\n}': "it is not valid JSON (line 3, column 1)",
    b'{"a":1} secret': "it is not valid JSON (line 1, column 9)",
    b'"secret\n"': "it is not valid JSON (line 1, column 8)",
    b"{}\xef\xbb\xbf": "it is not valid JSON (line 1, column 3)",  # not before it
    '{"a":1}'.encode("utf-16-le"): "it is not valid JSON (line 1, column 2)",  # Python reads it
    b'{"secret":Infinity}': OUT_OF_RANGE,
    b"[NaN,-Infinity]": OUT_OF_RANGE,
    b"[-1e400]": OUT_OF_RANGE,
    b"9" * 4301: OUT_OF_RANGE,
    b"\xff\xfe{\x00}\x00": "it is not UTF-8 (byte 0)",  # UTF-16 with a mark
    b'"\xed\xa0\x80"': "it is not UTF-8 (byte 1)",  # a surrogate in bytes
    b'"secret \xe2\x82': "it is not UTF-8 (byte 8)",  # cut inside a character
    # What has many marks, and is no JSON:
    b'"' * 1_000_000: "it is not valid JSON (line 1, column 3)",
    b"\\" * 1_000_000: "it is not valid JSON (line 1, column 1)",
    b'{"' + b"," * 1_000_000: "it is not valid JSON (line 1, column 2)",
}


@pytest.mark.parametrize(("body", "message"), NOT_JSON.items())
@each_reader
def test_what_is_not_json(read: Any, body: bytes, message: str) -> None:
    """The message says what is wrong and where, and quotes nothing."""
    with pytest.raises(InvalidJSON) as caught:
        read(body)
    assert str(caught.value) == message
    assert caught.value.__context__ is None


TWICE = "an object in it has the same key twice"
STRICTER = {
    b'{"a":1,"a":2}': TWICE,
    b'[{"x":{"a":1,"b":2,"a":1}}]': TWICE,
    b'{"a":1,"\\u0061":2}': TWICE,
    b"9" * 310: OUT_OF_RANGE,  # larger than a float
    b"-" + b"9" * 309: OUT_OF_RANGE,
    b"1" + b"0" * 4299: OUT_OF_RANGE,
}


@pytest.mark.parametrize(("body", "message"), STRICTER.items())
def test_a_caller_is_read_more_strictly(body: bytes, message: str) -> None:
    """Not the provider: each token costs a reading."""
    with pytest.raises(InvalidJSON, match=f"^{message}$"):
        loads(body)
    assert loads_upstream(body)


NESTS = [(b"[[", b"]]"), (b'{"a":{"b":', b"}}"), (b'[{"a":', b"}]")]


@pytest.mark.parametrize(("opening", "closing"), NESTS)
def test_nesting(opening: bytes, closing: bytes) -> None:
    """64 levels are read, 65 refused."""
    body = opening * 32 + b"1" + closing * 32
    assert loads(body)
    for deeper in (b"[" + body + b"]", b'[1,{"":[]},' + body + b"]"):
        with pytest.raises(InvalidJSON, match=r"^it is nested deeper than 64 levels$"):
            loads(deeper)


ITEMS = {  # of a list, each with its comma and the number of its marks
    "objects": (b"{},", 3),
    "numbers": (b"0,", 1),
    "pairs": (b'{"a":0},', 4),
    "an escaped quote": (b'"\\",",', 1),
    "escaped backslashes": (b'"\\\\\\",\\\\",', 1),
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


@pytest.mark.parametrize(
    "text", ["[" * 100, "]{", '"', "\\", '\\",:', ', \\"a\\": [1]', 'a\\\\"[{']
)
def test_marks_in_strings_are_text(text: str) -> None:
    """Neither their number counts nor their depth."""
    value = {"content": text * (MAX_MARKS // len(text) + 1), text: [text, 1]}
    assert loads(json.dumps(value).encode()) == value
    assert loads_upstream(json.dumps(value).encode() + b" " * MAX_UPSTREAM_MARKS) == value


def test_what_is_written_is_compact_ascii_on_one_line() -> None:
    written = b'{"a":[1,"\\u00e9","\\ud800","\\u2028\\n"]}'
    assert dumps({"a": [1, "é", "\ud800", "\u2028\n"]}) == written


@pytest.mark.parametrize("number", [float("nan"), -float("inf")])
def test_nan_is_never_written(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps({"a": number})


def test_readable_is_for_people() -> None:
    assert readable({"city": "Zürich", "n": [1, 2]}) == '{"city":"Zürich","n":[1,2]}'
