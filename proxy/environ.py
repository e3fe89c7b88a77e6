"""The environment, with `.env` from the project's own folder beneath it."""

import os
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

from dotenv.parser import parse_stream

from proxy.settings import Problem

ENV_FILE = Path(__file__).parent.parent / ".env"


def read() -> tuple[Mapping[str, str], list[Problem]]:
    """Settings by name, and what is wrong with the file. The environment wins, also where blank.

    The parser is used without what dotenv puts on top: interpolation (a key may hold `$`), and
    silence about a line that it cannot read, which takes the line after it along.
    """
    try:
        text = ENV_FILE.read_text("utf-8")
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        return os.environ, [
            Problem(".env", f"cannot be read as UTF-8 text ({type(error).__name__})")
        ]
    lines = list(parse_stream(StringIO(text)))
    in_file = {line.key: line.value or "" for line in lines if line.key is not None}
    problems = [
        Problem(".env", f"line {line.original.line} cannot be read; is a quote left open?")
        for line in lines
        if line.error
    ]
    return {**in_file, **os.environ}, problems


def cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
