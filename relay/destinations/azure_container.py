"""What can be asked of a container of Azure Blob Storage, one request each.

Whatever is sent carries its MD5, which the store compares with what it got; what it says that it got is compared once more.
"""

import base64
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final
from urllib.parse import quote

import httpx

from relay.destinations.azure_answers import Refused
from relay.destinations.azure_config import AzureConfig
from relay.destinations.azure_signing import Signer, Unsigned
from relay.destinations.object_store import NewObject
from relay.destinations.parts import OwnedPiece
from relay.destinations.store_requests import Reply, StoreLine
from relay.errors import DependencyFault, DestinationBroke, MetadataInvalid

VERSION: Final = "2024-08-04"
MOST_BLOCKS: Final = 50_000

_UNRESERVED: Final = "-_.~"
_ONLY_NEW: Final = {"if-none-match": "*"}
_METADATA: Final = "x-ms-meta-"
_ALTERED: Final = "What the store says it has is not what was sent. Nothing was published."


@dataclass(frozen=True, slots=True)
class Content:
    """What is sent: its pieces and their MD5."""

    pieces: Sequence[OwnedPiece]
    size: int
    md5: bytes

    @classmethod
    def of(cls, data: bytes) -> "Content":
        """Some bytes as they are sent."""
        return cls([data], len(data), hashlib.md5(data, usedforsecurity=False).digest())

    @property
    def encoded_md5(self) -> str:
        """The MD5 as fields hold it."""
        return base64.b64encode(self.md5).decode("ascii")


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands under a name. ``fields`` are those of the answer."""

    size: int | None
    fields: Mapping[str, str]

    def is_made_of(self, size: int, kept: Mapping[str, str]) -> bool:
        """True when it has this size, and all that was to be kept with it: its MD5 and metadata, nothing less and nothing more."""
        sent = {name: value for name, value in kept.items() if name.startswith(_METADATA)}
        found = {name: value for name, value in self.fields.items() if name.startswith(_METADATA)}
        return self.size == size and self.fields.get("content-md5") == kept["x-ms-blob-content-md5"] and found == sent


@dataclass(frozen=True, slots=True)
class _Ask:
    method: str
    query: Sequence[tuple[str, str]] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    content: Content | None = None


class BlockNames:
    """The ids of one upload's blocks. All are of one length, and no other upload of the same name has them: such share one list."""

    def __init__(self) -> None:
        self._own = secrets.token_hex(16)

    def name(self, number: int) -> str:
        """The id of a block."""
        return base64.b64encode(f"{self._own}-{number:05d}".encode("ascii")).decode("ascii")


class BlobContainer:
    """One tenant's container. Keys are whole here: the destination's prefix is part of them.

    Each method asks once, and raises ``Refused`` where the store says no, a ``DependencyFault`` where it fails.
    """

    def __init__(self, line: StoreLine, config: AzureConfig, signer: Signer) -> None:
        self._line = line
        self._signer = signer
        self._base = httpx.URL(config.url).raw_path.decode("ascii").rstrip("/") + f"/{quote(config.container, safe=_UNRESERVED)}"

    async def put_blob(self, key: str, kept: Mapping[str, str], content: Content, *, is_new_only: bool) -> Reply:
        """Make a blob in one request. If the store says that it has something else, that is removed again."""
        fields = {**kept, **(_ONLY_NEW if is_new_only else {}), "x-ms-blob-type": "BlockBlob"}
        reply = await self._send(key, _Ask("PUT", (), fields, content))
        if not _is_as_sent(reply, content):
            await self._delete_this(key, reply)
            raise DestinationBroke("What the store says it has is not what was sent. It was removed again.")
        return reply

    async def put_block(self, key: str, block: str, content: Content) -> None:
        """Give the store a block, which nobody sees yet."""
        reply = await self._send(key, _Ask("PUT", [("comp", "block"), ("blockid", block)], {}, content))
        if not _is_as_sent(reply, content):
            raise DestinationBroke(_ALTERED)

    async def put_block_list(self, key: str, kept: Mapping[str, str], blocks: Sequence[str], *, is_new_only: bool) -> Reply:
        """Make a blob of blocks. Doing it twice makes the same blob: blocks are looked for in what stands there, too."""
        items = "".join(f"<Latest>{block}</Latest>" for block in blocks)
        content = Content.of(f'<?xml version="1.0" encoding="utf-8"?><BlockList>{items}</BlockList>'.encode())
        fields = {**kept, **(_ONLY_NEW if is_new_only else {}), "content-type": "application/xml"}
        return await self._send(key, _Ask("PUT", [("comp", "blocklist")], fields, content))

    async def head(self, key: str) -> Standing | None:
        """What stands under a name; ``None`` when nothing does."""
        try:
            reply = await self._send(key, _Ask("HEAD"))
        except Refused as refused:
            if refused.is_nothing:
                return None
            raise
        size = reply.fields.get("content-length", "")
        return Standing(int(size) if size.isdigit() else None, reply.fields)

    async def get(self, key: str) -> bytes:
        """A small blob, whole."""
        return (await self._send(key, _Ask("GET"))).body

    async def delete(self, key: str) -> None:
        """Remove a blob. That there is none is no fault."""
        try:
            await self._send(key, _Ask("DELETE"))
        except Refused as refused:
            if not refused.is_nothing:
                raise

    async def _delete_this(self, key: str, reply: Reply) -> None:
        """Remove the blob that an answer tells of, and no other one."""
        if etag := reply.fields.get("etag"):
            try:
                await self._send(key, _Ask("DELETE", (), {"if-match": etag}))
            except (Refused, DependencyFault):
                raise DestinationBroke("What the store says it has is not what was sent, and it could not be removed again.") from None

    async def _send(self, key: str, ask: _Ask) -> Reply:
        fields = {**ask.fields, "x-ms-date": format_datetime(datetime.now(UTC), usegmt=True), "x-ms-version": VERSION}
        if ask.content is not None:
            fields |= {"content-length": str(ask.content.size), "content-md5": ask.content.encoded_md5}
        path = f"{self._base}/{quote(key, safe=_UNRESERVED + '/')}"
        target, signed = self._signer.sign(Unsigned(ask.method, path, ask.query, fields))
        reply = await self._line.send(ask.method, target, signed, ask.content.pieces if ask.content is not None else ())
        if not 200 <= reply.status < 300:
            raise Refused(reply)
        return reply


def kept_fields(new: NewObject) -> dict[str, str]:
    """What is to be kept with a blob, as fields of the request that publishes it.

    Raises:
        MetadataInvalid: two names of metadata become one here.
    """
    kept = {_field_of(name): value for name, value in new.fields.items()}
    for name, value in new.metadata.items():
        plain = name.replace("-", "_")
        written = _METADATA + (f"_{plain}" if plain[0].isdigit() else plain)
        if written in kept:
            raise MetadataInvalid(f"X-Object-Meta-{name} is another field's twin where it is kept: hyphens become underscores there.")
        kept[written] = value
    return kept


def _field_of(name: str) -> str:
    return f"x-ms-blob-{name}"


def _is_as_sent(reply: Reply, content: Content) -> bool:
    return reply.fields.get("content-md5", content.encoded_md5) == content.encoded_md5
