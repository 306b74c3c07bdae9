"""Postgres goes away under load and nobody notices; the long form is ``python -m tests.faults.postgres_away``."""

from pathlib import Path

import pytest

from tests.faults.postgres_away import Way, take_away


@pytest.mark.parametrize(("way", "seconds"), [("stopped", 2.5), ("frozen", 4.0)])
async def test_uploads_of_a_known_tenant_go_on_and_the_ledger_is_complete_afterwards(tmp_path: Path, way: Way, seconds: float) -> None:
    assert not await take_away(tmp_path, way, seconds)
