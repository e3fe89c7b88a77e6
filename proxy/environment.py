"""Reads variables from the environment and `.env`.

A bad value is noted as a problem and does not end the reading. No note shows a value.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from dotenv.parser import parse_stream

ENV_FILE = Path(__file__).parent.parent / ".env"
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


def is_gunicorn() -> bool:
    """Whether gunicorn serves; it sets this variable, but not for --check-config."""
    return os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn")


def cores() -> int:
    """The processor cores that this process may use."""
    has_affinity = hasattr(os, "sched_getaffinity")  # macOS has not
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


class Variables:
    """Reads variables from a mapping. A blank variable counts as not set."""

    def __init__(self, env: Mapping[str, str], problems: Iterable[Problem]) -> None:
        self._env = env
        self.defaults: dict[str, str] = {}  # of each variable that was read
        self.problems = [*problems]  # these keep the proxy from serving
        self.warnings: list[Problem] = []  # these do not

    def report(self, name: str, text: str) -> None:
        self.problems.append(Problem(name, text))

    def warn(self, name: str, text: str) -> None:
        self.warnings.append(Problem(name, text))

    def warn_of_misspelt_names(self) -> None:
        """Warn of names that are close to the names of variables that were read."""
        for name in sorted(self._env.keys() - self.defaults.keys()):
            near = get_close_matches(name.upper(), self.defaults, n=1, cutoff=0.8)
            if near and re.fullmatch("[A-Za-z0-9_]{8,64}", name):
                self.warn(name, f"is not a setting of this proxy; did you mean {near[0]}?")

    def exact(self, name: str, default: str = "") -> str:
        """The value, blanks at its ends included; the default if it is blank. Warns of quotes."""
        self.defaults[name] = default
        value = self._env.get(name, "")
        if _QUOTED.fullmatch(value.strip()):
            self.warn(name, "has quotes round its value, which count as a part of it")
        return value if value.strip() else default

    def text(self, name: str, default: str = "") -> str:
        return self.exact(name, default).strip()

    def entries(self, name: str, default: str = "") -> list[str]:
        """The entries of a list that is separated by commas."""
        entries = self.text(name, default).split(",")
        return [entry.strip() for entry in entries if entry.strip()]

    def checked(self, name: str, default: str, is_good: Callable[[str], object], form: str) -> str:
        """The value; if it is not good, a problem that names the form, and the default."""
        text = self.text(name, default)
        if text == default or is_good(text):
            return text
        self.report(name, f"must be {form}")
        return default

    def choice(self, name: str, choices: Iterable[str], default: str) -> str:
        """One of the words, in any case."""
        form = f"one of: {', '.join(choices)}"
        return self.checked(name, default, lambda word: word.lower() in choices, form).lower()

    def seconds(self, name: str, default: int) -> float:
        form = r"[0-9]{1,12}(\.[0-9]{1,6})?"
        return self._number(name, default, 86400, form, "a number of seconds")

    def integer(self, name: str, default: int, maximum: int) -> int:
        return int(self._number(name, default, maximum, "[0-9]{1,12}", "an integer"))

    def _number(self, name: str, default: int, maximum: int, pattern: str, kind: str) -> float:
        def is_good(text: str) -> bool:
            return bool(re.fullmatch(pattern, text)) and 0 < float(text) <= maximum

        form = f"{kind} over 0, at most {maximum}"
        return float(self.checked(name, str(default), is_good, form))
