"""``relay database``: a backup of everything that is in Postgres, and its way back into an empty database.

Who has Relay has the programs: they are found where the embedded server's are (``relay/db/backup.py``).

What must stay true: a backup appears under its name when it is whole and on disk, readable by its owner alone, and
never replaces another file. Deliberately not here: the journals of workers (they ship by themselves, and once), the
sealing keys, the files of disk destinations.
"""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click

from relay.cli import Failure
from relay.db import backup, schema
from relay.db.backup import BackupFailed, Place
from relay.db.embedded import EmbeddedPostgres, EmbeddedUnusable, find_running, make_durable
from relay.settings import EMBEDDED, Settings, load_settings

data_dir_option = click.option("--data-dir", type=click.Path(path_type=Path), help="The embedded Postgres of this data directory.")
file_argument = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.group()
def database() -> None:
    """Back up the database, and put a backup into an empty one."""


@database.command()
@file_argument
@data_dir_option
def dump(file: Path, data_dir: Path | None) -> None:
    """Write a backup of the whole database to FILE, in pg_dump's custom format.

    Relay may go on meanwhile: the backup is of one moment. An embedded Postgres that does not run is started for it.
    FILE must not exist; it appears when it is whole. Only its owner can read it.
    """
    if os.path.lexists(file):
        raise Failure(f"{file} exists. Choose another name.")
    with _open_place(data_dir, is_to_exist=True) as place:
        if place.revision is None:
            raise Failure("The database has no tables of Relay's: there is nothing to back up.")
        with _appearing(file) as unfinished:
            backup.dump(place, unfinished)
    click.echo(f"{file}: {file.stat().st_size} bytes, revision {place.revision}, Postgres {place.major}")


@database.command()
@file_argument
@data_dir_option
def restore(file: Path, data_dir: Path | None) -> None:
    """Put the backup FILE into an empty database: all of it or nothing.

    The database is RELAY_DATABASE_URL's, or the embedded one, which is made and started where there is none. Afterwards
    run 'relay migrate' if the backup is an older release's. A backup is SQL that is executed: trust where it comes from.
    """
    if not file.is_file():
        raise Failure(f"{file} is no file.")
    with _open_place(data_dir, is_to_exist=False) as place:
        backup.restore(place, file)
        revision = asyncio.run(backup.look(place.url, place.settings)).revision
    click.echo(f"restored {file}: the database is at revision {revision}")
    if revision != schema.HEAD:
        click.echo(f"this release is at revision {schema.HEAD}: run 'relay migrate'", err=True)


@contextlib.contextmanager
def _open_place(data_dir: Path | None, *, is_to_exist: bool) -> Iterator[Place]:
    """Find the database; start an embedded one that does not run, until the end of the block.

    Raises:
        Failure: there is none, or what is done in the block fails.
    """
    settings = load_settings({**os.environ, **({"RELAY_DATA_DIR": str(data_dir)} if data_dir is not None else {})})
    url = settings.database.url.get_secret_value() if settings.database.url else EMBEDDED
    with contextlib.ExitStack() as stack:
        try:
            if url == EMBEDDED or data_dir is not None:
                url = find_running(settings.data.dir) or _start_embedded(settings, stack, is_to_exist=is_to_exist)
            yield asyncio.run(backup.look(url, settings.database))
        except (BackupFailed, EmbeddedUnusable) as error:
            raise Failure(str(error)) from None


def _start_embedded(settings: Settings, stack: contextlib.ExitStack, *, is_to_exist: bool) -> str:
    cluster = settings.data.dir / "postgres" / "data"
    if is_to_exist and not cluster.exists():
        raise Failure(f"There is no embedded Postgres in {settings.data.dir}. Name its --data-dir, or set RELAY_DATABASE_URL.")
    if not cluster.exists():
        stack.callback(make_durable, cluster)  # when it has stopped: this process ends before the start's own fsync is done
    postgres = EmbeddedPostgres(settings.data.dir, settings.database.embedded_bin)
    stack.callback(postgres.stop)
    return postgres.start()


@contextlib.contextmanager
def _appearing(file: Path) -> Iterator[IO[bytes]]:
    """A file beside ``file`` that gets its name when the block ends well, and is removed otherwise."""
    folder = file.absolute().parent
    try:
        number, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=folder)
    except OSError as error:
        raise Failure(f"{file} cannot be written: {error.strerror}") from None
    unfinished = Path(name)
    try:
        with os.fdopen(number, "wb") as opened:
            yield opened
            os.fsync(opened.fileno())
        _name(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)
    beside = os.open(folder, os.O_RDONLY)
    os.fsync(beside)
    os.close(beside)


def _name(unfinished: Path, file: Path) -> None:
    try:
        os.link(unfinished, file)  # a rename would replace what has got the name meanwhile
    except FileExistsError:
        raise Failure(f"{file} exists. Choose another name.") from None
    except OSError as error:
        raise Failure(f"{file} cannot be written: {error.strerror}") from None
