"""Reads variables from the environment and `.env`, and checks each kind of value.

A bad value is noted as a problem and does not end the reading. No note shows a value.
"""

import os
import re
import ssl
from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from dotenv.parser import parse_stream

ENV_FILE = Path(__file__).parent.parent / ".env"
PLACEHOLDER = re.compile("your|change|example|placeholder|secret|xxx", re.IGNORECASE)
# What is copied together with a key: a scheme, a header's name, a variable's name.
_PREFIX = r"\s*((?i:bearer\s|authorization\s*:|(x-)?api-key\s*:)|(export\s+)?[A-Z]+_[A-Z_]+=)"
_QUOTED = re.compile("[\"'`\u2018\u201c].*[\"'`\u2019\u201d]", re.DOTALL)


class Problem(NamedTuple):
    """What is wrong with a variable, and how to fix it."""

    variable: str
    text: str

    def __str__(self) -> str:
        return f"{self.variable}: {self.text}"


def read() -> tuple[Mapping[str, str], list[Problem]]:
    """The environment over the variables of `.env`, and what is wrong with that file.

    The environment wins, also where it is blank. Only dotenv's parser is used: dotenv itself
    would interpolate values (a key may contain `$`) and ignore lines that it cannot read.
    """
    try:
        text = ENV_FILE.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return os.environ, []
    except (OSError, UnicodeDecodeError) as error:  # Windows may save it as UTF-16
        reason = f"is not UTF-8 text or cannot be opened ({type(error).__name__})"
        return os.environ, [Problem(".env", reason)]
    variables, problems = {}, []
    for line in parse_stream(StringIO(text)):
        if line.error or "\0" in line.original.string:
            reason = f"line {line.original.line} cannot be read; is a quote left open?"
            problems.append(Problem(".env", reason))
        elif line.key is not None:
            variables[line.key] = line.value or ""
    return {**variables, **os.environ}, problems


# What the server was started or reloaded with, as read() returned it; its workers use that.
in_use: tuple[Mapping[str, str], list[Problem]] | None = None


def is_url(text: str) -> bool:
    """Whether it is a URL with a host, of printable ASCII, without a fragment."""
    try:
        parts = urlsplit(text)
        has_host = parts.hostname and parts.port != 0
    except ValueError:  # a port that is not a number, a broken IPv6 address
        return False
    return bool(has_host and re.fullmatch("[!-~]+", text) and "#" not in text)


def is_gunicorn() -> bool:
    """Whether gunicorn serves; it sets this variable, but not for --check-config."""
    return os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn")


def cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Variables:
    """Reads variables from a mapping. A blank variable counts as not set."""

    def __init__(self, env: Mapping[str, str], problems: Iterable[Problem] = ()) -> None:
        self._env = env
        self.defaults: dict[str, str] = {}  # of each variable that was read
        self.problems = [*problems]  # these keep the proxy from serving
        self.warnings: list[Problem] = []  # these do not

    def report(self, name: str, text: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(name, text))

    def warn(self, name: str, text: str) -> None:
        """Add a warning."""
        self.warnings.append(Problem(name, text))

    def exact(self, name: str) -> str:
        """The value with the blanks at its ends."""
        self.defaults.setdefault(name, "")
        value = self._env.get(name, "")
        if _QUOTED.fullmatch(value.strip()):
            self.warn(name, "has quotes round its value, which count as a part of it")
        return value if value.strip() else ""

    def text(self, name: str, default: str = "") -> str:
        self.defaults[name] = default
        return self.exact(name).strip() or default

    def entries(self, name: str, default: str = "") -> list[str]:
        """The entries of a list that is separated by commas."""
        entries = self.text(name, default).split(",")
        return [entry.strip() for entry in entries if entry.strip()]

    def choice(self, name: str, choices: Iterable[str], default: str) -> str:
        """One of the words, in any case."""
        word = self.text(name, default).lower()
        if word not in choices:
            self.report(name, f"must be one of: {', '.join(choices)}")
            return default
        return word

    def seconds(self, name: str, default: float) -> float:
        pattern = r"[0-9]{1,12}(\.[0-9]{1,6})?"
        return self._number(name, default, 86400, pattern, "a number of seconds")

    def integer(self, name: str, default: int, maximum: int) -> int:
        return int(self._number(name, default, maximum, "[0-9]{1,12}", "an integer"))

    def _number(self, name: str, default: float, maximum: int, pattern: str, kind: str) -> float:
        text = self.text(name, str(default))
        number = float(text) if re.fullmatch(pattern, text) else 0
        if not 0 < number <= maximum:
            self.report(name, f"must be {kind} over 0, at most {maximum}")
            return default
        return number

    def check_key(self, name: str, key: str) -> bool:
        """Whether it can be used as a key. A weak one is noted as well."""
        if re.match(_PREFIX, key):
            self.report(name, "must be the key alone, without Bearer or another name before it")
            return False
        if not re.fullmatch("[!-~]([ -~]*[!-~])?", key):
            self.report(name, "a key must be printable ASCII without blanks at its ends")
            return False
        if len(key) < 16 or PLACEHOLDER.search(key):
            self.warn(name, "a key is short or looks like a placeholder; make a strong one")
        return True

    def certificates(self, name: str) -> str:
        """The path of a file of certificates in PEM form."""
        path = self.text(name)
        try:
            if path:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except (OSError, ValueError) as error:  # ssl.SSLError, a NUL in the path
            kind = type(error).__name__
            self.report(name, f"must be a file of certificates in PEM form ({kind})")
            return ""
        return path
