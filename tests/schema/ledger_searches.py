"""Every filter of the ledger alone, and the pairs that people ask for: what a first page costs, and by which plan.

Used by ``million_entries`` and, on fewer entries, by a test.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
from sqlalchemy import ClauseElement, Executable, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from relay.db.engine import Database
from relay.ledger.partitions import NAME, month_after, partition_of
from relay.ledger.searches import FEW, EntryFilter, find_entries
from tests.support.many_entries import FIRST, LAST

Plan = dict[str, Any]

PAGE: Final = 51
DAY: Final = timedelta(days=1)


async def searches_of(url: str, begin: datetime, end: datetime) -> dict[str, EntryFilter]:
    """The searches by name, for entries that lie between these times."""
    connection = await asyncpg.connect(url)
    try:
        known = await connection.fetchrow("SELECT * FROM ledger WHERE started_at >= $1 ORDER BY started_at LIMIT 1", begin + 40 * DAY)
    finally:
        await connection.close()
    middle = begin + 50 * DAY
    asked: dict[str, dict[str, Any]] = {
        "everything": {},
        "tenant large": {"tenant": FIRST},
        "tenant small": {"tenant": LAST},
        "tenant unknown": {"tenant": "nobody"},
        "upload_id": {"upload_id": known["upload_id"]},
        "request_id": {"request_id": known["request_id"]},
        "outcome common": {"outcome": "delivered"},
        "outcome less common": {"outcome": "rejected"},
        "outcome rare": {"outcome": "interrupted"},
        "path common": {"path_prefix": "photos/"},
        "path rare": {"path_prefix": "legal/hold/"},
        "path absent": {"path_prefix": "nothing/of/this"},
        "path common and old": {"path_prefix": "import/"},
        "path of a month": {"path_prefix": f"photos/{middle:%Y/%m}/"},
        "path one folder of many": {"path_prefix": "0a/"},
        "since narrow": {"since": end - timedelta(hours=1)},
        "since wide": {"since": begin},
        "until wide": {"until": end},
        "until narrow": {"until": begin + timedelta(hours=1)},
        "since+until narrow": {"since": middle, "until": middle + timedelta(minutes=10)},
        "since+until empty": {"since": begin - 9 * DAY, "until": begin - 8 * DAY},
        "tenant large+outcome rare": {"tenant": FIRST, "outcome": "interrupted"},
        "tenant small+outcome rare": {"tenant": LAST, "outcome": "interrupted"},
        "tenant large+outcome it never has": {"tenant": FIRST, "outcome": "rejected"},
        "tenant small+outcome common": {"tenant": LAST, "outcome": "delivered"},
        "tenant large+path common": {"tenant": FIRST, "path_prefix": "photos/"},
        "tenant large+path others have": {"tenant": FIRST, "path_prefix": "reports/"},
        "tenant large+path rare": {"tenant": FIRST, "path_prefix": "legal/hold/"},
        "tenant large+path absent": {"tenant": FIRST, "path_prefix": "nothing/"},
        "tenant large+path old": {"tenant": FIRST, "path_prefix": "import/"},
        "tenant small+path common": {"tenant": LAST, "path_prefix": "photos/"},
        "tenant small+path rare": {"tenant": LAST, "path_prefix": "legal/hold/"},
        "tenant large+since+until": {"tenant": FIRST, "since": middle, "until": middle + DAY},
        "tenant small+since+until": {"tenant": LAST, "since": middle, "until": middle + DAY},
        "outcome rare+since": {"outcome": "interrupted", "since": end - 2 * DAY},
        "outcome less common+until": {"outcome": "rejected", "until": begin + 2 * DAY},
        "outcome common+path old": {"outcome": "delivered", "path_prefix": "import/"},
        "outcome rare+path common": {"outcome": "interrupted", "path_prefix": "photos/"},
        "path common+since narrow": {"path_prefix": "photos/", "since": end - timedelta(hours=1)},
        "path common+until": {"path_prefix": "photos/", "until": begin + 10 * DAY},
        "path old+since": {"path_prefix": "import/", "since": end - 30 * DAY},
        "tenant+outcome+path+since": {"tenant": LAST, "outcome": "delivered", "path_prefix": "photos/", "since": middle},
    }
    return {name: EntryFilter(**filters) for name, filters in asked.items()}


class Explain(Executable, ClauseElement):
    """A statement explained: sent by the same driver, with the same parameters, and executed."""

    inherit_cache = False

    def __init__(self, statement: ClauseElement) -> None:
        self.statement = statement


@compiles(Explain)
def _compile_explain(element: Explain, compiler: SQLCompiler, **options: Any) -> str:
    return f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {compiler.process(element.statement, **options)}"


class ExplainingSession(AsyncSession):
    """A session that keeps the plan of every statement of a search."""

    def __init__(self, database: Database) -> None:
        super().__init__(database._engine)
        self.plans: list[Plan] = []

    async def prepare(self, setting: str) -> None:
        """Run a statement that is not explained."""
        await super().execute(text(setting))

    async def execute(self, statement: Any, *arguments: Any, **options: Any) -> Any:
        answer = (await super().execute(Explain(statement), *arguments, **options)).scalar_one()
        self.plans.append((json.loads(answer) if isinstance(answer, str) else answer)[0]["Plan"])
        return await super().execute(statement, *arguments, **options)


async def explain_search(database: Database, filters: EntryFilter, setting: str = "SELECT", most: int = PAGE) -> list[Plan]:
    """The plans of the statements that the first page of this search takes, under a setting of Postgres."""
    async with ExplainingSession(database) as session:
        await session.prepare(setting)
        found = 0
        async for rows in find_entries(session, filters, None, most):
            found += len(rows)
            if found >= most:
                break
        return session.plans


def judge_plan(plan: Plan, filters: EntryFilter, walked_most: int) -> list[str]:
    """Say what is wrong with a plan: a scan of a whole partition, a large sort, a long walk, a month that was not asked for."""
    wrong = []
    for node in nodes_of(plan):
        kind, rows = node["Node Type"], node["Actual Rows"] * node["Actual Loops"]
        removed = (node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)) * node["Actual Loops"]
        place = node.get("Relation Name", node.get("Index Name", ""))
        if kind == "Seq Scan" and rows + removed > FEW:
            wrong.append(f"sequential scan of {rows + removed} rows of {place}")
        if kind in {"Sort", "Bitmap Heap Scan"} and rows > FEW + 1:
            wrong.append(f"{kind} of {rows} rows {place}")
        if removed > walked_most:
            wrong.append(f"{kind} of {place} threw {removed} rows away")
    if (
        filters.since is not None
        and filters.until is not None
        and (beyond := months_of(plan) - _months_between(filters.since, filters.until))
    ):
        wrong.append(f"months that were not asked for: {sorted(beyond)}")
    return wrong


def judge_plans(plans: list[Plan], filters: EntryFilter, walked_most: int) -> list[str]:
    """Say what is wrong with the plans of a search: of each, or that one after the second reads much of more than a month."""
    wrong = [fault for plan in plans for fault in judge_plan(plan, filters, walked_most)]
    at_once = [plan for plan in plans[2:] if len(months_of(plan)) > 1 and entries_of(plan) > FEW]
    return wrong + [f"searched at once: {entries_of(plan)} entries of {sorted(months_of(plan))}" for plan in at_once]


def entries_of(plan: Plan) -> int:
    """How many entries were read."""
    return sum(round(node["Actual Rows"] * node["Actual Loops"]) for node in nodes_of(plan) if "Relation Name" in node)


def months_of(plan: Plan) -> set[str]:
    """The partitions that were read."""
    return {node["Relation Name"] for node in nodes_of(plan) if NAME.fullmatch(node.get("Relation Name", ""))}


def nodes_of(plan: Plan) -> Iterator[Plan]:
    """The nodes of a plan that were executed."""
    if plan["Actual Loops"]:
        yield plan
    for child in plan.get("Plans", ()):
        yield from nodes_of(child)


def _months_between(since: datetime, until: datetime) -> set[str]:
    months, month = set(), since.astimezone(UTC).date().replace(day=1)
    while month <= until.astimezone(UTC).date():
        months.add(partition_of(month))
        month = month_after(month)
    return months
