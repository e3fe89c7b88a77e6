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


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()  # nothing can be made below it, not even by root
    ran = install(tmp_path, "file/.venv", stub(tmp_path, "exit 0"))
    assert ran.returncode == 1
    assert "file/.venv cannot be written: this folder is read-only" in ran.stderr
    assert "apt install" not in ran.stderr


@pytest.mark.parametrize(
    "body",
    [pytest.param("exit 127", id="missing"), pytest.param("exit 1", id="too old")],
)
def test_no_python_that_is_new_enough(tmp_path: Path, body: str) -> None:
    ran = install(tmp_path, ".venv", stub(tmp_path, body))
    assert ran.returncode == 1
    assert "Python 3.11 or newer is needed; name it: make PYTHON=" in ran.stderr


def test_a_python_without_its_venv_package(tmp_path: Path) -> None:
    python = stub(tmp_path, 'case "$*" in *ensurepip*) exit 1;; esac')
    ran = install(tmp_path, ".venv", python)
    assert ran.returncode == 1
    assert "On Debian and Ubuntu: apt install python3-venv" in ran.stderr


def test_another_failure_is_shown_as_it_is(tmp_path: Path) -> None:
    python = stub(tmp_path, 'case "$*" in *"-m venv"*) echo "No space left" >&2; exit 1;; esac')
    ran = install(tmp_path, ".venv", python)
    assert ran.returncode == 1
    assert ran.stderr == "No space left\n"
    assert not (tmp_path / ".venv" / "done").exists()


def test_an_environment_that_is_complete_is_kept(tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    stub(tmp_path / ".venv" / "bin", f'echo "$*" >> {tmp_path}/calls')
    ran = install(tmp_path, ".venv", "/nonexistent/python")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert (tmp_path / ".venv" / "done").exists()
    installed = (tmp_path / "calls").read_text().splitlines()[-1]
    assert installed.endswith(f"--no-deps --require-hashes -r {LOCK}")
