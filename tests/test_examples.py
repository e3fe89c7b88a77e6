"""The examples that need nothing but curl, or OpenAI's SDK: they do as their comments say.

The others are run by `make test-clients`.
"""

import json
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest
import serving
from serving import DEADLINE, KEY, ROOT, Server

from emulator import Emulator

EXAMPLES = ROOT / "examples"


def run(server: Server, *command: str, key: str = KEY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=EXAMPLES,
        env={
            **serving.system_environment(),
            "WORKER_ACCESS_KEY": key,
            "PROXY_URL": server.url,
        },
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


def said(question: str) -> str:
    return f'This is the emulator, not a model. You said: "{question}"'


# --- curl.sh --------------------------------------------------------------------------------------

needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")


@needs_curl
def test_curl(proxy: Server, emulator: Emulator) -> None:
    result = run(proxy, "sh", "curl.sh")
    assert (result.returncode, result.stderr) == (0, "")
    _, whole, streamed, with_tool = result.stdout.split("---")
    answer = only_line(whole)
    assert answer["choices"][0]["message"]["content"] == said("Name three rivers.")
    *chunks, done = [line[6:] for line in streamed.splitlines() if line.startswith("data: ")]
    assert done == "[DONE]"
    *deltas, usage = [json.loads(chunk) for chunk in chunks]
    text = "".join(delta["choices"][0]["delta"].get("content", "") for delta in deltas)
    assert text == said("Name three rivers.")
    assert usage["usage"] == answer["usage"]
    (call,) = only_line(with_tool)["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert "city" in json.loads(call["function"]["arguments"])
    assert len(emulator.requests) == 3


def only_line(part: str) -> Any:
    """What the one line of JSON in it says."""
    (line,) = [line for line in part.splitlines() if line.startswith("{")]
    return json.loads(line)


@needs_curl
def test_curl_shows_an_error_and_fails(proxy: Server) -> None:
    result = run(proxy, "sh", "curl.sh", key="wrong")
    assert result.returncode == 22
    assert only_line(result.stdout)["error"]["code"] == "invalid_api_key"


@needs_curl
def test_curl_without_a_key_says_what_is_missing(proxy: Server) -> None:
    result = run(proxy, "sh", "curl.sh", key="")
    assert result.returncode != 0
    assert "WORKER_ACCESS_KEY" in result.stderr


# --- openai_python.py -----------------------------------------------------------------------------


def test_openai_python(proxy: Server, emulator: Emulator) -> None:
    result = run(proxy, sys.executable, "openai_python.py", "Hi", "there")
    assert (result.returncode, result.stderr) == (0, "")
    whole, streamed, tokens = result.stdout.splitlines()
    assert whole == streamed == said("Hi there")
    assert tokens == "13 tokens"
    assert [bool(received.json.get("stream")) for received in emulator.requests] == [False, True]


@pytest.mark.parametrize(
    ("question", "code"),
    [("[[status=401]]", "provider_auth_failed"), ("[[no_done]]", "provider_failed")],
    ids=["refused", "cut"],
)
def test_openai_python_tells_the_error(proxy: Server, question: str, code: str) -> None:
    result = run(proxy, sys.executable, "openai_python.py", question)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"{code}: ")
    assert "Request id: " in line


# --- structured_output.py -------------------------------------------------------------------------


def test_structured_output(proxy: Server) -> None:
    result = run(proxy, sys.executable, "structured_output.py", "Hi")
    assert (result.stdout, result.stderr) == ("name='Hi' length_km=1 countries=['Hi']\n", "")


# --- the README's own -----------------------------------------------------------------------------


def snippets(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@needs_curl
def test_the_curl_of_the_readme(proxy: Server) -> None:
    (snippet,) = [text for text in snippets("sh") if text.startswith("curl ")]
    result = run(proxy, "sh", "-c", snippet.replace("http://127.0.0.1:8000", proxy.url))
    assert only_line(result.stdout)["object"] == "chat.completion"


def test_the_python_of_the_readme(proxy: Server) -> None:
    (snippet,) = snippets("python")
    result = run(proxy, sys.executable, "-c", snippet.replace("http://127.0.0.1:8000", proxy.url))
    assert (result.stdout, result.stderr) == (said("Hello!"), "")


# --- README.md ------------------------------------------------------------------------------------


def test_the_readme_lists_the_examples() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    names = {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"README.md"}
    assert names
    assert {name for name in names if f"[{name}]({name})" not in readme} == set()
