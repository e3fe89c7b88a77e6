"""`python -m proxy`: the operator's commands."""

import json
import re
import secrets
import sys
from contextlib import closing

import click

from proxy import __version__, environment, report, strict_json
from proxy.chat_request import ChatRequest
from proxy.completion import Answer
from proxy.errors import ProxyError
from proxy.keys import MASTER, NAME, digest
from proxy.providers import answers
from proxy.settings import Settings
from proxy.upstream import Upstream
from proxy.usage import AnswerUsage
from proxy.watchdog import Call


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
        upstream = Upstream(settings.ca_bundle)
        to_send = provider.request(chat, provider.models[chat.model][0])
        with closing(upstream.open(to_send, call)) as reply:
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
    rows, others = report.summed(sys.stdin)
    click.echo(json.dumps(rows, indent=2) if as_json else report.table(rows))
    if others:
        click.echo(f"{others} lines are not about a chat completion", err=True)


if __name__ == "__main__":
    main()
