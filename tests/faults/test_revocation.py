"""A revoked key is refused by every process within a second; the long form is ``python -m tests.faults.revocation``."""

from pathlib import Path

import pytest

from tests.faults.revocation import Way, measure


@pytest.mark.parametrize("ways", [("rest", "sql"), ("frozen",)])
async def test_a_key_revoked_beside_a_relay_is_refused_by_it_within_a_second(
    database_url: str, tmp_path: Path, ways: tuple[Way, ...]
) -> None:
    assert not await measure(tmp_path, database_url, 3, ways=ways)
