"""The house rules: which module may import which, and that what is written down is true."""

import ast
import json
import re
import tomllib
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

from proxy import __version__, errors
from proxy.settings import Settings

ROOT = Path(__file__).parent.parent

# From the ground up: a module imports only from floors below its own.
FLOORS = [
    {"proxy.errors", "proxy.strict_json", "proxy.sse", "proxy.environment", "proxy.keys"},
    {"proxy.log_handler", "proxy.usage", "proxy.tool_calls", "proxy.watchdog"},
    {"proxy.chat_request", "proxy.request_log"},
    {"proxy.completion"},
    {"proxy.providers"},
    {"proxy.providers.workers_ai", "proxy.providers.openai_compatible"},
    {"proxy.providers.facts", "proxy.providers.frames"},
    {"proxy.providers.envelopes"},
    {"proxy.providers.refusals"},
    {"proxy.settings"},
    {"proxy.provider_response", "proxy.rate_limit"},
    {"proxy.connections"},
    {"proxy.upstream"},
    {"proxy.providers.answers", "proxy.responses", "proxy.incoming"},
    {"proxy.chat", "proxy.worker"},
    {"proxy.routes"},
    {"app", "proxy.__main__"},
]
FLOOR = {module: number for number, modules in enumerate(FLOORS) for module in modules}

# Each foreign thing is touched in as few modules as can be.
KEEPERS = {
    "requests": "connections upstream",
    "urllib3": "connections upstream",
    "flask": "app chat incoming responses routes",
    "werkzeug": "incoming routes",
    "limits": "rate_limit",
    "gunicorn": "worker",
    "gevent": "log_handler watchdog worker",
    "dotenv": "environment",
    "os": "environment log_handler",
    "logging": "log_handler request_log",
    "click": "__main__",
    "time": "chat connections provider_response rate_limit request_log watchdog",
}


def modules() -> dict[str, Path]:
    found = {"app": ROOT / "app.py"}
    for path in (ROOT / "proxy").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = path
    del found["proxy"]
    return found


@cache
def imports(path: Path) -> set[str]:
    """The modules that a file imports, by their full names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in FLOOR else str(node.module) for name in inner}
    return found - {"proxy"}


def test_a_module_imports_only_from_lower_floors() -> None:
    assert modules().keys() == FLOOR.keys()
    ours = [(module, name) for module, path in modules().items() for name in imports(path)]
    upward = [pair for pair in ours if pair[1] in FLOOR and FLOOR[pair[1]] >= FLOOR[pair[0]]]
    assert upward == []


def test_a_foreign_thing_is_touched_by_its_keepers_only() -> None:
    users: dict[str, list[str]] = {foreign: [] for foreign in KEEPERS}
    for module, path in modules().items():
        for foreign in {name.split(".")[0] for name in imports(path)} & KEEPERS.keys():
            users[foreign].append(module.removeprefix("proxy."))
    assert {foreign: " ".join(sorted(names)) for foreign, names in users.items()} == KEEPERS


# Their defaults are told in words: none of them is one value that could be set.
IN_WORDS = {"LLAMA_PROVIDER_BASE_URL", "RATE_LIMIT_STORAGE", "PORT", "WEB_CONCURRENCY"}


@pytest.mark.parametrize(
    ("file", "setting"),
    [("README.md", r"^\| `([A-Z_]+)` \| `?([^ |;,`]*)"), (".env.example", "^#?([A-Z_]+)=(.*)")],
)
def test_the_documents_have_each_setting_with_its_default(file: str, setting: str) -> None:
    text = (ROOT / file).read_text()
    documented = dict(re.findall(setting, text, re.MULTILINE))
    if file == "README.md":  # in another setting's row
        documented["CLOUDFLARE_API_TOKEN"] = ""
        openai = Settings({"LLAMA_PROVIDER": "openai"}).defaults["LLAMA_PROVIDER_TIMEOUT"]
        assert re.search(rf"^\| `LLAMA_PROVIDER_TIMEOUT` \|[^|]*\b{openai}\b", text, re.MULTILINE)
    documented |= dict.fromkeys(IN_WORDS & documented.keys(), "in words")
    assert documented == {**Settings({}).defaults, **dict.fromkeys(IN_WORDS, "in words")}


def test_every_error_code_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text().partition("## Errors")[2].partition("\n## ")[0]
    in_readme = set(re.findall("`([a-z]+_[a-z_]+)`", readme))
    assert in_readme == errors.CODES | {"proxy_misconfigured", "internal_error"}


DOCUMENTS = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")})


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_names_exists(path: Path) -> None:
    """The files that it links to, the tests, the targets of make."""
    text = path.read_text()
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []
    files = sorted((ROOT / "tests").rglob("*.py"))
    functions = re.findall(r"^(?:async )?def (test_\w+)", "".join(map(Path.read_text, files)), re.M)
    tests = {file.stem for file in files} | {*functions}
    assert {*re.findall(r"`(test_\w+)(?:\.py)?`", text)} <= tests
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {*re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)} <= {*targets}


def test_what_is_short_stays_short() -> None:
    """The README, each module, and all of them: a change that needs more removes some first."""
    files = {"README.md": ROOT / "README.md", **modules()}
    lines = {name: len(path.read_text().splitlines()) for name, path in files.items()}
    assert [name for name, count in lines.items() if count > 220] == []
    assert sum(lines.values()) - lines["README.md"] < 3_475


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_no_package_is_older_than_its_floor() -> None:
    """The floors are releases that fixed known holes."""
    dependencies = "\n".join(PROJECT["project"]["dependencies"])
    locks = dict(locked(ROOT / "requirements.txt"))
    for package, floor in re.findall(r"^([a-z0-9-]+).* >= ([0-9.]+)$", dependencies, re.MULTILINE):
        for present in (locks[package], version(package)):
            assert Version(present) >= Version(floor), package


LOCKS = [ROOT / "requirements.txt", *sorted((ROOT / "requirements").glob("*.txt"))]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_locked_package_has_hashes_and_no_index(lock: Path) -> None:
    text = lock.read_text()
    packages = re.findall(r"^[a-z0-9](?:.*\\\n)*.*", text, re.MULTILINE)
    assert len(packages) > 15
    assert [each for each in packages if not re.search("==.*\n +--hash=sha256:", each)] == []
    assert "://" not in text


def locked(lock: Path) -> set[tuple[str, str]]:
    return set(re.findall(r"^([a-z0-9-]+)==([^ ]+)", lock.read_text(), re.MULTILINE))


def test_the_tests_run_on_the_versions_that_are_shipped() -> None:
    assert locked(ROOT / "requirements.txt") <= locked(ROOT / "requirements" / "test.txt")


def test_each_group_of_packages_has_its_lock() -> None:
    assert {lock.stem for lock in LOCKS[1:]} == PROJECT["dependency-groups"].keys() | {"litellm"}


def test_the_architecture_has_every_file() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text()
    paths = [path for path in modules().values() if path.parent.name != "providers"]
    assert [path for path in paths if f"(../{path.relative_to(ROOT)})" not in table] == []


def test_the_documents_have_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    releases = re.findall(r"^## \[(\d.*)\] - \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)
    assert releases[0] == __version__
    document = json.loads((ROOT / "docs" / "openapi.json").read_text())
    assert document["info"]["version"] == __version__
