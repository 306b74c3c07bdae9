"""Cuts: an operator wants the running uploads of a tenant, or of one key, to end, on every host.

Theory of operation
-------------------
Whoever disables or deletes a tenant or revokes a key may ask for it; the request is a notification on a channel of its
own, sent in the transaction of that change. It is heard on the connection that hears changes (``changes``), after the
change itself: Postgres keeps the order of a transaction's notifications, so by the time that uploads are cut no new one
begins with what was remembered of the tenant.

A process that is deaf at that moment catches up. The change's row in the audit says ``"running_uploads": "cut"`` and was
committed with it; so at each new session of the listener, if anything runs, the rows of the time since the last one was
proven are read, and what they ask for is carried out where it still holds: the tenant is not active again, or it was a
key, which stays revoked. Carrying out twice is harmless.

Not here: how an upload is cut (``uploads/running``).
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final, Self

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from relay.db.engine import Database
from relay.errors import DatabaseUnavailable
from relay.ledger.rows import AuditRow
from relay.tenants.changes import CUT_CHANNEL, Changes
from relay.tenants.rows import TenantRow
from relay.tenants.tenant import TenantStatus

logger = logging.getLogger(__name__)

MEMBER: Final = "running_uploads"
KEY_ACTION: Final = "key.revoke"
MARGIN: Final = timedelta(seconds=60)
"""A row bears the time at which its transaction began: one that was committed later may look so much older."""
RETRY: Final = timedelta(seconds=1)


class RunningUploads(StrEnum):
    """What becomes of uploads that run when their tenant is disabled or deleted, or their key revoked."""

    FINISH = "finish"
    CUT = "cut"


@dataclass(frozen=True, slots=True)
class Cut:
    """Whose running uploads are to end: a tenant's, or those of one key of it."""

    tenant: str
    key_id: str | None = None

    def to_text(self) -> str:
        """The payload of the notification."""
        return json.dumps({"tenant": self.tenant, "key_id": self.key_id})

    @classmethod
    def from_text(cls, text: str) -> Self | None:
        """Read a payload; ``None`` when it is none, and then nothing may be cut for it."""
        try:
            members: Any = json.loads(text)
            tenant, key_id = members["tenant"], members["key_id"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return cls(tenant, key_id) if isinstance(tenant, str) and isinstance(key_id, str | None) else None


def note_of(running_uploads: RunningUploads) -> dict[str, str]:
    """What the audit's ``after`` says of a cut, for those who were deaf; nothing where none was asked for."""
    return {MEMBER: running_uploads.value} if running_uploads is RunningUploads.CUT else {}


async def ask_for_cut(session: AsyncSession, cut: Cut) -> None:
    """Have every process end these uploads once the transaction is committed. Its audit row must hold ``note_of``."""
    await session.execute(select(func.pg_notify(CUT_CHANNEL, cut.to_text())))


async def list_cuts(session: AsyncSession, since: timedelta) -> list[Cut]:
    """List the cuts that were asked for within this time and still hold."""
    query = (
        select(AuditRow.action, AuditRow.tenant, AuditRow.target)
        .outerjoin(TenantRow, TenantRow.slug == AuditRow.tenant)
        .where(
            AuditRow.at > func.clock_timestamp() - since,
            AuditRow.after[MEMBER].astext == RunningUploads.CUT.value,
            or_(
                AuditRow.action == KEY_ACTION,
                TenantRow.status.is_distinct_from(TenantStatus.ACTIVE.value),
                TenantRow.deleted_at.is_not(None),
            ),
        )
        .distinct()
    )
    rows = (await session.execute(query)).all()
    return [Cut(tenant, target if action == KEY_ACTION else None) for action, tenant, target in rows if tenant is not None]


class Cuts:
    """Hears what is to be cut in one process, and catches up with what went unheard. ``run`` belongs into the task group."""

    def __init__(
        self, database: Database, changes: Changes, carry_out: Callable[[str, str | None], int], is_idle: Callable[[], bool]
    ) -> None:
        """``carry_out`` cuts the uploads of a tenant, or of a key of it; ``is_idle`` says that nothing runs."""
        self._database = database
        self._carry_out = carry_out
        self._is_idle = is_idle
        self._deaf_since: float | None = None
        self._woken = asyncio.Event()
        changes.tell_cuts(self._hear, self._wake)

    async def run(self) -> None:
        """Catch up after every new session of the listener, until cancelled; while Postgres is away, try again."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            deaf_since = self._deaf_since
            if deaf_since is None:
                continue
            try:
                await self._catch_up(deaf_since)
            except DatabaseUnavailable:
                await asyncio.sleep(RETRY.total_seconds())
                self._woken.set()
            else:
                self._deaf_since = None if self._deaf_since == deaf_since else self._deaf_since

    def _hear(self, payload: str) -> None:
        cut = Cut.from_text(payload)
        if cut is None:
            logger.warning("a request to cut uploads was not understood", extra={"fields": {"payload": payload[:200]}})
        else:
            self._carry_out(cut.tenant, cut.key_id)

    def _wake(self, deaf_since: float) -> None:
        self._deaf_since = deaf_since if self._deaf_since is None else min(self._deaf_since, deaf_since)
        self._woken.set()

    async def _catch_up(self, deaf_since: float) -> None:
        if self._is_idle():
            return
        async with self._database.transaction() as session:
            cuts = await list_cuts(session, timedelta(seconds=time.monotonic() - deaf_since) + MARGIN)
        for cut in cuts:
            self._carry_out(cut.tenant, cut.key_id)
