"""Where settings come from: the environment, and `.env` in the project's own folder."""

import os
import runpy
from pathlib import Path

import pytest
import serving

from app import create_app
from proxy import environment
from proxy.settings import Settings

FILE = {  # a line of `.env`, and what is read from it
    "# a comment": {},
    "PLAIN=pa$HOME-${HOME}-$1": {"PLAIN": "pa$HOME-${HOME}-$1"},
    "SINGLE='pa$HOME-${HOME}'": {"SINGLE": "pa$HOME-${HOME}"},
    'DOUBLE="pa$HOME-${HOME}"': {"DOUBLE": "pa$HOME-${HOME}"},
    "SPACED = value # a comment": {"SPACED": "value"},
    "HASH=a#b": {"HASH": "a#b"},
    "EMPTY=": {"EMPTY": ""},
    "NO_VALUE": {"NO_VALUE": ""},
    "export EXPORTED=yes": {"EXPORTED": "yes"},
    "TWICE=first\nTWICE=second": {"TWICE": "second"},
    "BOTH=from the file": {},
    "BLANK_OUTSIDE=from the file": {},
}
OUTSIDE = {"BOTH": "from outside", "BLANK_OUTSIDE": "", "OUTSIDE": "pa$HOME"}


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path that is read as the project's `.env`."""
    monkeypatch.setattr(environment, "ENV_FILE", tmp_path / ".env")
    return tmp_path / ".env"


def test_the_environment_wins_over_the_file_whose_values_are_not_interpolated(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file.write_text("\n".join(FILE))
    monkeypatch.setattr("os.environ", OUTSIDE)
    expected = {name: value for values in FILE.values() for name, value in values.items()}
    assert environment.read() == ({**expected, **OUTSIDE}, [])
    assert "PLAIN" not in os.environ


def test_only_the_file_in_the_projects_own_folder_is_read() -> None:
    """dotenv alone would look where Python is started, and in the folders above."""
    assert runpy.run_path(environment.__file__)["ENV_FILE"] == serving.ROOT / ".env"


QUOTE = "cannot be read; is a quote left open?"
UTF_8 = "is not UTF-8 text or cannot be opened (UnicodeDecodeError)"
FILES = {
    "two open quotes": (b"A='1\nB=2\nC=\"3\n", [f".env: line 1 {QUOTE}", f".env: line 3 {QUOTE}"]),
    "no name": (b"A=1\n=2\n", [f".env: line 2 {QUOTE}"]),
    "UTF-16": ("A=1\n".encode("utf-16"), [f".env: {UTF_8}"]),
    "UTF-16, no mark": ("A=1".encode("utf-16-le"), [f".env: line 1 {QUOTE}"]),
    "UTF-8 with a mark, as Windows saves it": ("A=1\r\n".encode("utf-8-sig"), []),
    "a comment in UTF-8": (b"A=1 # \xc3\xa9\n\n# all is well\n", []),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_understood_is_a_problem(env_file: Path, name: str) -> None:
    content, lines = FILES[name]
    env_file.write_bytes(content)
    variables, problems = environment.read()
    assert [str(problem) for problem in problems] == lines
    if not lines:
        assert variables["A"] == "1"


def test_a_file_that_cannot_be_opened_is_a_problem(env_file: Path) -> None:
    env_file.mkdir()
    (problem,) = environment.read()[1]
    assert str(problem) == ".env: is not UTF-8 text or cannot be opened (IsADirectoryError)"


def test_until_the_file_is_fixed_the_answer_is_500(
    env_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    env_file.write_text(f"CLOUDFLARE_ACCOUNT_ID='open\nWORKER_ACCESS_KEY={serving.KEY}\n")
    monkeypatch.setenv("WORKER_ACCESS_KEY", serving.KEY)
    answer = create_app().test_client().post("/", headers=serving.BEARER)
    assert answer.status_code == 500
    assert "fix .env," in answer.get_json()["error"]["message"]
    assert f".env: line 1 {QUOTE}" in caplog.text


def test_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 2, 5}, raising=False)
    assert (environment.cores(), Settings({}).workers) == (3, 3)
    monkeypatch.delattr("os.sched_getaffinity")  # as on macOS
    assert (environment.cores(), Settings({}).workers) == (7, 4)
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert environment.cores() == 1
