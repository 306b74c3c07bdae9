r"""A whole database into one file, and back into an empty one, by Postgres' own ``pg_dump``, ``pg_restore`` and ``psql``.

A backup names no owner and no privilege, so it fits any role. It fits a server of the same major version or newer; into
an older one it is tried: settings that the server does not know are left out, and whatever else it refuses ends the
whole restore.

What must stay true: no password stands on a command line; a restore is one transaction, which psql commits when it is
told to and never because its input ended, as it does when this process dies; psql obeys no command of its own
while it reads a backup (``\restrict``), so that a backup can do in the database what SQL can, and nothing to this host.
"""

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from sqlalchemy import text

from relay.db import schema
from relay.db.engine import Database
from relay.db.programs import Tools, list_tools
from relay.settings import DatabaseSettings

PROLOGUE_LINES = 100
PIECE_BYTES = 1 << 16
GUARD = b"\\restrict "

MAJOR = text("SELECT current_setting('server_version_num')::int / 10000")
SETTINGS_KNOWN = text("SELECT name FROM pg_settings")
RELATIONS = text(r"""
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'S', 'm') AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
""")
"""How many tables and the like there are that neither Postgres nor an extension brought."""


class BackupFailed(Exception):
    """A backup or a restore did not happen, and nothing was changed; the message says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """A database that answered: how to reach it, its server's version and settings, what is in it."""

    url: str
    settings: DatabaseSettings
    major: int
    known_settings: frozenset[str]
    is_empty: bool
    revision: str | None


async def look(url: str, settings: DatabaseSettings) -> Place:
    """Ask a database what ``Place`` says of it.

    Raises:
        DatabaseUnavailable: Postgres does not answer.
    """
    database = Database(url, settings)
    try:
        async with database.transaction() as session:
            major = int((await session.execute(MAJOR)).scalar_one())
            known = frozenset(await session.scalars(SETTINGS_KNOWN))
            is_empty = (await session.execute(RELATIONS)).scalar_one() == 0
        return Place(url, settings, major, known, is_empty, await schema.find_revision(database))
    finally:
        await database.close()


def dump(place: Place, file: IO[bytes]) -> None:
    """Write a backup, in the custom format; of one moment, whoever writes to the database meanwhile.

    Raises:
        BackupFailed: the programs are missing, or failed.
    """
    tools = next((tools for tools in list_tools(place.settings.embedded_bin) if tools.major >= place.major), None)
    if tools is None:
        raise BackupFailed(_no_tools(f"pg_dump {place.major} or newer"))
    address, environment = _connection(place)
    command = (tools.folder / "pg_dump", "-w", "--format=custom", "--no-owner", "--no-privileges", f"--dbname={address}")
    _run(command, environment, file, "pg_dump failed")


def restore(place: Place, file: Path) -> None:
    """Put a backup into an empty database, all of it or nothing.

    Raises:
        BackupFailed: the programs are missing or failed, the database is not empty, or the file is no backup of Relay's.
    """
    found = list_tools(place.settings.embedded_bin)
    if not found:
        raise BackupFailed(_no_tools("pg_dump, pg_restore and psql"))
    tools = found[-1]  # the newest reads what any of them wrote
    with tempfile.TemporaryFile() as listing:
        _run((tools.folder / "pg_restore", "--list", file.absolute()), _environment(), listing, f"{file} is no backup")
        listing.seek(0)
        if b" alembic_version " not in listing.read():
            raise BackupFailed(f"{file} is a backup, and not of Relay's database")
    if not place.is_empty:
        raise BackupFailed("The database is not empty, and nothing in it is replaced. Make a new one, or name another --data-dir.")
    _restore(tools, place, file)
    _analyze(tools, place)


def _run(command: tuple[str | Path, ...], environment: Mapping[str, str], output: IO[bytes], failing: str) -> None:
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE, env=environment, check=False)  # noqa: S603
    if ended.returncode != 0:
        raise BackupFailed(f"{failing}: {_last_lines(ended.stderr)}")


def _restore(tools: Tools, place: Place, file: Path) -> None:
    """Let pg_restore write SQL and psql obey it. Not ``pg_restore --dbname``: it sends an older server settings it refuses."""
    address, environment = _connection(place)
    reading = (tools.folder / "pg_restore", "--no-owner", "--no-privileges", "--file=-", file.absolute())
    strict = ("-w", "-X", "-q", "--set=ON_ERROR_STOP=1", "--set=VERBOSITY=terse")  # terse: no row is shown
    obeying = (tools.folder / "psql", *strict, f"--dbname={address}", "--file=-")
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(reading, stdout=subprocess.PIPE, stderr=complaints, env=_environment()) as reader,  # noqa: S603 - no shell
        subprocess.Popen(  # noqa: S603 - no shell
            obeying, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=complaints, env=environment
        ) as writer,
    ):
        sql, target = cast("IO[bytes]", reader.stdout), cast("IO[bytes]", writer.stdin)
        try:
            with contextlib.suppress(BrokenPipeError):  # psql stopped, and has said why
                target.write(b"BEGIN;\n")  # not psql's --single-transaction: that commits wherever the input ends
                _pass_on(sql, target, place.known_settings)
                if reader.wait() == 0:
                    target.write(b"COMMIT;\n")
                    target.close()
                    writer.wait()
        finally:
            for process in (reader, writer):
                process.kill()  # who is not done by now is not to go on: Postgres rolls back
            with contextlib.suppress(BrokenPipeError):
                target.close()
        if (reader.wait(), writer.wait()) != (0, 0):
            complaints.seek(0)
            raise BackupFailed(f"nothing was restored: {_last_lines(complaints.read())}")


def _analyze(tools: Tools, place: Place) -> None:
    """Let Postgres count what was restored, or plans are poor until autovacuum does; what is restored stays if it fails."""
    address, environment = _connection(place)
    with contextlib.suppress(BackupFailed), tempfile.TemporaryFile() as output:
        _run((tools.folder / "psql", "-w", "-X", "-q", f"--dbname={address}", "--command=ANALYZE"), environment, output, "ANALYZE failed")


def _pass_on(sql: IO[bytes], target: IO[bytes], known: frozenset[str]) -> None:
    """Copy the SQL, but for settings at its head that the server does not know; nothing before psql is guarded."""
    is_guarded = False
    for line in (sql.readline() for _ in range(PROLOGUE_LINES)):
        is_guarded = is_guarded or line.startswith(GUARD)
        if not is_guarded and line.strip() and not line.startswith(b"--"):
            raise BackupFailed("Postgres' programs are too old to restore safely: update them to the last release of their version")
        setting = re.match(rb"SET (\w+) = ", line)
        if setting is None or setting[1].decode() in known:
            target.write(line)
        if line.startswith(b"CREATE "):
            break
    while piece := sql.read(PIECE_BYTES):
        target.write(piece)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}


def _connection(place: Place) -> tuple[str, dict[str, str]]:
    """How the programs reach the database: an address without the password, and an environment that has it."""
    parts = urlsplit(place.url.replace("postgresql+asyncpg:", "postgresql:", 1))
    account, at, host = parts.netloc.rpartition("@")
    user, _, password = account.partition(":")
    options = parse_qsl(parts.query, keep_blank_values=True)
    secrets = [value for name, value in options if name == "password"] or [unquote(password)]
    query = urlencode([(name, value) for name, value in options if name != "password"], quote_via=quote)
    address = urlunsplit(parts._replace(netloc=f"{user}{at}{host}", query=query))
    timeout = str(max(2, round(place.settings.connect_timeout.total_seconds())))
    return address, {**_environment(), "PGCONNECT_TIMEOUT": timeout, **({"PGPASSWORD": secrets[-1]} if secrets[-1] else {})}


def _no_tools(what: str) -> str:
    return f"Postgres' programs are missing ({what}): install them, or 'relay[embedded]', or name a folder in RELAY_DATABASE_EMBEDDED_BIN"


def _last_lines(told: bytes) -> str:
    return " ".join(told.decode("utf-8", "replace").strip().splitlines()[-3:]) or "it did not say why"
