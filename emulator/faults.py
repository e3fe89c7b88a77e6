"""What each directive does.

`answer` makes the HTTP answer; `script` turns it into steps (bytes to send, seconds to wait, an end
of the connection). A fault changes the answer, or inserts or removes a step.
"""

import http.client
import json
import math
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache
from itertools import chain, cycle
from pathlib import Path

from emulator.answers import Completion, Dialect, Json, Reply, reply_to
from emulator.directives import Faults, WrongDirectiveError

_SAMPLES = Path(__file__).parent.parent / "tests" / "samples"
_JUNK = b"}this is <neither> JSON nor anything else{"
_GARBAGE = b"\x16\x03\x01\x00\xff this is not HTTP\r\n\r\n"
_DONE = b"data: [DONE]\n\n"
_MARK = "<fill>"
_BLOCK = b"x" * 65536


class End(Enum):
    """How a connection ends: after the complete answer, closed early, or reset early."""

    COMPLETE = "complete"
    CLOSE = "close"
    RESET = "reset"


Step = bytes | float | End  # bytes to send, seconds to wait, or the end of the connection
HANG = math.inf  # a wait that only the client can end


@dataclass(frozen=True)
class Answer:
    """One HTTP answer; its body is opening + words + closing, with the gap between words."""

    status: int
    content_type: str
    headers: dict[str, str]
    words: list[bytes]
    opening: list[bytes] = field(default_factory=list)
    closing: list[bytes] = field(default_factory=list)
    usage: Json | None = None  # the usage that the complete answer contains

    @property
    def streamed(self) -> bool:
        """Whether the body is a stream of events."""
        return self.content_type.startswith("text/event-stream")


@dataclass(frozen=True)
class Asked:
    """A parsed request."""

    dialect: Dialect
    body: Json
    prompt: str  # the last message without its directives
    faults: Faults
    ident: str  # a uuid
    url: str  # of the emulator

    def complete(self, reply: Reply) -> Completion:
        """The reply in the dialect of the request."""
        return self.dialect.complete(reply, self.body, self.ident, int(time.time()))

    @property
    def streamed(self) -> bool:
        """Whether to answer with a stream: as requested, unless a directive reverses it."""
        asked = self.body.get("stream") is True
        return (asked or self.faults.sse_for_whole) and not self.faults.json_for_stream


# --- the answer --------------------------------------------------------------------------------


def _dump(value: Json) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")  # the prompt may have a lone surrogate


def _event(value: Json) -> bytes:
    return b"data: " + _dump(value) + b"\n\n"


def json_answer(status: int, payload: Json, headers: dict[str, str]) -> Answer:
    """An answer with a JSON body."""
    return Answer(status, "application/json", headers, [_dump(payload)])


def error_answer(
    dialect: Dialect, status: int, code: int | None, message: str, ident: str
) -> Answer:
    """An error response in the provider's form; no code and no message: the usual ones."""
    payload = dialect.error(status, code, message, ident)
    return json_answer(status, payload, dialect.headers(ident))


def _plain(asked: Asked) -> Answer:
    reply = reply_to(asked.body, asked.prompt, asked.faults.words)
    completion = asked.complete(reply)
    headers = asked.dialect.headers(asked.ident)
    if not asked.streamed:
        return replace(json_answer(200, completion.whole, headers), usage=reply.usage)
    opening, words, closing = (
        [_event(chunk) for chunk in chunks]
        for chunks in (completion.opening, completion.words, completion.closing)
    )
    closing.append(_DONE)
    return Answer(200, "text/event-stream", headers, words, opening, closing, reply.usage)


def _redirect(asked: Asked) -> Answer:
    headers = {"Location": f"{asked.url}/v1/chat/completions"}
    return json_answer(asked.faults.redirect or 0, {}, headers)


def _error(asked: Asked) -> Answer:
    status = asked.faults.status or 0
    return error_answer(asked.dialect, status, asked.faults.code, "", asked.ident)


@cache
def _samples() -> dict[str, Json]:
    index = json.loads((_SAMPLES / "index.json").read_text("utf-8"))
    return {sample["file"]: sample for sample in index["samples"]}


def _sample(asked: Asked) -> Answer:
    sample = _samples().get(asked.faults.sample or "")
    if sample is None:
        raise WrongDirectiveError(f"sample={asked.faults.sample}")
    body = (_SAMPLES / sample["file"]).read_bytes()
    answer = Answer(sample["http_status"], sample["content_type"], sample["headers"], [body])
    if not answer.streamed:
        return answer
    return replace(answer, words=re.findall(rb".*?\n\n|.+", body, re.DOTALL))


def _huge(asked: Asked, size: int) -> Answer:
    """A body (in a stream, the first event with text) of `size` bytes, from one shared block."""
    completion = asked.complete(Reply([_MARK], 0))
    text = _event(completion.words[0]) if asked.streamed else _dump(completion.whole)
    before, _, after = text.partition(_MARK.encode())
    blocks, rest = divmod(max(0, size - len(before) - len(after)), len(_BLOCK))
    pieces = [before, *[_BLOCK] * blocks, _BLOCK[:rest], after]
    answer = replace(_plain(asked), words=[])
    return replace(answer, opening=[*answer.opening, *pieces])


def _bomb(asked: Asked, size: int) -> Answer:
    answer = _huge(asked, size)
    packer = zlib.compressobj(wbits=31)  # 31: a gzip header, not zlib's own
    packed = [packer.compress(piece) for piece in answer.opening + answer.closing]
    headers = {**answer.headers, "Content-Encoding": "gzip"}
    body = b"".join([*packed, packer.flush()])
    return replace(answer, headers=headers, words=[body], opening=[], closing=[])


_INSTEAD: dict[str, Callable[[Asked], Answer]] = {
    "redirect": _redirect,
    "sample": _sample,
    "status": _error,
    "huge": lambda asked: _huge(asked, asked.faults.huge or 0),
    "gzip": lambda asked: _bomb(asked, asked.faults.gzip or 0),
}


def answer(asked: Asked) -> Answer:
    """The answer to a request, with the faults that change its content."""
    faults = asked.faults
    made = (make for name, make in _INSTEAD.items() if getattr(faults, name) is not None)
    answer = next(made, _plain)(asked)
    if faults.no_done:
        answer = replace(answer, closing=[])
    if faults.junk:
        half = len(answer.words) // 2
        junk = [*answer.words[:half], b"data: " + _JUNK + b"\n\n", *answer.words[half:]]
        answer = replace(answer, words=junk if answer.streamed else [_JUNK])
    if faults.retry_after is not None:
        headers = {**answer.headers, "Retry-After": str(faults.retry_after)}
        answer = replace(answer, headers=headers)
    return answer


# --- the steps --------------------------------------------------------------------------------


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""  # empty would end the body


# How a body is delimited: the header that says so, the form of one piece, the last step.
_FRAMINGS: dict[str, tuple[str, Callable[[bytes], bytes], Step]] = {
    "chunked": ("Transfer-Encoding: chunked", _chunk, b"0\r\n\r\n"),
    "length": ("Content-Length: {length}", bytes, b""),
    "close": ("Connection: close", bytes, End.COMPLETE),
}


def script(answer: Answer, faults: Faults, gap: float = 0.0) -> Iterator[Step]:
    """The steps that send an answer; `gap` seconds between words unless the faults set another."""
    yield faults.wait
    if faults.silent:
        yield HANG
    yield from _cut(faults, "before")
    if faults.garbage:
        yield _GARBAGE
        yield End.CLOSE
    usual = "chunked" if answer.streamed or faults.endless else "length"
    delimiter, frame, last = _FRAMINGS[faults.framing or usual]
    yield from _drip(_head(answer, delimiter), faults.drip_headers)
    yield from _cut(faults, "headers")
    yield faults.first
    for step in _body(answer, faults, gap if faults.gap is None else faults.gap):
        yield from _drip(frame(step), faults.drip_body) if isinstance(step, bytes) else (step,)
    yield HANG if faults.no_end else last


def _cut(faults: Faults, place: str) -> Iterator[Step]:
    if faults.reset == place:
        yield End.RESET
    if faults.close == place:
        yield End.CLOSE


def _drip(data: bytes, seconds: float) -> Iterator[Step]:
    if not seconds:
        yield data
        return
    for byte in data:
        yield bytes([byte])
        yield seconds


def _head(answer: Answer, delimiter: str) -> bytes:
    reason = http.client.responses.get(answer.status, "")
    length = sum(map(len, chain(answer.opening, answer.words, answer.closing)))
    headers = {"Content-Type": answer.content_type, **answer.headers}
    lines = [f"{name}: {value}" for name, value in headers.items()]
    lines = [f"HTTP/1.1 {answer.status} {reason}", *lines, delimiter.format(length=length)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _body(answer: Answer, faults: Faults, gap: float) -> Iterator[Step]:
    count = len(answer.opening) + len(answer.words) + len(answer.closing)
    if count == 1 and "middle" in (faults.reset, faults.close):
        half = len(answer.words[0]) // 2
        answer, count = replace(answer, words=[answer.words[0][:half], answer.words[0][half:]]), 2
    for index, (piece, pause) in enumerate(_paced(answer, faults.endless, gap)):
        if index == count // 2:
            yield from _cut(faults, "middle")
        if index == faults.stall:
            yield HANG
        yield pause  # even of 0 seconds: only a wait notices that the client has left
        yield piece
    if faults.stall is not None:
        yield HANG


def _paced(answer: Answer, endless: bool, gap: float) -> Iterator[tuple[bytes, float]]:
    words: Iterable[bytes] = chain(answer.words, cycle(answer.words)) if endless else answer.words
    yield from ((piece, 0.0) for piece in answer.opening)
    yield from ((piece, gap if index else 0.0) for index, piece in enumerate(words))
    yield from ((piece, 0.0) for piece in answer.closing)
