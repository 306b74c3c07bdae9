"""Entries in bulk: all that the filters let through, newest first, as NDJSON or CSV, in pages of bytes.

Postgres prints the lines, so that a worker which relays uploads has next to nothing to do for an export. A page is one short
transaction, and the next one begins where it ended: no connection is held while whoever reads is slow, and memory is two
pages, bounded in bytes whatever the clients put into their entries. What is entered meanwhile is newer than where the
export has begun, and not in it.

NDJSON has each entry exactly as the REST listing has it. CSV (RFC 4180) has the same members in the same order; null is empty, empty
text is ``""``, a list or an object is its JSON. Text that a spreadsheet would take for a formula has an apostrophe in front of it.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    Boolean,
    DateTime,
    Double,
    FromClause,
    Integer,
    LargeBinary,
    Row,
    Text,
    Uuid,
    bindparam,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB

from relay.db.engine import Database
from relay.ledger.accounts import ENTRY_LISTING
from relay.ledger.rows import LedgerRow
from relay.ledger.searches import EntryFilter, Place, Show, find_entries

PAGE_ENTRIES: Final = 1_200
PAGE_BYTES: Final = 2 << 20
FORMULA_STARTS: Final = "=+-@\t\r\n＝＋－＠"  # noqa: RUF001 - spreadsheets take the wide ones for the others

_TIME: Final = """to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
_IS_FORMULA: Final = "left({0}, 1) IN (" + ", ".join(f"chr({ord(start)})" for start in FORMULA_STARTS) + ")"


@dataclass(frozen=True, slots=True)
class Form:
    """One way to write entries: ``head`` comes before them, ``line`` is the SQL that prints one."""

    name: str
    media_type: str
    head: bytes
    line: str

    @property
    def file_name(self) -> str:
        """What to call a file of it."""
        return f"relay-ledger.{self.name}"


def _json_member(name: str) -> str:
    column = LedgerRow.__table__.c[name]
    match column.type:
        case DateTime():
            value = f"""'"' || {_TIME.format(name)} || '"'"""
        case Uuid():
            value = f"""'"' || {name} || '"'"""
        case Text() | ARRAY() | Double():  # a number that is not finite is no JSON either: to_json puts it in quotes
            value = f"to_json({name})::text"
        case _:
            value = f"{name}::text"
    return f"coalesce({value}, 'null')" if column.nullable else value


def _csv_member(name: str) -> str:
    match LedgerRow.__table__.c[name].type:
        case DateTime():
            return _TIME.format(name)
        case Text():
            guard = f"CASE WHEN {_IS_FORMULA.format(name)} THEN '''' ELSE '' END"
            return f"""'"' || {guard} || replace({name}, '"', '""') || '"'"""
        case ARRAY():
            return f"""'"' || replace(to_json({name})::text, '"', '""') || '"'"""
        case JSONB():
            return f"""'"' || replace({name}::text, '"', '""') || '"'"""
        case Boolean():
            return f"{name}::text"
        case _:
            return name


_JSON_LINE: Final = ", ".join(f"""'{"," if place else "{"}"{name}":', {_json_member(name)}""" for place, name in enumerate(ENTRY_LISTING))
_CSV_LINE: Final = ", ',', ".join(map(_csv_member, ENTRY_LISTING))

FORMS: Final[Mapping[str, Form]] = {
    form.name: form
    for form in (
        Form("ndjson", "application/x-ndjson", b"", f"concat({_JSON_LINE}, '}}', chr(10))"),
        Form(
            "csv",
            "text/csv; charset=utf-8; header=present",
            f"{','.join(ENTRY_LISTING)}\r\n".encode(),
            f"concat({_CSV_LINE}, chr(13), chr(10))",
        ),
    )
}


async def export_entries(database: Database, filters: EntryFilter, form: Form) -> AsyncGenerator[bytes]:
    """Write all entries that the filters let through, newest first, page by page; the first one has the head.

    The page behind is fetched while whoever reads is busy with one. To be closed by whoever does not read to the end.

    Raises:
        SearchTooSlow: a page cannot be found within the statement timeout.
        DatabaseUnavailable: Postgres does not answer.
    """
    show = _printing(form)

    async def fetch(after: Place | None) -> Row[Any] | None:
        async with database.reading("exports") as session:
            found = await anext(find_entries(session, filters, after, PAGE_ENTRIES, show), None)
        return found[0] if found else None

    page = await fetch(None)
    if form.head and page is None:
        yield form.head
    head = form.head
    while page is not None:
        fetching = asyncio.create_task(fetch((page.started_at, page.request_id)))
        try:
            yield head + page.lines if head else page.lines
            head, page = b"", await fetching
        finally:
            fetching.cancel()
            await asyncio.wait([fetching])


@cache
def _printing(form: Form) -> Show:
    """Print the entries of a page, up to the one that fills its bytes: their lines as one text, and the place of the last."""

    def show(page: FromClause) -> FromClause:
        line = literal_column(form.line, Text).label("line")
        printed = select(page.c.started_at, page.c.request_id, line).select_from(page).offset(0).subquery("printed")  # 0: printed once
        newest_first = (printed.c.started_at.desc(), printed.c.request_id.desc())
        size = func.octet_length(printed.c.line)
        before = func.sum(size).over(order_by=newest_first, rows=(None, 0)) - size
        measured = select(printed, before.label("before")).order_by(*newest_first).subquery("measured")
        # An aggregate takes what a sorted subquery gives it in its order, as long as nothing is joined to it.
        last = func.array_agg(measured.c.request_id, type_=ARRAY(Uuid()))[func.count()]
        lines = func.convert_to(func.string_agg(measured.c.line, ""), "UTF8", type_=LargeBinary)
        place = (func.min(measured.c.started_at).label("started_at"), last.label("request_id"))
        return (
            select(*place, lines.label("lines"))
            .where(measured.c.before < bindparam("most_bytes", callable_=lambda: PAGE_BYTES, type_=Integer))
            .subquery("lines")
        )

    return show
