"""``relay demo`` from the outside: what it prints, what its lines do, and what is left when something dies."""

import hashlib
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.postgres import lay_out, make_private_folder
from tests.support.processes import ROOT, Running, command_of, descendants_of, free_port, is_alive, is_open, poll, relay

GONE_WITHIN_SECONDS = 2.0
KEYS = ["url", "tenant", "key", "admin-token", "upload", "forward", "ledger", "ready"]

LISTENS = ("RELAY_LISTEN", "RELAY_DEMO_UPSTREAM_LISTEN", "RELAY_DEMO_BUCKET_LISTEN")
PATTERNS = {"worker": r"relay worker ", "upstream": r"relay upstream ", "bucket": r"^\S+rclone serve s3 ", "postgres": r"postgres -D "}

pytestmark = pytest.mark.timeout(90)


def make_environment() -> dict[str, str]:
    return {
        "RELAY_DATA_DIR": str(make_private_folder()),
        "RELAY_LISTEN": f"127.0.0.1:{free_port()}",
        "RELAY_DEMO_UPSTREAM_LISTEN": f"127.0.0.1:{free_port()}",
        "RELAY_DEMO_BUCKET_LISTEN": f"127.0.0.1:{free_port()}",
    }


@pytest.fixture
def empty() -> Iterator[dict[str, str]]:
    """Settings of a demo with ports and an empty data directory of its own."""
    made = make_environment()
    yield made
    subprocess.run(["rm", "-rf", made["RELAY_DATA_DIR"]], check=True)


@pytest.fixture
def environment(empty: dict[str, str]) -> dict[str, str]:
    """The same, and the database is there: not every test has to wait for initdb and migrations."""
    lay_out(Path(empty["RELAY_DATA_DIR"]), is_migrated=True)
    return empty


@pytest.fixture(scope="module")
def running_demo() -> Iterator[tuple[Running, dict[str, str], dict[str, str]]]:
    """A demo for tests that leave it as it was, its settings, and what it printed."""
    made = make_environment()
    lay_out(Path(made["RELAY_DATA_DIR"]), is_migrated=True)
    with demo(made) as (running, lines):
        yield running, made, lines
    subprocess.run(["rm", "-rf", made["RELAY_DATA_DIR"]], check=True)


@contextmanager
def demo(environment: dict[str, str], *arguments: str) -> Iterator[tuple[Running, dict[str, str]]]:
    with relay("demo", *arguments, environment=environment) as running:
        running.wait_for_line("^ready$", 60)
        last = [line.partition(": ") for line in running.lines[-len(KEYS) - 1 :]]
        assert [name for name, _, _ in last[1:]] == KEYS
        yield running, {name: value for name, _, value in last}


def family(running: Running) -> dict[str, int]:
    """The processes of a demo by what they are; for Postgres its postmaster."""
    found = {"supervisor": running.pid}
    for pid in descendants_of(running.pid):
        command = command_of(pid)
        for name, pattern in PATTERNS.items():
            if re.search(pattern, command):
                found[name] = pid
    return found


def ports(environment: dict[str, str]) -> list[int]:
    return [int(environment[name].rpartition(":")[2]) for name in LISTENS]


def assert_nothing_is_left(pids: list[int], environment: dict[str, str]) -> None:
    poll(lambda: not any(is_alive(pid) for pid in pids), "processes are left", GONE_WITHIN_SECONDS)
    poll(lambda: not any(is_open(port) for port in ports(environment)), "a port is taken", GONE_WITHIN_SECONDS)


def assert_bucket_asks_for_its_key(environment: dict[str, str], pid: int) -> None:
    """Nobody gets in without the key, which no command line tells, and of the relay's own secrets the program knows none."""
    assert httpx.get(f"http://{environment['RELAY_DEMO_BUCKET_LISTEN']}/demo").is_client_error
    written = json.loads((Path(environment["RELAY_DATA_DIR"]) / "demo.json").read_text(encoding="utf-8"))
    inherited = Path(f"/proc/{pid}/environ").read_text(encoding="utf-8")
    assert written["bucket_key"] in inherited and "RELAY_" not in inherited
    assert written["secret_key"] not in inherited and written["bucket_key"].partition(",")[2] not in command_of(pid)


def paste(line: str, folder: Path) -> str:
    """Run a printed line as a user would, in a folder with a README.md."""
    return subprocess.run(shlex.split(line), cwd=folder, capture_output=True, text=True, check=True, timeout=20).stdout


@pytest.fixture
def readme(tmp_path: Path) -> bytes:
    """A README.md to upload, in the test's own folder."""
    content = os.urandom(100_000)
    (tmp_path / "README.md").write_bytes(content)
    return content


@pytest.mark.skipif(shutil.which("curl") is None, reason="the printed lines use curl: install it, e.g. with `apt-get install curl`")
def test_printed_lines_work_and_the_second_start_keeps_everything(empty: dict[str, str], tmp_path: Path, readme: bytes) -> None:
    environment = empty
    with demo(environment) as (running, first):
        assert re.fullmatch(r"started in \d+\.\d s", running.lines[-len(KEYS) - 2])
        assert httpx.get(f"{first['url']}/readyz").status_code == 200
        for _ in range(2):
            stored = json.loads(paste(first["upload"], tmp_path))["objects"]
            assert [(item["key"], item["size"]) for item in stored] == [("README.md", len(readme))]
        assert (Path(environment["RELAY_DATA_DIR"]) / "disk/demo/README.md").read_bytes() == readme
        for _ in range(2):
            assert json.loads(paste(first["bucket"], tmp_path))["objects"][0]["sha256"] == hashlib.sha256(readme).hexdigest()
        assert (Path(environment["RELAY_DATA_DIR"]) / "bucket/demo/README.md").read_bytes() == readme
        assert_bucket_asks_for_its_key(environment, family(running)["bucket"])
        echoed = json.loads(paste(first["forward"], tmp_path))
        assert (echoed["path"], echoed["query"]) == ("/upload/hello/world", {"q1": "x"})
        assert [part["size"] for part in echoed["parts"]] == [len(readme)]
        poll(lambda: '"hello/world"' in paste(first["ledger"], tmp_path), "the entry is not in the ledger")
        os.kill(running.pid, signal.SIGTERM)
        assert running.wait() == 0
    with demo(environment) as (running, second):
        assert second == first
        headers = {"Authorization": f"Bearer {first['admin-token']}"}
        assert len(httpx.get(f"{second['url']}/admin/v1/ledger?tenant=demo", headers=headers).json()["items"]) == 5
        assert json.loads(paste(second["bucket"], tmp_path))["objects"][0]["size"] == len(readme)
        audit = httpx.get(f"{second['url']}/admin/v1/audit?tenant=demo&limit=100", headers=headers).json()["items"]
        assert [entry["action"] for entry in audit if entry["action"].startswith("destination.")] == ["destination.create"] * 3
        assert len(httpx.get(f"{second['url']}/admin/v1/tenants/demo/keys", headers=headers).json()["items"]) == 1
        pids = list(family(running).values())
        assert len(pids) == len(PATTERNS) + 1
        os.kill(running.pid, signal.SIGINT)
        assert running.wait() == 0
        assert_nothing_is_left(pids, environment)


def test_whoever_else_dies_is_replaced(running_demo: tuple[Running, dict[str, str], dict[str, str]], readme: bytes) -> None:
    running, _, lines = running_demo
    before = family(running)
    assert len(before) == len(PATTERNS) + 1
    for name in PATTERNS:
        os.kill(before[name], signal.SIGKILL)
    poll(lambda: not any(is_alive(before[name]) for name in PATTERNS), "they live")
    poll(lambda: len(family(running)) == len(before), "nobody came", 40)
    headers = {"Authorization": f"Bearer {lines['key']}"}

    def is_delivered(path: str) -> bool:
        try:
            return httpx.post(f"{lines['url']}/upload/{path}", content=readme, headers=headers).status_code in {200, 201}
        except httpx.TransportError:
            return False

    poll(lambda: is_delivered("x"), "uploads do not pass again", 40)
    poll(lambda: is_delivered("bucket/x"), "the bucket takes none again", 40)
    assert running.process.poll() is None


@pytest.mark.parametrize("name", LISTENS[1:])
def test_busy_port_of_an_example_is_named(empty: dict[str, str], name: str) -> None:
    address = empty[name]
    with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))), relay("demo", environment=empty) as running:
        assert running.wait() == 1
        assert running.errors[-1].startswith(f"error: {name} {address} is in use.")


def test_second_demo_on_the_same_data_is_refused(running_demo: tuple[Running, dict[str, str], dict[str, str]]) -> None:
    first, environment, _ = running_demo
    others = {"RELAY_LISTEN": "127.0.0.1:0"} | {name: f"127.0.0.1:{free_port()}" for name in LISTENS[1:]}
    with relay("demo", environment={**environment, **others}) as second:
        assert second.wait() == 1
        assert "Another process runs the embedded Postgres" in second.errors[-1]
        assert first.process.poll() is None


def test_killed_supervisor_takes_everything_along_and_the_next_one_ends_with_its_parent(environment: dict[str, str]) -> None:
    with demo(environment, "--workers", "2") as (running, first):
        pids = [running.pid, *descendants_of(running.pid)]
        assert family(running)["bucket"] in pids
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        assert_nothing_is_left(pids, environment)
    script = f"import subprocess, sys; subprocess.run([{sys.executable!r}, '-m', 'relay', 'demo', '--follow-parent'])"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**inherited, **environment, "RELAY_DEMO_BUCKET_LISTEN": "off"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert parent.stdout is not None
        printed = list(itertools.takewhile(lambda line: line != "ready", map(str.strip, parent.stdout)))
        assert f"key: {first['key']}" in printed
        assert "without a bucket: RELAY_DEMO_BUCKET_LISTEN is off" in printed
        pids = descendants_of(parent.pid)
        assert len(pids) >= 4
        parent.kill()
        parent.wait()
        assert_nothing_is_left(pids, environment)
    finally:
        parent.kill()
        parent.wait()
        if parent.stdout is not None:
            parent.stdout.close()


def test_commands_join_the_postgres_of_a_running_demo(running_demo: tuple[Running, dict[str, str], dict[str, str]]) -> None:
    joined, data_dir = {"RELAY_LISTEN": "127.0.0.1:1"}, running_demo[1]["RELAY_DATA_DIR"]
    with (
        relay("tenant", "show", "demo", "--json", "--data-dir", data_dir, environment=joined) as show,
        relay("destination", "check", "demo", "disk", "--data-dir", data_dir, environment=joined) as check,
    ):
        assert show.wait() == 0
        assert '"slug": "demo"' in show.told()
        assert check.wait() == 0, check.told()


def test_embedded_serve_migrates_by_itself_and_stops_cleanly(empty: dict[str, str]) -> None:
    environment = empty
    lay_out(Path(environment["RELAY_DATA_DIR"]))
    settings = {**environment, "RELAY_DATABASE_URL": "embedded", "RELAY_ADMIN_TOKEN": "operator"}
    with relay("serve", "--workers", "2", environment=settings) as running:
        running.wait_for_line("^listening on .* 2 workers", 60)
        url = f"http://{environment['RELAY_LISTEN']}"
        assert httpx.get(f"{url}/admin/v1/tenants", headers={"Authorization": "Bearer operator"}).json() == {"items": [], "next": None}
        pids = [running.pid, *descendants_of(running.pid)]
        os.kill(running.pid, signal.SIGTERM)
        assert running.wait() == 0
        assert_nothing_is_left(pids, environment)


def test_serve_refuses_an_older_schema_and_names_the_command(empty_database_url: str, empty: dict[str, str]) -> None:
    with relay("serve", environment={**empty, "RELAY_DATABASE_URL": empty_database_url}) as running:
        assert running.wait(60) == 1
        assert any("Run 'relay migrate'" in line for line in running.errors), running.told()
