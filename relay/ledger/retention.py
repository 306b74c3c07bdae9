"""The ledger's partitions, kept in time: made ahead, and dropped once they are wholly expired.

Every process runs this; an advisory lock lets one of them do it. Not here: how a partition is made or
dropped (``partitions``), and partitions for late entries, which the shipper makes as it meets them.
"""

import asyncio
import logging
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import text

from relay.db.engine import Database
from relay.errors import DatabaseUnavailable
from relay.ledger.partitions import drop_expired, ensure_ahead
from relay.settings import LedgerSettings

log = logging.getLogger(__name__)

EVERY_SECONDS: Final = 3600.0
MONTHS_AHEAD: Final = 3
RETENTION_LOCK: Final = 0x72657461696E  # "retain"


class Retention:
    """Makes partitions ahead and drops expired ones, once an hour."""

    def __init__(self, database: Database, settings: LedgerSettings) -> None:
        self._database = database
        self._days = settings.retention_days

    async def run(self) -> None:
        """Keep the partitions in time until cancelled."""
        while True:
            try:
                await self.keep(datetime.now(UTC))
            except DatabaseUnavailable:
                log.warning("Postgres is away; the ledger's partitions are looked after in an hour")
            except Exception:
                log.exception("the ledger's partitions cannot be kept in time; it is tried again in an hour")
            await asyncio.sleep(EVERY_SECONDS)

    async def keep(self, now: datetime) -> bool:
        """Make and drop what is due; False when another process is at it.

        Raises:
            DatabaseUnavailable: Postgres does not answer.
        """
        async with self._database.transaction() as session:
            if not await session.scalar(text(f"SELECT pg_try_advisory_xact_lock({RETENTION_LOCK})")):
                return False
            await ensure_ahead(session, now, MONTHS_AHEAD)
            if self._days is not None:
                await drop_expired(session, now, self._days)
        return True
