"""A revoked key is refused by every process within a second; the long form is ``python -m tests.faults.revocation``."""

from pathlib import Path

import pytest

from tests.faults.revocation import measure


@pytest.mark.timeout(90)  # two whole relays start
async def test_a_key_revoked_beside_a_relay_is_refused_by_it_within_a_second(database_url: str, tmp_path: Path) -> None:
    assert not await measure(tmp_path, database_url, 2)
