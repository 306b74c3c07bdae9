"""Finding entries: each search by an index that gives its first page at once, however rare what it asks for is.

Theory of operation
-------------------
Matches are wanted newest first. All filters but one have an index that ends in ``(started_at, request_id)``, or find so
few that sorting them is nothing: Postgres reads such an index from its end and stops when the page is full.

The beginning of a path has none: an index gives the paths in their own order, not in time's. Whether it is better to
take all paths with that beginning and sort them, or to walk back in time and look at each, depends on how many there are,
and Postgres can only guess: a guess of "many" for a tenant that has none reads everything the tenant ever sent. So it is
counted instead, up to ``FEW``:

- the newest ``FEW`` entries are looked at first: what is common fills its page there, and of a short time they are all;
- few candidates: they are taken by the index of paths, filtered and sorted;
- many: the same for each month that has a candidate, newest first, since what was common last year may be absent now;
- many in one month: walk back in that month. They are at least one of some hundred there, or lie at its other end.

Every statement has the statement timeout, and what does not end in time is ``SearchTooSlow``, with advice to narrow it.

What must stay true: a candidate is counted by month, never by a finer time, for the index of paths knows no time; walks ask for
``path`` itself, so that the index of paths, whose expression is another, cannot be taken for them.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    DateTime,
    FromClause,
    Row,
    Select,
    Text,
    and_,
    bindparam,
    column,
    func,
    literal_column,
    select,
    text,
    true,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncSession

from relay.db.engine import QUERY_CANCELED
from relay.errors import DatabaseUnavailable, SearchTooSlow
from relay.ledger.entry import Outcome
from relay.ledger.partitions import ATTACHED, NAME, month_after
from relay.ledger.rows import PATH_START, PATH_START_LIMIT, LedgerRow

FEW: Final = 1_000
"""So many candidates are sorted sooner than avoided."""

Place = tuple[datetime, UUID]
"""Where an entry stands in the ledger's order: ``started_at`` and ``request_id``."""

Show = Callable[[FromClause], FromClause]
"""What to select of a page of entries, be it rows or one row of all: ``started_at`` and ``request_id`` of the last must be in it."""

_LEDGER: Final = LedgerRow.__table__
_TIME: Final = DateTime(timezone=True)
_COLUMNS: Final = tuple(member for member in _LEDGER.columns if member.name != "objects")
_FILLED: Final = text(f"{ATTACHED} AND pg_relation_size(inhrelid) > 0")
_START: Final = literal_column(PATH_START, Text)
_BY_START: Final = text(f"{PATH_START} USING ~<~")  # the order of the index, whatever the database's collation is


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFilter:
    """Which entries to list; ``None`` means all. Times are those of ``started_at``: ``since`` counts in, ``until`` does not."""

    tenant: str | None = None
    upload_id: UUID | None = None
    request_id: UUID | None = None
    outcome: Outcome | None = None
    path_prefix: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def path_start(self) -> str:
        """What paths must begin with, as they are kept: without the leading slash."""
        return (self.path_prefix or "").removeprefix("/")

    @property
    def can_match(self) -> bool:
        """False for text that no row can hold, and that Postgres would refuse to compare: NUL and lone surrogates."""
        words = f"{self.tenant or ''}{self.path_prefix or ''}"
        return "\0" not in words and words.encode(errors="replace").decode() == words


async def find_entries(
    session: AsyncSession, filters: EntryFilter, after: Place | None, most: int, show: Show = lambda page: page
) -> AsyncIterator[Sequence[Row[Any]]]:
    """Find the entries behind ``after`` that the filters let through, newest first; never yields an empty sequence.

    Each sequence has at most ``most`` of one span of time, and the next one is of the span before.

    Raises:
        SearchTooSlow: they cannot be found within the statement timeout.
        DatabaseUnavailable: Postgres does not answer.
    """
    if not filters.can_match:
        return
    search = _Search(session, filters, after, most, show)
    is_known = filters.request_id is not None or filters.upload_id is not None
    if not filters.path_start or is_known:
        found = await search.walk()
        if found:
            yield found
        return
    async for found in search.find_by_path():
        if found:
            yield found


@dataclass(frozen=True, slots=True)
class _Search:
    """One search of one span of time."""

    session: AsyncSession
    filters: EntryFilter
    after: Place | None
    most: int
    show: Show

    async def find_by_path(self) -> AsyncIterator[Sequence[Row[Any]]]:
        """Find paths by their beginning: without a walk if that is possible, else month by month."""
        found = await self.look()
        if found is not None:
            yield found
            return
        for month in await self._months():
            found = await month.look()
            yield found if found is not None else await month.walk()

    async def look(self) -> Sequence[Row[Any]] | None:
        """Find a page among the newest entries, or among few candidates; ``None`` if neither has it whole."""
        found = await self.glance()
        return found if found is not None else await self.find_few()

    async def glance(self) -> Sequence[Row[Any]] | None:
        """Find a page among the newest entries; ``None`` if it may go on beyond them."""
        if self.most > FEW // 2:
            return None
        candidates = select(*_COLUMNS).where(*self._conditions(_LEDGER, has_path=False))
        count, found = await self._sift(_newest(candidates, _LEDGER, FEW))
        return found if count < FEW or len(found) == self.most else None

    async def walk(self) -> Sequence[Row[Any]]:
        """Find entries by walking back in time, or by an index that leads straight to them."""
        page = select(*_COLUMNS).where(*self._conditions(_LEDGER))
        shown = self.show(_newest(page, _LEDGER, self.most).subquery("page"))
        return _told(await self._fetch(_newest(select(shown), shown, self.most)))

    async def find_few(self) -> Sequence[Row[Any]] | None:
        """Find entries among all whose path begins so in these months; ``None`` if those are not few."""
        first, end = self._span()
        among = self._candidates()
        if first is not None:
            among.append(_LEDGER.c.started_at >= first)
        if end is not None:
            among.append(_LEDGER.c.started_at < end)
        count, found = await self._sift(select(*_COLUMNS).where(*among).order_by(_BY_START).limit(FEW + 1))
        return found if count <= FEW else None

    def _candidates(self) -> list[ColumnElement[bool]]:
        """What the indexes of paths know of an entry."""
        among: list[ColumnElement[bool]] = [_START.startswith(self.filters.path_start[:PATH_START_LIMIT], autoescape=True)]
        if self.filters.tenant is not None:
            among.append(_LEDGER.c.tenant == self.filters.tenant)
        return among

    async def _sift(self, candidates: Select[Any]) -> tuple[int, Sequence[Row[Any]]]:
        """Count some candidates, and find the newest of them that fulfil everything."""
        some = candidates.cte("some").prefix_with("MATERIALIZED")  # found as they are asked for, whatever is asked of them next
        shown = self.show(_newest(select(some).where(*self._conditions(some)), some, self.most).subquery("page"))
        counted = select(func.count().label("candidates")).select_from(some).subquery("counted")
        statement = select(counted.c.candidates, shown).select_from(counted.outerjoin(shown, true()))
        rows = await self._fetch(_newest(statement, shown, self.most))
        return rows[0].candidates, _told(rows)

    async def _months(self) -> list["_Search"]:
        """The same search in each month that has a candidate, newest first; as it is where partitions are not ours."""
        matches = [NAME.fullmatch(name) for name in (await self.session.scalars(_FILLED)).all()]
        firsts = [date(int(match[1]), int(match[2]), 1) for match in matches if match is not None]
        if len(firsts) < len(matches):
            return [self]
        first, end = self._span()
        spans = [(_begin(month), _begin(month_after(month))) for month in firsts]
        asked = [(since, until) for since, until in spans if (end is None or since < end) and (first is None or until > first)]
        return [self._within(row.since, row.until) for row in await self._fetch(self._with_candidates(asked))]

    def _with_candidates(self, spans: Sequence[tuple[datetime, datetime]]) -> Select[Any]:
        """Select those of these months that have a candidate, newest first."""
        begins, ends = (bindparam(None, [span[end] for span in spans], ARRAY(_TIME)) for end in (0, 1))
        months = func.unnest(begins, ends).table_valued(column("since", _TIME), column("until", _TIME), name="months").render_derived()
        is_of_month = (_LEDGER.c.started_at >= months.c.since, _LEDGER.c.started_at < months.c.until)
        # The order keeps Postgres to the index of paths; a month is a partition, and the others are not looked into.
        one = select(_LEDGER.c.started_at).where(*is_of_month, *self._candidates()).order_by(_BY_START).limit(1)
        return select(months).where(one.correlate(months).scalar_subquery().is_not(None)).order_by(months.c.since.desc())

    def _within(self, since: datetime, until: datetime) -> "_Search":
        filters = self.filters
        return replace(
            self,
            filters=replace(
                filters,
                since=max(since, filters.since) if filters.since else since,
                until=min(until, filters.until) if filters.until else until,
            ),
        )

    def _span(self) -> tuple[datetime | None, datetime | None]:
        """The whole months that the search lies in: from the first one's begin to the end of the last one."""
        since, until = self.filters.since, self.filters.until
        first = _begin_of_month(since) if since is not None else None
        ends = [_end_of_month(until - timedelta(microseconds=1))] if until is not None and until > _EARLIEST else []
        ends += [_end_of_month(self.after[0])] if self.after is not None else []
        return first, min(ends, default=None)

    def _conditions(self, entries: FromClause, *, has_path: bool = True) -> list[ColumnElement[bool]]:
        """What an entry must fulfil, said of the columns of ``entries``."""
        columns, filters = entries.c, self.filters
        wanted: list[ColumnElement[bool]] = [
            columns[name] == value
            for name in ("tenant", "upload_id", "request_id", "outcome")
            if (value := getattr(filters, name)) is not None
        ]
        if filters.path_start and has_path:
            wanted.append(columns.path.startswith(filters.path_start, autoescape=True))
        if filters.since is not None:
            wanted.append(columns.started_at >= filters.since)
        if filters.until is not None:
            wanted.append(columns.started_at < filters.until)
        if self.after is not None:
            # The first condition alone lets Postgres leave out whole partitions.
            is_after = tuple_(columns.started_at, columns.request_id) < self.after
            wanted.append(and_(columns.started_at <= self.after[0], is_after))
        return wanted

    async def _fetch(self, statement: Select[Any]) -> Sequence[Row[Any]]:
        try:
            rows: Sequence[Row[Any]] = (await self.session.execute(statement)).all()
        except DatabaseUnavailable as error:
            if getattr(error.__cause__, "sqlstate", None) == QUERY_CANCELED:
                raise SearchTooSlow from error
            raise
        return rows


def _newest(statement: Select[Any], entries: FromClause, most: int) -> Select[Any]:
    return statement.order_by(entries.c.started_at.desc(), entries.c.request_id.desc()).limit(most)


def _told(rows: Sequence[Row[Any]]) -> Sequence[Row[Any]]:
    """Rows that tell of entries; where there are none, a count or an aggregate gives a row all the same."""
    return rows if rows and rows[0].started_at is not None else ()


def _begin(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _begin_of_month(at: datetime) -> datetime:
    return _begin(at.astimezone(UTC).date().replace(day=1))


def _end_of_month(at: datetime) -> datetime:
    return _begin(month_after(at.astimezone(UTC).date())) if at < _LATEST else datetime.max.replace(tzinfo=UTC)


_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
_LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC)  # the month after the last one is no date
