"""How Relay talks to Postgres: one engine a process, short explicit transactions, one error for "it is away".

Every transaction begins by setting its own statement timeout. That statement is also the test of a pooled
connection: one that died while it lay in the pool (Postgres restarted, a balancer dropped it) fails there,
before the caller's first statement, and is replaced once without the caller noticing.

Nothing of a session outlives its transaction, so a pooler in transaction mode may stand in between: no prepared
statement has a name, no session setting is left behind, and no start-up parameter is sent that a pooler refuses.
It also means that a migration under a running process never meets a cached plan. LISTEN needs a session of its
own: ``connect_listener``.

Deliberately not here: tables (``tables.py``), what to do while Postgres is away (the directory and the shipper know).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from urllib.parse import urlsplit

import asyncpg
from asyncpg.exceptions import ClientConfigurationError, InterfaceError, PostgresError
from sqlalchemy import ExceptionContext, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from relay.db.turns import Turns
from relay.errors import DatabaseUnavailable, SearchTooSlow
from relay.settings import DatabaseSettings, SettingsInvalid

CLIENT_PATIENCE = timedelta(seconds=1)
"""How much longer than the server's own statement timeout we wait: beyond it the server is frozen or gone."""

AWAY_CLASSES = ("08", "53", "57P")  # connection exceptions, insufficient resources, operator intervention
SCHEMES = ("postgresql://", "postgres://", "postgresql+asyncpg://")
QUERY_CANCELED = "57014"
UNREADABLE = "RELAY_DATABASE_URL cannot be read: in a password write / as %2F, @ as %40, : as %3A, ? as %3F and # as %23."


async def connect_listener(url: str, settings: DatabaseSettings) -> asyncpg.Connection:
    """Open a plain connection outside the pool, for LISTEN; the caller closes it.

    Raises:
        DatabaseUnavailable: Postgres cannot be reached.
    """
    try:
        return await _connect(url, settings)
    except (OSError, PostgresError, InterfaceError) as error:
        raise DatabaseUnavailable from error


def open_engine(url: str, settings: DatabaseSettings) -> AsyncEngine:
    """Make the engine of ``url``, any form that libpq knows; nothing is connected yet.

    Raises:
        SettingsInvalid: it is not the URL of a Postgres. Said at once: a wrong setting is not a database that is away.
    """
    if not url.startswith(SCHEMES):
        raise SettingsInvalid("RELAY_DATABASE_URL: expected postgresql://user:password@host/name, or 'embedded'")
    _check_readable(url)
    engine = create_async_engine(
        "postgresql+asyncpg://",
        connect_args={
            "async_creator_fn": lambda: _connect(url, settings),
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: "",  # the unnamed one: see the module's docstring
        },
        pool_size=settings.pool_size,
        max_overflow=settings.pool_overflow,
        pool_timeout=settings.pool_timeout.total_seconds(),
        pool_use_lifo=True,
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "handle_error", _translate)
    return engine


def _check_readable(url: str) -> None:
    """Refuse a URL whose host and port cannot be read; what the driver would say of it may hold a part of the password."""
    try:
        urlsplit(url).port  # noqa: B018 - reading it is the check
    except ValueError:
        raise SettingsInvalid(UNREADABLE) from None


class Database:
    """The pool of one process; hands out transactions and nothing else."""

    def __init__(self, url: str, settings: DatabaseSettings) -> None:
        self._engine = open_engine(url, settings)
        self._turns = Turns(max(1, settings.pool_size * 2 // 5))
        self._reading_seconds = (settings.statement_timeout * 1.5).total_seconds()
        self._begin_timeout = (settings.pool_timeout + settings.connect_timeout).total_seconds()
        self._set_timeout = text(f"SET LOCAL statement_timeout = {round(settings.statement_timeout / timedelta(milliseconds=1))}")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Open a transaction; commit at the end of the block, roll back if it raises.

        Raises:
            DatabaseUnavailable: Postgres cannot be reached, the connection was lost, the pool is exhausted, or a
                statement took too long. After a lost connection at the commit, whether it happened is unknown.
        """
        session = await self._begin()
        async with session:
            yield session
            await session.commit()

    @asynccontextmanager
    async def reading(self, owner: str) -> AsyncIterator[AsyncSession]:
        """Open a transaction for a reading that may be long, when it is ``owner``'s turn; it is bounded as a whole.

        Raises:
            SearchTooSlow: it took half as long again as one statement may.
            DatabaseUnavailable: as of ``transaction``; or the turn did not come in time.
        """
        async with self._turns.turn(owner):
            limit = asyncio.timeout(self._reading_seconds)
            try:
                async with limit, self.transaction() as session:
                    yield session
            except TimeoutError:
                if limit.expired():
                    raise SearchTooSlow from None
                raise

    async def close(self) -> None:
        """Close every connection of the pool; those in use are closed when they come back."""
        await self._engine.dispose()

    async def _begin(self) -> AsyncSession:
        try:
            async with asyncio.timeout(self._begin_timeout):
                try:
                    return await self._begin_once()
                except DatabaseUnavailable:  # the pool threw its old connections away: this one is new
                    return await self._begin_once()
        except (OSError, PoolTimeout, DBAPIError, InterfaceError) as error:  # OSError includes TimeoutError
            raise DatabaseUnavailable from error

    async def _begin_once(self) -> AsyncSession:
        session = AsyncSession(self._engine, expire_on_commit=False)
        try:
            await session.execute(self._set_timeout)
        except BaseException:
            await asyncio.shield(session.close())
            raise
        return session


async def _connect(url: str, settings: DatabaseSettings) -> asyncpg.Connection:
    try:
        connection: asyncpg.Connection = await asyncpg.connect(
            dsn=url.replace("postgresql+asyncpg:", "postgresql:", 1),
            timeout=settings.connect_timeout.total_seconds(),
            command_timeout=(settings.statement_timeout + CLIENT_PATIENCE).total_seconds(),
            statement_cache_size=0,
            server_settings={"application_name": "relay"},
        )
    except (ValueError, ClientConfigurationError):
        raise SettingsInvalid(UNREADABLE) from None
    return connection


def _translate(context: ExceptionContext) -> DatabaseUnavailable | None:
    """Tell "Postgres is away" from every other error, at the one place that all errors of statements pass."""
    error = context.original_exception
    if isinstance(error, TimeoutError | OSError):
        context.is_disconnect = True  # the answer may still come: nobody may read it as the answer to something else
        return DatabaseUnavailable()
    state = getattr(error, "sqlstate", None) or ""
    if context.is_disconnect and isinstance(error, Exception):
        return DatabaseUnavailable()
    if state == QUERY_CANCELED or state.startswith(AWAY_CLASSES):
        return DatabaseUnavailable()
    return None
