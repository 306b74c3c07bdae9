"""One batch of journal records into Postgres, once each, whatever is in them.

A batch is one statement in one transaction: it inserts what the ledger does not hold yet, adds to the daily
sums what it inserted, and notes when its keys were used, nothing else. So a batch may be sent any number of times, by
any number of processes, and counts once. The sums are taken in key order, so that two shippers never lock each other out.

``last_used_at`` of a key is the start of the last request whose key proved right, refused ones included: that an expired
key is still in use is what an operator wants to see. It moves by a minute at least, so that a busy key's row is not
written by every batch, and never past the database's own time. It is bookkeeping, and the ledger never waits for it:
a key's row that somebody else holds, be it another shipper or an operator, is passed over until the key's next use.

Rows travel as JSON text, with their times in microseconds, and become typed values in Postgres, not in the driver: every
value that does not fit is an error with a SQLSTATE. What an error means:

- ``DatabaseUnavailable`` (from ``db.engine``): nothing is known to have happened; the caller sends the batch again.
- 23514 without a constraint's name: no partition holds the month. It is made, and the batch sent again.
- classes 22 (data), 23 (integrity), 54 (limits), and 42P07 (somebody detached the month's partition and kept it):
  some row is at fault. The batch is halved until the row stands alone; it goes to ``rejected.ndjson`` and the rest goes on.
- anything else (privileges, a missing column, a deadlock) is not a row's fault: it is raised, and no row is given up.
"""

import asyncio
import logging
import os
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import DateTime, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.elements import KeyedColumnElement

from relay.db.engine import Database
from relay.json_text import encode
from relay.ledger.entry import Outcome
from relay.ledger.partitions import ensure_partition
from relay.ledger.rows import LedgerRow
from relay.ledger.segments import Record
from relay.telemetry import LEDGER_REJECTED, LEDGER_SHIPPED

log = logging.getLogger(__name__)

REJECTED_FILE: Final = "rejected.ndjson"
PARTITION_ATTEMPTS: Final = 3
SLICE_BYTES: Final = 8 << 10
"""After so much JSON the loop serves others: some twenty entries, a quarter of a millisecond."""

DUPLICATE_TABLE: Final = "42P07"
FAULTS_OF_A_ROW: Final = ("22", "23", "54", DUPLICATE_TABLE)
CHECK_VIOLATION: Final = "23514"
LAST_USED_STEP: Final = "1 minute"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PLAUSIBLE_YEARS: Final = range(2000, 2200)  # beyond them a clock is broken: no partition is made for it
_ABSENT: Final = {
    "protocol": "'plain'",
    "early": "false",
    "client_left": "false",
    "bytes_in": "0",
    "bytes_delivered": "0",
    "bytes_out": "0",
}
"""What the ledger says where an entry says nothing."""


_POSTGRES: Final = postgresql.dialect()  # type: ignore[no-untyped-call] # the library has no types here


def _given(column: KeyedColumnElement[Any]) -> tuple[str, str]:
    """How a column is given in a row of a batch, with its type, and the expression that makes the column of it."""
    name, type_name = column.name, column.type.compile(dialect=_POSTGRES)
    if isinstance(column.type, DateTime):
        member = name.removesuffix("_at") + "_us"
        return f"{member} bigint", f"timestamptz 'epoch' + {member} * interval '1 microsecond'"
    return f"{name} {type_name}", f"coalesce({name}, {_ABSENT[name]})" if name in _ABSENT else name


_COLUMNS: Final = tuple(column.name for column in LedgerRow.__table__.columns)
_MEMBERS, _VALUES = zip(*map(_given, LedgerRow.__table__.columns), strict=True)

_SHIP: Final = text(f"""
WITH landed AS (
    INSERT INTO ledger ({", ".join(_COLUMNS)})
    SELECT {", ".join(_VALUES)} FROM json_to_recordset(CAST(:rows AS json)) AS given ({", ".join(_MEMBERS)})
    ON CONFLICT (started_at, request_id) DO NOTHING
    RETURNING tenant, key_id, started_at, outcome, coalesce(repeated, 1) AS times, bytes_in, bytes_delivered,
              CAST(coalesce(finished_at, started_at) AT TIME ZONE 'UTC' AS date) AS day
), counted AS (
    INSERT INTO usage_daily AS sums (tenant, day, uploads, delivered, rejected, refused, failed, bytes_in, bytes_delivered)
    SELECT tenant, day, sum(times),
           coalesce(sum(times) FILTER (WHERE outcome = 'delivered'), 0),
           coalesce(sum(times) FILTER (WHERE outcome = 'rejected'), 0),
           coalesce(sum(times) FILTER (WHERE outcome = 'refused'), 0),
           coalesce(sum(times) FILTER (WHERE outcome NOT IN ('delivered', 'rejected', 'refused', 'accepted', 'cancelled')), 0),
           sum(bytes_in), sum(bytes_delivered)
    FROM landed GROUP BY tenant, day ORDER BY tenant COLLATE "C", day
    ON CONFLICT (tenant, day) DO UPDATE SET
        uploads = sums.uploads + excluded.uploads,
        delivered = sums.delivered + excluded.delivered,
        rejected = sums.rejected + excluded.rejected,
        refused = sums.refused + excluded.refused,
        failed = sums.failed + excluded.failed,
        bytes_in = sums.bytes_in + excluded.bytes_in,
        bytes_delivered = sums.bytes_delivered + excluded.bytes_delivered
), used AS (
    SELECT key_id, least(max(started_at), now()) AS used_at FROM landed WHERE key_id IS NOT NULL GROUP BY key_id
), held AS (
    SELECT keys.id, used.used_at FROM api_keys AS keys JOIN used ON used.key_id = keys.id
    WHERE keys.last_used_at IS NULL OR keys.last_used_at <= used.used_at - CAST('{LAST_USED_STEP}' AS interval)
    FOR NO KEY UPDATE OF keys SKIP LOCKED
), noted AS (
    UPDATE api_keys SET last_used_at = greatest(last_used_at, held.used_at) FROM held WHERE api_keys.id = held.id
)
SELECT count(*) FROM landed
""")  # noqa: S608 - the names are those of our own table


class RecordUnusable(Exception):
    """A record can become no row; the message is a code."""


@dataclass(frozen=True, slots=True)
class _Line:
    record: Record
    month: date
    text: bytes


class Batches:
    """Sends batches to Postgres. ``executor`` takes the work on files off the event loop.

    The work on JSON is done on the loop, a slice at a time: in a thread it would hold the interpreter for milliseconds whenever
    the loop lets go of it, which is at every read and write of every upload.
    """

    def __init__(self, database: Database, root: Path, executor: Executor) -> None:
        self._database = database
        self._rejected = root / REJECTED_FILE
        self._executor = executor

    async def ship(self, records: Sequence[Record], *, is_interrupted: bool = False) -> None:
        """Put every record into the ledger, or into ``rejected.ndjson`` if it cannot be one of its rows.

        ``is_interrupted`` is said of records that only began. However this ends, it may be called again with the
        same records: what is in the ledger stays as it is.

        Raises:
            DatabaseUnavailable: Postgres does not answer; some of the batch may be in the ledger.
            DBAPIError: Postgres refused for a reason that is no row's fault.
            OSError: ``rejected.ndjson`` cannot be written.
        """
        lines: list[_Line] = []
        prepared_bytes = 0
        for record in records:
            try:
                lines.append(_make_line(record, is_interrupted=is_interrupted))
            except RecordUnusable as error:
                await self._reject(record, str(error))
            except (ValueError, TypeError, OverflowError, RecursionError):
                await self._reject(record, "not_an_entry")
            prepared_bytes += len(record.payload)
            if prepared_bytes >= SLICE_BYTES:
                prepared_bytes = 0
                await asyncio.sleep(0)
        if lines:
            await self._land(lines)

    async def probe(self) -> None:
        """Ask Postgres whether it is there.

        Raises:
            DatabaseUnavailable: it is not.
        """
        async with self._database.transaction():
            pass

    async def _land(self, lines: Sequence[_Line]) -> None:
        try:
            landed = await self._insert_making_partitions(lines)
        except DBAPIError as error:
            state = _state_of(error)
            if not state.startswith(FAULTS_OF_A_ROW) or _is_partition_missing(error):
                raise
        else:
            LEDGER_SHIPPED.inc(landed)
            return
        if len(lines) == 1:
            await self._reject(lines[0].record, state)
            return
        middle = len(lines) // 2
        await self._land(lines[:middle])
        await self._land(lines[middle:])

    async def _insert_making_partitions(self, lines: Sequence[_Line]) -> int:
        for _ in range(PARTITION_ATTEMPTS - 1):
            try:
                return await self._insert(lines)
            except DBAPIError as error:
                if not _is_partition_missing(error):
                    raise
            async with self._database.transaction() as session:
                for month in sorted({line.month for line in lines}):
                    await ensure_partition(session, month)
        return await self._insert(lines)

    async def _insert(self, lines: Sequence[_Line]) -> int:
        rows = b"[%b]" % b",".join(line.text for line in lines)
        async with self._database.transaction() as session:
            return int((await session.execute(_SHIP, {"rows": rows.decode()})).scalar_one())

    async def _reject(self, record: Record, code: str) -> None:
        await asyncio.get_running_loop().run_in_executor(self._executor, _keep_rejected, self._rejected, record, code)
        LEDGER_REJECTED.inc()


def _state_of(error: DBAPIError) -> str:
    return str(getattr(error.orig, "sqlstate", None) or "")


def _is_partition_missing(error: DBAPIError) -> bool:
    """Tell a missing partition from a check constraint: both are 23514, and only a constraint has a name."""
    cause = error.orig.__cause__ if error.orig is not None else None
    return _state_of(error) == CHECK_VIOLATION and getattr(cause, "constraint_name", None) is None


def _make_line(record: Record, *, is_interrupted: bool) -> _Line:
    row = record.entry()
    if is_interrupted:
        row["outcome"] = Outcome.INTERRUPTED
    started_us = row.get("started_us")
    started = _EPOCH + timedelta(microseconds=started_us) if started_us is not None else None
    if started is None or started.year not in _PLAUSIBLE_YEARS:
        raise RecordUnusable("started_at_implausible")
    return _Line(record, started.date(), encode(row))


def _keep_rejected(path: Path, record: Record, code: str) -> None:
    entry: Any
    try:
        entry = record.entry()
    except (ValueError, RecursionError):
        entry = record.payload.decode("utf-8", "backslashreplace")
    line = encode({"rejected_at": datetime.now(UTC).isoformat(), "code": code, "entry": entry})
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        data = line + b"\n"
        while data:
            data = data[os.write(file, data) :]
        os.fsync(file)
    finally:
        os.close(file)
    who = {name: str(entry.get(name))[:64] for name in ("request_id", "tenant")} if isinstance(entry, dict) else {}
    log.error("an entry cannot be put into the ledger; it is kept in %s", REJECTED_FILE, extra={"fields": {"code": code, **who}})
