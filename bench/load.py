"""Clients by the hundred in one epoll loop, which read every answer to its end and check it.

Each client asks, reads, and asks again. What is not a whole and right answer counts as an error by
its kind, and never as an answer: a target that is broken cannot look fast.
"""

import heapq
import re
import select
import socket
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf

HOST = "127.0.0.1"
_READ_SIZE = 256 * 1024
_PAUSE = 0.05  # seconds before asking again after an error
_TOKEN = re.compile(rb"t=([0-9]+);")  # when the stand-in wrote it, by the clock we have too
_DONE = b"data: [DONE]\n\n"
_END = b'end."'  # of the text of a whole answer


@dataclass(frozen=True)
class Ask:
    """A request, and what the answer must hold."""

    port: int
    request: bytes
    size: int = 0  # bytes of a whole answer, at least
    tokens: int = 0  # of a stream; 0: the answer is whole


@dataclass
class Tally:
    """What a run measured. Times are in seconds."""

    asked: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    answered: list[float] = field(default_factory=list)  # from asking to the end, of the good ones
    first: list[float] = field(default_factory=list)  # from asking to the first token
    transit: list[float] = field(default_factory=list)  # from the stand-in to here, of each token
    elapsed: float = 0.0  # to the last byte of an answer

    @property
    def good(self) -> int:
        return len(self.answered)


def run(
    ask: Ask,
    *,
    clients: int,
    times: float = inf,
    seconds: float = inf,
    stagger: float = 0.0,
    deadline: float,
) -> Tally:
    """Each client asks `times` times or for `seconds`. The first requests are spread over `stagger`
    seconds; all ends after `deadline` seconds."""
    tally, poll, started = Tally(), select.epoll(), time.monotonic()
    crowd = [_Client(ask, poll, tally) for _ in range(clients)]
    due = [(started + stagger * number / clients, number) for number in range(clients)]
    left = [times] * clients
    busy: dict[int, int] = {}  # by the descriptor of its socket: who waits for an answer
    now = started
    while (due or busy) and now < started + deadline:
        while due and due[0][0] <= now:
            _, number = heapq.heappop(due)
            left[number] -= 1
            busy[crowd[number].ask(now)] = number
        wakes_at = due[0][0] if due else started + deadline
        for descriptor, events in poll.poll(max(0.0, wakes_at - now)):
            number, now = busy[descriptor], time.monotonic()
            if (wrong := crowd[number].go_on(events, now)) is None:
                continue
            del busy[descriptor]
            tally.elapsed = now - started
            if left[number] and now < started + seconds:
                heapq.heappush(due, (now + _PAUSE * bool(wrong), number))
            else:
                crowd[number].close()
        now = time.monotonic()
    if busy:
        tally.errors["unfinished"] += len(busy)
        tally.elapsed = now - started
    for client in crowd:
        client.close()
    return tally


class _Client:
    """One that asks. Its connection is kept where the server keeps it."""

    def __init__(self, ask: Ask, poll: select.epoll, tally: Tally) -> None:
        self._ask = ask
        self._poll = poll
        self._tally = tally
        self._sock: socket.socket | None = None

    def ask(self, now: float) -> int:
        """Send the request, or as much of it as goes at once; returns the socket's descriptor."""
        self._tally.asked += 1
        self._asked_at = now
        self._answer = _Answer(self._ask, self._tally)
        self._unsent = memoryview(self._ask.request)
        if self._sock is None:
            self._sock = socket.socket()
            self._sock.setblocking(False)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sock.connect_ex((HOST, self._ask.port))
            self._waits_for = select.EPOLLIN
            self._poll.register(self._sock, self._waits_for)
        self._send(self._sock)
        return self._sock.fileno()

    def go_on(self, events: int, now: float) -> str | None:
        """None while there is more to come; then what was wrong, "" for nothing."""
        assert self._sock is not None
        try:
            if events & select.EPOLLOUT:
                self._send(self._sock)
            if not events & ~select.EPOLLOUT:
                return None
            data = self._sock.recv(_READ_SIZE)
            if not self._answer.feed(data, now, self._asked_at):
                return None
            wrong = self._answer.fault()
        except (OSError, ValueError) as error:
            wrong = type(error).__name__
        if wrong:
            self._tally.errors[wrong] += 1
        else:
            self._tally.answered.append(now - self._asked_at)
        if wrong or self._answer.closes:
            self.close()
        return wrong

    def _send(self, sock: socket.socket) -> None:
        with suppress(OSError):  # it cannot be written to yet, or no more: then reading fails too
            self._unsent = self._unsent[sock.send(self._unsent) :]
        waits_for = select.EPOLLIN | (select.EPOLLOUT if self._unsent else 0)
        if waits_for != self._waits_for:
            self._waits_for = waits_for
            self._poll.modify(sock, waits_for)

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None


class _Answer:
    """An answer as it comes."""

    def __init__(self, ask: Ask, tally: Tally) -> None:
        self._ask = ask
        self._tally = tally
        self._raw = b""  # with the head, then without
        self._status = 0
        self._length: float | None = None  # None: in chunks; without either, to the end
        self._size = 0
        self._tail = b""  # of the body: an event that is not whole yet, or its last bytes
        self._tokens = 0
        self._done = False
        self._ended = False
        self.closes = False

    def feed(self, data: bytes, now: float, asked_at: float) -> bool:
        """Whether that was the end."""
        self._raw += data
        if not self._status and not self._read_head():
            return not data
        body = self._dechunk() if self._length is None else self._raw
        if self._length is not None:
            self._raw = b""
            self._ended = self._size + len(body) >= self._length or (
                self._length == inf and not data
            )
        if body:
            self._size += len(body)
            self._read_tokens(body, now, asked_at)
        return self._ended or not data

    def _read_head(self) -> bool:
        head, end, rest = self._raw.partition(b"\r\n\r\n")
        if not end:
            return False
        head = head.lower()
        self._status = int(head[9:12])
        length = re.search(rb"\ncontent-length: *([0-9]+)", head)
        if b"\ntransfer-encoding: chunked" not in head:
            self._length = int(length[1]) if length else inf
        self.closes = self._length == inf or b"\nconnection: close" in head
        self._raw = rest
        return True

    def _dechunk(self) -> bytes:
        """What the whole chunks hold; the rest waits."""
        pieces, at, raw = [], 0, self._raw
        while (line_end := raw.find(b"\r\n", at)) >= 0:
            size, start = int(raw[at:line_end], 16), line_end + 2
            if len(raw) < start + size + 2:
                break
            pieces.append(raw[start : start + size])
            at = start + size + 2
            self._ended = not size
        self._raw = raw[at:]
        return b"".join(pieces)

    def _read_tokens(self, body: bytes, now: float, asked_at: float) -> None:
        body = self._tail + body
        if not self._ask.tokens:
            self._tail = body[-64:] if _END not in body else _END
            return
        whole = body.rfind(b"\n\n") + 2 if b"\n\n" in body else 0
        found = _TOKEN.findall(body, 0, whole)
        if found and not self._tokens:
            self._tally.first.append(now - asked_at)
        self._tokens += len(found)
        self._tally.transit += [now - int(written) / 1e6 for written in found]
        self._tail = body[whole:]
        self._done = body.endswith(_DONE)

    def fault(self) -> str:
        """What is wrong with it, now that it is at its end; "" for nothing."""
        if self._status != 200:
            return f"status {self._status}" if self._status else "no answer"
        if not self._ended:
            return "torn"
        if self._ask.tokens:
            return "" if self._done and self._tokens == self._ask.tokens else "a cut stream"
        return "" if self._size >= self._ask.size and self._tail == _END else "a cut answer"
