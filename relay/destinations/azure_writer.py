"""One blob on its way to a container.

Theory of operation. Bytes fill a block. A blob that turns out to be no larger than one is sent whole when it is published. Of any
other a few blocks go at once, each held until the store has it; ``seal`` sends the last one and waits for all, and ``publish``
names them in their order, which makes the blob. Between ``seal`` and ``publish`` a small blob waits in memory, if there is room
for such; if not, it becomes a block, for those wait at the store.

Blocks that are never named are seen by nobody. There is no request that removes them: the store does, a week after the last
one came, or as soon as the blob is written by somebody. The latter ends any other upload of the same name that is under way.

A lost answer is no failure. What was asked is asked again, and if it turns out to be done already, what stands there is compared
with what was sent. Nothing is ever deleted of which it cannot be proved that this upload made it.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from relay.destinations.azure_answers import WRITE, Refused
from relay.destinations.azure_config import LARGEST_BLOCK, MIB
from relay.destinations.azure_container import MOST_BLOCKS, BlockNames, Content, Standing, kept_fields
from relay.destinations.azure_place import ASK_PATIENCE, AzurePlace
from relay.destinations.filling import Filling, Part
from relay.destinations.object_store import NewObject, Published
from relay.destinations.part_digests import PartDigests
from relay.destinations.parts import PART_BYTES, OwnedPiece
from relay.destinations.publication import Publication
from relay.destinations.store_requests import Reply
from relay.errors import DependencyFault, DestinationBroke, ObjectExists, RelayError, UploadTooLarge
from relay.wire.pieces import Piece, Room

CLEAN_UP_SECONDS: Final = 2.0
SAME_BLOCKS: Final = 10_000

_UNKNOWN: Final = "The store gave no answer to the request that publishes. What it kept is unknown."


def size_block(number: int, block_bytes: int, declared_bytes: int | None) -> int:
    """The size of block ``number`` (from 1), but for the last one: so that 50,000 of them are enough, they grow where that must be."""
    if declared_bytes is not None:
        least = -(-declared_bytes // MOST_BLOCKS)
        return max(block_bytes, -(-least // MIB) * MIB)
    return min(LARGEST_BLOCK, block_bytes << ((number - 1) // SAME_BLOCKS))


class BlockDigests(PartDigests):
    """The MD5 of a block, and that of the blob up to there: the first block's own is the beginning of it."""

    def __init__(self, before: "BlockDigests | None") -> None:
        super().__init__(is_signed=False)
        self._before = before
        self._block = hashlib.md5(usedforsecurity=False)
        self._whole = self._block

    @property
    def md5(self) -> bytes:
        """That of the block."""
        return self._block.digest()

    @property
    def whole_md5(self) -> bytes:
        """That of the blob up to the end of the block."""
        return self._whole.digest()

    def copy_whole(self) -> "hashlib._Hash":
        """That of the blob, to go on with."""
        return self._whole.copy()

    def update(self, piece: OwnedPiece) -> None:
        """Take the next bytes. Blocks are digested in their order, so the one before is complete."""
        if self._before is not None:
            self._whole, self._before = self._before.copy_whole(), None
        super().update(piece)
        self._block.update(piece)
        if self._whole is not self._block:
            self._whole.update(piece)


class BlobWriter:
    """One blob; see the module."""

    def __init__(self, place: AzurePlace, new: NewObject) -> None:
        self._place = place
        self._container = place.container
        self._new = new
        self._key = place.whole_key(new.key)
        self._kept: Mapping[str, str] = {}
        self._filling = Filling(place.tools, place.owner, place.config.block_bytes, new.declared_bytes, self)
        self._names = BlockNames()
        self._last: BlockDigests | None = None
        self._publication = Publication()

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

    # ── the bytes ────────────────────────────────────────────────────────────────────────────────

    async def open(self) -> None:
        """Ask what stands there, unless one request will make the whole blob and be told so anyway.

        Raises:
            ObjectExists: the name is taken and the destination refuses to replace.
            MetadataInvalid: the store cannot tell two names of metadata apart.
            RelayError: the store cannot be reached, or refuses.
        """
        self._kept = kept_fields(self._new)
        declared = self._new.declared_bytes
        if self._place.is_blind or (declared is not None and declared <= min(self._filling.part_bytes, PART_BYTES)):
            return
        if await self._place.find_standing(self._key, ASK_PATIENCE) is not None and self._place.is_refusing:
            raise ObjectExists

    def take(self, piece: Piece) -> Room:
        """Take the next bytes."""
        return self._filling.take(piece)

    async def ready(self) -> None:
        """Wait until there is room for more.

        Raises:
            DependencyFault: the store cannot be reached, refuses, or is too slow.
            UploadTooLarge: it would have more blocks than a blob may have.
        """
        await self._filling.ready()

    def plan(self, number: int) -> tuple[int, PartDigests]:
        """The size of a block, and its digests.

        Raises:
            UploadTooLarge: there would be too many.
        """
        if number > MOST_BLOCKS:
            raise UploadTooLarge(f"The blob would have more than {MOST_BLOCKS} blocks. Set a larger config.block_bytes.")
        self._last = BlockDigests(self._last)
        return size_block(number, self._filling.part_bytes, self._new.declared_bytes), self._last

    async def prepare(self) -> None:
        """Nothing is to be done before the first block."""

    async def send(self, part: Part) -> None:
        """Send a block."""
        assert isinstance(part.digests, BlockDigests)  # noqa: S101 - as it was planned
        content = Content(part.pieces, part.size, part.digests.md5)
        await self._place.ask(lambda: self._container.put_block(self._key, self._names.name(part.number), content), WRITE)

    # ── the end ──────────────────────────────────────────────────────────────────────────────────

    async def seal(self) -> None:
        """All bytes are written: wait until the store has them, or a small blob waits to be published."""
        await self._filling.seal()

    async def publish(self) -> Published:
        """Make the blob visible, at once or not at all.

        Raises:
            ObjectExists: the name is taken and the destination refuses to replace.
            RelayError: the store cannot be reached, refuses, or has not what was sent.
        """
        return await self._publication.run(self._publish())

    async def _publish(self) -> Published:
        assert self._last is not None  # noqa: S101 - seal has begun one at least
        whole, md5 = self._filling.whole, self._last.whole_md5
        content = Content(whole.pieces, whole.size, md5) if whole is not None else Content((), self.size, md5)
        kept = {**self._kept, "x-ms-blob-content-md5": content.encoded_md5}
        is_new_only = self._place.is_refusing

        async def once() -> Reply:
            if whole is not None:
                return await self._container.put_blob(self._key, kept, content, is_new_only=is_new_only)
            names = [self._names.name(number) for number in range(1, self._filling.sent + 1)]
            return await self._container.put_block_list(self._key, kept, names, is_new_only=is_new_only)

        published = await self._insist(once, kept)
        self._filling.release()
        return published

    async def _insist(self, once: Callable[[], Awaitable[Reply]], kept: Mapping[str, str]) -> Published:
        """Publish, and know what an answer means that came to a second attempt."""
        has_lost_answers = False

        async def attempt() -> Reply:
            nonlocal has_lost_answers
            try:
                return await once()
            except (DependencyFault, Refused) as error:
                has_lost_answers = has_lost_answers or not isinstance(error, Refused) or error.status >= 500
                raise

        try:
            return _published((await self._place.patience.insist(attempt)).fields)
        except (Refused, DependencyFault) as error:
            if has_lost_answers and (found := await self._find_published(kept)) is not None:
                return found
            if isinstance(error, DependencyFault):
                raise
            if self._place.is_refusing and error.is_standing:
                raise (DestinationBroke(_UNKNOWN) if has_lost_answers and self._place.is_blind else ObjectExists()) from None
            if self._place.is_refusing and error.has_lost_blocks and await self._find_standing() is not None:
                raise ObjectExists from None
            raise self._place.explain(error, WRITE) from None

    async def _find_published(self, kept: Mapping[str, str]) -> Published | None:
        """What stands there, if it is what was sent: the answer to an earlier attempt was lost."""
        standing = await self._find_standing()
        return _published(standing.fields) if standing is not None and standing.is_made_of(self.size, kept) else None

    async def _find_standing(self) -> Standing | None:
        try:
            return await self._place.find_standing(self._key, self._place.patience)
        except RelayError:  # what is told is what led here
            return None

    async def discard(self) -> Published | None:
        """Send nothing more, and hold nothing. Blocks that the store has it keeps unseen for a week: see the module."""
        ending = self._filling.cut()
        try:
            if ending:
                await asyncio.wait(ending, timeout=CLEAN_UP_SECONDS)
            return await self._publication.end(CLEAN_UP_SECONDS)
        finally:
            self._filling.release()


def _published(fields: Mapping[str, str]) -> Published:
    etag = fields.get("etag")
    return Published(etag.strip('"') if etag is not None else None, fields.get("x-ms-version-id"))
