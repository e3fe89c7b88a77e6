"""The log: one line for each request, written when its answer has ended, and a few at the start.

On a terminal a line is for people; anywhere else it is a JSON object, which `python -m proxy usage`
reads again. No line holds a key, or any text of a caller's or a provider's.
"""

import logging
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TextIO

from proxy import strict_json, usage
from proxy.errors import CallerError, ClientGone, ProxyError
from proxy.strict_json import JSON

logger = logging.getLogger("proxy")

DONE, CLIENT_GONE, TIMEOUT, CUT, REFUSED = "done", "client_gone", "timeout", "cut", "refused"


@dataclass
class Entry:
    """What is known of a request, filled in on its way. None: not known, or there is none."""

    request_id: str
    path: str | None = None  # of the route; none is found for a 404 or 405
    key: str | None = None  # its name
    model: str | None = None  # the public name
    provider: str | None = None  # only where it was asked
    status: int | None = None
    provider_status: int | None = None
    code: str | None = None  # of the error
    stream: bool = False
    used: usage.OfAnswer = field(default_factory=usage.OfAnswer)
    retry: int | None = None  # which one it is, as the SDK says
    size: int = 0  # bytes of the answer's body that were sent
    ended: str = DONE
    is_probe: bool = False  # of a health check, which comes every few seconds
    notes: JSON = field(default_factory=dict)  # what helps the operator, where something failed
    _level: int = logging.INFO
    _started: float = field(default_factory=time.monotonic)
    _first_token: float | None = None
    _ended: float | None = None

    def first_token(self) -> None:
        """The first token is on its way."""
        self._first_token = time.monotonic()

    def answered(self, status: int) -> None:
        """The answer begins. A caller who left is told nothing."""
        if self.ended != CLIENT_GONE:
            self.status = status

    def client_gone(self) -> None:
        """The caller left before the end."""
        self.ended, self.code, self.notes = CLIENT_GONE, None, {}

    def failed(self, error: BaseException, failure: ProxyError, *, begun: bool) -> None:
        """`error` happened, and is told as `failure`; `begun`: in the middle of an answer."""
        if isinstance(error, ClientGone) or self.ended == CLIENT_GONE:
            self.client_gone()
            return
        self._level = logging.INFO if isinstance(failure, CallerError) else logging.ERROR
        self.code = failure.code
        self.notes = self.notes | failure.notes
        self.ended = CUT if begun else REFUSED
        if failure.code == "provider_timeout":
            self.ended = TIMEOUT

    def over(self) -> None:
        """The answer is, though what it used is not given back yet."""
        self._ended = time.monotonic()

    @property
    def provider_outcome(self) -> str | None:
        """How the provider is: `done`, or its failure's code. None: this tells nothing of it."""
        if self.provider is None or self.ended == CLIENT_GONE or self.code == "internal_error":
            return None
        at_fault = (self.code or "").startswith("provider_")
        return self.code if at_fault and self.code != "provider_rejected_input" else DONE

    @property
    def age(self) -> float:
        """Seconds since the end of the answer."""
        return time.monotonic() - (self._ended or self._started)

    def write(self) -> None:
        """The line: an error where the provider or this proxy failed."""
        self._ended = self._ended or time.monotonic()
        logger.log(logging.DEBUG if self.is_probe else self._level, "%s", self)

    def to_json(self) -> JSON:
        """The fields of the line."""
        told = self.used.total()
        used = told if told["total_tokens"] else {}
        return {
            "request_id": self.request_id,
            "path": self.path,
            "key": self.key,
            "model": self.model,
            "provider": self.provider,
            "status": self.status,
            "provider_status": self.provider_status,
            "code": self.code,
            "stream": self.stream,
            "prompt_tokens": used.get("prompt_tokens"),
            "completion_tokens": used.get("completion_tokens"),
            "first_token_ms": _milliseconds(self._started, self._first_token),
            "total_ms": _milliseconds(self._started, self._ended),
            "retry": self.retry,
            "bytes": self.size,
            "ended": self.ended,
            **self.notes,
        }

    def __str__(self) -> str:
        """For people: what there is to say, without the names of what says itself."""
        said = self.to_json()
        first, total = said["first_token_ms"], said["total_ms"]
        tokens = f"{said['prompt_tokens']}+{said['completion_tokens']} tokens"
        words = [
            str(self.status or "-"),
            f"{self.ended:<11}",
            self.code or "",
            self.key or "-",
            self.model or self.path or "-",
            tokens if said["prompt_tokens"] is not None else "",
            f"{first}/{total} ms" if first is not None else f"{total} ms",
            self.request_id,
            *(f"{name}: {value}" for name, value in self.notes.items()),
        ]
        return "  ".join(word for word in words if word)


def _milliseconds(start: float, end: float | None) -> float | None:
    return None if end is None else round(1000 * (end - start), 1)


class _Lines(logging.Formatter):
    """A JSON object a line; times are UTC."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        head = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
        }
        args: Any = record.args
        entry = args[0] if args and isinstance(args[0], Entry) else None
        said = entry.to_json() if entry else {"message": record.getMessage()}
        return strict_json.dumps(head | said).decode("ascii")


def start(level: str, stream: TextIO | None = None) -> None:
    """Log to stdout, in the form that suits it."""
    stream = stream or sys.stdout
    handler = logging.StreamHandler(stream)
    readable = logging.Formatter("%(asctime)s  %(levelname)-7s  %(message)s", "%H:%M:%S")
    handler.setFormatter(readable if stream.isatty() else _Lines())
    logger.handlers = [handler]
    logger.setLevel(level.upper())
