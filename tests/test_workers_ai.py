"""Workers AI, repaired: what is sent, and what each answer that it was seen to give becomes."""

import json
from contextlib import suppress
from typing import Any

import pytest
import random_json
from recorded import (
    SAMPLES,
    SECONDS_TO_MIDNIGHT,
    Sample,
    Told,
    byte_by_byte,
    chat,
    refused,
    request_to,
    sse,
    streamed,
    told_of,
    whole,
    whole_from,
)

from proxy import strict_json
from proxy.errors import CallerError, ProviderError, ProxyError
from proxy.providers.workers_ai import WorkersAI

PROVIDER = WorkersAI(
    base_url="https://example.com/accounts/acc/ai/run",
    key="tier-2",
    models={
        "m": ("@cf/meta/llama-3.1-8b-instruct-fast",),
        "other": ("@cf/google/gemma-4-26b-a4b-it",),
    },
)
MIDNIGHT = str(SECONDS_TO_MIDNIGHT)
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}


def used(prompt: int, answer: int, **more: Any) -> dict[str, Any]:
    total = prompt + answer
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": total, **more}


ZEROS = used(0, 0)


def samples(name: str, kind: str = "") -> dict[str, Sample]:
    """Those of a kind of file whose callers get what has this name."""
    return {
        file: sample
        for file, sample in SAMPLES.items()
        if name in sample.caller_gets and file.endswith(kind)
    }


# --- whole answers ------------------------------------------------------------------------------


def says(text: str | None, finish: str = "stop", **more: Any) -> dict[str, Any]:
    """As `caller_gets` of the samples. A call: id, name, arguments."""
    return {"text": text, "finish": finish, "usage": ZEROS, **more}


def choices_of(message: dict[str, Any], finish: Any = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": finish}], **more}


OUTPUT_TEXT = {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}
OUTPUT_CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a":1}'}
FLAT_CALL = {"name": "f", "arguments": {"a": 1}}
CALLS = says(None, "tool_calls", calls=[["c", "f", '{"a":1}']])
RESULTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the default limit of 256 reached": (
        {"response": "a", "usage": used(1, 256)},
        says("a", "length", usage=used(1, 256)),
    ),
    "thinking ate the budget: null": (
        choices_of({"content": None, "reasoning_content": "Hm"}, "length"),
        says("", "length", reasoning="Hm"),
    ),
    "an empty string": ({"response": ""}, says("")),
    "an object with tool_calls": ({"response": {"tool_calls": []}}, says('{"tool_calls":[]}')),
    "zero": ({"response": 0}, says("0")),
    "empty choices beside text": ({"choices": [], "response": "a"}, says("a")),
    "empty content beside text": (choices_of({"content": ""}, response="a"), says("a")),
    "vLLM's tool call, no response": ({"tool_calls": [CALL]}, CALLS),
    "the same tool call twice": (
        choices_of({"content": None, "tool_calls": [CALL]}, "tool_calls", tool_calls=[FLAT_CALL]),
        CALLS,
    ),
    "Responses, with a call": (
        {"output": [{"type": "reasoning", "summary": []}, OUTPUT_CALL]},
        CALLS,
    ),
    "Responses, cut off": ({"status": "incomplete", "output": [OUTPUT_TEXT]}, says("Hi", "length")),
    "Responses, in several messages": (
        {"output": [OUTPUT_TEXT, None, {}, OUTPUT_TEXT]},
        says("HiHi"),
    ),
}
WHOLE_SAMPLES = samples("text", ".json")
WHOLE = {name: (sample.body, sample.caller_gets) for name, sample in WHOLE_SAMPLES.items()}
WHOLE |= {
    name: (strict_json.dumps({"result": result, "success": True, "errors": []}), told)
    for name, (result, told) in RESULTS.items()
}


@pytest.mark.parametrize(("body", "told"), WHOLE.values(), ids=WHOLE)
def test_whole_answers(body: bytes, told: dict[str, Any]) -> None:
    """Some models answer so to a streaming request too: the stream says the same."""
    completion = whole(PROVIDER, body)
    (choice,) = completion["choices"]
    message = choice["message"]
    calls = [(call["id"], *call["function"].values()) for call in message.get("tool_calls", [])]
    assert told == {
        "text": message["content"],
        "finish": choice["finish_reason"],
        "usage": completion["usage"],
        **({"reasoning": message["reasoning_content"]} if "reasoning_content" in message else {}),
        **({"calls": [list(call) for call in calls]} if calls else {}),
    }
    assert Told.by(streamed(PROVIDER, [body], is_event_stream=False)) == Told(
        text=message["content"] or "",
        reasoning=message.get("reasoning_content", ""),
        calls=[call[1:] for call in calls],
        finish=choice["finish_reason"],
        usage=completion["usage"],
    )


@pytest.mark.parametrize(
    ("fields", "tokens", "finish"),
    [
        ({}, 255, "stop"),
        ({"max_tokens": 10}, 9, "stop"),
        ({"max_completion_tokens": 10}, 10, "length"),
        ({"max_tokens": 1000}, 256, "stop"),
    ],
)
def test_a_native_answer_was_cut_off_where_it_reached_the_limit(
    fields: dict[str, Any], tokens: int, finish: str
) -> None:
    """The caller's limit, or else Workers AI's 256."""
    answer = {"result": {"response": "a", "usage": used(5, tokens)}}
    assert whole(PROVIDER, answer, **fields)["choices"][0]["finish_reason"] == finish


def provider(code: str, retry: str = "false", after: str | None = None) -> tuple[Any, ...]:
    """What an error tells."""
    return 502, f"provider_{code}", None, retry, after


BAD, CUT, FAILED = provider("bad_answer"), provider("failed"), provider("failed", "true")
QUOTA = provider("quota_exhausted", "false", MIDNIGHT)
LIMITED = provider("rate_limited", "true", "15")
NO_ANSWERS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "empty_result_success.json": (SAMPLES["empty_result_success.json"].body, BAD),
    "html_with_200.html": (SAMPLES["html_with_200.html"].body, BAD),
    "http200_success_false_3043.json": (SAMPLES["http200_success_false_3043.json"].body, FAILED),
    "an empty object": ({}, BAD),
    "a result that is null": ({"result": None, "success": True}, BAD),
    "null alone": ({"result": {"response": None}}, BAD),
    "choices without anything": ({"result": choices_of({}, None)}, BAD),
    "success false, daily allocation": ({"success": False, "errors": [{"code": 4006}]}, QUOTA),
    "finish_reason: error": ({"result": choices_of({"content": "Hel"}, "error")}, CUT),
}


@pytest.mark.parametrize(("body", "tells"), NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_a_200_that_is_no_answer(body: Any, tells: tuple[Any, ...]) -> None:
    """It never becomes an empty success: whole or streamed, it keeps its status."""
    body = body if isinstance(body, bytes) else strict_json.dumps(body)
    with pytest.raises(ProxyError) as caught:
        whole(PROVIDER, body)
    assert told_of(caught.value) == tells
    with pytest.raises(ProxyError) as caught:
        next(streamed(PROVIDER, [body], is_event_stream=False))
    assert told_of(caught.value) == tells


# --- streams ------------------------------------------------------------------------------------


def openai(delta: Any, finish: Any = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


G_NAME = {"id": "c", "type": "function", "index": 0, "function": {"name": "f"}}
G_NULLS = {"id": None, "type": None, "index": None, "function": {"name": None, "arguments": None}}
TOLD_TWICE = {"tool_calls": [FLAT_CALL]}
CALLED = Told(calls=[("f", '{"a":1}')], finish="tool_calls", usage=ZEROS)
STREAM_SHAPES = {
    "glm-5.3: reasoning to the limit": (
        sse(
            openai({"role": "assistant", "content": ""}, usage=used(12, 0)),
            openai({"reasoning_content": "Hm"}, usage=used(0, 1)),
            openai({"reasoning_content": ", so"}, usage=used(0, 2)),
            openai({"reasoning_content": None}, "length", usage=ZEROS),
            {"choices": [], "usage": ZEROS},
            {"response": "", "usage": used(12, 3, neurons=0.5)},
        ),
        Told("", reasoning="Hm, so", finish="length", usage=used(12, 3)),
    ),
    "a tool call in native pieces": (
        sse(
            {"tool_calls": [G_NAME]},
            {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
            {"tool_calls": [G_NULLS]},
            {"finish_reason": "tool_calls"},
        ),
        CALLED,
    ),
    "a tool call said twice in one frame": (
        sse(
            openai({"tool_calls": [CALL]}, **TOLD_TWICE),
            openai({}, "tool_calls", response="", tool_calls=[]),
        ),
        CALLED,
    ),
    "a tool call said again beside the finish": (
        sse(openai({"tool_calls": [CALL | {"index": 0}]}), openai({}, "tool_calls", **TOLD_TWICE)),
        CALLED,
    ),
    "a text said again beside an empty delta": (
        sse(openai({"content": "Hi"}, response="Hi"), openai({"content": ""}, response="Hi")),
        Told("Hi", finish="stop", usage=ZEROS),
    ),
    "several finishes, two ends": (
        sse(openai({"content": 4}), openai({}, "stop"), openai({}, "stop")) + b"data: [DONE]\n\n",
        Told("4", finish="stop", usage=ZEROS),
    ),
}
STREAM_SAMPLES = samples("text", ".sse")
STREAMS = {name: (one.body, Told(**one.caller_gets)) for name, one in STREAM_SAMPLES.items()}
STREAMS |= STREAM_SHAPES
each_stream = pytest.mark.parametrize(("stream", "told"), STREAMS.values(), ids=STREAMS)


@each_stream
def test_streams(stream: bytes, told: Told) -> None:
    assert Told.by(streamed(PROVIDER, [stream])) == told
    assert Told.by(streamed(PROVIDER, byte_by_byte(stream))) == told


@each_stream
def test_a_cut_stream_never_ends_well(stream: bytes, told: Told) -> None:
    """Wherever it breaks off before [DONE] or a finish_reason; after it, it says all it said."""
    end = whole_from(stream)
    for place in sorted({*range(0, end, 7), *range(max(0, end - 150), end)}):
        heard = []
        with pytest.raises(ProviderError):
            for chunk in streamed(PROVIDER, [stream[:place]]):
                heard.append(chunk)
        assert not any(chunk["choices"][0]["finish_reason"] for chunk in heard)
    if end <= len(stream):
        assert Told.by(streamed(PROVIDER, [stream[:end]])).finish


BROKEN_STREAMS = {
    "truncated_no_done.sse": (SAMPLES["truncated_no_done.sse"].body, "Hello wor", CUT),
    "mid_stream_error_inferred.sse": (
        SAMPLES["mid_stream_error_inferred.sse"].body,
        "Hello",
        FAILED,
    ),
    "cut inside a frame": (b'data: {"response":"Hello"}\n\ndata: {"resp', "Hello", BAD),
    "an error in the gateway's form": (
        sse({"response": "a"}, {"error": [{"code": 2003}]}),
        "a",
        LIMITED,
    ),
    "an error first": (sse({"errors": [{"code": 3043}], "success": False}), None, FAILED),
    "only a DONE": (sse(), None, BAD),
}


@pytest.mark.parametrize(("stream", "text", "tells"), BROKEN_STREAMS.values(), ids=BROKEN_STREAMS)
def test_broken_streams(stream: bytes, text: str | None, tells: tuple[Any, ...]) -> None:
    """What came is said, then the failure: no finish, no usage. None: nothing at all was said."""
    for pieces in ([stream], byte_by_byte(stream)):
        heard = []
        with pytest.raises(ProxyError) as caught:
            for chunk in streamed(PROVIDER, pieces):
                heard.append(chunk["choices"][0])
        assert told_of(caught.value) == tells
        said = [choice["delta"]["content"] for choice in heard]
        assert ("".join(said) if heard else None) == text
        assert not any(choice["finish_reason"] for choice in heard)


# --- refusals -----------------------------------------------------------------------------------


REFUSALS = samples("code")


def test_every_sample_has_a_row() -> None:
    rows = [WHOLE_SAMPLES, STREAM_SAMPLES, REFUSALS, NO_ANSWERS, BROKEN_STREAMS]
    assert SAMPLES.keys() - {name for table in rows for name in table} == set()


@pytest.mark.parametrize("sample", REFUSALS.values(), ids=REFUSALS)
def test_refusals(sample: Sample) -> None:
    """Whose fault it is, where, and whether a retry helps, in none of the provider's words."""
    error = refused(PROVIDER, *sample.refusal)
    names = ("status", "code", "param", "retry", "retry_after")
    assert told_of(error) == tuple(sample.caller_gets.get(name) for name in names)
    for text in ("AiError", "@cf", "http", "/client", "1b4f0c2e", "Cloudflare", "neurons", "<"):
        assert text not in error.message


REJECTED = (400, "provider_rejected_input", None, None, None)
CODES: dict[int, tuple[Any, ...]] = {  # each code of the table of errors, and what it means
    **dict.fromkeys((3007, 3008, 3046), provider("timeout")),
    **dict.fromkeys((3043, 8004), FAILED),
    **dict.fromkeys((3040, 3050), provider("overloaded", "true", "5")),
    **dict.fromkeys((3021, 2003, 1015), LIMITED),
    **dict.fromkeys((3036, 4006), QUOTA),
    **dict.fromkeys((2021, 2045), provider("quota_exhausted")),
    **dict.fromkeys((10000, 2009, 6003, 9106, 9109, 3023, 3041), provider("auth_failed")),
    **dict.fromkeys((5028, 5007, 3042, 5016, 5018, 5035), provider("model_unavailable")),
    **dict.fromkeys((7000, 7001, 7003, 2001, 2008, 2019, 2040), provider("not_found")),
    5024: BAD,
    **dict.fromkeys((5021, 8007), (400, "context_length_exceeded", "messages", None, None)),
    **dict.fromkeys((5004, 5006, 5012, 5025, 8001, 8006, 3003, 3006), REJECTED),
}


@pytest.mark.parametrize(("code", "tells"), CODES.items())
def test_the_code_decides_first(code: int, tells: tuple[Any, ...]) -> None:
    """In each of the envelopes, whatever the status."""
    entry = {"code": code, "message": "Words"}
    for envelope in (
        {"errors": [entry], "success": False, "result": {}, "messages": []},
        {"success": False, "error": [entry], "internalCode": code, "message": "Words"},
        {"name": "AiError", "internalCode": code, "httpCode": 400, "message": "Words"},
        {"error": entry},
        {"error": {"code": str(code), "message": "Words"}},
        {"errors": entry},
        {"errors": [{"code": 99, "message": "Unknown"}, entry]},
    ):
        for status in (400, 402, 403, 408, 429, 500):
            error = refused(PROVIDER, status, {}, strict_json.dumps(envelope))
            assert told_of(error) == tells


def test_the_daily_allocation_is_known_by_its_words() -> None:
    body = b'{"errors":[{"code":99,"message":"you have used up your daily free allocation"}]}'
    error = refused(PROVIDER, 429, {}, body)
    assert told_of(error) == QUOTA


@pytest.mark.parametrize(
    ("sent", "tells"),
    [
        ("60", ("true", "60")),
        ("61", ("false", "61")),
        ("0", ("true", "15")),
        ("99999999", ("false", "86400")),
        ("Mon, 21 Sep 2026 14:13:30 GMT", ("true", "10")),
        ("Tue, 22 Sep 2026 00:13:20 GMT", ("false", "36000")),
        ("Sun, 21 Sep 2025 14:13:30 GMT", ("true", "15")),
        ("Mon, 99 Sep 2026 14:13:30 GMT", ("true", "15")),
    ],
)
def test_a_sane_retry_after_is_passed_on(sent: str, tells: tuple[str, str]) -> None:
    """3021: the provider's, else 15 seconds; over a minute a retry does not help."""
    error = refused(PROVIDER, 429, {"Retry-After": sent}, b'{"errors":[{"code":3021}]}')
    assert told_of(error)[3:] == tells


@pytest.mark.parametrize(
    ("code", "variable"),
    [(10000, "LLAMA_PROVIDER_API_KEY"), (5028, "LLAMA_PROVIDER_MODELS"), (7003, "ACCOUNT_ID")],
)
def test_the_log_says_what_was_seen_and_what_to_fix(code: int, variable: str) -> None:
    body = b'{"errors":[{"code":%d,"message":"secret"}]}' % code
    notes = refused(PROVIDER, 400, {}, body).notes
    assert notes["seen"] == f"HTTP 400, code {code}"
    assert variable in notes["fix"]
    assert "secret" not in str(notes)


# --- what is sent -------------------------------------------------------------------------------


def sent(**fields: Any) -> Any:
    return json.loads(request_to(PROVIDER, **fields).body)


HI = {"role": "user", "content": "Hi"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
TEXTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


def test_where_it_goes_and_with_which_key() -> None:
    """The model goes into the path; the key shows up nowhere else."""
    request = request_to(PROVIDER)
    model = "@cf/meta/llama-3.1-8b-instruct-fast"
    assert request.url == f"https://example.com/accounts/acc/ai/run/{model}"
    assert request.headers == {"Authorization": "Bearer tier-2"}
    assert request_to(PROVIDER, model="other").url.endswith("/@cf/google/gemma-4-26b-a4b-it")
    assert "tier-2" not in repr(request) + repr(PROVIDER)


MESSAGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # as given; what differs as sent
    "developer is system": ({"role": "developer", "content": "a"}, {"role": "system"}),
    "system": ({"role": "system", "content": "a"}, {}),
    "empty": ({"role": "user", "content": ""}, {}),
    "null": ({"role": "assistant", "content": None, "tool_calls": [CALL]}, {"content": ""}),
    "missing": ({"role": "assistant", "tool_calls": [CALL]}, {"content": ""}),
    "a tool's answer": ({"role": "tool", "tool_call_id": "c", "name": "f", "content": "4"}, {}),
    "text parts": ({"role": "user", "content": TEXTS}, {"content": "ab"}),
    "images": ({"role": "user", "content": [*TEXTS, IMAGE]}, {}),
}


@pytest.mark.parametrize(("message", "changes"), MESSAGES.values(), ids=MESSAGES)
def test_messages(message: dict[str, Any], changes: dict[str, Any]) -> None:
    assert sent(messages=[HI, message, HI]) == {"messages": [HI, message | changes, HI]}


def test_other_keys_of_a_message_are_not_sent() -> None:
    """Nor is an empty list of calls. A refusal in the history is its content."""
    more = {"name": None, "refusal": None, "audio": {"id": "x"}, "tool_calls": []}
    refusal = {"role": "assistant", "refusal": "No."}
    assert sent(messages=[HI | more, refusal])["messages"] == [
        HI,
        {"role": "assistant", "content": "No."},
    ]


KNOWN: dict[str, Any] = {
    **{"max_tokens": 5, "temperature": 0, "top_p": 1.0, "top_k": 40, "seed": 1},
    **{"repetition_penalty": 1.1, "frequency_penalty": 0.5, "presence_penalty": -0.5},
    **{"stop": ["END"], "tools": [{"type": "function", "function": {"name": "f"}}]},
    **{"tool_choice": "auto", "parallel_tool_calls": False, "logit_bias": {"1": -100}},
    **{"logprobs": True, "top_logprobs": 3, "reasoning_effort": "low", "lora": "mine"},
    "chat_template_kwargs": {"enable_thinking": False},
}
STREAM = {"stream": True}
JSON_OBJECT = {"response_format": {"type": "json_object"}}
BARE = {"response_format": {"type": "json_schema", "json_schema": SCHEMA}}
WRAPPED = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}


@pytest.mark.parametrize(
    ("fields", "more"),
    [
        ({}, {}),  # only what the caller gave: no model, no limit, no stream
        (KNOWN, KNOWN),
        ({"max_completion_tokens": 7}, {"max_tokens": 7}),
        ({"max_completion_tokens": 7, "max_tokens": 5}, {"max_tokens": 7}),
        ({"n": 1, "temperature": None}, {}),
        (STREAM | {"stream_options": {"include_usage": True}}, STREAM),
        ({"response_format": {"type": "text"}} | STREAM, STREAM),
        ({"response_format": {}}, {}),
        (JSON_OBJECT | STREAM, JSON_OBJECT),
        ({"response_format": WRAPPED} | STREAM, BARE),
        (BARE, BARE),
        ({"response_format": {"json_schema": {"schema": "x"}}},) * 2,
        ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, {}),
        ({"stop": [], "top_p": 1}, {"top_p": 1}),
    ],
)
def test_parameters(fields: dict[str, Any], more: dict[str, Any]) -> None:
    """stream_options is never sent: some models refuse what they do not know. Empty lists are
    not, and with `tools` go the parameters that are refused without it."""
    assert sent(**fields) == {"messages": [HI], **more}
    assert request_to(PROVIDER, **fields).ignored == set()


def test_what_it_cannot_use_is_not_sent_but_named() -> None:
    request = request_to(PROVIDER, user="ann", metadata={}, functions=[{}], temperature=1)
    assert json.loads(request.body) == {"messages": [HI], "temperature": 1}
    assert request.ignored == {"metadata", "functions", "user"}


def test_the_request_is_not_changed() -> None:
    """A second try must find it as it was."""
    asked = chat(
        messages=[{"role": "developer", "content": TEXTS}],
        response_format=WRAPPED,
        max_completion_tokens=7,
    )
    before = json.dumps([asked.messages, asked.options])
    assert PROVIDER.request(asked, "x") == PROVIDER.request(asked, "x")
    assert json.dumps([asked.messages, asked.options]) == before


# --- whatever comes -----------------------------------------------------------------------------

NAMES = [
    *["result", "response", "choices", "message", "delta", "content", "tool_calls", "function"],
    *["name", "arguments", "usage", "prompt_tokens", "finish_reason", "output", "type", "error"],
    *["errors", "code", "internalCode", "success", "reasoning", "index", "id", "status"],
]
ATOMS = [None, True, False, -1, 0, 1.5, 1e300, "", "a", "stop", "error", "message", "3043"]
ANYTHING = list(random_json.values(1500, ATOMS, NAMES))
OBJECTS = [value for value in ANYTHING if isinstance(value, dict)]
FINISHES = {"stop", "length", "tool_calls", "content_filter"}


def test_any_answer_is_read_or_refused() -> None:
    """Nothing that a provider says becomes a 500, or an incomplete answer."""
    messages = [{"choices": [{"message": value, "delta": value}]} for value in OBJECTS]
    native = [{"result": {"response": value, "tool_calls": [value]}} for value in ANYTHING[::3]]
    bodies = [*OBJECTS, *messages, *native]
    completions = []
    for number, body in enumerate(bodies):
        with suppress(ProviderError, CallerError):
            completions.append(whole(PROVIDER, body))
        with suppress(ProviderError, CallerError):
            list(streamed(PROVIDER, [sse(body, bodies[-number], done=bool(number % 3))]))
    assert len(completions) > 100
    for completion in completions:
        (choice,) = completion["choices"]
        message = choice["message"]
        calls = message.get("tool_calls", [])
        assert isinstance(message["content"], str) or (message["content"] is None and calls)
        assert choice["finish_reason"] in FINISHES
        assert all(type(completion["usage"][name]) is int for name in ZEROS)
        for one in (call for call in calls if call.get("type") == "function"):
            assert {type(text) for text in (one["id"], *one["function"].values())} == {str}
        assert strict_json.loads(strict_json.dumps(completion)) == completion


def test_any_refusal_has_a_meaning() -> None:
    for number, value in enumerate(ANYTHING):
        body = strict_json.dumps(value)[number % 2 :]  # half of them are not JSON
        error = refused(PROVIDER, 201 + number % 399, {}, body)
        assert error.status in {400, 502}


@pytest.mark.parametrize("depth", [100, 500, 900, 950, 980, 990, 2000, 100_000])
def test_nesting_of_any_depth_is_no_crash(depth: int) -> None:
    """The provider answered nonsense, or JSON: in neither case is it this proxy that broke."""
    body = b'{"result":{"response":' + b"[" * depth + b"]" * depth + b"}}"
    try:
        content = whole(PROVIDER, body)["choices"][0]["message"]["content"]
    except ProviderError as error:
        assert error.code == "provider_bad_answer"
    else:
        assert content == "[" * depth + "]" * depth
