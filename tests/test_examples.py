"""The examples that need nothing but curl, or OpenAI's SDK: they do as their comments say.

The others are run by `make test-clients`.
"""

import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import serving
from recorded import Heard
from serving import DEADLINE, KEY, ROOT, Server

from emulator import Emulator

EXAMPLES = ROOT / "examples"
README = (ROOT / "README.md").read_text()
TOLD = 'This is the emulator, not a model. You said: "{}"'


def only_line(part: str) -> Any:
    """What the one line of JSON in it says."""
    (line,) = [line for line in part.splitlines() if line.startswith("{")]
    return json.loads(line)


def snippet(language: str, start: str, url: str) -> str:
    """The one piece of code in the README that starts so, for the proxy at that URL."""
    found = re.findall(rf"^```{language}\n({start}.*?)^```", README, re.DOTALL | re.MULTILINE)
    (text,) = found
    return str(text).replace("http://127.0.0.1:8000", url)


# --- with curl ------------------------------------------------------------------------------------

needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")


def sh(server: Server, *command: str, key: str = KEY) -> subprocess.CompletedProcess[str]:
    own = {"WORKER_ACCESS_KEY": key, "PROXY_URL": server.url}
    env = {**serving.system_environment(), **own}
    return subprocess.run(
        ["sh", *command], cwd=EXAMPLES, env=env, capture_output=True, text=True, timeout=DEADLINE
    )


@needs_curl
def test_curl(proxy: Server, emulator: Emulator) -> None:
    result = sh(proxy, "curl.sh")
    assert (result.returncode, result.stderr) == (0, "")
    _, whole, streamed, with_tool = result.stdout.split("---")
    *chunks, done = re.findall("^data: (.*)$", streamed, re.MULTILINE)
    assert done == "[DONE]"
    for heard in (Heard.of(only_line(whole)), Heard.of(*map(json.loads, chunks))):
        assert heard.content == TOLD.format("Name three rivers.")
        assert heard.usage["completion_tokens"] == len(heard.content.split())
    ((name, arguments),) = Heard.of(only_line(with_tool)).functions
    assert name == "weather"
    assert "city" in json.loads(arguments)
    assert len(emulator.requests) == 3


@needs_curl
def test_curl_shows_an_error_and_fails(proxy: Server) -> None:
    result = sh(proxy, "curl.sh", key="wrong")
    assert result.returncode == 22
    assert only_line(result.stdout)["error"]["code"] == "invalid_api_key"
    result = sh(proxy, "curl.sh", key="")
    assert result.returncode != 0
    assert "WORKER_ACCESS_KEY" in result.stderr


@needs_curl
def test_the_curl_of_the_readme(proxy: Server) -> None:
    result = sh(proxy, "-c", snippet("sh", "curl ", proxy.url))
    assert only_line(result.stdout)["object"] == "chat.completion"


# --- with OpenAI's SDK, in this process: to import it takes half a second -------------------------

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(proxy: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The exit status of a script, and what it writes to stdout and stderr."""

    def script(path: Path, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        monkeypatch.setenv("WORKER_ACCESS_KEY", KEY)
        monkeypatch.setenv("PROXY_URL", proxy.url)
        status: Any = 0
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return script


def test_openai_python(run: Run, emulator: Emulator) -> None:
    said = TOLD.format("Hi there")
    result = run(EXAMPLES / "openai_python.py", "Hi", "there")
    assert result == (0, f"{said}\n{said}\n13 tokens\n", "")
    assert [bool(received.json.get("stream")) for received in emulator.requests] == [False, True]


@pytest.mark.parametrize(
    ("question", "code"),
    [("[[status=401]]", "provider_auth_failed"), ("[[no_done]]", "provider_failed")],
    ids=["refused", "cut"],
)
def test_openai_python_tells_the_error(run: Run, question: str, code: str) -> None:
    status, _, error = run(EXAMPLES / "openai_python.py", question)
    assert status == 1
    assert re.fullmatch(rf"{code}: .*Request id: .*\n", error)


def test_structured_output(run: Run) -> None:
    result = run(EXAMPLES / "structured_output.py", "Hi")
    assert result == (0, "name='Hi' length_km=1 countries=['Hi']\n", "")


def test_the_python_of_the_readme(run: Run, proxy: Server, tmp_path: Path) -> None:
    (path := tmp_path / "readme.py").write_text(snippet("python", "", proxy.url))
    assert run(path) == (0, TOLD.format("Hello!"), "")


def test_the_readme_lists_the_examples() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    names = {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"README.md"}
    assert names
    assert {name for name in names if f"[{name}]({name})" not in readme} == set()
