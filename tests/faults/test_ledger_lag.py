"""The ledger is a second behind at most; the long form is ``python -m tests.faults.ledger_lag``."""

from pathlib import Path

from tests.faults.ledger_lag import measure


async def test_finished_entries_are_visible_within_a_second(database_url: str, tmp_path: Path) -> None:
    assert not await measure(tmp_path, database_url, rate=500, seconds=3.0)
