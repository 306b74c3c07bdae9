"""How a batch is prepared for Postgres."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from relay.db.engine import Database
from relay.ledger import batches as module
from relay.ledger.batches import SLICE_BYTES, Batches
from tests.support.entries import as_read, finished_entry, ledger_ids


async def test_the_loop_serves_others_while_a_batch_is_prepared(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = as_read(*(finished_entry() for _ in range(300)))
    make_line, at_a_stretch, longest = module._make_line, 0, 0

    def count_bytes(record: Any, **options: Any) -> Any:
        nonlocal at_a_stretch, longest
        at_a_stretch += len(record.payload)
        longest = max(longest, at_a_stretch)
        return make_line(record, **options)

    async def be_served() -> None:
        nonlocal at_a_stretch
        while True:
            at_a_stretch = 0
            await asyncio.sleep(0)

    monkeypatch.setattr(module, "_make_line", count_bytes)
    other = asyncio.create_task(be_served())
    with ThreadPoolExecutor(1) as executor:
        await Batches(database, tmp_path, executor).ship(records)
    other.cancel()
    assert sum(len(record.payload) for record in records) > 4 * SLICE_BYTES
    assert longest < SLICE_BYTES + max(len(record.payload) for record in records)
    assert len(await ledger_ids(database)) == 300
