"""What Postgres tells of changes: LISTEN, a heartbeat on the same connection, reconnect.

Theory of operation
-------------------
Triggers on ``tenants``, ``api_keys``, ``routes`` and ``destinations`` send a notification with the tenant's id when a
change is committed, whoever made it. One direct connection listens. While it lives, silence on it proves nothing: the
network may have swallowed a notification, and a frozen peer is silent too. So a ``SELECT 1`` goes out on that very
connection every 300 ms. Postgres hands a session its pending notifications before it says that it is ready for the
next query, and asyncpg schedules our callback before it wakes whoever waits for the reply. Hence

    when the reply to a ping that was sent at ``s`` has come, every change committed before ``s`` has been told.

``Session.proven_at`` is that ``s``. What somebody read from Postgres within a session, and was not told to forget, was
true at ``proven_at``; it may be used without asking while ``now - proven_at`` is below 900 ms. The check is made when
the value is used, never by a timer, so a stalled event loop makes values unproven instead of stale.

A new connection is a new ``Session``, made after LISTEN was acknowledged: what was read in an earlier session, or in
none, stays unproven whatever the new one says, because changes in between went unheard. A missing reply means that
the connection is dropped at once, by abort: a polite goodbye to a frozen peer would hang. Reconnecting goes on for
ever, at most a second apart.

A second channel carries what is to be cut (``cuts``): commands, not changes. It is listened to on the same connection, so
a change and the cut that goes with it are heard in the order in which they were sent.

Deliberately not here: what is remembered, and what to do while nothing is proven (``directory``).
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from relay.db.engine import connect_listener
from relay.errors import DatabaseUnavailable
from relay.settings import DatabaseSettings

logger = logging.getLogger(__name__)

CHANNEL = "relay_directory"
CUT_CHANNEL = "relay_cut"
PING_INTERVAL = timedelta(milliseconds=300)
PROOF_LASTS = timedelta(milliseconds=900)
RETRY_FIRST = timedelta(milliseconds=50)
RETRY_LONGEST = timedelta(seconds=1)

_PROOF_SECONDS = PROOF_LASTS.total_seconds()


@dataclass(slots=True, eq=False)
class Session:
    """One life of the listening connection. Every change committed before ``proven_at`` (monotonic) has been told."""

    proven_at: float
    is_open: bool = True

    def is_proven(self, now: float) -> bool:
        """True while silence still means that nothing changed."""
        return self.is_open and now - self.proven_at < _PROOF_SECONDS


class Changes:
    """The listener of one process. ``run`` belongs into the process's task group."""

    def __init__(self, listen_url: str, settings: DatabaseSettings) -> None:
        self._listen_url = listen_url
        self._settings = settings
        self._on_change: Callable[[UUID | None], None] = lambda _: None
        self._on_session: Callable[[], None] = lambda: None
        self._on_cut: Callable[[str], None] = lambda _: None
        self._on_cut_session: Callable[[float], None] = lambda _: None
        self._made_at = time.monotonic()
        self.session: Session | None = None
        """The current session, ``None`` before the first and between two."""
        self.has_listened = False
        """True from the first LISTEN on, for ever."""

    def tell(self, on_change: Callable[[UUID | None], None], on_session: Callable[[], None]) -> None:
        """Say who is told: of each change, by the tenant's id (``None``: anything may have changed), and of each new session."""
        self._on_change = on_change
        self._on_session = on_session

    def tell_cuts(self, on_cut: Callable[[str], None], on_session: Callable[[float], None]) -> None:
        """Say who is told of each request to cut, by its payload, and of each new session.

        The latter gets the time (monotonic) since which requests may have gone unheard.
        """
        self._on_cut = on_cut
        self._on_cut_session = on_session

    async def run(self) -> None:
        """Listen until cancelled; every failure of the connection leads to the next one."""
        retry = RETRY_FIRST
        while True:
            before = self.session
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 - this loop owns the work: whatever broke one connection, the next may live
                reason = type(error.__cause__ or error).__name__
                logger.warning("listening for changes failed; trying again", extra={"fields": {"reason": reason}})
            finally:
                was_open = self.session is not before
                if self.session is not None:
                    self.session.is_open = False
            retry = RETRY_FIRST if was_open else min(retry * 2, RETRY_LONGEST)
            await asyncio.sleep(retry.total_seconds())

    async def _listen(self) -> None:
        connection: Any = await connect_listener(self._listen_url, self._settings)
        try:
            began = time.monotonic()
            await self._ask(connection, lambda: connection.add_listener(CHANNEL, self._hear))
            await self._ask(connection, lambda: connection.add_listener(CUT_CHANNEL, self._hear_cut))
            deaf_since = self._made_at if self.session is None else self.session.proven_at
            self.session = Session(began)
            self.has_listened = True
            self._on_session()
            self._on_cut_session(deaf_since)
            logger.info("listening for changes")
            await self._ping_on(connection, self.session)
        finally:
            connection.terminate()

    async def _ping_on(self, connection: Any, session: Session) -> None:
        while True:
            sent = time.monotonic()
            await self._ask(connection, lambda: connection.execute("SELECT 1"))
            session.proven_at = sent
            await asyncio.sleep(max(0.0, sent + PING_INTERVAL.total_seconds() - time.monotonic()))

    async def _ask(self, connection: Any, question: Callable[[], Any]) -> None:
        """Wait for one answer of the connection, at most as long as a proof lasts; then drop the connection."""
        asking = asyncio.ensure_future(question())
        try:
            done, _ = await asyncio.wait({asking}, timeout=_PROOF_SECONDS)
            if not done:
                raise DatabaseUnavailable
        finally:
            if not asking.done():
                # Abort first: cancelling a query makes asyncpg dial the frozen server once more to say so.
                connection.terminate()
                await asyncio.wait({asking}, timeout=_PROOF_SECONDS)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
        asking.result()

    def _hear(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        try:
            tenant_id = UUID(str(payload))
        except ValueError:
            tenant_id = None  # '*' says everything, and what we do not understand may say anything
        self._on_change(tenant_id)

    def _hear_cut(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._on_cut(str(payload))
