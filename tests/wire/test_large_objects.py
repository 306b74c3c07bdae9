"""Objects far larger than what parts may hold, and many at once; the long form is ``python -m tests.wire.large_objects``."""

from pathlib import Path

import pytest

from tests.wire.large_objects import MIB, load_bucket


@pytest.mark.full
@pytest.mark.timeout(240)
async def test_large_objects_reach_a_bucket_whole_in_bounded_memory(database_url: str, tmp_path: Path) -> None:
    assert not await load_bucket(tmp_path, 128 * MIB, (12, 16 * MIB), RELAY_DATABASE_URL=database_url)
