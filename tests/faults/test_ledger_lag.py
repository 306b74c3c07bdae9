"""The ledger keeps up: a second behind at most, says the long form, ``python -m tests.faults.ledger_lag``."""

from pathlib import Path

from tests.faults.ledger_lag import measure


async def test_finished_entries_are_visible_soon_at_a_steady_rate(database_url: str, tmp_path: Path) -> None:
    assert not await measure(tmp_path, database_url, rate=500, seconds=3.0, longest_p99=5.0)  # a busy machine stands still for a second
