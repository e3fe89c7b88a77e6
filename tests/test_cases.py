"""docs/cases.md: each case that can go wrong has a row, and each test that a row names exists."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CASES = TESTS.parent / "docs" / "cases.md"
COUNTS = {
    "A": 24, "B": 17, "C": 21, "D": 10, "E": 24, "F": 22, "G": 9, "H": 10, "I": 12, "J": 14, "K": 6,
}  # fmt: skip
NO_TEST = "does not apply: "

ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split(" | "))
    for line in CASES.read_text("utf-8").splitlines()
    if re.match(r"\| [A-Z][0-9]", line)
]


def functions(file: str) -> set[str]:
    """The tests in a file."""
    path = TESTS / file
    if not path.is_file():
        return set()
    found = ast.walk(ast.parse(path.read_text("utf-8")))
    return {node.name for node in found if isinstance(node, ast.FunctionDef)}


def test_each_case_has_one_row_in_order() -> None:
    expected = [f"{letter}{n}" for letter, count in COUNTS.items() for n in range(1, count + 1)]
    assert [row[0] for row in ROWS] == expected
    assert len(expected) == 169


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_row_says_what_goes_wrong_and_names_tests_that_exist(row: tuple[str, ...]) -> None:
    _, wrong, kept = row
    assert 1 <= len(wrong.split()) <= 12
    if kept.startswith(NO_TEST):
        assert len(kept) > len(NO_TEST)
        return
    for name in kept.split(", "):
        found = re.fullmatch(r"`(test_\w+\.py)::(test_\w+)`", name)
        assert found, name
        assert found[2] in functions(found[1]), name
