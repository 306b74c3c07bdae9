"""What a store made of an upload, from its receipt to the ledger's row."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from relay.db.engine import Database
from relay.ledger.accounts import list_entries
from relay.ledger.entry import OBJECTS_LIMIT, OBJECTS_TEXT_LIMIT, PATH_LIMIT, TEXT_LIMIT, clean_objects
from relay.ledger.searches import EntryFilter
from relay.ledger.shipper import Shipper
from tests.support.entries import finished_entry, open_journal, read_ledger
from tests.support.running_relay import running_relay

STORED: dict[str, Any] = {
    "key": "in/a\x00\ud800b",
    "size": 2**40,
    "content_type": "c" * 5_000,
    "filename": "f\x00" * 5_000,
    "field": None,
    "sha256": "0" * 64,
    "etag": '"e"',
}


def test_the_words_of_clients_are_cleaned_and_cut() -> None:
    (kept, long) = clean_objects([STORED, {**STORED, "key": "k" * 5_000}]) or ({}, {})
    assert kept["key"] == "in/a\ufffd\ufffdb"
    assert (len(kept["content_type"]), len(kept["filename"])) == (TEXT_LIMIT, TEXT_LIMIT)
    assert (kept["size"], kept["field"], kept["sha256"], kept["etag"]) == (2**40, None, "0" * 64, '"e"')
    assert list(kept) == list(STORED)
    assert len(long["key"]) == PATH_LIMIT


def test_so_many_objects_are_kept_and_none_is_null() -> None:
    assert clean_objects([]) is None
    short = {"key": "k" * 200, "size": 1, "etag": None}
    assert len(clean_objects([short] * (OBJECTS_LIMIT + 5)) or ()) == OBJECTS_LIMIT
    long = {"key": "k" * PATH_LIMIT, "size": 1, "etag": None}
    assert len(clean_objects([long] * OBJECTS_LIMIT) or ()) == OBJECTS_TEXT_LIMIT // PATH_LIMIT


async def test_they_go_through_the_journal_into_the_row_and_the_listing(tmp_path: Path, database: Database) -> None:
    objects = clean_objects([STORED, {**STORED, "filename": "b"}])
    journal = open_journal(tmp_path)
    shipper = Shipper(journal, database, tmp_path)
    await journal.finish(finished_entry(objects=objects))
    await journal.finish(finished_entry())
    assert await shipper.drain(timedelta(seconds=10))
    shipper.close()
    journal.close()
    rows = [row for (row,) in await read_ledger(database, "CAST(objects AS text)")]
    assert [row and json.loads(row) for row in rows] == [objects, None]
    async with database.transaction() as session:
        listed = (await list_entries(session, EntryFilter())).items
    assert sorted((entry["objects"] for entry in listed), key=str) == [None, objects]


async def test_an_upload_to_a_disk_keeps_what_its_client_was_told(database_url: str, tmp_path: Path) -> None:
    async with running_relay(database_url, tmp_path) as relay, httpx.AsyncClient(base_url=relay.url, trust_env=False) as client:
        tenant = await relay.tenant()
        await relay.disk_destination(tenant)
        answer = await client.put("/upload/a/b.txt", content=b"some content", headers=tenant.headers)
        assert answer.status_code == 201
        await relay.every_entry()
        ((objects,),) = await read_ledger(relay.services.database, "CAST(objects AS text)")
        assert json.loads(objects) == answer.json()["objects"]
