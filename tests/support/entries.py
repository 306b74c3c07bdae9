"""Entries of the ledger, and journals that hold them."""

from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import text
from uuid_utils.compat import uuid7

from relay.db.engine import Database
from relay.ledger.entry import Entry, Outcome, now_us
from relay.ledger.folders import create_folder, segment_path
from relay.ledger.journal import Journal
from relay.ledger.records import RECORD_MEMBERS, begin_record, finish_record
from relay.ledger.segments import Record, members_record
from relay.settings import JournalSettings


def make_entry(**members: Any) -> Entry:
    """An entry as it stands when an upload begins."""
    known = {"request_id": str(uuid7()), "tenant": "acme", "method": "POST", "path": "photos/cat.jpg", "started_us": now_us()}
    return Entry(**{**known, "upload_id": str(uuid7()), **members})


def finished_entry(**members: Any) -> Entry:
    """An entry of an upload of a thousand bytes that was delivered."""
    ended = {"outcome": Outcome.DELIVERED, "status": 201, "bytes_in": 1_000, "bytes_delivered": 1_000, "finished_us": now_us()}
    return make_entry(**{**ended, **members})


def as_read(*entries: Entry) -> list[Record]:
    """The records of finished entries, as a journal's reader gives them."""
    return [Record(is_finished=True, payload=finish_record(entry)[8:], members=RECORD_MEMBERS) for entry in entries]


def open_journal(root: Path, **settings: Any) -> Journal:
    """A journal of this process."""
    return Journal.open(root, str(uuid4()), JournalSettings(**settings))


def leave_journal(root: Path, *, finished: list[Entry] | None = None, begun: list[Entry] | None = None, raw: bytes = b"") -> Path:
    """The journal of a process that was killed: finished entries, entries that only began, then raw bytes."""
    lock = create_folder(root, str(uuid4()))
    records = [members_record(RECORD_MEMBERS)]
    for entry in finished or []:
        records += [begin_record(entry), finish_record(entry)]
    records += [begin_record(entry) for entry in begun or []]
    segment_path(lock.path, 1).write_bytes(b"".join(records) + raw)
    lock.release()
    return lock.path


async def read_ledger(database: Database, columns: str = "request_id, outcome") -> list[tuple[Any, ...]]:
    """Columns of all entries that are in Postgres, oldest first; ids as text."""
    async with database.transaction() as session:
        rows = await session.execute(text(f"SELECT {columns} FROM ledger ORDER BY started_at, request_id"))
        return [tuple(row) for row in rows]


async def ledger_ids(database: Database) -> list[str]:
    """The request ids that are in Postgres, as often as they are there."""
    return [str(request_id) for (request_id,) in await read_ledger(database, "request_id")]


async def read_usage(database: Database) -> list[dict[str, Any]]:
    """The daily sums."""
    async with database.transaction() as session:
        rows = await session.execute(text("SELECT * FROM usage_daily ORDER BY tenant, day"))
        return [dict(row) for row in rows.mappings()]
