"""What generators make of docs/openapi.json, in front of gunicorn: `make test-clients`."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import serving
from check_clients import HERE, SAID, VENV, needs_node, needs_venv
from serving import KEY, MODEL, Server

DOCUMENT = serving.ROOT / "docs" / "openapi.json"
SEEN = {
    "text": SAID,
    "finish": "stop",
    "tokens": 11,
    "has_request_id": True,
    "code": "model_not_allowed",
    "models": [MODEL],
    "model": MODEL,
    "health": "ok",
}


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """What a command prints; it must end well."""
    everything = serving.system_environment() | env
    result = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=everything,
        timeout=serving.DEADLINE,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def seen(printed: str) -> Any:
    return json.loads(printed.splitlines()[-1])


@pytest.mark.usefixtures("emulator")
def test_openapi_python_client(proxy: Server, tmp_path: Path) -> None:
    """It makes each call without a warning, and the client's calls work."""
    needs_venv()
    programs = VENV / "bin"  # it formats what it makes with the ruff that it finds
    path = f"{programs}:{serving.system_environment()['PATH']}"
    output = tmp_path / "proxy_client"
    options = ["--path", DOCUMENT, "--output-path", output, "--meta", "none", "--fail-on-warning"]
    run(programs / "openapi-python-client", "generate", *options, cwd=tmp_path, PATH=path)
    program = HERE / "generated_client.py"
    python = programs / "python"
    printed = run(python, program, proxy.url, KEY, MODEL, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert seen(printed) == SEEN


@pytest.mark.usefixtures("emulator")
def test_openapi_typescript(proxy: Server, tmp_path: Path) -> None:
    """A typed fetch type-checks with what it makes, which refuses what is wrong; its calls work."""
    needs_node()
    (tmp_path / "node_modules").symlink_to(HERE / "node_modules")
    programs = HERE / "node_modules" / ".bin"
    run(programs / "openapi-typescript", DOCUMENT, "-o", "schema.d.mts", cwd=tmp_path)
    (tmp_path / "typed_fetch.mts").write_text((HERE / "typed_fetch.mts").read_text())
    options = ["--strict", "--module", "nodenext", "--target", "es2022", "--noEmitOnError"]
    run(programs / "tsc", *options, "typed_fetch.mts", cwd=tmp_path)
    printed = run("node", "typed_fetch.mjs", proxy.url, KEY, MODEL, cwd=tmp_path)
    assert seen(printed) == SEEN
