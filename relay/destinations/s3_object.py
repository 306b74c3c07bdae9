"""One object on its way to a bucket.

Theory of operation. Bytes fill a part. An object that turns out to be no larger than one is sent whole when it is published.
Any other is a multipart upload, begun when its first part is full; a few parts go at once, each held until the store has
it. ``seal`` sends the last one and waits for all; ``publish`` completes.

Between ``seal`` and ``publish`` a small object waits in memory, if there is room for such; if not, it becomes a multipart upload of
one part, for those wait at the store.

An object is visible whole or not at all: until it is completed nothing is, and an upload that will not be completed is
aborted. A part that was on its way when it was given up may still arrive after the abort, so the store is asked whether it has
forgotten. What is not settled within a bounded time is left to the sweeper, by a note.

A lost answer is no failure: what was asked is asked again, and if it turns out to be done already, or no attempt has an
answer, what stands there is compared with what was sent.
"""

import asyncio
import contextlib
import logging
from typing import Final

from relay.destinations.filling import Filling, Part
from relay.destinations.object_store import NewObject, Published
from relay.destinations.part_digests import PartDigests
from relay.destinations.parts import MOST_PARTS, size_part
from relay.destinations.publication import Publication
from relay.destinations.s3_answers import Refused
from relay.destinations.s3_bucket import Content, SentPart, Standing, checksums_of_parts, encode_crc, etag_of_parts, plain_md5
from relay.destinations.s3_place import S3Place
from relay.destinations.store_requests import Patience
from relay.destinations.upload_notes import UploadNote
from relay.errors import (
    ClientFault,
    DestinationBroke,
    DestinationMisconfigured,
    DestinationTimeout,
    ObjectExists,
    RelayError,
    UploadTooLarge,
)
from relay.wire.pieces import Piece, Room

CLEAN_UP_SECONDS: Final = 5.0
CLEAN_UP_PATIENCE: Final = Patience(tries=4, first_pause=0.1, longest_pause=1.0, total=CLEAN_UP_SECONDS)
FIND_PATIENCE: Final = Patience(tries=3, first_pause=0.1, longest_pause=0.5, total=30.0)
FEW_BYTES: Final = 64 << 10
FORGET_PAUSES: Final = (0.1, 0.3, 1.0)

_UNKNOWN: Final = "The store gave no answer to the request that publishes, and what stands there cannot be told. What it kept is unknown."

log = logging.getLogger(__name__)


class S3Writer:
    """One object; see the module."""

    def __init__(self, place: S3Place, new: NewObject) -> None:
        self._place = place
        self._bucket = place.bucket
        self._new = new
        self._key = place.whole_key(new.key)
        self._filling = Filling(place.tools, place.owner, place.config.told_part_bytes, new.declared_bytes, self)
        self._sent: dict[int, SentPart] = {}
        self._upload_id: str | None = None
        self._creating: asyncio.Task[None] | None = None
        self._note: UploadNote | None = None
        self._publication = Publication()
        self._is_over = False

    @property
    def size(self) -> int:
        """Bytes written."""
        return self._filling.size

    @property
    def sha256(self) -> str:
        """SHA-256 of what was written, in hex."""
        return self._filling.sha256

    @property
    def crc32c(self) -> str:
        """CRC-32C of what was written, in hex."""
        return self._filling.crc32c

    async def open(self) -> None:
        """Where nothing may be replaced, ask whether the key is taken before the bytes come; few bytes are not worth the question.

        Raises:
            ObjectExists: it is.
            DependencyFault: the store cannot be reached, or refuses.
        """
        declared = self._new.declared_bytes
        if self._place.is_refusing and not self._place.is_blind and (declared is None or declared > FEW_BYTES):
            try:
                standing = await self._bucket.head(self._key)
            except DestinationMisconfigured:  # these credentials may not know: the condition of the publication counts
                self._place.is_blind = True
            else:
                if standing is not None:
                    raise ObjectExists

    # ── the bytes ────────────────────────────────────────────────────────────────────────────────

    def take(self, piece: Piece) -> Room:
        """Take the next bytes."""
        return self._filling.take(piece)

    async def ready(self) -> None:
        """Wait until there is room for more.

        Raises:
            DependencyFault: the store cannot be reached, refuses, or is too slow.
            UploadTooLarge: it would have more parts than an object may have.
        """
        await self._filling.ready()

    def plan(self, number: int) -> tuple[int, PartDigests]:
        """The size of a part, and its digests.

        Raises:
            UploadTooLarge: there would be too many.
        """
        if number > MOST_PARTS:
            raise UploadTooLarge("The object would have more parts than a bucket takes. Set a larger config.part_bytes.")
        size = size_part(number, self._filling.part_bytes, self._new.declared_bytes)
        return size, PartDigests(is_signed=self._bucket.signs_bodies)

    async def send(self, part: Part) -> None:
        """Send a part of the multipart upload."""
        assert self._upload_id is not None  # noqa: S101 - it was begun before
        content = Content(part.pieces, part.size, part.digests.crc32c, part.digests.sha256)
        self._sent[part.number] = await self._bucket.put_part(self._key, self._upload_id, part.number, content)

    async def prepare(self) -> None:
        """Begin the multipart upload."""
        # Whoever gives up meanwhile needs the upload's id to abort it.
        self._creating = asyncio.get_running_loop().create_task(self._begin_upload(), name="begin a multipart upload")
        await asyncio.shield(self._creating)

    async def _begin_upload(self) -> None:
        try:
            self._note = self._place.begin_note(self._key)
        except OSError:
            log.exception("a multipart upload cannot be noted; it is begun all the same")
        try:
            self._upload_id = await self._bucket.create(self._key, self._new)
        except (ClientFault, DestinationMisconfigured):
            if self._note is not None:  # the store said no: there is nothing to be found
                self._note.remove()
            raise
        if self._note is not None:
            self._note.learn(self._upload_id)

    # ── the end ──────────────────────────────────────────────────────────────────────────────────

    async def seal(self) -> None:
        """All bytes are written: wait until the store has them, or a small object waits to be published."""
        await self._filling.seal()

    async def publish(self) -> Published:
        """Make the object visible, at once or not at all."""
        return await self._publication.run(self._publish())

    async def _publish(self) -> Published:
        is_conditional = False
        if self._place.is_refusing:
            conditions = await self._place.conditions()
            is_conditional = conditions.put if self._upload_id is None else conditions.complete
            if not is_conditional and await self._bucket.head(self._key) is not None:
                raise ObjectExists  # between this question and the publication somebody else may still be faster
        if self._upload_id is None:
            return await self._publish_whole(is_conditional=is_conditional)
        return await self._publish_parts(self._upload_id, is_conditional=is_conditional)

    async def _publish_whole(self, *, is_conditional: bool) -> Published:
        part = self._filling.whole
        assert part is not None  # noqa: S101 - seal has left it
        content = Content(part.pieces, part.size, part.digests.crc32c, part.digests.sha256)
        try:
            standing = await self._bucket.put(self._key, self._new, content, is_new_only=is_conditional)
        except Refused as refused:
            if refused.is_taken and refused.attempts > 1 and (found := await self._find_whole(content)) is not None:
                return found
            raise self._bucket.explain(refused, "put") from None
        except (DestinationBroke, DestinationTimeout):  # no attempt had an answer, and one of them may have been done
            with contextlib.suppress(RelayError):
                if (found := await self._find_whole(content)) is not None:
                    return found
            raise
        self._end()
        return Published(_etag(standing.etag), standing.version)

    async def _find_whole(self, content: Content) -> Published | None:
        """What stands there, if it is what was sent: the answer to an attempt was lost."""
        standing = await self._bucket.head(self._key, FIND_PATIENCE)
        if standing is None or standing.size != content.size:
            return None
        md5 = plain_md5({"etag": standing.etag or ""})
        is_same = standing.checksum == encode_crc(content.crc32c) if standing.checksum else md5 is not None
        if not standing.checksum and md5 is not None:
            is_same = md5 == await self._place.tools.digests.md5(content.pieces)
        if not is_same:
            return None
        self._end()
        return Published(_etag(standing.etag), standing.version)

    async def _publish_parts(self, upload_id: str, *, is_conditional: bool) -> Published:
        parts = [self._sent[number] for number in sorted(self._sent)]
        try:
            standing = await self._bucket.complete(self._key, upload_id, parts, is_new_only=is_conditional)
        except Refused as refused:
            is_gone = refused.status == 404 and refused.code in {None, "NoSuchUpload"}
            if is_gone or (refused.is_taken and refused.attempts > 1):
                return await self._find_completed(parts, is_taken=refused.is_taken)
            raise self._bucket.explain(refused, "put") from None
        except (DestinationBroke, DestinationTimeout):
            with contextlib.suppress(RelayError):
                return await self._find_completed(parts, is_taken=False)
            raise
        if standing.checksum is not None and standing.checksum not in checksums_of_parts(parts, int(self.crc32c, 16)):
            await self._bucket.delete(self._key, standing.version)
            raise DestinationBroke("What the store made of the parts is not what was sent. It was removed again.")
        self._end()
        return Published(_etag(standing.etag), standing.version)

    async def _find_completed(self, parts: list[SentPart], *, is_taken: bool) -> Published:
        """What stands there, if it is what was completed: the answer to an attempt was lost."""
        standing = await self._bucket.head(self._key, FIND_PATIENCE)
        if standing is None or standing.size != self.size or not self._is_made_of(standing, parts):
            if is_taken:
                raise ObjectExists
            raise DestinationBroke(_UNKNOWN if standing is not None else "The store forgot the upload. Nothing was published.")
        self._end()
        return Published(_etag(standing.etag), standing.version)

    def _is_made_of(self, standing: Standing, parts: list[SentPart]) -> bool:
        if standing.checksum is not None:
            return standing.checksum in checksums_of_parts(parts, int(self.crc32c, 16))
        return standing.etag is not None and standing.etag.strip('"').lower() == etag_of_parts(parts)

    def _end(self) -> None:
        """The object stands: nothing is left to be discarded."""
        self._is_over = True
        self._filling.release()
        if self._note is not None:
            self._note.remove()

    async def discard(self) -> Published | None:
        """Leave nothing behind, within a bounded time; what could not be settled is left to the sweeper."""
        try:
            return await self._publication.end(CLEAN_UP_SECONDS)
        finally:
            if not self._is_over:
                self._is_over = True
                await self._clean_up()

    async def _clean_up(self) -> None:
        ending = self._filling.cut()
        try:
            async with asyncio.timeout(CLEAN_UP_SECONDS):
                await asyncio.gather(*ending, *([self._creating] if self._creating is not None else ()), return_exceptions=True)
                await self._forget_upload()
        except (RelayError, Refused, TimeoutError) as error:
            log.warning("a multipart upload could not be aborted; it is tried again", extra={"fields": {"error": type(error).__name__}})
        finally:
            if self._creating is not None:
                self._creating.cancel()
            self._filling.release()
            if self._note is not None:
                self._note.abandon()

    async def _forget_upload(self) -> None:
        """Abort the upload until the store has forgotten it: what was on its way may arrive after the first time."""
        if self._upload_id is not None:
            await self._bucket.abort(self._key, self._upload_id, CLEAN_UP_PATIENCE)
            for pause in FORGET_PAUSES if self._filling.was_cut else ():
                await asyncio.sleep(pause)
                if not await self._bucket.has_upload(self._key, self._upload_id, CLEAN_UP_PATIENCE):
                    break
                await self._bucket.abort(self._key, self._upload_id, CLEAN_UP_PATIENCE)
            if self._note is not None:
                self._note.remove()


def _etag(value: str | None) -> str | None:
    """An ETag as receipts show it: without the quotes."""
    return value.strip('"') if value is not None else None
