"""How Alembic reaches the database: one transaction for all revisions, one migrating process at a time.

Waiting for another migration has no bound, waiting for a lock on a table has one: a migration that queues behind a
long query would hold up every upload's account behind itself.
"""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection, text

import relay.destinations.rows
import relay.ledger.rows
import relay.tenants.rows  # noqa: F401 - importing the rows fills the metadata
from relay.db.engine import open_engine
from relay.db.schema import LOCK_TIMEOUT, MIGRATION_LOCK, find_url
from relay.db.tables import Row
from relay.settings import DatabaseSettings

PARTITIONS = text("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'")
UNHURRIED = DatabaseSettings(statement_timeout=timedelta(days=1))  # an index on a large table takes its time


def migrate(connection: Connection) -> None:
    """Run what Alembic was asked for on an open connection."""
    with connection.begin():
        connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
        connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT // timedelta(milliseconds=1)}"))
        partitions = set(connection.scalars(PARTITIONS))

        def is_included(
            name: str | None,
            kind: Literal["schema", "table", "column", "index", "unique_constraint", "foreign_key_constraint", "check_constraint"],
            _parents: Any,
        ) -> bool:
            return kind != "table" or name not in partitions

        context.configure(connection=connection, target_metadata=Row.metadata, include_name=is_included, compare_server_default=True)
        context.run_migrations()


async def reach(url: str) -> None:
    """Connect and migrate."""
    engine = open_engine(url, UNHURRIED)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migrate)
    finally:
        await engine.dispose()


if context.is_offline_mode():
    raise SystemExit("SQL scripts are not offered: the migrations ask the database. Run them against it.")
asyncio.run(reach(context.config.attributes.get("url") or find_url(Path.cwd())))
