"""The pages that people write say nothing that is not so: links, names, codes, commands, each looked up in the code.

What is printed from code is checked by ``test_house_rules``.
"""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from relay.cli import relay
from relay.errors import RelayError
from relay.ledger.accounts import ENTRY_LISTING
from relay.ledger.entry import Outcome
from relay.settings import CLIENT_VARIABLES, INJECTED_BY_KUBERNETES, is_secret, variables
from tests.support.documents import INLINE, PAGES, ROOT, commands, prose, read, shown

SOURCES = ("relay", "tests", "migrations")

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
VARIABLE = re.compile(r"(?<![A-Z_])RELAY_[A-Z][A-Z_]*[A-Z]")
WORD = re.compile(r"[a-z]+(?:_[a-z0-9]+)+")
CODE_AFTER_STATUS = re.compile(r"\b([45]\d\d) ((?:`[a-z_]+`(?:, |; | and | or )?)+)")
OUR_PATH = re.compile(r"(?:relay|tests|docs|migrations)/[\w./-]*")
COMMAND_PREFIX = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(?=(?:relay|make) )")


every_page = pytest.mark.parametrize("page", PAGES, ids=shown)


def anchors(page: Path) -> set[str]:
    """What a heading can be linked by, as the forges make it."""
    bare = (re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)).strip() for title in HEADING.findall(prose(page)))
    return {title.lower().replace(" ", "-") for title in bare}


@cache
def words_of_the_code() -> frozenset[str]:
    """Every snake_case word in the project's source, its vectors and its schema."""
    files = [
        path for folder in SOURCES for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".toml"} and path != Path(__file__)
    ]
    return frozenset(word for path in files for word in WORD.findall(read(path)))


@cache
def statuses() -> dict[str, int]:
    """Every error's code and its status."""

    def leaves(kind: type[RelayError]) -> Iterator[type[RelayError]]:
        if "code" in vars(kind):
            yield kind
        for child in kind.__subclasses__():
            yield from leaves(child)

    return {leaf.code: leaf.status for leaf in leaves(RelayError)}


def command_lines(page: Path) -> Iterator[tuple[str, bool]]:
    """Every ``relay …`` and ``make …`` of a page; the flag says that it stands in a fence, to be pasted as it is."""
    for command in commands(page):
        bare = command.text.replace("\\\n", " ")
        if COMMAND_PREFIX.match(bare):
            yield COMMAND_PREFIX.sub("", bare), True
    for span in INLINE.findall(prose(page)):
        if COMMAND_PREFIX.match(span):
            yield COMMAND_PREFIX.sub("", span), False


def find_command(words: list[str]) -> tuple[click.Context, list[str]]:
    """The command that the words begin with, in its context, and its arguments."""
    command: click.Command = relay
    context = click.Context(relay, info_name="relay", **relay.context_settings)  # a command keeps the help option that it saw first
    rest = words
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-") and rest[0] != "…":
        inner = command.get_command(context, rest[0])
        assert inner is not None, f"there is no command {rest[0]!r}"
        command, rest = inner, rest[1:]
        context = click.Context(command, parent=context, info_name=command.name)
    return context, rest


def options_of(command: click.Command) -> set[str]:
    own = {name for parameter in command.params for name in parameter.opts if name.startswith("-")}
    return own | {"-h", "--help"}


def check_relay(words: list[str], *, is_to_be_pasted: bool) -> None:
    """Raise unless a command line would be understood; nothing is run."""
    context, arguments = find_command(words)
    command = context.command
    if is_to_be_pasted:
        command.make_context(command.name, list(arguments), parent=context.parent)
        return
    unknown = {word.partition("=")[0] for word in arguments if word.startswith("-")} - options_of(command)
    assert not unknown, f"{command.name} has no option {unknown}"


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", read(ROOT / "Makefile"), re.MULTILINE))


@every_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), target


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        targets = (target.partition("#")[0] for target in LINK.findall(prose(page)) if "://" not in target)
        ahead += [(page.parent / target).resolve() for target in targets if target]
    assert set(PAGES) <= seen
    assert {path for path in PAGES if path.parent == ROOT / "docs"} <= set(linked_from(ROOT / "docs" / "README.md"))


def linked_from(page: Path) -> Iterator[Path]:
    yield page
    for target in LINK.findall(prose(page)):
        yield (page.parent / target.partition("#")[0]).resolve()


@every_page
def test_every_variable_is_a_setting(page: Path) -> None:
    known = dict(variables())
    files = {f"{name}_FILE" for name, field in known.items() if is_secret(field)}
    unknown = {name for name in VARIABLE.findall(read(page)) if name not in known and name not in files and name not in CLIENT_VARIABLES}
    assert not {name for name in unknown if not name.startswith(tuple(prefix.rstrip("_") for prefix in INJECTED_BY_KUBERNETES))}


@every_page
def test_every_code_exists_and_has_the_status_that_is_said(page: Path) -> None:
    for status, codes in CODE_AFTER_STATUS.findall(prose(page)):
        for code in INLINE.findall(codes):
            assert statuses().get(code) == int(status), f"{status} {code}"


@every_page
def test_every_word_with_an_underscore_is_a_word_of_the_code(page: Path) -> None:
    unknown = {span for span in INLINE.findall(prose(page)) if WORD.fullmatch(span) and span not in words_of_the_code()}
    assert not unknown, "a name that is not in the code: rename it here, or there"


@every_page
def test_every_file_that_is_named_exists(page: Path) -> None:
    for span in INLINE.findall(prose(page)):
        if OUR_PATH.fullmatch(span) and not span.endswith("/…"):
            assert (ROOT / span).exists(), span


@every_page
def test_every_command_line_is_understood(page: Path) -> None:
    for line, is_to_be_pasted in command_lines(page):
        words = shlex.split(line, comments=True)
        if words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
            assert set(targets) <= make_targets(), line
        else:
            try:
                check_relay(words[1:], is_to_be_pasted=is_to_be_pasted)
            except click.UsageError as error:
                pytest.fail(f"{line}: {error.format_message()}")


@every_page
def test_every_module_that_is_run_exists(page: Path) -> None:
    for module in re.findall(r"python -m ((?:relay|tests)[\w.]*)", read(page)):
        place = ROOT / module.replace(".", "/")
        assert place.is_dir() or place.with_suffix(".py").is_file(), module


def test_every_outcome_is_explained() -> None:
    table = read(ROOT / "docs/glossary.md").partition("## Outcomes")[2]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [str(outcome) for outcome in Outcome]


def test_every_member_of_an_entry_is_explained() -> None:
    section = read(ROOT / "docs/glossary.md").partition("## Members of an entry")[2].partition("## Outcomes")[0]
    explained = [name for cell in re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE) for name in INLINE.findall(cell)]
    assert sorted(explained) == sorted(ENTRY_LISTING)


def test_every_code_that_may_last_is_in_the_table_of_symptoms() -> None:
    table = read(ROOT / "docs/operations.md").partition("## Symptom, check, do")[2]
    missing = {code for code, status in statuses().items() if status >= 500 and f"`{code}`" not in table}
    assert not missing


def test_packages_stand_in_the_map_in_the_order_of_imports() -> None:
    layers = re.search(r"^layers = \[(.+)\]$", read(ROOT / "pyproject.toml"), re.MULTILINE)
    assert layers is not None
    mapped = re.findall(r"^\| `relay/(\w+)(?:/|\.py)` \|", read(ROOT / "docs/architecture.md"), re.MULTILINE)
    assert mapped == re.findall(r'"(\w+)"', layers[1])


def test_every_decision_is_in_the_list() -> None:
    folder = ROOT / "docs/decisions"
    listed = LINK.findall(read(folder / "README.md"))
    assert listed == sorted(path.name for path in folder.glob("0*.md"))


def test_fences_that_are_to_be_pasted_are_looked_at() -> None:
    seen = {line for page in PAGES for line, is_to_be_pasted in command_lines(page) if is_to_be_pasted}
    assert {"make run", "make test"} <= {" ".join(shlex.split(line, comments=True)) for line in seen}
    assert any(line.startswith("relay destination set ") for line in seen)


@pytest.mark.parametrize(
    "line",
    ["relay tenant creat acme", "relay serve --worker 2", "relay destination set acme", "relay ledger list --outcome lost"],
)
def test_a_wrong_command_line_is_noticed(line: str) -> None:
    with pytest.raises((AssertionError, click.UsageError)):
        check_relay(shlex.split(line)[1:], is_to_be_pasted=True)
