"""Which schema this release wants, whether the database has it, and how it gets there.

``HEAD`` is the last revision in ``migrations/versions``; a test keeps the two equal. Alembic costs half a second to
import, so a start compares revisions by one statement and Alembic is imported only where there is something to do.
"""

import asyncio
import logging
from datetime import timedelta
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, ProgrammingError

from relay.db.embedded import find_running
from relay.db.engine import Database
from relay.settings import EMBEDDED, DatabaseSettings, SettingsInvalid, load_settings

REVISIONS = ("0001", "0002", "0003", "0004")
HEAD = REVISIONS[-1]

MIGRATION_LOCK = 0x72656C6179  # "relay": the advisory lock of whoever migrates
LOCK_TIMEOUT = timedelta(seconds=5)
MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"  # beside the package

UNDEFINED_TABLE = "42P01"
LOCK_NOT_AVAILABLE = "55P03"

logger = logging.getLogger(__name__)


class SchemaOutdated(Exception):
    """The database's schema is older than this release wants; the message says the command that helps."""


class SchemaBusy(Exception):
    """A table that the migration must change stayed in use; nothing was changed."""


async def find_revision(database: Database) -> str | None:
    """The revision that the database is at; None when it was never migrated.

    Raises:
        DatabaseUnavailable: Postgres does not answer.
    """
    try:
        async with database.transaction() as session:
            return (await session.scalars(text("SELECT version_num FROM alembic_version"))).one_or_none()
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) == UNDEFINED_TABLE:
            return None
        raise


async def check_schema(database: Database) -> None:
    """Refuse an older schema; warn of a newer one, on which the previous release runs by design.

    Raises:
        SchemaOutdated: the schema is missing or older.
        DatabaseUnavailable: Postgres does not answer.
    """
    revision = await find_revision(database)
    if revision == HEAD:
        return
    if revision is None:
        raise SchemaOutdated("The database has no schema yet. Run 'relay migrate', then start again.")
    if revision in REVISIONS:
        raise SchemaOutdated(f"The database is at revision {revision}, this release needs {HEAD}. Run 'relay migrate', then start again.")
    _warn_of_newer(revision)


def migrate(url: str) -> None:
    """Bring the database to ``HEAD``; several at once are fine, all but the first find nothing to do.

    Runs an event loop of its own: from a running one call it by ``asyncio.to_thread``.

    Raises:
        DatabaseUnavailable: Postgres does not answer.
        SchemaBusy: somebody held a table for longer than the lock timeout.
        FileNotFoundError: the folder ``migrations`` is not beside the package.
    """
    revision = asyncio.run(_find_revision_of(url))
    if revision == HEAD:
        return
    if revision is not None and revision not in REVISIONS:
        _warn_of_newer(revision)
        return
    if not (MIGRATIONS / "env.py").is_file():
        raise FileNotFoundError(f"{MIGRATIONS} is missing: run Relay from a checkout or an image that has it beside the package")

    from alembic import command  # noqa: PLC0415 - half a second, wanted only here
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = url
    try:
        command.upgrade(config, "head")
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
            raise
        raise SchemaBusy("A table stayed in use for too long and nothing was changed. End long transactions, then try again.") from error


def find_url(folder: Path) -> str:
    """The database of the environment, for ``alembic`` itself; an embedded one must be running.

    Raises:
        SettingsInvalid: no database is set, or the embedded one is not running.
    """
    settings = load_settings()
    url = settings.database.url.get_secret_value() if settings.database.url else None
    if url == EMBEDDED:
        url = find_running(folder / settings.data.dir)
        if url is None:
            raise SettingsInvalid("RELAY_DATABASE_URL is 'embedded' and that Postgres is not running: start it by 'relay demo'")
    if url is None:
        raise SettingsInvalid("RELAY_DATABASE_URL is not set: say postgresql://user:password@host/name or 'embedded'")
    return url


def _warn_of_newer(revision: str) -> None:
    logger.warning("The database is at revision %s, newer than this release's %s; it is left as it is.", revision, HEAD)


async def _find_revision_of(url: str) -> str | None:
    database = Database(url, DatabaseSettings())
    try:
        return await find_revision(database)
    finally:
        await database.close()
