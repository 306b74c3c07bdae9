"""The rules of this house that no linter knows. Each failure says what to do instead."""

import ast
import functools
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.cli.print_pages import PAGES
from relay.errors import RelayError

ROOT = Path(__file__).resolve().parents[2]
LONGEST_FILE = 500
LONGEST_FUNCTION = 60

EMPTY_NAMES = {
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "core",
    "base",
    "manager",
    "service",
    "services",
    "handlers",
    "types",
    "constants",
}
BANNED = {
    "BaseHTTPMiddleware": "it runs the app in a task of its own and breaks streaming: write pure ASGI middleware",
    "UploadFile": "it reads the whole body before the endpoint runs: use relay.uploads.body.RequestBody",
    "BackgroundTasks": "they run while the connection waits and nobody owns them: start a loop in relay/app.py",
}
BANNED_IN_TESTS = {
    "Mock": "it accepts every call: use the real thing, or write a fake by hand",
    "MagicMock": "it accepts every call: use the real thing, or write a fake by hand",
    "AsyncMock": "it accepts every call: use the real thing, or write a fake by hand",
    "xfail": "a test that may fail says nothing: mend the code or remove the test",
}
# Written so that this file does not match them.
REGISTRY_HOST = re.compile(r"files\.python[h]osted|[p]ypi\.org/simple|registry\.[n]pmjs|deb\.[d]ebian\.org")
MACHINE_PATH = re.compile(r"(?:^|[^\w.*-])/(?:[w]ork|[h]ome|[r]oot|[U]sers)/\w")


@functools.cache
def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def project_files() -> Iterator[Path]:
    """Every file under version control."""
    command = ["git", "ls-files", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: run `git init` here to have the files' texts checked")
    for name in listed.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file() and not path.is_symlink():
            yield path


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def names_in(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.name, node.lineno) for alias in node.names)


def own_imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.walk(tree):
        is_from = isinstance(node, ast.ImportFrom) and (node.level > 0 or (node.module or "").split(".")[0] == "relay")
        if is_from or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "relay" for alias in node.names)):
            assert isinstance(node, ast.Import | ast.ImportFrom)
            yield node


def test_files_are_short() -> None:
    long = {shown(path): lines for path in modules("relay") if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST_FILE}
    assert not long, f"split by noun, never by kind; the limit is {LONGEST_FILE} lines: {long}"


def test_functions_are_short() -> None:
    long = {
        f"{shown(path)}:{node.lineno} {node.name}": length
        for path in modules("relay")
        for node in functions(parse(path))
        if (length := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST_FUNCTION
    }
    assert not long, f"give a step a name; the limit is {LONGEST_FUNCTION} lines: {long}"


def test_modules_are_named_by_nouns_that_mean_something() -> None:
    empty = [shown(path) for path in modules("relay") if {*path.relative_to(ROOT).with_suffix("").parts} & EMPTY_NAMES]
    assert not empty, f"name a module by what it holds: {empty}"


def test_every_module_says_what_it_is() -> None:
    silent = [shown(path) for path in modules("relay") if path.read_text(encoding="utf-8").strip() and not ast.get_docstring(parse(path))]
    assert not silent, f"open with a docstring: what it is, what is deliberately not here, what must stay true: {silent}"


@pytest.mark.parametrize(("folder", "banned"), [("relay", BANNED), ("tests", BANNED_IN_TESTS)])
def test_nothing_banned_is_used(folder: str, banned: dict[str, str]) -> None:
    used = [
        f"{shown(path)}:{line}: {name}: {banned[name]}"
        for path in modules(folder)
        for name, line in names_in(parse(path))
        if name in banned
    ]
    assert not used, "\n".join(used)


def test_no_body_is_parsed_by_the_framework() -> None:
    calls = [
        f"{shown(path)}:{node.lineno}"
        for path in modules("relay")
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "form"
    ]
    assert not calls, f"request.form() holds the whole form: stream it: {calls}"


def test_own_code_is_imported_at_the_top_of_a_module_only() -> None:
    deferred = []
    for path in modules("relay"):
        tree = parse(path)
        at_top = {id(node) for node in tree.body}
        deferred += [f"{shown(path)}:{node.lineno}" for node in own_imports(tree) if id(node) not in at_top]
    assert not deferred, f"a deferred or TYPE_CHECKING import hides a wrong direction: move what is needed to the right: {deferred}"


def test_no_registry_host_and_no_path_of_a_machine_stands_in_a_file() -> None:
    found = []
    for path in project_files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{shown(path)}:{number}" for number, line in enumerate(lines, 1) if REGISTRY_HOST.search(line) or MACHINE_PATH.search(line)
        ]
    assert not found, f"the project works with any mirror and on any machine; take these out: {found}"


def leaves(kind: type[RelayError]) -> Iterator[type[RelayError]]:
    if "code" in vars(kind):
        yield kind
    for child in kind.__subclasses__():
        yield from leaves(child)


def test_every_error_has_a_code_of_its_own() -> None:
    shared = [code for code, count in Counter(leaf.code for leaf in leaves(RelayError)).items() if count > 1]
    assert not shared, f"a code means one thing for ever: {shared}"


def test_every_error_is_complete() -> None:
    for leaf in leaves(RelayError):
        assert re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", leaf.code), leaf
        assert 400 <= leaf.status <= 599, leaf
        assert leaf.title, leaf
        assert leaf.advice.endswith("."), f"{leaf.__name__}: the advice is a sentence that says what to do"


def test_every_error_is_documented() -> None:
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    missing = [leaf.code for leaf in leaves(RelayError) if f"`{leaf.code}`" not in page]
    assert not missing, f"run `make docs`: {missing}"


@pytest.mark.parametrize("name", PAGES)
def test_printed_page_is_current(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == PAGES[name](), "run `make docs` and commit what it writes"
