"""The environment, with `.env` from the project's own folder beneath it."""

import os
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

ENV_FILE = Path(__file__).parent.parent / ".env"


def read() -> Mapping[str, str]:
    """Settings by name. The environment wins, also where it is blank.

    Without interpolation: a key may hold `$`. Raises ValueError where the file is not UTF-8.
    """
    in_file = dotenv_values(ENV_FILE, interpolate=False)
    return {**{name: value or "" for name, value in in_file.items()}, **os.environ}
