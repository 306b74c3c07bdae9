"""Every command that a page shows is run, in the page's order, and does what the page says.

A page is a session: what a command exports, the next one sees. The pages' own names and addresses are replaced by those
of a running demo, of an empty database and of temporary folders (``Stage.replacements``); nothing else is changed. A
command has to end with 0, and an HTTP answer below 400, unless the page says otherwise: in a comment (``exit code 3``) or
by the answer it shows. An answer that is shown has to be like the real one.

What cannot run here stands in ``ELSEWHERE``, with the reason and what shows instead that it works.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from relay.cli import NOT_FOUND_OR_CONFLICT
from tests.support.certificates import make_authority
from tests.support.documents import PAGES, ROOT, Command, commands, shown, split_commands
from tests.support.postgres import TemplateServer, lay_out, make_private_folder
from tests.support.processes import free_port, poll, relay
from tests.support.shell import Ended, Shell

pytestmark = pytest.mark.timeout(150)

DEPLOYMENT = "docs/deployment.md"
ELSEWHERE = {
    r"make (run|demo)\b": ("blocks, and installs", "tests/faults/test_demo.py, tests/stories/new_user.py"),
    r"make (test|test-full|check|fix|docs|venv|bench)\b": ("is what runs this test, or changes the checkout", ".ci/run"),
    r"\.venv/bin/python -m pytest\b": ("is what runs this test; its paths are looked up below", ".ci/run"),
    r"(sudo )?docker[ -](compose|build|run|exec|ps|volume|login|push)\b": ("needs a daemon, images and a network", "deploy/verify-compose"),
    r"deploy/verify-compose\b": ("needs a daemon, images and a network", "deploy/verify-compose"),
    r"(sudo )?(systemctl|journalctl|useradd|install|apt-get)\b": ("changes the machine", DEPLOYMENT),
    r"(kubectl|helm)\b": ("needs a cluster", DEPLOYMENT),
}
"""Commands that cannot run here: why, and what shows instead that they work, or the page that says how to try them."""
SAMPLE_ID = r"01920000-0000-7000-8000-\d+|\bba1f357bcmwh12vl\b"
"""An id that only a page has: a command that names it reaches the database, finds nothing, and says so."""
GOES_ON = {r"relay serve\b": "listening on"}
FILES = {"README.md": None, "cat.png": 3_571, "photos/cat.png": 70_000, "photos/dog.png": 70_000}
"""What lies in the folder where a page is pasted: a copy of the checkout's, or so many bytes."""

CREDENTIALS = {
    "key-id": "AKIAIOSFODNN7EXAMPLE",
    "key": "wJalrXUtnFEMI-bPxRfiCYEXAMPLEKEY",
    "sas-token": "sv=2024-08-04&sr=c&sp=rcwd&se=2099-01-01T00%3A00%3A00Z&sig=c2lnbmF0dXJl",
    "service-account.json": '{"type": "service_account", "client_email": "a@b", "private_key": "-", "private_key_id": "1"}',
}
"""What opens the buckets of a tenant on a page; nothing is sent to them."""


@dataclass(frozen=True)
class Stage:
    """A running demo, and a folder for whatever the pages write."""

    lines: Mapping[str, str]
    data_dir: Path
    upstream: str
    folder: Path
    server: TemplateServer

    def environment(self) -> dict[str, str]:
        """What a reader has in the shell: the pages say ``$URL`` and ``$KEY``."""
        return {
            "PATH": f"{self.folder / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.folder),
            "URL": self.lines["url"],
            "KEY": self.lines["key"],
            "TOKEN": self.lines["admin-token"],
            "RELAY_DATA_DIR": str(self.data_dir),
            "RELAY_LISTEN": f"127.0.0.1:{free_port()}",
            "RELAY_EGRESS_ALLOW": "127.0.0.0/8",
        }

    def replacements(self, database_url: str) -> dict[str, str]:
        """What the pages say, as patterns, and what stands for it here."""
        return {
            r"rk_…": self.lines["key"],
            r"https?://(?:upload\.example\.org|127\.0\.0\.1:8000|localhost:8000)(?=[/ '\"]|$)": self.lines["url"],
            r"https://files\.acme\.example/inbox": f"{self.upstream}/upload",
            r"postgresql://relay:secret@db\.internal/relay": f"'{database_url}'",
            r"(?<![\w/.])\.venv/bin/(?=relay|python)": "",
            r"(?<![\w.])/(?=(?:var|etc|backup|srv)/)": f"{self.folder}/",
        }


@pytest.fixture(scope="module")
def stage(postgres_server: TemplateServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The demo in which everything is pasted."""
    data_dir, folder = make_private_folder(), tmp_path_factory.mktemp("pasted")
    lay_out(data_dir, is_migrated=True)
    lay_out(folder / "var/lib/relay", is_migrated=True)
    upstream = f"127.0.0.1:{free_port()}"
    ports = {"RELAY_LISTEN": f"127.0.0.1:{free_port()}", "RELAY_DEMO_UPSTREAM_LISTEN": upstream}
    ports |= {"RELAY_DEMO_BUCKET_LISTEN": f"127.0.0.1:{free_port()}"}
    sock = data_dir / "warm"
    make_programs(folder / "bin", sock)
    for name in ("var/lib/relay", "etc/relay", "backup", "srv"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "etc/relay/admin-token").write_text("a-long-random-text-of-your-own\n", encoding="ascii")
    (folder / "etc/relay/globex").mkdir()
    for name, text in CREDENTIALS.items():
        (folder / "etc/relay/globex" / name).write_text(f"{text}\n", encoding="ascii")
    client = make_authority(folder).issue("relay.acme.example")
    for name, pem in {"acme-ca": client.pem, "acme-client": client.pem, "acme-client-key": client.key_pem}.items():
        (folder / "etc/relay" / f"{name}.pem").write_text(pem, encoding="ascii")
    with (
        subprocess.Popen([sys.executable, "-m", "tests.support.warm_relay", str(sock)], cwd=ROOT) as warm,
        relay("demo", environment={"RELAY_DATA_DIR": str(data_dir), **ports}) as running,
    ):
        running.wait_for_line("^ready$", 60)
        poll(sock.exists, "the warm command is not there", 60)
        told = dict(line.partition(": ")[::2] for line in running.lines)
        try:
            yield Stage(told, data_dir, f"http://{upstream}", folder, postgres_server)
        finally:
            warm.kill()
    shutil.rmtree(data_dir, ignore_errors=True)


def make_programs(folder: Path, warm: Path) -> None:
    """Put ``relay`` and ``python`` on the path, and a ``curl`` that fails where the answer is an error."""
    curl = shutil.which("curl") or "curl"
    cold = f'PYTHONPATH="{ROOT}" exec "{sys.executable}" -m relay "$@"'
    asking = f'exec "{sys.executable}" -I -S "{ROOT}/tests/support/warm_relay.py" ask "{warm}" "$@"'
    scripts = {
        "relay": f'case "$1" in serve|demo) {cold} ;; *) {asking} ;; esac',
        "python": f'PYTHONPATH="{ROOT}" exec "{sys.executable}" "$@"',
        "curl": f'exec "{curl}" --fail-with-body --max-time 20 "$@"',
    }
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (folder / name).chmod(0o755)


def is_elsewhere(command: Command) -> bool:
    return any(re.match(pattern, command.text) for pattern in ELSEWHERE)


def pages_to_paste() -> list[Path]:
    return [page for page in PAGES if any(not is_elsewhere(command) for command in commands(page))]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the pages use curl: install it, e.g. with `apt-get install curl`")
@pytest.mark.parametrize("page", pages_to_paste(), ids=shown)
async def test_what_a_page_shows_works(stage: Stage, page: Path, tmp_path: Path, empty_database_url: str) -> None:
    folder, notes = tmp_path / "here", tmp_path / "notes"
    notes.mkdir()
    for name, size in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes() if size is None else b"x" * size)
    replacements = stage.replacements(empty_database_url)
    with Shell(notes, folder, stage.environment()) as shell:
        for command in commands(page):
            if not is_elsewhere(command):
                paste(shell, command, replacements)


def paste(shell: Shell, command: Command, replacements: Mapping[str, str]) -> None:
    """Run one command of a page and hold what it does against what the page says."""
    text = command.text
    for pattern, here in replacements.items():
        text = re.sub(pattern, lambda _, here=here: here, text)  # type: ignore[misc] # bound now, as meant
    sign = next((sign for pattern, sign in GOES_ON.items() if re.match(pattern, text)), None)
    if sign is not None:
        shell.start(text, sign)
        return
    ended = shell.run(text)
    expected = expected_code(command)
    hint = "mend the page; what cannot run here belongs to ELSEWHERE"
    assert ended.code == expected, f"{command}\nended with {ended.code}, not {expected} ({hint}):\n{ended.out[-2000:]}{ended.err[-2000:]}"
    if command.answer:
        check_answer(command, ended)


def expected_code(command: Command) -> int:
    """The exit code that a page promises: 0, unless a comment or the answer says another."""
    said = re.search(r"#.*exit code (\d+)", command.text)
    if said:
        return int(said[1])
    if re.search(SAMPLE_ID, command.text) and command.text.startswith("relay "):
        return NOT_FOUND_OR_CONFLICT
    is_refused = re.search(r'"status": ?[45]\d\d|HTTP/[\d.]+ [45]\d\d', command.answer)
    return 22 if is_refused and "curl " in command.text else 0


def check_answer(command: Command, ended: Ended) -> None:
    """An answer that is shown has the members, or the words, of the real one."""
    try:
        shown_shape = shape(json.loads(command.answer))
    except ValueError:
        lines = [line for line in command.answer.splitlines() if line.strip(" …")]
        told = iter((ended.out + ended.err).splitlines())
        for line in lines:
            assert any(likeness(line).fullmatch(real.strip()) for real in told), (
                f"{command}\nno line like {line!r}:\n{ended.out}{ended.err}"
            )
    else:
        assert shape(json.loads(ended.out)) == shown_shape, f"{command}\nanswers otherwise: {ended.out}"


def shape(value: Any) -> Any:
    """The members of a JSON value and of what is in it; of a list's items the first one's."""
    if isinstance(value, dict):
        return {name: shape(member) for name, member in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return None


def likeness(line: str) -> re.Pattern[str]:
    """A line like this one: what has digits or an ellipsis in it may differ."""
    words = [r".*" if word == "…" else r"\S+" if re.search(r"[\d…]", word) else re.escape(word) for word in line.split()]
    return re.compile(r"\s+".join(words))


def test_every_reason_not_to_run_a_command_names_what_runs_it_instead() -> None:
    texts = [command.text for page in PAGES for command in commands(page)]
    used = {pattern for pattern in ELSEWHERE if any(re.match(pattern, text) for text in texts)}
    named = [name for pattern in used for name in ELSEWHERE[pattern][1].split(", ")]
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]
    assert (ROOT / DEPLOYMENT).exists() <= (used == ELSEWHERE.keys()), f"no page shows {ELSEWHERE.keys() - used}: remove them"


def test_what_the_pages_would_have_pytest_run_exists() -> None:
    for page in PAGES:
        for command in commands(page):
            if "-m pytest" in command.text:
                for name in re.findall(r"tests/[\w./]+", command.text):
                    assert (ROOT / name).exists(), command


def test_a_fence_is_taken_apart_as_a_shell_reads_it() -> None:
    text = "$ relay tenant list\nSLUG  NAME\n$ cat <<X \\\n>   | tr a b\n> X\n\n# a note\n$ echo 'a\n> b'\n…\n"
    found = list(split_commands(ROOT / "README.md", 1, text, is_session=True))
    assert [(each.line, each.text, each.answer) for each in found] == [
        (1, "relay tenant list", "SLUG  NAME"),
        (3, "cat <<X \\\n  | tr a b\nX", "# a note"),
        (8, "echo 'a\nb'", "…"),
    ]


@pytest.mark.parametrize(
    ("text", "answer", "told"),
    [
        ("false", "", ""),
        ("true  # ends with exit code 3", "", ""),
        ("echo '{\"a\": 1}'", '{"a": 2, "b": 3}', ""),
        ("echo started", "stopped", ""),
        ("exit 0", "", ""),
        ("if true; then", "", ""),
    ],
)
def test_a_command_that_does_not_do_what_is_said_is_noticed(tmp_path: Path, text: str, answer: str, told: str) -> None:
    with Shell(tmp_path, tmp_path, {"PATH": "/usr/bin:/bin"}) as shell, pytest.raises(AssertionError):
        paste(shell, Command(ROOT / "README.md", 1, text, answer), {})


def test_commands_of_a_page_share_a_shell(tmp_path: Path) -> None:
    with Shell(tmp_path, tmp_path, {"PATH": "/usr/bin:/bin"}) as shell:
        paste(shell, Command(ROOT / "README.md", 1, "export A=$((40 + 2)); mkdir b; cd b"), {})
        paste(shell, Command(ROOT / "README.md", 2, 'echo "$A in $PWD"', "42 in …/b"), {})
        paste(shell, Command(ROOT / "README.md", 3, "(exit 3)  # exit code 3"), {})
