"""`python -m emulator`: the emulator as a program, until Ctrl-C or SIGTERM."""

import argparse
import signal
import sys
import threading
from types import FrameType

from emulator.server import Emulator


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="emulator", description="Stand-in for an AI provider.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9100, help="0 takes any free one")
    parser.add_argument("--gap", type=float, default=0.04, help="seconds between streamed words")
    parser.add_argument("--key", help="refuse every other Bearer token")
    return parser.parse_args()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Serve until Ctrl-C or SIGTERM; return the exit status."""
    options = _arguments()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with Emulator(options.host, options.port, gap=options.gap, key=options.key) as emulator:
            print(f"emulator listening on {emulator.url}", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        pass
    except (OSError, OverflowError) as error:
        print(f"emulator: cannot listen on {options.host}:{options.port}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
