"""Style is a test: what linters do not check of the house's rules, and that pages and locks follow their sources."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from muster.core import errors, management_errors, provisioning_errors, storage_errors

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "muster"
SOURCES = sorted(PACKAGE.rglob("*.py"))
WRITTEN = sorted(path for room in ("src", "tests", "bench", "scripts") for path in (ROOT / room).rglob("*.py"))

ROWS = [*errors.ALL, *provisioning_errors.ALL, *management_errors.ALL, *storage_errors.ALL]

LONGEST_MODULE = 500
LONGEST_FUNCTION = 60

CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
RANDOMNESS = {"uuid.uuid4", "uuid.uuid1", "os.urandom", "secrets.token_bytes", "secrets.token_hex", "random.random"}
AMBIENT_IS_MADE_IN = {"core/ambient.py"}
ROOMS_WITHOUT_AMBIENT_RULE = {"testing"}


def name_of(path: Path) -> str:
    """A path as it stands in a complaint."""
    return str(path.relative_to(ROOT))


def functions_of(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a module, nested ones included."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def calls_of(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every call of a module as its dotted name and line; `datetime.datetime.now` counts as `datetime.now`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            dotted = ast.unparse(node.func)
            yield ".".join(dotted.split(".")[-2:]), node.lineno


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def test_no_module_is_too_long() -> None:
    long = {name_of(path): lines for path in WRITTEN if (lines := len(path.read_text().splitlines())) > LONGEST_MODULE}
    assert not long, f"split these modules, {LONGEST_MODULE} lines is the most: {long}"


def test_no_function_is_too_long() -> None:
    long = [
        f"{name_of(path)}:{function.lineno} {function.name} has {lines} lines"
        for path in WRITTEN
        for function in functions_of(parsed(path))
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > LONGEST_FUNCTION
    ]
    assert not long, f"split these functions, {LONGEST_FUNCTION} lines is the most: {long}"


@pytest.mark.parametrize(
    "table", ["core/errors.py", "core/provisioning_errors.py", "core/limits.py", "identity/causes.py"]
)
def test_no_row_of_a_table_takes_the_name_of_another(table: str) -> None:
    names = [
        target.id
        for statement in parsed(PACKAGE / table).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    ]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)


def test_nothing_prints_but_the_command_line() -> None:
    printing = [
        f"{name_of(path)}:{line}"
        for path in SOURCES
        if path.relative_to(PACKAGE).parts[0] != "cli"
        for call, line in calls_of(parsed(path))
        if call == "print"
    ]
    assert not printing, f"log through the ops room, or raise: {printing}"


def test_time_and_chance_come_from_the_ambient_only() -> None:
    """Otherwise the tests' virtual clock would not reach everything. Transport time is real: `monotonic` is free."""
    stray = [
        f"{name_of(path)}:{line} {call}"
        for path in SOURCES
        if path.relative_to(PACKAGE).as_posix() not in AMBIENT_IS_MADE_IN
        and path.relative_to(PACKAGE).parts[0] not in ROOMS_WITHOUT_AMBIENT_RULE
        for call, line in calls_of(parsed(path))
        if call in CLOCKS | RANDOMNESS
    ]
    assert not stray, f"take these from the Ambient that is passed in: {stray}"


def test_nothing_is_left_for_later() -> None:
    mark = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
    left = [
        f"{name_of(path)}:{number}"
        for path in WRITTEN
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if mark.search(line)
    ]
    assert not left, f"do it, or file an issue: {left}"


def test_every_module_says_what_it_is() -> None:
    silent = [name_of(path) for path in SOURCES if not ast.get_docstring(parsed(path))]
    assert not silent, f"these modules have no docstring: {silent}"


def test_everything_public_in_a_contract_is_explained() -> None:
    public = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    silent = [
        f"{name_of(path)}:{node.lineno} {node.name}"
        for path in PACKAGE.rglob("contract.py")
        for node in ast.walk(parsed(path))
        if isinstance(node, public) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert not silent, f"a contract is its docstrings; these have none: {silent}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.code}-{row.name}")
def test_every_row_of_the_errors_catalogue_is_sound(row: errors.ErrorRow) -> None:
    assert 400_000 <= row.code <= 599_999, "six digits, of which the first three are the HTTP status"
    assert row.status in {400, 401, 403, 404, 405, 408, 409, 410, 411, 412, 413, 415, 416, 429, 500, 501, 502, 503, 504}
    assert re.fullmatch(r"[A-Z][A-Za-z0-9]+", row.name)
    assert re.fullmatch(r"(?:amqp|com\.microsoft)(?::[a-z-]+)+", row.condition)
    assert row.mqtt in range(1, 6), "a CONNACK return code that refuses"
    assert row.cause
    assert row.remedy


def test_no_two_rows_of_the_errors_catalogue_share_a_code_or_a_name() -> None:
    assert len({row.code for row in ROWS}) == len(ROWS) == len({row.name for row in ROWS})


@pytest.mark.parametrize("page", ["errors.md", "limits.md", "roles.md"])
def test_generated_page_is_in_step_with_its_table(page: str) -> None:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "scripts" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert (ROOT / "docs" / page).read_text() == tables.PAGES[page](), "run: make docs"


def locked(name: str) -> dict[str, str]:
    """The packages of a lock file and their versions."""
    pinned = re.findall(
        r"^([A-Za-z0-9._-]+)==(\S+)", (ROOT / "requirements" / f"{name}.lock").read_text(), re.MULTILINE
    )
    return {canonicalize_name(package): version for package, version in pinned}


@pytest.mark.parametrize(("lock", "groups"), [("run", ["build"]), ("dev", ["test", "lint", "build"])])
def test_lock_holds_all_that_pyproject_asks_for(lock: str, groups: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*project["project"]["dependencies"], *(line for g in groups for line in project["dependency-groups"][g])]
    versions = locked(lock)
    for line in asked:
        wanted = Requirement(line)
        version = versions.get(canonicalize_name(wanted.name))
        assert version is not None, f"{line} is not in requirements/{lock}.lock; run: make lock"
        assert wanted.specifier.contains(version, prereleases=True), f"{line} is locked at {version}; run: make lock"


def test_runtime_lock_is_a_part_of_the_development_lock() -> None:
    assert locked("run").items() <= locked("dev").items(), "run: make lock"


def test_lock_files_name_no_registry() -> None:
    files = [*(ROOT / "requirements").glob("*.lock"), ROOT / "tests" / "node" / "package-lock.json"]
    assert files
    for file in files:
        assert not re.search(r'--(?:extra-)?index-url|--find-links|"resolved":', file.read_text()), name_of(file)
