"""The running uploads of a whole host: what REST and the command line both call.

A listing merges what every worker says, newest first, a page at a time: a worker is asked for a page, never for all.
A cut is a change like any other: it has its row in the audit, in a transaction that commits only if the upload was ended
by it. The row is sent to Postgres before the upload is touched, so without Postgres nothing is cut.
"""

import logging
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from relay.db.cursors import Page, broken_cursor, check_limit, decode_cursor, encode_cursor, split_page
from relay.errors import UploadNotRunning, WorkerUnreachable
from relay.ledger.audit import Act, Actor, record
from relay.uploads.questions import TEXT_LIMIT, ListQuestion
from relay.uploads.running import Running, RunningUpload
from relay.uploads.siblings import Siblings

logger = logging.getLogger(__name__)

ACTION: Final = "upload.cancel"
TOLD_TO_END: Final = "The upload was told to end, and its worker did not say in time what became of it. Look it up in the ledger."


@dataclass(frozen=True, slots=True)
class LivePage:
    """One page of the running uploads. ``unreachable`` workers did not answer: what runs there is missing."""

    page: Page[RunningUpload]
    unreachable: int


@dataclass(frozen=True, slots=True)
class Live:
    """The running uploads of one host; ``running`` are those of this process, where it is a worker."""

    siblings: Siblings
    running: Running | None = None

    async def list_uploads(self, tenant: str | None, limit: int, cursor: str | None) -> LivePage:
        """List running uploads, newest first.

        Raises:
            RequestInvalid: the limit is out of range or the cursor broken.
        """
        check_limit(limit)
        if tenant is not None and len(tenant) > TEXT_LIMIT:  # no slug is so long
            return LivePage(Page((), None), 0)
        question = ListQuestion(limit=limit + 1, tenant=tenant, before=_parse_cursor(cursor) if cursor is not None else None)
        found, unreachable = await self._ask(question)
        found.sort(key=lambda upload: upload.upload_id, reverse=True)
        shown, is_more = split_page(found, limit)
        return LivePage(Page(tuple(shown), encode_cursor(shown[-1].upload_id) if is_more else None), unreachable)

    async def find(self, upload_id: str) -> RunningUpload:
        """Find one upload that runs.

        Raises:
            UploadNotRunning: no worker knows it.
            WorkerUnreachable: nobody who answered knows it, and somebody did not answer.
        """
        found, unreachable = await self._ask(ListQuestion(limit=1, upload_id=upload_id))
        if not found:
            raise WorkerUnreachable if unreachable else UploadNotRunning
        return found[0]

    async def cut(self, upload: RunningUpload) -> bool:
        """End an upload that was found; false if it ended otherwise before.

        Raises:
            WorkerUnreachable: its worker does not answer; it goes on.
            TimeoutError: it was told to end, and what became of it is unknown.
        """
        if self.running is not None and upload.worker in {None, self.siblings.own}:
            return await self.running.cut(upload.upload_id)
        return await self.siblings.cut(upload.worker or "", upload.upload_id)

    async def _ask(self, question: ListQuestion) -> tuple[list[RunningUpload], int]:
        own = self.running.list_uploads(question.wanted) if self.running is not None else []
        if question.upload_id is not None and own:
            return own, 0
        answers = await self.siblings.list_uploads(question)
        return [*own, *answers.uploads], answers.unreachable


async def cancel_upload(session: AsyncSession, actor: Actor, live: Live, upload_id: UUID) -> bool:
    """End a running upload; returns when its entry is finished. The caller commits the row of the audit.

    False when the upload was told to end and its worker has not said what became of it: the row is to be committed all
    the same.

    Raises:
        UploadNotRunning: it does not run (any more); no row is left.
        WorkerUnreachable: it may run in a worker that does not answer; it goes on, and no row is left.
        DatabaseUnavailable: Postgres does not answer; it goes on.
    """
    upload = await live.find(str(upload_id))
    record(session, actor, Act(ACTION, upload.tenant, upload.upload_id, before=upload.show()))
    await session.flush()
    try:
        if not await live.cut(upload):
            raise UploadNotRunning
    except TimeoutError:
        return False
    # Should the commit fail now, this line is what is left of it.
    fields = {"upload_id": upload.upload_id, "tenant": upload.tenant, "actor": actor.name, "request_id": actor.request_id}
    logger.info("an operator ended a running upload", extra={"fields": fields})
    return True


def _parse_cursor(cursor: str) -> str:
    upload_id = decode_cursor(cursor, 1)[0]
    try:
        return str(UUID(upload_id))
    except ValueError:
        raise broken_cursor() from None
