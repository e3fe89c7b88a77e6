"""Where settings come from: the environment, and `.env` in the project's own folder beneath it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import serving

from app import create_app
from proxy import environment

DOT_ENV = r"""
# a comment
PLAIN=pa$HOME-${HOME}-$1
SINGLE='pa$HOME-${HOME}'
DOUBLE="pa$HOME-${HOME}"
SPACED = value # a comment
HASH=a#b
EMPTY=
NO_VALUE
export EXPORTED=yes
TWICE=first
TWICE=second
BOTH=from the file
BLANK_OUTSIDE=from the file
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the project, in a folder whose parent has a `.env` too."""
    (tmp_path / ".env").write_text("FROM_PARENT=yes\n")
    (tmp_path / "project").mkdir()
    return serving.copy_project(tmp_path / "project")


def read(folder: Path, **env: str) -> dict[str, str]:
    """environment.read() there, in a process of its own, run from elsewhere."""
    code = (
        "import json; from proxy import environment; print(json.dumps(dict(environment.read()[0])))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder.parent,
        env={**serving.system_environment(), "PYTHONPATH": str(folder), "HOME": "/home/x", **env},
        capture_output=True,
        check=True,
        timeout=serving.DEADLINE,
    )
    settings: dict[str, str] = json.loads(result.stdout)
    return settings


def test_dot_env_is_read_without_interpolation_and_beneath_the_environment(folder: Path) -> None:
    (folder / ".env").write_text(DOT_ENV)
    settings = read(folder, BOTH="from outside", BLANK_OUTSIDE="", OUTSIDE="pa$HOME")
    expected = {
        "PLAIN": "pa$HOME-${HOME}-$1",
        "SINGLE": "pa$HOME-${HOME}",
        "DOUBLE": "pa$HOME-${HOME}",
        "SPACED": "value",
        "HASH": "a#b",
        "EMPTY": "",
        "NO_VALUE": "",
        "EXPORTED": "yes",
        "TWICE": "second",
        "BOTH": "from outside",
        "BLANK_OUTSIDE": "",
        "OUTSIDE": "pa$HOME",
    }
    assert {name: settings.get(name) for name in expected} == expected


def test_only_the_projects_own_folder_is_looked_at(folder: Path) -> None:
    assert "FROM_PARENT" not in read(folder)


def test_without_the_file_it_is_the_environment_alone(folder: Path) -> None:
    assert read(folder, ONLY="this")["ONLY"] == "this"


def test_reading_does_not_change_the_environment(folder: Path) -> None:
    (folder / ".env").write_text("NEW=1\n")
    code = (
        "import os; from proxy import environment; environment.read(); print('NEW' in os.environ)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=serving.system_environment(),
        capture_output=True,
        check=True,
        timeout=serving.DEADLINE,
    )
    assert result.stdout == b"False\n"


def test_in_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".env").write_text("IN_FILE=a$b\nBOTH=file\nNOTHING\n")
    monkeypatch.setattr(environment, "ENV_FILE", folder / ".env")
    monkeypatch.setenv("BOTH", "")
    settings, _ = environment.read()
    assert [settings[name] for name in ("IN_FILE", "BOTH", "NOTHING")] == ["a$b", "", ""]


NOT_UTF_8 = ".env: is not UTF-8 text (Windows may save it as UTF-16); save it again as UTF-8"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (b"A=1\nB='open\nC=3\n", [".env: line 2 cannot be read; is a quote left open?"]),
        (b"A=1\n=2\n", [".env: line 2 cannot be read; is a quote left open?"]),
        (b"A=\xff\n", [NOT_UTF_8]),
        ("A=1\n".encode("utf-16"), [NOT_UTF_8]),
        ("A=1\n".encode("utf-16-le"), [NOT_UTF_8]),
        ("A=1\n".encode("utf-16-be"), [NOT_UTF_8]),
        ("A=é\n".encode("latin-1"), [NOT_UTF_8]),
        ("A=1\r\n".encode("utf-8-sig"), []),
        (b"A=1 # \xc3\xa9\n\n# all is well\n", []),
    ],
    ids=[
        "open quote",
        "no name",
        "not UTF-8",
        "UTF-16",
        "no mark",
        "big end",
        "Latin-1",
        "mark",
        "good",
    ],
)
def test_a_file_that_makes_no_sense_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes, problems: list[str]
) -> None:
    monkeypatch.setattr(environment, "ENV_FILE", tmp_path / ".env")
    (tmp_path / ".env").write_bytes(text)
    _, found = environment.read()
    assert list(map(str, found)) == problems


def test_until_the_file_is_mended_the_answer_is_500(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(environment, "ENV_FILE", tmp_path / ".env")
    (tmp_path / ".env").write_text(
        f"CLOUDFLARE_ACCOUNT_ID='open\nWORKER_ACCESS_KEY={serving.KEY}\n"
    )
    monkeypatch.setenv("WORKER_ACCESS_KEY", serving.KEY)
    bearer = {"Authorization": f"Bearer {serving.KEY}"}
    answer = create_app().test_client().post("/", headers=bearer)
    assert answer.status_code == 500
    assert answer.json is not None
    assert ".env" in answer.json["error"]["message"]
    assert ".env: line 1 cannot be read" in caplog.text


def test_cores_are_counted_also_where_the_system_does_not_say_which_may_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert environment.cores() >= 1
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert environment.cores() == 1


def test_a_file_that_cannot_be_read_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "ENV_FILE", tmp_path)
    _, found = environment.read()
    assert list(map(str, found)) == [".env: cannot be read (IsADirectoryError)"]
