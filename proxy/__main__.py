"""`python -m proxy`: the operator's commands."""

import argparse
import re
import secrets
import signal
import sys

from proxy import __version__, check, environment, keys, report
from proxy.settings import Settings


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 1 if `check` found a problem."""
    options = _parser().parse_args(arguments)
    if options.command == "check":
        return check.run(Settings(*environment.read()), live=options.live)
    if options.command == "keygen":
        key = secrets.token_urlsafe(32)
        print(f"The key, for {options.name}; it is not shown again:\n{key}\n")
        print("The entry for WORKER_ACCESS_KEYS, which holds its digest only:")
        print(f"{options.name}:sha256:{keys.digest(key).hex()}")
        return 0
    return report.run(sys.stdin, as_json=options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m proxy", description="Operate the proxy.")
    parser.add_argument("--version", action="version", version=f"llm-proxy {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="say what is wrong with the settings")
    checking.add_argument("--live", action="store_true", help="also ask the provider for one token")
    making = commands.add_parser("keygen", help="make a key of tier 1")
    making.add_argument("name", type=_name, metavar="NAME", help="whose it is")
    summing = commands.add_parser("usage", help="sum up the log on stdin by day, key and model")
    summing.add_argument("--json", action="store_true", help="as JSON, not as a table")
    return parser


def _name(text: str) -> str:
    if not re.fullmatch(keys.NAME, text) or text == keys.MASTER:
        raise argparse.ArgumentTypeError(
            "must be 1 to 64 of A-Z, a-z, 0-9, dot, hyphen and underscore, and not 'master'"
        )
    return text


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGPIPE):  # Ctrl-C and `| head` end it without a traceback
        signal.signal(number, signal.SIG_DFL)
    sys.exit(main())
