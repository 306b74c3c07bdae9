"""A bucket as one destination uses it: below its prefix, by its rules, with what the process shares out."""

import asyncio
import hashlib
import logging
import secrets
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from crc32c import crc32c

from relay.destinations.object_store import NewObject
from relay.destinations.s3_answers import Refused
from relay.destinations.s3_bucket import Bucket, Content
from relay.destinations.s3_config import BucketConfig
from relay.destinations.store_tools import StoreTools
from relay.destinations.upload_notes import UploadNote
from relay.errors import RelayError

PROBE: Final = ".relay-probe"
_ATTEMPTS: Final = 3

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Conditions:
    """Which publications may have the condition that the key is free. Stores that do not know it ignore it."""

    put: bool
    complete: bool


class S3Place:
    """One destination's part of a bucket."""

    def __init__(self, bucket: Bucket, config: BucketConfig, tools: StoreTools, owner: str, destination: UUID) -> None:
        self.bucket = bucket
        self.requests = bucket.requests
        self.config = config
        self.tools = tools
        self.owner = owner
        self.destination = destination
        self.is_refusing = config.overwrite == "refuse"
        self.is_blind = False
        """True once the store has said that these credentials may not see what stands there."""
        self._conditions: Conditions | None = None
        self._lock = asyncio.Lock()

    def whole_key(self, key: str) -> str:
        """An object's key in the bucket."""
        return f"{self.config.prefix}/{key}" if self.config.prefix else key

    async def conditions(self) -> Conditions:
        """What the store honours, found out once.

        Raises:
            DependencyFault: it could not be found out.
        """
        async with self._lock:
            if self._conditions is None:
                self._conditions = await self._find_conditions()
                log.info(
                    "found out which conditions a store honours",
                    extra={
                        "fields": {"destination": str(self.destination), "put": self._conditions.put, "complete": self._conditions.complete}
                    },
                )
            return self._conditions

    async def _find_conditions(self) -> Conditions:
        """Make one object twice, as new. It has one name for all processes, so at most one is left where nothing may be removed."""
        key, is_ours = self.whole_key(PROBE), False
        content = make_content(secrets.token_bytes(16))
        is_honoured = False
        try:
            # Another process may remove the object between two attempts, so one success more proves nothing.
            for _ in range(_ATTEMPTS):
                try:
                    await self.bucket.put(key, NewObject(PROBE), content, is_new_only=True)
                    is_ours = True
                except Refused as refused:
                    if not refused.is_taken:
                        raise self.bucket.explain(refused, "put") from None
                    is_honoured = True
                    break
            is_complete = is_honoured and self.bucket.dialect.is_complete_conditional and await self._is_completion_refused(key, content)
            return Conditions(is_honoured, is_complete)
        finally:
            if is_ours:
                await self.remove_quietly(key)

    async def _is_completion_refused(self, key: str, content: Content) -> bool:
        upload_id, note = await self.begin_noted(key)
        try:
            part = await self.bucket.put_part(key, upload_id, 1, content)
            try:
                await self.bucket.complete(key, upload_id, [part], is_new_only=True)
            except Refused as refused:
                await self.bucket.abort(key, upload_id)
                is_taken = refused.is_taken
            else:
                is_taken = False
            note.remove()
        finally:
            note.abandon()
        return is_taken

    @property
    def address(self) -> str:
        """Where the bucket is, and which it is."""
        return f"{self.config.url} {self.config.bucket}"

    def begin_note(self, key: str) -> UploadNote:
        """Note that a multipart upload is about to be begun.

        Raises:
            OSError: the disk refused.
        """
        return self.tools.notes.begin(self.owner, self.destination, self.address, key)

    async def begin_noted(self, key: str) -> tuple[str, UploadNote]:
        """Begin a multipart upload that is noted."""
        note = self.begin_note(key)
        try:
            upload_id = await self.bucket.create(key, NewObject(PROBE))
        except BaseException:
            note.abandon()
            raise
        note.learn(upload_id)
        return upload_id, note

    async def remove_quietly(self, key: str) -> bool:
        """Remove a probe, if that is permitted."""
        try:
            await self.bucket.delete(key)
        except RelayError:
            return False
        return True


def make_content(data: bytes) -> Content:
    """Some bytes as they are sent."""
    return Content([data], len(data), crc32c(data), hashlib.sha256(data).hexdigest())
