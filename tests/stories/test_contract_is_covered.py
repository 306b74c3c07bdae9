"""Every code that a client may read is told by a test that speaks to a relay over a socket.

Looked for in the sources: the code as a whole string of such a test, or as the ``code`` of a hazard. A code without one
needs a reason in ``NOT_TOLD``, which goes when the code is told, or is given where nothing gave it before.
"""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay import errors
from relay.errors import ClientGone, RelayError

ROOT = Path(__file__).resolve().parents[2]
OVER_A_SOCKET = ("stories", "wire", "faults")
OPENS_A_SOCKET = {"running_relay", "shared_relay", "serving", "processes", "ServedRelay"}

UNUSED = "nothing gives it: "
NOT_TOLD = {
    "body_incomplete": "the server ends a body that is too short as a departure: no answer can be read (see the hazards)",
    "limit_exceeded": f"{UNUSED}a tenant has no limit but that of one upload's size",
    "entry_not_found": f"{UNUSED}entries are listed, none has an address of its own",
}


def leaves() -> dict[str, str]:
    """Every code that may be in an answer, and the name of its class."""
    return {
        kind.code: kind.__name__
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, RelayError) and "code" in vars(kind) and kind is not ClientGone
    }


def parsed(folder: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        if path != Path(__file__).resolve():
            yield path, ast.parse(path.read_text(encoding="utf-8"), str(path))


def names_of(tree: ast.Module) -> set[str]:
    """Every name that a module uses, imports or takes as a fixture."""
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name) | ast.alias(name=name):
                found.add(name)
            case ast.ImportFrom(module=str(module)):
                found.update(module.split("."))
            case _:
                pass
    return found


def told_codes() -> set[str]:
    """Every string that a test over a socket holds as a whole."""
    hazards = tomllib.loads((ROOT / "tests" / "vectors" / "hazards.toml").read_text(encoding="utf-8"))["hazard"]
    found = {hazard["expect"].get("code", "") for hazard in hazards}
    for folder in OVER_A_SOCKET:
        for _, tree in parsed(f"tests/{folder}"):
            if OPENS_A_SOCKET & names_of(tree):
                found |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return found


@pytest.fixture(scope="module")
def told() -> set[str]:
    return told_codes()


def test_every_code_that_a_client_may_read_is_told_over_a_socket(told: set[str]) -> None:
    untold = sorted(set(leaves()) - told - set(NOT_TOLD))
    assert not untold, f"write a story that gets each of these as an answer, or say in NOT_TOLD why there is none: {untold}"


def test_every_reason_for_a_code_that_is_not_told_still_holds(told: set[str]) -> None:
    codes = leaves()
    assert set(NOT_TOLD) <= set(codes), "there is no such code any more"
    assert not told & set(NOT_TOLD), "it is told now: take it out of NOT_TOLD"
    raised: set[str] = set()
    for path, tree in parsed("relay"):
        if path.relative_to(ROOT / "relay") not in {Path("errors.py"), Path("api/openapi.py")}:  # what they name, they declare
            raised |= names_of(tree)
    given = sorted(code for code, reason in NOT_TOLD.items() if reason.startswith(UNUSED) and codes[code] in raised)
    assert not given, f"something gives these now: write their stories and take them out of NOT_TOLD: {given}"
