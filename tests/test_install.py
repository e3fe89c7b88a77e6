"""scripts/install.sh: where it cannot make an environment, it says why."""

import subprocess
from pathlib import Path

import pytest
import serving

SCRIPT = serving.ROOT / "scripts" / "install.sh"
LOCK = serving.ROOT / "requirements.txt"


def install(folder: Path, environment: str, python: Path | str) -> subprocess.CompletedProcess[str]:
    """The script's run in that folder, with a Python that must not be looked for elsewhere."""
    return subprocess.run(
        [SCRIPT, environment, LOCK, f"{environment}/done"],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**serving.system_environment(), "PYTHON": str(python)},
        timeout=serving.DEADLINE,
    )


def stub(folder: Path, body: str) -> Path:
    """A program in place of Python: `$*` are its arguments."""
    python = folder / "python"
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)
    return python


FAILURES = {  # the folder, what Python does, and what is said
    "read-only": ("file/.venv", "exit 0", "file/.venv cannot be written: this folder is read-only"),
    "no Python": (".venv", "exit 127", "Python 3.11 or newer is needed; name it: make PYTHON="),
    "an old Python": (".venv", "exit 1", "Python 3.11 or newer is needed; name it: make PYTHON="),
    "no venv": (
        ".venv",
        'case "$*" in *ensurepip*) exit 1;; esac',
        "On Debian and Ubuntu: apt install python3-venv",
    ),
    "another, as it is": (
        ".venv",
        'case "$*" in *"-m venv"*) echo "No space left" >&2; exit 1;; esac',
        "No space left\n",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_why_it_cannot_install(tmp_path: Path, name: str) -> None:
    environment, body, text = FAILURES[name]
    (tmp_path / "file").touch()  # nothing can be made below it, not even by root
    ran = install(tmp_path, environment, stub(tmp_path, body))
    assert ran.returncode == 1
    assert text in ran.stderr
    assert ("apt install" in ran.stderr) == (name == "no venv")
    assert not (tmp_path / ".venv" / "done").exists()


def test_an_environment_that_is_complete_is_kept(tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    stub(tmp_path / ".venv" / "bin", f'echo "$*" >> {tmp_path}/calls')
    ran = install(tmp_path, ".venv", "/nonexistent/python")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert (tmp_path / ".venv" / "done").exists()
    installed = (tmp_path / "calls").read_text().splitlines()[-1]
    assert installed.endswith(f"--no-deps --require-hashes -r {LOCK}")
