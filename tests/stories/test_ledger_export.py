"""A ledger of twelve thousand entries, taken whole over a real socket: by those who read it, who stop reading, and who leave.

And the searches of a first page by their plans; the long form of both is ``python -m tests.schema.million_entries``.
"""

import asyncio
import csv
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from relay.api.admin import ledger
from relay.db.engine import Database
from relay.ledger import exports
from relay.settings import DatabaseSettings
from tests.schema.ledger_searches import explain_search, judge_plans, searches_of
from tests.support.many_entries import FIRST, fill_ledger
from tests.support.postgres import TemplateServer
from tests.support.raw_client import RawClient
from tests.support.running_relay import ADMIN_TOKEN, RunningRelay, running_relay
from tests.support.waiting import until

ROWS = 12_000
NO_SHORTCUTS = "SELECT set_config(name, 'off', true) FROM unnest(ARRAY['enable_seqscan', 'enable_bitmapscan', 'enable_sort']) AS name"
"""What Postgres prefers for so few entries, and what would be slow for many."""

REQUEST = f"GET /admin/v1/ledger?format=ndjson HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\r\n".encode()


@pytest.fixture(scope="module")
def filled_url(postgres_server: TemplateServer) -> Iterator[str]:
    """A database with many entries, for all tests of this module: none of them changes it."""
    with asyncio.Runner() as runner:
        opened = postgres_server.database()
        url = runner.run(opened.__aenter__())
        runner.run(fill_ledger(url, ROWS))
        yield url
        runner.run(opened.__aexit__(None, None, None))


@pytest.fixture
async def relay(filled_url: str, tmp_path: Path) -> AsyncIterator[RunningRelay]:
    """A relay on that database."""
    async with running_relay(filled_url, tmp_path) as relay:
        yield relay


class Ended(logging.Handler):
    """How many requests of the admin side have ended, by the access log."""

    def __init__(self) -> None:
        super().__init__()
        self.codes: list[str | None] = []

    def emit(self, record: logging.LogRecord) -> None:
        fields = getattr(record, "fields", {})
        if fields.get("path") == "/admin/v1/ledger":
            self.codes.append(fields["code"])


@pytest.fixture
def ended() -> Iterator[Ended]:
    handler, log = Ended(), logging.getLogger("relay.access")
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.INFO)
    yield handler
    log.setLevel(level)
    log.removeHandler(handler)


async def test_both_forms_have_every_entry_once_newest_first(relay: RunningRelay) -> None:
    answer = await relay.admin.get("/ledger", params={"format": "ndjson"}, timeout=30)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["content-disposition"] == 'attachment; filename="relay-ledger.ndjson"'
    assert "content-length" not in answer.headers
    told = [json.loads(line) for line in answer.content.splitlines()]
    assert len({entry["request_id"] for entry in told}) == len(told) == ROWS
    assert [entry["started_at"] for entry in told] == sorted((entry["started_at"] for entry in told), reverse=True)
    page = await relay.entries()
    assert told[:500] == page

    answer = await relay.admin.get("/ledger", params={"format": "csv", "tenant": FIRST}, timeout=30)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8; header=present"
    assert answer.headers["x-content-type-options"] == "nosniff"
    rows = list(csv.DictReader(io.StringIO(answer.text, newline=""), strict=True))
    assert [row["request_id"] for row in rows] == [entry["request_id"] for entry in told if entry["tenant"] == FIRST]

    for form in ("ndjson", "csv"):
        answer = await relay.admin.get("/ledger", params={"format": form, "tenant": "nobody"})
        assert (answer.status_code, len(answer.content.splitlines())) == (200, form == "csv")
    assert (await relay.admin.get("/ledger?format=csv", headers={"Authorization": "Bearer no"})).status_code == 401


async def take_a_piece_then_lock(admin: httpx.AsyncClient, holder: asyncpg.Connection) -> None:
    """Begin an export, and hold the ledger against it when its first piece has come."""
    async with admin.stream("GET", "/ledger?format=csv") as answer:
        assert answer.status_code == 200
        pieces = answer.aiter_raw()
        await anext(pieces)
        async with holder.transaction():
            await holder.execute("LOCK TABLE ledger")
            async for _ in pieces:
                pass


async def test_an_error_before_the_first_page_is_a_problem_and_one_after_it_cuts_the_answer(
    filled_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "PAGE_ENTRIES", 500)
    holder = await asyncpg.connect(filled_url)
    async with running_relay(filled_url, tmp_path, RELAY_DATABASE_STATEMENT_TIMEOUT="1") as relay:
        async with holder.transaction():
            await holder.execute("LOCK TABLE ledger")
            answer = await relay.admin.get("/ledger?format=csv")
            assert (answer.status_code, answer.json()["code"]) == (503, "search_too_slow")
            assert answer.headers["content-type"] == "application/problem+json"
        with pytest.raises(httpx.RemoteProtocolError):
            await take_a_piece_then_lock(relay.admin, holder)
        assert (await relay.admin.get("/ledger?format=csv&tenant=nobody")).status_code == 200
    await holder.close()


@pytest.mark.parametrize("manner", ["stalls", "leaves"])
async def test_a_client_that_takes_nothing_more_ends_the_export(
    relay: RunningRelay, ended: Ended, monkeypatch: pytest.MonkeyPatch, manner: str
) -> None:
    monkeypatch.setattr(ledger, "SEND_SECONDS", 0.3 if manner == "stalls" else 60.0)
    monkeypatch.setattr(exports, "PAGE_ENTRIES", 1_000)
    async with RawClient(*relay.address, receive_buffer=16_384) as client:
        client.pause()
        await client.send(REQUEST)
        if manner == "leaves":
            await asyncio.sleep(0.2)
            assert not ended.codes, "it waits for the client"
            client.reset()
        await until(lambda: bool(ended.codes), seconds=10)
    assert ended.codes == ["client_gone"]


async def test_plans_of_searches_read_little_more_than_they_show(filled_url: str) -> None:
    database = Database(filled_url, DatabaseSettings())
    connection = await asyncpg.connect(filled_url)
    begin, end = await connection.fetchrow("SELECT min(started_at), max(started_at) FROM ledger")
    await connection.close()
    wrong = []
    for name, filters in (await searches_of(filled_url, begin, end)).items():
        if filters.upload_id is not None:
            continue  # the few entries of an upload are sorted
        plans = await explain_search(database, filters, NO_SHORTCUTS)
        wrong += [f"{name}: {fault}" for fault in judge_plans(plans, filters, ROWS // 12)]
    await database.close()
    assert not wrong, "\n".join(wrong)
