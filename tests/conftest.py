"""Fixtures of every test: a real Postgres, and in it a database of the test's own."""

import atexit
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from azure.storage.blob import ContainerClient
from hypothesis import HealthCheck, settings

from relay.db.engine import Database
from relay.settings import DatabaseSettings
from tests.support.azurite import Azurite, azurite
from tests.support.buckets import Stores, opened_stores
from tests.support.certificates import make_authority
from tests.support.postgres import TemplateServer, make_private_folder
from tests.support.stores import StoreServer, TestBucket, moto, rclone

# Nothing is kept between runs: a folder of another user must not decide whether a test passes.
settings.register_profile("relay", database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("short", settings.get_profile("relay"), max_examples=25)
settings.load_profile("relay")


def pytest_configure(config: pytest.Config) -> None:
    """Without the long tests, properties are tried with fewer examples: every run draws others."""
    _trust_one_authority()
    _heed_interrupts()
    if config.getoption("markexpr") == "not full":
        settings.load_profile("short")


def _trust_one_authority() -> None:
    """Have one authority for all the public ones, which nobody here speaks to: to read them costs a client more than what it says.

    It holds for the processes that tests start, and for those that run tests beside this one.
    """
    if "SSL_CERT_FILE" not in os.environ:
        folder = make_private_folder()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["SSL_CERT_FILE"] = str(make_authority(folder).path)


def _heed_interrupts() -> None:
    """Have what tests start heed a SIGINT: in the background of a shell it is ignored, and so by every child."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[TemplateServer]:
    """One Postgres for each test process, with a migrated template."""
    server = TemplateServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
async def database_url(postgres_server: TemplateServer) -> AsyncIterator[str]:
    """The URL of a fresh, migrated database."""
    async with postgres_server.database() as url:
        yield url


@pytest.fixture
async def empty_database_url(postgres_server: TemplateServer) -> AsyncIterator[str]:
    """The URL of a fresh database without any table."""
    async with postgres_server.database(is_migrated=False) as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A pool on a fresh, migrated database."""
    database = Database(database_url, DatabaseSettings())
    yield database
    await database.close()


@pytest.fixture(scope="session")
def moto_server() -> Iterator[StoreServer]:
    with moto() as server:
        yield server


@pytest.fixture(scope="session")
def rclone_server() -> Iterator[StoreServer]:
    with rclone() as server:
        yield server


@pytest.fixture(scope="session")
def azurite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture
def bucket(moto_server: StoreServer) -> TestBucket:
    return moto_server.make_bucket()


@pytest.fixture
def plain_bucket(rclone_server: StoreServer) -> TestBucket:
    return rclone_server.make_bucket()


@pytest.fixture
def container(azurite_server: Azurite) -> ContainerClient:
    return azurite_server.make_container()


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    async with opened_stores(tmp_path) as opened:
        yield opened
        assert opened.tools.memory.held_bytes == opened.tools.memory.open_objects == 0, "everything that was held is given back"
