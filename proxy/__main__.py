"""`python -m proxy`: the operator's commands."""

import json
import re
import secrets
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import closing

import click

from proxy import __version__, environment, strict_json
from proxy.chat_request import ChatRequest
from proxy.completion import Answer
from proxy.errors import ProxyError
from proxy.keys import MASTER, NAME, digest
from proxy.providers import answers
from proxy.request_log import CLIENT_GONE, DONE
from proxy.routes import PATHS
from proxy.settings import Settings
from proxy.strict_json import JSON
from proxy.upstream import Upstream
from proxy.usage import AnswerUsage
from proxy.watchdog import Call

_GROUP = ("day", "key", "model")
_SUMS = ("requests", "errors", "prompt_tokens", "completion_tokens", "total_tokens")


@click.group()
@click.version_option(__version__, message=f"llm-proxy {__version__}")
def main() -> None:
    """Operate the proxy."""


@main.command()
@click.option("--live", is_flag=True, help="Also ask the provider for one token.")
def check(live: bool) -> None:
    """Say what is wrong with the settings. The exit status is 1 after a problem."""
    settings = Settings(*environment.read())
    provider, problems = settings.provider, [*map(str, settings.problems)]
    for name, known in settings.keys.items():
        click.echo(f"ok: tier 1: the key of {name} has the fingerprint {known.hex()[:8]}")
    if not problems:
        key = f"key {digest(provider.key).hex()[:8]}" if provider.key else "no key"
        click.echo(f"ok: tier 2: {provider.name}, {key}, models {', '.join(provider.models)}")
    for warning in settings.warnings:
        click.echo(f"warning: {warning}")
    if live and not problems:
        if error := _error(settings, max_tokens=1):
            notes = {"code": error.code, "param": error.param, **error.notes}
            facts = "; ".join(f"{name}: {note}" for name, note in notes.items() if note)
            problems.append(f"live: {error.message} ({facts})")
        else:
            click.echo("ok: live: the provider answered")
    for problem in problems:
        click.echo(f"problem: {problem}")
    sys.exit(1 if problems else 0)


def _error(settings: Settings, **limit: int) -> ProxyError | None:
    """Ask the default model one short question. The error, or None if it was answered."""
    provider = settings.provider
    body = strict_json.dumps({"messages": [{"role": "user", "content": "Hi"}], **limit})
    chat = ChatRequest.from_json(body, provider.models, id="check", created=0)
    call = Call()
    call.begin(settings.timeouts)
    try:
        to_send = provider.request(chat, provider.models[chat.model][0])
        with closing(Upstream(settings.ca_bundle).open(to_send, call)) as reply:
            parts = answers.parts(provider, chat, reply)
            Answer(chat, AnswerUsage(), token_limit=provider.token_limit).completion(parts)
    except ProxyError as error:
        params = (None, "max_tokens", "max_completion_tokens")  # None: it did not say which
        is_about_limit = error.code == "context_length_exceeded" or error.param in params
        if limit and error.status == 400 and is_about_limit:  # some models refuse so few tokens
            return _error(settings)
        return error
    return None


@main.command()
@click.argument("name")
def keygen(name: str) -> None:
    """Make a key of tier 1 for NAME."""
    if not re.fullmatch(NAME, name) or name == MASTER:
        raise click.BadParameter(
            "must be 1 to 64 of A-Z, a-z, 0-9, dot, hyphen and underscore, and not 'master'"
        )
    key = secrets.token_urlsafe(32)
    click.echo(f"The key, for {name}; it is not shown again:\n{key}\n")
    click.echo("The entry for WORKER_ACCESS_KEYS, which holds its digest only:")
    click.echo(f"{name}:sha256:{digest(key).hex()}")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, not as a table.")
def usage(as_json: bool) -> None:
    """Sum up the log on stdin by day, key and model."""
    if sys.stdin.isatty():
        click.echo("Reading the log from stdin; end it with Ctrl-D.", err=True)
    rows, others = summed(line.decode(errors="replace") for line in sys.stdin.buffer)
    click.echo(json.dumps(rows, indent=2) if as_json else _table(rows))
    if others:
        click.echo(f"{others} lines are not about a chat completion", err=True)


def summed(lines: Iterable[str]) -> tuple[list[JSON], int]:
    """A row for each day (UTC), key and model, in that order, and the number of other lines."""
    sums: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    others = 0
    for line in lines:
        try:
            group, counts = _counts(_fields(line))
            sums[group].update(counts)
        except (ValueError, LookupError, TypeError, RecursionError):
            others += 1
    rows = [dict(zip(_GROUP, group, strict=True)) | sums[group] for group in sorted(sums)]
    return rows, others


def _fields(line: str) -> JSON:
    """The JSON object in a line. Platforms put text before it, or wrap it: {"log": "{…}"}."""
    fields: JSON = json.JSONDecoder().raw_decode(line, line.index("{"))[0]
    wrapped = [text for text in fields.values() if isinstance(text, str) and text.startswith("{")]
    return _fields(wrapped[0]) if wrapped and "ended" not in fields else fields


def _counts(fields: JSON) -> tuple[tuple[str, ...], dict[str, int]]:
    """The row of a request, and what it adds. Raises ValueError if it asked for something else.

    A request whose client disconnected is not an error.
    """
    if fields["path"] not in PATHS or fields["method"] != "POST":
        raise ValueError
    group = (fields["time"][:10], fields["key"] or "-", fields["model"] or "-")
    failed = int(fields["ended"] not in (DONE, CLIENT_GONE))
    prompt, completion = fields["prompt_tokens"] or 0, fields["completion_tokens"] or 0
    counts = (1, failed, prompt, completion, prompt + completion)
    return group, dict(zip(_SUMS, counts, strict=True))


def _table(rows: list[JSON]) -> str:
    """The rows as text: words to the left, numbers to the right."""
    columns = []
    for name in (*_GROUP, *_SUMS):
        cells = [name, *(str(row[name]) for row in rows)]
        side, width = "<" if name in _GROUP else ">", max(map(len, cells))
        columns.append([f"{cell:{side}{width}}" for cell in cells])
    return "\n".join(map("  ".join, zip(*columns, strict=True)))


if __name__ == "__main__":
    main()
