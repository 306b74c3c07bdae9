"""The pages that people write, taken apart: fences, the commands in them, what they show as an answer.

One way of reading them, for the test that looks names up and for the one that runs what is to be pasted.
"""

import re
import subprocess
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SHELLS = {"sh", "bash", "console"}

FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a page, as it is pasted, and what the page shows as its answer."""

    page: Path
    line: int
    text: str
    answer: str = ""

    def __str__(self) -> str:
        return f"{shown(self.page)}:{self.line}: {self.text}"


def shown(page: Path) -> str:
    """A page's name."""
    return str(page.relative_to(ROOT))


def read(page: Path) -> str:
    """A page's text."""
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """The page without what stands between fences."""
    return FENCE.sub("", read(page))


def commands(page: Path) -> Iterator[Command]:
    """Every command in a page's shell fences, in order."""
    text = read(page)
    for fence in FENCE.finditer(text):
        if fence[2] in SHELLS:
            first = text.count("\n", 0, fence.start(3)) + 1
            yield from split_commands(page, first, textwrap.dedent(fence[3]), is_session=fence[2] == "console")


def split_commands(page: Path, first: int, text: str, *, is_session: bool) -> Iterator[Command]:
    """Split what stands in a fence: a command is as many lines as a shell needs to understand it.

    In a session a command follows ``$``, and what comes before the next ``$`` is the answer.
    """
    begun: list[str] = []
    at, answer = first, list[str]()
    whole: Command | None = None
    for number, line in enumerate(text.splitlines(), first):
        is_prompt = is_session and line.startswith("$ ")
        if is_session and not is_prompt and not begun:
            answer.append(line)
            continue
        if not begun:
            at = number
            if whole is not None:
                yield Command(page, whole.line, whole.text, "\n".join(answer).strip())
                whole, answer = None, []
        begun.append(line.removeprefix("$ ") if is_prompt else line.removeprefix("> ") if is_session else line)
        if is_complete("\n".join(begun)):
            if any(part.strip() and not part.lstrip().startswith("#") for part in begun):
                whole = Command(page, at, "\n".join(begun).strip())
            begun = []
    assert not begun, f"{shown(page)}:{at}: this command has no end: {begun}"
    if whole is not None:
        yield Command(page, whole.line, whole.text, "\n".join(answer).strip())


@cache
def is_complete(text: str) -> bool:
    """Whether a shell would wait for another line."""
    if text.endswith("\\"):
        return False
    if not re.search(r"""['"`<({]|\b(?:if|for|while|until|case)\b""", text):
        return True
    read_only = subprocess.run(["bash", "-n"], input=f"{text}\n", capture_output=True, text=True, check=False)
    return read_only.returncode == 0 and "here-document" not in read_only.stderr
