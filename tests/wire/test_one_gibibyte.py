"""Uploads and answers far larger than what the relay may hold; the long form is ``python -m tests.wire.one_gibibyte``."""

from pathlib import Path

import pytest

from tests.wire.one_gibibyte import MIB, pass_all

pytestmark = pytest.mark.timeout(120)  # 8 s; how much is held is the question, not how long it takes on a busy machine


async def test_large_uploads_pass_in_constant_memory(database_url: str, tmp_path: Path) -> None:
    assert not await pass_all(tmp_path, 64 * MIB, ["uploads"], RELAY_DATABASE_URL=database_url)


async def test_large_answers_pass_in_constant_memory_and_wait_for_their_reader(database_url: str, tmp_path: Path) -> None:
    assert not await pass_all(tmp_path, 64 * MIB, ["answers"], RELAY_DATABASE_URL=database_url)
