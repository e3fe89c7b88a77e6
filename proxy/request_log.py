"""The request log: one line for each request, written when its response has ended.

No line holds a prompt, an answer or a key. docs/log.md describes the fields.
"""

import logging
import sys
import time
from dataclasses import dataclass, fields
from ipaddress import IPv4Address, IPv6Address, ip_address

from proxy import strict_json
from proxy.errors import CallerError, ClientGone, ProxyError
from proxy.log_handler import NonBlockingHandler
from proxy.strict_json import JSON
from proxy.usage import AnswerUsage

logger = logging.getLogger("proxy")

DONE, CLIENT_GONE, TIMEOUT, CUT, REFUSED = "done", "client_gone", "timeout", "cut", "refused"


@dataclass
class Entry:
    """What the log says about a request, in the order of its fields. None: unknown, or none."""

    request_id: str
    client: str | None = None  # its address
    method: str | None = None
    path: str | None = None  # of the route; for a 404 or 405 what was asked
    key: str | None = None  # its name
    model: str | None = None  # the public name
    provider: str | None = None  # only if it was asked
    provider_model: str | None = None  # its name for the model asked last
    status: int | None = None  # of the response, once it begins
    provider_status: int | None = None
    provider_request_id: str | None = None
    code: str | None = None  # of the error
    stream: bool = False
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    first_token_ms: float | None = None  # until then, in a stream
    total_ms: float | None = None  # until the response ended
    retry: int | None = None  # the number of the SDK's retry
    bytes: int = 0  # sent, of the response's body
    ended: str = DONE

    def __post_init__(self) -> None:
        self.notes: JSON = {}  # more fields, facts for the operator
        self.usage, self.is_probe = AnswerUsage(), False
        self._level, self._started = logging.INFO, time.monotonic()

    def elapsed_ms(self) -> float:
        """Milliseconds since the request arrived."""
        return round(1000 * (time.monotonic() - self._started), 1)

    def failed(self, raised: BaseException) -> None:
        """Note why there is no answer, or no complete one."""
        if isinstance(raised, ClientGone | GeneratorExit):  # a server closes what it cannot send
            self.ended = CLIENT_GONE
        elif isinstance(raised, ProxyError):
            self.ended = REFUSED if self.status is None else CUT
            if raised.code == "provider_timeout":
                self.ended = TIMEOUT
            self.code, self.notes = raised.code, raised.notes
            self._level = logging.INFO if isinstance(raised, CallerError) else logging.ERROR
        else:  # the server ends the request: SystemExit, GreenletExit
            self.ended, self._level = CUT, logging.ERROR

    def write(self) -> None:
        """Write the line; its level is error if the provider or this proxy failed."""
        self.total_ms = self.total_ms or self.elapsed_ms()
        used = self.usage.total()
        if used["total_tokens"]:
            self.prompt_tokens = used["prompt_tokens"]
            self.completion_tokens = used["completion_tokens"]
        logger.log(logging.DEBUG if self.is_probe else self._level, self)

    def to_json(self) -> JSON:
        """The fields of the line."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | self.notes

    def __str__(self) -> str:
        """For people: the values that explain themselves, without their names."""
        who, what = self.key or self.client, self.model or self.path
        words = (self.status, self.ended, self.code, who, what, f"{self.total_ms} ms")
        notes = [f"{name}: {note}" for name, note in self.notes.items()]
        return "  ".join(str(word) for word in (*words, self.request_id, *notes) if word)


def client_address(peer: str, forwarded_for: str = "") -> str | None:
    """The peer's address, or the last one in X-Forwarded-For if the peer is on this machine.

    A reverse proxy appends the address that it sees. What stands before that, and what other peers
    send, may be forged. `peer` is empty for a Unix socket.
    """
    address = _address(peer)
    if not peer or (address and address.is_loopback):
        address = _address(forwarded_for.rpartition(",")[2]) or address
    return str(address) if address else None


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:  # without what a socket for both versions puts before IPv4, and without the zone of IPv6
        return ip_address(text.strip().removeprefix("::ffff:").partition("%")[0])
    except ValueError:
        return None


class _Lines(logging.Formatter):
    """A JSON object a line; times are UTC."""

    converter = staticmethod(time.gmtime)
    default_time_format, default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        head = {"time": self.formatTime(record), "level": record.levelname.lower()}
        entry = record.msg
        rest = entry.to_json() if isinstance(entry, Entry) else {"message": record.getMessage()}
        return strict_json.dumps(head | rest).decode("ascii")


def start(level: str) -> None:
    """Log to stdout: for people on a terminal, otherwise as JSON."""
    try:
        handler: logging.Handler = NonBlockingHandler(sys.stdout)
    except OSError:  # no file, as in a notebook
        handler = logging.StreamHandler(sys.stdout)
    readable = logging.Formatter("%(asctime)s  %(levelname)-7s  %(message)s", "%H:%M:%S")
    handler.setFormatter(readable if sys.stdout.isatty() else _Lines())
    logger.handlers = [handler]
    logger.setLevel(level.upper())
