"""Finding entries: each search by an index that gives its first page at once, however rare what it asks for is.

Theory of operation
-------------------
Matches are wanted newest first. All filters but one have an index that ends in ``(started_at, request_id)``, or find so
few that sorting them is nothing: Postgres reads such an index from its end and stops when the page is full.

The beginning of a path has none: an index gives the paths of a day in their own order, not in time's. So they are found

- among the newest ``GLANCE`` entries that fulfil all else: what is common fills its page there, and of a short time or a
  rare outcome they are all;
- else on the days (UTC) that have a candidate, which is all that the index can tell: one statement finds those of
  ``MONTHS_AT_ONCE``, by a look into the index for each day. If no day has more than ``RARE``, one statement takes them all.
  Else a statement for each month that has one searches its days, newest first, until the page is full. Few candidates of a
  day are taken by the index and sorted; if they are many, the day is walked back, which is at worst a walk of one day for a
  path that was common on it.

Which of the two is better Postgres could only guess, and a guess of "many" for a path that a day has not would read all of the
day. So they are counted, up to ``FEW``. Candidates know no outcome: one that hardly any of many has is what stays slow.

Every statement has the statement timeout, and what does not end in time is ``SearchTooSlow``, with advice to narrow it.

What must stay true: candidates are asked for by day and never by a finer time, which the index does not know and a count would
search for; they come in the order of the index, which keeps Postgres to it; walks ask for ``path`` itself, so that the
index of paths, whose expression is another, cannot be taken for them. A month has its bounds as parameters, and they are never
finer than its days: so Postgres plans and looks for one partition, and does not take them for a way to find few.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from functools import cache
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    CompoundSelect,
    Date,
    DateTime,
    FromClause,
    Integer,
    Row,
    ScalarSelect,
    Select,
    TableValuedAlias,
    Text,
    bindparam,
    cast,
    column,
    func,
    literal_column,
    select,
    text,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncSession

from relay.db.engine import QUERY_CANCELED
from relay.errors import DatabaseUnavailable, SearchTooSlow
from relay.ledger.entry import Outcome
from relay.ledger.rows import DAY, PATH_START, PATH_START_LIMIT, LedgerRow

GLANCE: Final = 250
"""So many of the newest entries are looked at before a path is searched for day by day."""

PAGE_BYTES: Final = 8 << 20
"""A form may put half a megabyte into an entry, and a page that somebody waits for is held whole."""

FEW: Final = 1_000
"""So many candidates of a day are sorted sooner than avoided."""

RARE: Final = 5
"""Where no day has more candidates than this, those of all months found at once are ``FEW``, and are taken by one statement."""

MONTHS_AT_ONCE: Final = 6
"""The days of so many months are found by one statement: planning it costs some for each, and so does every day in it."""

Place = tuple[datetime, UUID]
"""Where an entry stands in the ledger's order: ``started_at`` and ``request_id``."""

Show = Callable[[FromClause], FromClause]
"""What to select of a page of entries, be it rows or one row of all: ``started_at`` and ``request_id`` of the last must be in it."""


def show_rows(page: FromClause) -> FromClause:
    """Select the entries as they are."""
    return page


def show_page(page: FromClause) -> FromClause:
    """Select the entries as they are, but no more of them than ``PAGE_BYTES`` of what forms put into them; one at least.

    ``spent`` is what they have, up to each, and ``of`` how many there were.
    """
    words = func.octet_length(func.concat(*(page.c[name] for name in ("filenames", "objects", "fields"))))
    newest_first = (page.c.started_at.desc(), page.c.request_id.desc())
    spent = func.sum(words).over(order_by=newest_first, rows=(None, 0)).label("spent")
    place = func.row_number().over(order_by=newest_first).label("place")
    measured = select(page, spent, place, func.count().over().label("of")).subquery("measured")
    return select(measured).where((measured.c.place == 1) | (measured.c.spent <= PAGE_BYTES)).subquery("shown")


Span = dict[str, Any]
"""Days of a month that are searched, newest first: ``days``, and ``first`` and ``last``, between which they lie."""

Shape = frozenset[str]
"""The names of what a search has been given."""

_LEDGER: Final = LedgerRow.__table__
_COLUMNS: Final = tuple(_LEDGER.columns)
_OF_TIME: Final = {"since", "until", "after_time", "after_id"}
_MOST: Final = bindparam("most", type_=Integer)
_DAY: Final = literal_column(DAY, Date)
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
    session: AsyncSession, filters: EntryFilter, after: Place | None, most: int, show: Show = show_rows
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
    """One search: what is asked for, put into the statements of its shape."""

    session: AsyncSession
    filters: EntryFilter
    after: Place | None
    most: int
    show: Show

    async def walk(self) -> Sequence[Row[Any]]:
        """Find entries by walking back in time, or by an index that leads straight to them."""
        values = self._values()
        return _told(await self._fetch(_walk(frozenset(values), self.show), values))

    async def find_by_path(self) -> AsyncIterator[Sequence[Row[Any]]]:
        """Find paths by their beginning: among the newest entries if those will do, else day by day."""
        values = self._values()
        given = frozenset(values)
        rows = await self._fetch(_glance(given, self.show), values)
        found = _told(rows)
        if rows[0].looked_at < GLANCE or len(found) == self.most:
            yield found
            return
        months = sorted(rows[0].months, reverse=True)
        for first in range(0, len(months), MONTHS_AT_ONCE):
            spans, is_rare = await self._find_days(months[first : first + MONTHS_AT_ONCE], values)
            if is_rare:
                yield _told(await self._fetch(_take_days(given, len(spans), self.show), {**values, **_numbered(spans)}))
                continue
            for span in spans:
                yield _told(await self._fetch(_search_days(given, self.show), {**values, **span}))

    async def _find_days(self, months: Sequence[datetime], values: Mapping[str, Any]) -> tuple[list[Span], bool]:
        """The months that have a candidate, newest first, with their days that have one; and whether all of these have few."""
        spans: list[Span] = []
        for newest in months:
            days = self._days_of(newest)
            spans.append({"days": days, "first": _begin(days[-1]), "last": newest})
        rows = await self._fetch(_find_days(frozenset(values), len(spans)), {**values, **_numbered(spans)})
        found = {row.day: row.candidates for row in rows}
        spans = [{**span, "days": days} for span in spans if (days := [day for day in span["days"] if day in found])]
        return spans, bool(found) and max(found.values()) <= RARE

    def _values(self) -> dict[str, Any]:
        """What is asked for, by the names that the statements have for it."""
        filters = self.filters
        values = {name: getattr(filters, name) for name in EntryFilter.__slots__}
        values |= {"path_prefix": _pattern(filters.path_start), "candidate": _pattern(filters.path_start[:PATH_START_LIMIT])}
        values |= dict(zip(("after_time", "after_id"), self.after or (None, None), strict=True))
        bounds = {"most": self.most, "few": FEW, "rare": RARE, "glance": GLANCE}
        return {name: value for name, value in values.items() if value is not None} | bounds

    def _days_of(self, newest: datetime) -> list[date]:
        """The days (UTC) that are to be searched of the month whose newest entry began then, newest first."""
        since = self.filters.since.astimezone(UTC).date() if self.filters.since is not None else date.min
        last = newest.astimezone(UTC).date()
        return [day for number in range(last.day, 0, -1) if (day := last.replace(day=number)) >= since]

    async def _fetch(self, statement: Select[Any] | CompoundSelect[Any], values: Mapping[str, Any]) -> Sequence[Row[Any]]:
        try:
            rows: Sequence[Row[Any]] = (await self.session.execute(statement, values)).all()
        except DatabaseUnavailable as error:
            if getattr(error.__cause__, "sqlstate", None) == QUERY_CANCELED:
                raise SearchTooSlow from error
            raise
        return rows


# The statements: one for each shape of a search, which is the names of what is given. Building one takes as long as all that
# Postgres does for it.


@cache
def _walk(given: Shape, show: Show) -> Select[Any]:
    return _shown(_newest(select(*_COLUMNS).where(*_conditions(_LEDGER, given)), _LEDGER), show)


@cache
def _glance(given: Shape, show: Show) -> Select[Any]:
    """How many of the newest entries there are, and when the newest of each month began; and those that are searched for."""
    newest = _newest(select(*_COLUMNS).where(*_conditions(_LEDGER, given - {"path_prefix"})), _LEDGER, bindparam("glance", type_=Integer))
    some = newest.cte("some").prefix_with("MATERIALIZED")  # found as they are asked for, whatever is asked of them next
    # Compiling a statement takes longer than the search of many days, whose estimate would have Postgres do so.
    uncompiled = func.set_config("jit", "off", True).label("jit")
    about = select(func.count().label("looked_at"), _months(given).label("months"), uncompiled).select_from(some).subquery("about")
    shown = show(_newest(select(some).where(*_conditions(some, given)), some).subquery("page"))
    return _newest(select(*about.c, shown).select_from(about.outerjoin(shown, true())), shown)


def _months(given: Shape) -> ScalarSelect[Any]:
    """When the newest entry began of each month (UTC) in the time that is searched, however the ledger is partitioned."""
    newest = select(_LEDGER.c.started_at).where(*_conditions(_LEDGER, given & _OF_TIME)).order_by(_LEDGER.c.started_at.desc()).limit(1)
    months = newest.cte("months", recursive=True)
    older = newest.where(_LEDGER.c.started_at < func.date_trunc("month", months.c.started_at, "UTC")).lateral("older")
    months = months.union_all(select(older).select_from(months.join(older, true())))
    return select(func.array_agg(months.c.started_at)).scalar_subquery()


@cache
def _find_days(given: Shape, months: int) -> CompoundSelect[Any]:
    """Which of the days of each month have a candidate, and how many, up to one more than ``rare``."""
    found, rare = [], bindparam("rare", type_=Integer)
    for place in range(months):
        days, known = _month(place, given)
        some = _by_start(select(true()).where(*known), rare + 1).correlate(days).lateral(f"some{place}")
        counted = select(func.count().label("candidates")).select_from(some).lateral(f"counted{place}")
        found.append(select(days.c.day, counted.c.candidates).select_from(days.join(counted, counted.c.candidates > 0)))
    return union_all(*found)


@cache
def _take_days(given: Shape, months: int, show: Show) -> Select[Any]:
    """Take all candidates of the days of each month: to be asked when they are few."""
    taken, few = [], bindparam("few", type_=Integer)
    for place in range(months):
        days, known = _month(place, given)
        some = _by_start(select(*_COLUMNS).where(*known), few).correlate(days).lateral(f"few{place}")
        taken.append(select(some).select_from(days.join(some, true())).where(*_conditions(some, given)))
    candidates = union_all(*taken).subquery("candidates")
    return _shown(_newest(select(candidates), candidates), show)


def _month(place: int, given: Shape) -> tuple[TableValuedAlias, list[ColumnElement[bool]]]:
    """The days of one month of several, and what is known of their candidates: its bounds have Postgres plan for its own partition only."""
    asked = func.unnest(bindparam(f"days{place}", type_=ARRAY(Date)))
    days = asked.table_valued(column("day", Date), name=f"month{place}").render_derived()
    of_month = (_LEDGER.c.started_at >= bindparam(f"first{place}"), _LEDGER.c.started_at <= bindparam(f"last{place}"))
    return days, _candidates(days, given, of_month)


@cache
def _search_days(given: Shape, show: Show) -> Select[Any]:
    """Search ``days`` of a month, newest first, which lie between ``first`` and ``last``."""
    of_months = (_LEDGER.c.started_at >= bindparam("first"), _LEDGER.c.started_at <= bindparam("last"))
    asked = func.unnest(bindparam("days", type_=ARRAY(Date)))
    days = asked.table_valued(column("day", Date), with_ordinality="place", name="days").render_derived()
    known = _candidates(days, given, of_months)
    few = bindparam("few", type_=Integer)

    looked = _by_start(select(true()).where(*known), few + 1).correlate(days).lateral("looked")
    counted = select(func.count().label("candidates")).select_from(looked).lateral("counted")
    some = _by_start(select(*_COLUMNS).where(*known), few).correlate(days).lateral("few")
    taken = select(some).where(counted.c.candidates.between(1, few), *_conditions(some, given))
    of_day = (_LEDGER.c.started_at >= _begin_of(days.c.day), _LEDGER.c.started_at < _begin_of(days.c.day + 1))
    walked = select(*_COLUMNS).where(counted.c.candidates > few, *of_months, *of_day, *_conditions(_LEDGER, given))
    found = union_all(_newest(taken, some).correlate(days, counted), _newest(walked, _LEDGER).correlate(days, counted)).lateral("found")
    page = select(found).select_from(days.join(counted, true()).join(found, true())).limit(_MOST)
    # By the place of the day first: so no day is looked into when those that are newer have filled the page.
    return _shown(page.order_by(days.c.place, found.c.started_at.desc(), found.c.request_id.desc()), show)


def _candidates(days: FromClause, given: Shape, of_month: Iterable[ColumnElement[bool]]) -> list[ColumnElement[bool]]:
    """What the index of paths knows of an entry of a day."""
    known = [*of_month, days.c.day == _DAY, _START.like(bindparam("candidate", type_=Text), escape="/")]
    return known + ([_LEDGER.c.tenant == bindparam("tenant")] if "tenant" in given else [])


def _conditions(entries: FromClause, given: Shape) -> list[ColumnElement[bool]]:
    """What an entry must fulfil, said of the columns of ``entries``."""
    columns = entries.c
    wanted: list[ColumnElement[bool]] = [
        columns[name] == bindparam(name) for name in ("tenant", "upload_id", "request_id", "outcome") if name in given
    ]
    if "path_prefix" in given:
        wanted.append(columns.path.like(bindparam("path_prefix"), escape="/"))
    if "since" in given:
        wanted.append(columns.started_at >= bindparam("since"))
    if "until" in given:
        wanted.append(columns.started_at < bindparam("until"))
    if "after_id" in given:
        # The first condition alone lets Postgres leave out whole partitions.
        after = (bindparam("after_time", type_=columns.started_at.type), bindparam("after_id", type_=columns.request_id.type))
        wanted += [columns.started_at <= after[0], tuple_(columns.started_at, columns.request_id) < tuple_(*after)]
    return wanted


def _by_start(candidates: Select[Any], most: ColumnElement[int]) -> Select[Any]:
    return candidates.order_by(_BY_START).limit(most)


def _shown(page: Select[Any], show: Show) -> Select[Any]:
    shown = show(page.subquery("page"))
    return _newest(select(shown), shown)


def _newest(statement: Select[Any], entries: FromClause, most: ColumnElement[int] = _MOST) -> Select[Any]:
    return statement.order_by(entries.c.started_at.desc(), entries.c.request_id.desc()).limit(most)


def _told(rows: Sequence[Row[Any]]) -> Sequence[Row[Any]]:
    """Rows that tell of entries; where there are none, a count or an aggregate gives a row all the same."""
    return rows if rows and rows[0].started_at is not None else ()


def _numbered(spans: Iterable[Span]) -> dict[str, Any]:
    """The months as parameters of a statement that has several."""
    return {f"{name}{place}": value for place, span in enumerate(spans) for name, value in span.items()}


def _pattern(start: str) -> str | None:
    """What is like this begins with ``start``; None for what everything begins with."""
    return "".join(f"/{sign}" if sign in "/%_" else sign for sign in start) + "%" if start else None


def _begin(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _begin_of(day: ColumnElement[date]) -> ColumnElement[datetime]:
    return func.timezone("UTC", cast(day, DateTime()))
