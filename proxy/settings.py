"""Reading settings: every problem is noted, none ends the reading, and no value is shown."""

import re
import ssl
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Problem(NamedTuple):
    """What is wrong with a setting, and what would be right."""

    variable: str
    text: str

    def __str__(self) -> str:
        return f"{self.variable}: {self.text}"


class Settings:
    """A mapping of names to text, such as the environment; blank is not set."""

    def __init__(self, env: Mapping[str, str], problems: Iterable[Problem] = ()) -> None:
        self.env = env
        self.problems = [*problems]
        self.warnings: list[Problem] = []

    def wrong(self, variable: str, text: str) -> None:
        """Note what keeps the proxy from serving."""
        self.problems.append(Problem(variable, text))

    def doubtful(self, variable: str, text: str) -> None:
        """Note what does not."""
        self.warnings.append(Problem(variable, text))

    def text(self, name: str, default: str = "") -> str:
        """Without blanks at the ends."""
        return self.env.get(name, "").strip() or default

    def choice(self, name: str, choices: Iterable[str], default: str) -> str:
        """One of the words, in any case."""
        word = self.text(name, default).lower()
        if word not in choices:
            self.wrong(name, f"must be one of: {', '.join(choices)}")
            return default
        return word

    def number(self, name: str, default: float, *, most: int = 86400, whole: bool = False) -> float:
        """Over 0; seconds, unless it is a `whole` number."""
        text = self.text(name, str(default))
        number = float(text) if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", text) else 0.0
        if not 0 < number <= most or (whole and not number.is_integer()):
            kind = "a whole number" if whole else "a number of seconds"
            self.wrong(name, f"must be {kind} over 0, at most {most}")
            return default
        return number

    def whole(self, name: str, default: int, *, most: int) -> int:
        """A whole number over 0."""
        return int(self.number(name, default, most=most, whole=True))

    def certificates(self, name: str) -> str:
        """The path of a file of certificates, in PEM form."""
        path = self.text(name)
        try:
            if path:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except OSError as error:  # ssl.SSLError is one
            kind = type(error).__name__
            self.wrong(name, f"must be a file of certificates in PEM form ({kind})")
            return ""
        return path

    def secret(self, name: str) -> str:
        """A key, letter for letter; blank is not set."""
        key = self.env.get(name, "")
        return key if key.strip() and self.is_sendable(name, key) else ""

    def is_sendable(self, variable: str, key: str) -> bool:
        """Whether HTTP can carry the key as it is."""
        if not re.fullmatch("[!-~]([ -~]*[!-~])?", key):
            self.wrong(variable, "a key must be printable ASCII without blanks at its ends")
            return False
        if len(key) < 16 or re.search("your|change|example|placeholder|secret|xxx", key.lower()):
            self.doubtful(variable, "a key looks short, or like a placeholder; make a strong one")
        return True
