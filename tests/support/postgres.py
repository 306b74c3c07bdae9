"""A real Postgres for tests: one server a test process, a fresh database a test, and servers that may be abused.

The servers give up fsync. A database is a copy of a template that was migrated once: a test costs a copy, not a migration.
"""

import asyncio
import atexit
import functools
import itertools
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from relay.db.embedded import EmbeddedPostgres
from relay.db.schema import migrate

TEMPLATE = "relay_template"


def make_private_folder() -> Path:
    """A folder with a short path: a socket's is limited to about a hundred bytes."""
    return Path(tempfile.mkdtemp(prefix="relay-test-", dir="/tmp"))


@functools.cache
def _pristine() -> Path:
    """A cluster that was made, stopped cleanly, and is only ever copied; goes with the process."""
    folder = make_private_folder()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    server = EmbeddedPostgres(folder, is_durable=False)
    server.start()
    server.stop()
    return folder


@functools.cache
def _migrated() -> Path:
    """The same, its own database migrated."""
    folder = make_private_folder()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    lay_out(folder)
    server = EmbeddedPostgres(folder, is_durable=False)
    migrate_apart(server.start())
    server.stop()
    return folder


def lay_out(data_dir: Path, *, is_migrated: bool = False) -> None:
    """Put a fresh cluster below ``data_dir``, ready to start: a copy takes a tenth of the time of initdb."""
    shutil.copytree((_migrated() if is_migrated else _pristine()) / "postgres", data_dir / "postgres")


def url_of(url: str, database: str) -> str:
    """The URL of another database of the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def migrate_apart(url: str) -> None:
    """Migrate in a thread: ``migrate`` runs a loop of its own, and the test's loop is to stay as it is."""
    with ThreadPoolExecutor(1) as executor:
        executor.submit(migrate, url).result()


async def execute(url: str, *statements: str) -> None:
    """Run statements, each by itself and outside any transaction."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


class OwnPostgres:
    """A server of one test alone, which may be stopped, killed and frozen. Leaving the block removes it."""

    def __init__(self, *, is_migrated: bool = True) -> None:
        self.data_dir = make_private_folder()
        self._is_migrated = is_migrated
        self._server = EmbeddedPostgres(self.data_dir, is_durable=False)
        self._frozen: list[int] = []
        self.url = ""

    def __enter__(self) -> Self:
        try:
            lay_out(self.data_dir)
            self.start()
            if self._is_migrated:
                migrate_apart(self.url)
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self.remove()

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        assert self._server.pid is not None
        return self._server.pid

    def start(self) -> None:
        """Start, or start again with the data as it was left; the URL stays the same."""
        self.url = self._server.start()

    def stop(self) -> None:
        """Stop cleanly: connections are told."""
        self.thaw()
        self._server.stop()

    def kill(self) -> None:
        """Kill the postmaster; its children follow by themselves."""
        os.kill(self.pid, signal.SIGKILL)
        while self._server.is_alive():
            time.sleep(0.005)

    def freeze(self) -> None:
        """Stop every process of the server: connections stay open and nothing answers."""
        for pid in (self.pid, *children_of(self.pid)):  # the postmaster first: it must not fork any more
            os.kill(pid, signal.SIGSTOP)
            self._frozen.append(pid)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        while self._frozen:
            os.kill(self._frozen.pop(), signal.SIGCONT)

    def remove(self) -> None:
        """Stop and delete everything."""
        self.stop()
        shutil.rmtree(self.data_dir)


class TemplateServer:
    """One server with a migrated template; hands out databases that are copies of it.

    Tests have loops of their own, and a connection belongs to one: the one that makes and drops databases lives in a thread. To make it
    anew for each of them would cost more than the copy.
    """

    def __init__(self) -> None:
        self._own = OwnPostgres(is_migrated=False)
        self._numbers = itertools.count(1)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="databases")
        self._runner = asyncio.Runner()
        self._connection: asyncpg.Connection | None = None

    def start(self) -> None:
        """Start the server and migrate the template."""
        lay_out(self._own.data_dir)
        self._own.start()
        self._thread.submit(self._make_template).result()

    def remove(self) -> None:
        """Stop the server and delete its files."""
        self._thread.submit(self._leave).result()
        self._thread.shutdown()
        self._own.remove()

    @property
    def url(self) -> str:
        """The URL of the server's own database; nothing of Relay is in it."""
        return self._own.url

    @asynccontextmanager
    async def database(self, *, is_migrated: bool = True) -> AsyncIterator[str]:
        """A database of its own, migrated or empty; dropped at the end, whoever is still connected."""
        name = f"test_{next(self._numbers)}"
        # A copy of the files takes half as long as the default, which writes every page to the log.
        await self._run(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE if is_migrated else 'template0'} STRATEGY file_copy")
        try:
            yield url_of(self.url, name)
        finally:
            await self._run(f"DROP DATABASE {name} WITH (FORCE)")

    async def _run(self, statement: str) -> None:
        await asyncio.wrap_future(self._thread.submit(self._run_here, statement))

    def _run_here(self, statement: str) -> None:
        async def run() -> None:
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(self.url)
            await self._connection.execute(statement)

        self._runner.run(run())

    def _make_template(self) -> None:
        self._run_here(f"CREATE DATABASE {TEMPLATE} TEMPLATE template0 STRATEGY file_copy")
        migrate(url_of(self.url, TEMPLATE))

    def _leave(self) -> None:
        if self._connection is not None:
            self._runner.run(self._connection.close())
        self._runner.close()


def children_of(pid: int) -> list[int]:
    """The process ids of the children of ``pid``."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found
