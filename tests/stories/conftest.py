"""A relay that all tests of one module share: for stories that look at their own tenants only."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.postgres import TemplateServer
from tests.support.running_relay import RunningRelay, running_relay

READ_TOKEN = "token-of-an-operator-who-may-only-read"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_relay(postgres_server: TemplateServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningRelay]:
    """A relay on a socket; a start costs more than most of what is said to it. Its users run in the module's loop."""
    folder = tmp_path_factory.mktemp("shared")
    async with postgres_server.database() as url, running_relay(url, folder, RELAY_ADMIN_READ_TOKEN=READ_TOKEN) as relay:
        yield relay
