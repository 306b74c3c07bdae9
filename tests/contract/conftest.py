"""The keeper of a kind, as ``of`` names it; whatever a test does with it, nothing is left."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.contract.keepers import KEEPERS, Keeper, shorten
from tests.support.stores import StoreServer, rclone
from tests.support.waiting import until


@pytest.fixture(scope="session")
def google_server() -> Iterator[StoreServer]:
    """It asks for no signature, so it takes Google's."""
    with rclone(is_signed=False) as server:
        yield server


@pytest.fixture
async def keeper(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Keeper]:
    """An empty place of the kind."""
    async with KEEPERS[request.param](request, tmp_path) as kept:
        yield kept
        await until(lambda: not kept.left())


@pytest.hookimpl(tryfirst=True)  # before those are left out that are marked
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the short run ask a part of what servers are asked."""
    shorten(items)
