"""Workers AI, repaired: what is sent, and what each answer that it was seen to give becomes."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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

quick = settings(max_examples=50, derandomize=True, deadline=None, database=None)

PROVIDER = WorkersAI(
    base_url="https://example.com/accounts/acc/ai/run",
    key="tier-2",
    models={
        "m": ("@cf/meta/llama-3.1-8b-instruct-fast",),
        "other": ("@cf/google/gemma-4-26b-a4b-it",),
    },
)
MIDNIGHT = str(SECONDS_TO_MIDNIGHT)


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


def envelope(result: Any) -> dict[str, Any]:
    return {"result": result, "success": True, "errors": [], "messages": []}


# --- whole answers ------------------------------------------------------------------------------


def says(
    text: str | None,
    usage: dict[str, Any],
    finish: str = "stop",
    *,
    reasoning: str = "",
    calls: tuple[tuple[str, str, str], ...] = (),
) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """The message, the finish_reason and the usage. A call: id, name, arguments."""
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if calls:
        message["tool_calls"] = [
            {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for id, name, arguments in calls
        ]
    if reasoning:
        message["reasoning_content"] = reasoning
    return message, finish, usage


WEATHER = '{"location":"London","days":"3"}'


def choices_of(message: dict[str, Any], finish: Any = "stop", **more: Any) -> dict[str, Any]:
    return envelope({"choices": [{"message": message, "finish_reason": finish}], **more})


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
OUTPUT_TEXT = {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}

WHOLE_SHAPES = {
    "the default limit of 256 reached": (
        envelope({"response": "a", "usage": used(1, 256)}),
        says("a", used(1, 256), "length"),
    ),
    "a finish_reason of its own": (
        envelope({"response": "a", "finish_reason": "model_length"}),
        says("a", ZEROS, "length"),
    ),
    "thinking ate the budget: null": (
        choices_of({"content": None, "reasoning_content": "Hm"}, "length", usage=used(9, 256)),
        says("", used(9, 256), "length", reasoning="Hm"),
    ),
    "an empty string": (envelope({"response": ""}), says("", ZEROS)),
    "null, but a finish": (choices_of({"content": None}), says("", ZEROS)),
    "an object that has only tool_calls": (
        envelope({"response": {"tool_calls": []}}),
        says('{"tool_calls":[]}', ZEROS),
    ),
    "zero": (envelope({"response": 0}), says("0", ZEROS)),
    "empty choices beside text": (
        envelope({"choices": [], "response": "a"}),
        says("a", ZEROS),
    ),
    "empty content beside text": (
        choices_of({"content": ""}, response="a"),
        says("a", ZEROS),
    ),
    "vLLM's tool call, no response": (
        envelope({"tool_calls": [CALL]}),
        says(None, ZEROS, "tool_calls", calls=(("c", "f", '{"a":1}'),)),
    ),
    "the same tool call twice": (
        choices_of(
            {"content": None, "tool_calls": [CALL]},
            "tool_calls",
            response=None,
            tool_calls=[{"name": "f", "arguments": {"a": 1}}],
        ),
        says(None, ZEROS, "tool_calls", calls=(("c", "f", '{"a":1}'),)),
    ),
    "a tool call without arguments": (
        envelope({"response": None, "tool_calls": [{"name": "f"}]}),
        says(None, ZEROS, "tool_calls", calls=(("call_1_0", "f", "{}"),)),
    ),
    "Responses, with a call": (
        envelope(
            {
                "output": [
                    {"type": "reasoning", "summary": []},
                    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                ]
            }
        ),
        says(None, ZEROS, "tool_calls", calls=(("c", "f", "{}"),)),
    ),
    "Responses, cut off": (
        envelope({"status": "incomplete", "output": [OUTPUT_TEXT]}),
        says("Hi", ZEROS, "length"),
    ),
    "Responses, in several messages": (
        envelope({"output": [OUTPUT_TEXT, None, {"type": "x"}, OUTPUT_TEXT]}),
        says("HiHi", ZEROS),
    ),
}

WHOLE_SAMPLES = samples("text", ".json")
ALL_WHOLE = {name: (one.body, says(**one.caller_gets)) for name, one in WHOLE_SAMPLES.items()}
ALL_WHOLE |= {name: (strict_json.dumps(body), row) for name, (body, row) in WHOLE_SHAPES.items()}
each_whole_answer = pytest.mark.parametrize(
    ("body", "row"), ALL_WHOLE.values(), ids=ALL_WHOLE.keys()
)


@each_whole_answer
def test_whole_answers(body: bytes, row: tuple[dict[str, Any], str, dict[str, Any]]) -> None:
    """Complete, in OpenAI's form, with our id and the model's public name."""
    message, finish, usage = row
    assert whole(PROVIDER, body) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": "m",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": usage,
    }


@each_whole_answer
def test_a_whole_answer_to_a_streaming_request(
    body: bytes, row: tuple[dict[str, Any], str, dict[str, Any]]
) -> None:
    """Some models answer so; it is turned into a stream that says the same."""
    message, finish, usage = row
    told = Told.by(streamed(PROVIDER, [body], is_event_stream=False))
    calls = [one["function"] for one in message.get("tool_calls", [])]
    assert told == Told(
        text=message["content"] or "",
        reasoning=message.get("reasoning_content", ""),
        calls=[(one["name"], one["arguments"]) for one in calls],
        finish=finish,
        usage=usage,
    )


@pytest.mark.parametrize(
    ("fields", "tokens", "finish"),
    [
        ({}, 255, "stop"),
        ({}, 256, "length"),
        ({"max_tokens": 10}, 9, "stop"),
        ({"max_completion_tokens": 10}, 10, "length"),
        ({"max_tokens": 1000}, 256, "stop"),
    ],
)
def test_a_native_answer_was_cut_off_where_it_reached_the_limit(
    fields: dict[str, Any], tokens: int, finish: str
) -> None:
    """The caller's limit, or else Workers AI's 256."""
    answer = envelope({"response": "a", "usage": used(5, tokens)})
    assert whole(PROVIDER, answer, **fields)["choices"][0]["finish_reason"] == finish


BAD = (502, "provider_bad_answer", None, "false", None)

NO_ANSWERS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "empty_result_success.json": (SAMPLES["empty_result_success.json"].body, BAD),
    "html_with_200.html": (SAMPLES["html_with_200.html"].body, BAD),
    "http200_success_false_3043.json": (
        SAMPLES["http200_success_false_3043.json"].body,
        (502, "provider_failed", None, "true", None),
    ),
    "an empty object": ({}, BAD),
    "a result that is null": (envelope(None), BAD),
    "null alone": (envelope({"response": None}), BAD),
    "choices without anything": (choices_of({}, None), BAD),
    "success false, no word": ({"success": False}, BAD),
    "success false, daily allocation": (
        {"success": False, "errors": [{"code": 4006, "message": ""}]},
        (502, "provider_quota_exhausted", None, "false", MIDNIGHT),
    ),
    "finish_reason: error": (
        choices_of({"content": "Hel"}, "error"),
        (502, "provider_failed", None, "false", None),
    ),
}


@pytest.mark.parametrize(("body", "tells"), NO_ANSWERS.values(), ids=NO_ANSWERS.keys())
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
QUESTION = '{"question": "retries"}'

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
    "vLLM: usage so far on every chunk": (
        sse(
            openai({"role": "assistant", "content": ""}, usage=used(12, 0)),
            openai({"reasoning_content": "Hm"}, usage=used(12, 1)),
            openai({"content": "4"}, usage=used(12, 2)),
            openai({"content": ""}, "stop", usage=used(12, 3)),
            {"choices": [], "usage": used(12, 3)},
        ),
        Told("4", reasoning="Hm", finish="stop", usage=used(12, 3)),
    ),
    "usage in increments, and none at the end": (
        sse(
            openai({"content": ""}, usage=used(12, 0)),
            openai({"content": "4"}, usage=used(0, 1)),
            openai({"content": "2"}, "stop", usage=used(0, 1)),
        ),
        Told("42", finish="stop", usage=used(12, 2)),
    ),
    "a tool call in native pieces": (
        sse(
            {"tool_calls": [G_NAME]},
            {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
            {"tool_calls": [G_NULLS]},
            {"finish_reason": "tool_calls"},
        ),
        Told(calls=[("f", '{"a":1}')], finish="tool_calls", usage=ZEROS),
    ),
    "a tool call said twice in one frame": (
        sse(
            openai(
                {
                    "tool_calls": [
                        {
                            "id": "chatcmpl-tool-1",
                            "type": "function",
                            "function": {"name": "ask", "arguments": QUESTION},
                        }
                    ]
                },
                tool_calls=[{"name": "ask", "arguments": {"question": "retries"}}],
            ),
            openai({}, "tool_calls", response="", tool_calls=[]),
            {"response": "", "usage": used(46, 4)},
        ),
        Told(calls=[("ask", QUESTION)], finish="tool_calls", usage=used(46, 4)),
    ),
    "a tool call said again beside the finish": (
        sse(
            openai({"tool_calls": [CALL | {"index": 0}]}),
            openai({}, "tool_calls", tool_calls=[{"name": "f", "arguments": {"a": 1}}]),
        ),
        Told(calls=[("f", '{"a":1}')], finish="tool_calls", usage=ZEROS),
    ),
    "a text said again beside an empty delta": (
        sse(openai({"content": "Hi"}, response="Hi"), openai({"content": ""}, response="Hi")),
        Told("Hi", finish="stop", usage=ZEROS),
    ),
    "several finishes, two ends": (
        sse(openai({"content": "a"}), openai({}, "stop"), openai({}, "stop")) + b"data: [DONE]\n\n",
        Told("a", finish="stop", usage=ZEROS),
    ),
    "numbers as tokens": (
        sse(openai({"content": 4}), openai({"content": 2}), openai({}, "stop")),
        Told("42", finish="stop", usage=ZEROS),
    ),
    "first a finish, then more": (
        sse(openai({"content": "a"}, "stop"), openai({"content": "b"}), openai({}, "length")),
        Told("ab", finish="length", usage=ZEROS),
    ),
}

STREAM_SAMPLES = samples("text", ".sse")
ALL_STREAMS = {name: (one.body, Told(**one.caller_gets)) for name, one in STREAM_SAMPLES.items()}
ALL_STREAMS |= STREAM_SHAPES
each_stream = pytest.mark.parametrize(
    ("stream", "told"), ALL_STREAMS.values(), ids=ALL_STREAMS.keys()
)


@each_stream
def test_streams(stream: bytes, told: Told) -> None:
    assert Told.by(streamed(PROVIDER, [stream])) == told
    assert Told.by(streamed(PROVIDER, byte_by_byte(stream))) == told


@each_stream
def test_a_cut_stream_never_ends_well(stream: bytes, told: Told) -> None:
    """Wherever it breaks off before [DONE] or a finish_reason; after it, it says all it said."""
    end = whole_from(stream)
    for place in range(end):
        heard = []
        with pytest.raises(ProviderError):
            for chunk in streamed(PROVIDER, [stream[:place]]):
                heard.append(chunk)
        assert not any(chunk["choices"][0]["finish_reason"] for chunk in heard)
    if end <= len(stream):
        assert Told.by(streamed(PROVIDER, [stream[:end]])).finish


FAILED = (502, "provider_failed", None, "true", None)
CUT = (502, "provider_failed", None, "false", None)

BROKEN_STREAMS = {
    "truncated_no_done.sse": (SAMPLES["truncated_no_done.sse"].body, "Hello wor", CUT),
    "mid_stream_error_inferred.sse": (
        SAMPLES["mid_stream_error_inferred.sse"].body,
        "Hello",
        FAILED,
    ),
    "cut inside a frame": (b'data: {"response":"Hello"}\n\ndata: {"resp', "Hello", BAD),
    "finish_reason: error": (sse(openai({"content": "a"}), openai({}, "error")), "a", CUT),
    "junk": (sse({"response": "a"}, b"oops"), "a", BAD),
    "an error in the gateway's form": (
        sse({"response": "a"}, {"error": [{"code": 2003, "message": "Rate limited"}]}),
        "a",
        (502, "provider_rate_limited", None, "true", "15"),
    ),
    "an error first": (sse({"errors": [{"code": 3043}], "success": False}), None, FAILED),
    "only a DONE": (sse(), None, BAD),
}


@pytest.mark.parametrize(
    ("stream", "text", "tells"), BROKEN_STREAMS.values(), ids=BROKEN_STREAMS.keys()
)
def test_broken_streams(stream: bytes, text: str | None, tells: tuple[Any, ...]) -> None:
    """What came is said, then the failure: no finish, no usage. None: nothing at all was said."""
    for pieces in ([stream], byte_by_byte(stream)):
        heard = []
        with pytest.raises(ProxyError) as caught:
            for chunk in streamed(PROVIDER, pieces):
                heard.append(chunk["choices"][0])
        assert told_of(caught.value) == tells
        if text is None:
            assert not heard
        else:
            assert "".join(choice["delta"]["content"] for choice in heard) == text
        assert not any(choice["finish_reason"] for choice in heard)


# --- refusals -----------------------------------------------------------------------------------


def caller(code: str, param: str | None) -> tuple[Any, ...]:
    return 400, code, param, None, None


def provider(code: str, retry: str = "false", after: str | None = None) -> tuple[Any, ...]:
    return 502, f"provider_{code}", None, retry, after


REFUSALS = samples("code")
each_refusal = pytest.mark.parametrize("sample", REFUSALS.values(), ids=REFUSALS)


def test_every_sample_has_a_row() -> None:
    rows = [WHOLE_SAMPLES, STREAM_SAMPLES, REFUSALS, NO_ANSWERS, BROKEN_STREAMS]
    assert SAMPLES.keys() - {name for table in rows for name in table} == set()


@each_refusal
def test_refusals(sample: Sample) -> None:
    """Whose fault it is, where, and whether a retry helps."""
    names = ("status", "code", "param", "retry", "retry_after")
    tells = tuple(sample.caller_gets.get(name) for name in names)
    assert told_of(refused(PROVIDER, *sample.refusal)) == tells


@each_refusal
def test_refusals_relay_no_prose(sample: Sample) -> None:
    """No model, address, account or request id of the provider's, and none of its words."""
    message = refused(PROVIDER, *sample.refusal).message
    for text in ("AiError", "@cf", "http", "/client", "1b4f0c2e", "Cloudflare", "neurons", "<"):
        assert text not in message


# The status it comes with, the code, and what it means: each code of the table of errors.
CODES = [
    *[(408, code, provider("timeout")) for code in (3007, 3008, 3046)],
    *[(500, code, provider("failed", "true")) for code in (3043, 8004)],
    *[(429, code, provider("overloaded", "true", "5")) for code in (3040, 3050)],
    *[(429, code, provider("rate_limited", "true", "15")) for code in (3021, 2003, 1015)],
    *[(429, code, provider("quota_exhausted", "false", MIDNIGHT)) for code in (3036, 4006)],
    *[(402, code, provider("quota_exhausted")) for code in (2021, 2045)],
    *[(400, code, provider("auth_failed")) for code in (10000, 2009, 6003, 9106, 9109, 3023, 3041)],
    *[(400, code, provider("model_unavailable")) for code in (5028, 5007, 3042, 5016, 5018, 5035)],
    *[(400, code, provider("not_found")) for code in (7000, 7001, 7003, 2001, 2008, 2019, 2040)],
    (403, 5024, provider("bad_answer")),
    *[(400, code, caller("context_length_exceeded", "messages")) for code in (5021, 8007)],
    *[
        (400, code, caller("provider_rejected_input", None))
        for code in (5004, 5006, 5012, 5025, 8001, 8006, 3003, 3006)
    ],
]


@pytest.mark.parametrize(("status", "code", "tells"), CODES)
def test_the_code_decides_first(status: int, code: int, tells: tuple[Any, ...]) -> None:
    """In each of the five envelopes, whatever the status."""
    entry = {"code": code, "message": "Words"}
    envelopes = [
        {"errors": [entry], "success": False, "result": {}, "messages": []},
        {"success": False, "error": [entry], "internalCode": code, "message": "Words"},
        {"name": "AiError", "internalCode": code, "httpCode": status, "message": "Words"},
        {"error": entry},
        {"error": {"code": str(code), "message": "Words"}},
        {"errors": entry},
        {"errors": [{"code": 99, "message": "Unknown"}, entry]},
    ]
    for one in envelopes:
        for status_too in (status, 400, 403, 500):
            body = strict_json.dumps(one)
            assert told_of(refused(PROVIDER, status_too, {}, body)) == tells


def test_the_daily_allocation_is_known_by_its_words() -> None:
    body = b'{"errors":[{"code":99,"message":"you have used up your daily free allocation"}]}'
    error = refused(PROVIDER, 429, {}, body)
    assert told_of(error) == provider("quota_exhausted", "false", MIDNIGHT)


@pytest.mark.parametrize(
    ("sent", "tells"),
    [
        ("60", ("true", "60")),
        ("61", ("false", "61")),
        ("0", ("true", "15")),
        ("3600.5", ("false", "3601")),
        ("99999999", ("false", "86400")),
        ("soon", ("true", "15")),
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


def test_where_it_goes_and_with_which_key() -> None:
    """The model goes into the path; the key shows up nowhere else."""
    request = request_to(PROVIDER)
    assert request.url == (
        "https://example.com/accounts/acc/ai/run/@cf/meta/llama-3.1-8b-instruct-fast"
    )
    assert request.headers == {"Authorization": "Bearer tier-2"}
    assert request_to(PROVIDER, model="other").url.endswith("/@cf/google/gemma-4-26b-a4b-it")
    assert "tier-2" not in repr(request) + repr(PROVIDER)


def test_the_smallest_request() -> None:
    """Only keys that the caller gave: no model, no limit, no stream."""
    assert sent() == {"messages": [HI]}


TEXTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
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
    """Nor is an empty list of calls."""
    more = {"name": None, "refusal": None, "audio": {"id": "x"}, "tool_calls": []}
    assert sent(messages=[HI | more]) == {"messages": [HI]}


KNOWN: dict[str, Any] = {
    **{"max_tokens": 5, "temperature": 0, "top_p": 1.0, "top_k": 40, "seed": 1},
    **{"repetition_penalty": 1.1, "frequency_penalty": 0.5, "presence_penalty": -0.5},
    **{"stop": ["END"], "tools": [{"type": "function", "function": {"name": "f"}}]},
    **{"tool_choice": "auto", "parallel_tool_calls": False, "logit_bias": {"1": -100}},
    **{"logprobs": True, "top_logprobs": 3, "reasoning_effort": "low", "lora": "mine"},
    "chat_template_kwargs": {"enable_thinking": False},
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_parameter_goes_as_it_came(name: str) -> None:
    assert sent(**{name: KNOWN[name]}) == {"messages": [HI], name: KNOWN[name]}
    assert request_to(PROVIDER, **{name: KNOWN[name]}).ignored == set()


JSON_OBJECT = {"response_format": {"type": "json_object"}}
BARE = {"response_format": {"type": "json_schema", "json_schema": SCHEMA}}
WRAPPED = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}


@pytest.mark.parametrize(
    ("fields", "more"),
    [
        ({"max_completion_tokens": 7}, {"max_tokens": 7}),
        ({"max_completion_tokens": 7, "max_tokens": 5}, {"max_tokens": 7}),
        ({"n": 1}, {}),
        ({"temperature": None}, {}),
        ({"stream": True, "stream_options": {"include_usage": True}}, {"stream": True}),
        ({"stream_options": {"include_usage": True}}, {}),
        ({"response_format": {"type": "text"}, "stream": True}, {"stream": True}),
        (JSON_OBJECT, JSON_OBJECT),
        ({**JSON_OBJECT, "stream": True}, JSON_OBJECT),
        ({"response_format": WRAPPED, "stream": True}, BARE),
        (BARE, BARE),
    ],
)
def test_parameters(fields: dict[str, Any], more: dict[str, Any]) -> None:
    """stream_options is never sent: some models refuse what they do not know."""
    assert sent(**fields) == {"messages": [HI], **more}
    assert request_to(PROVIDER, **fields).ignored == set()


def test_what_it_cannot_use_is_not_sent_but_named() -> None:
    request = request_to(PROVIDER, user="ann", metadata={}, service_tier="x", temperature=1)
    assert json.loads(request.body) == {"messages": [HI], "temperature": 1}
    assert request.ignored == {"metadata", "service_tier", "user"}


def test_the_request_is_not_changed() -> None:
    """A second try must find it as it was."""
    asked = chat(
        messages=[{"role": "developer", "content": [{"type": "text", "text": "a"}]}],
        response_format={"type": "json_schema", "json_schema": {"schema": SCHEMA}},
        max_completion_tokens=7,
    )
    before = json.dumps([asked.messages, asked.options])
    assert PROVIDER.request(asked, "x") == PROVIDER.request(asked, "x")
    assert json.dumps([asked.messages, asked.options]) == before


# --- whatever comes -----------------------------------------------------------------------------

KEYS = [
    *["result", "response", "choices", "message", "delta", "content", "tool_calls", "function"],
    *["name", "arguments", "usage", "prompt_tokens", "finish_reason", "output", "type", "error"],
    *["errors", "code", "internalCode", "success", "reasoning", "index", "id", "status"],
]
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 10)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "a", "stop", "error", "message", "reasoning", "3043", "incomplete"]),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS), children, max_size=5)
    ),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from(KEYS), values, max_size=5)


@settings(quick, max_examples=80)
@given(objects)
def test_any_answer_is_read_or_refused(body: dict[str, Any]) -> None:
    """Nothing that a provider says becomes a 500, or an incomplete answer."""
    try:
        completion = whole(PROVIDER, body)
    except (ProviderError, CallerError):
        return
    (choice,) = completion["choices"]
    message = choice["message"]
    assert isinstance(message["content"], str) or (
        message["content"] is None and message["tool_calls"]
    )
    assert choice["finish_reason"] in {"stop", "length", "tool_calls", "content_filter"}
    assert all(type(completion["usage"][name]) is int for name in ZEROS)
    for one in message.get("tool_calls", []):
        assert {type(text) for text in (one["id"], *one["function"].values())} == {str}
    assert strict_json.loads(strict_json.dumps(completion)) == completion


@quick
@given(st.lists(objects, max_size=4), st.booleans())
def test_any_stream_is_read_or_refused(frames: list[dict[str, Any]], done: bool) -> None:
    try:
        Told.by(streamed(PROVIDER, [sse(*frames, done=done)]))
    except (ProviderError, CallerError):
        return


@quick
@given(st.integers(201, 599), values.map(strict_json.dumps) | st.binary())
def test_any_refusal_has_a_meaning(status: int, body: bytes) -> None:
    error = refused(PROVIDER, status, {}, body)
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


@pytest.mark.parametrize(
    ("fields", "sent_too"),
    [
        ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, set()),
        ({"stop": []}, set()),
        ({"stop": [], "temperature": 1}, {"temperature"}),
        ({"tools": [{"type": "function"}], "tool_choice": "auto"}, {"tools", "tool_choice"}),
    ],
)
def test_empty_lists_are_not_sent(fields: dict[str, Any], sent_too: set[str]) -> None:
    """With `tools` go the parameters that are refused without it."""
    sent = json.loads(request_to(PROVIDER, **fields).body)
    assert sent.keys() == {"messages"} | sent_too


def test_a_refusal_in_the_history_is_its_content() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "refusal": "No."}]
    body = json.loads(request_to(PROVIDER, messages=messages).body)
    assert body["messages"][1] == {"role": "assistant", "content": "No."}
