"""The story of an upload to a place that keeps objects, whatever its kind.

    check_item     what can be refused before anything is begun: parts of files, names that are none
    deliver        raw body → one object; a form → an object for each of its files
      write        bytes go to the object's writer in batches, as they come
      seal         the store has all of them; nothing is visible yet
      publish      the object is visible, whole
    answer         201 with what was stored, in JSON

One file is published when the body has shown that it is whole: a raw body has ended, the next part of the form has begun, or the
form has ended. So whatever breaks a body breaks the object that is being written, and never one before it.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict

from relay.destinations.destination import Body, Delivery, Finding, Headers, Item, Receipt, StoredObject
from relay.destinations.keys import KeyTemplate, Name
from relay.destinations.object_store import NewObject, ObjectStore, ObjectWriter, Published
from relay.errors import BodyIncomplete, FormNotSupported, MetadataInvalid, RangeRefused
from relay.protocols.header_rules import as_read
from relay.wire.pieces import Piece

BATCH_BYTES = 512 << 10
SMALL_PIECE_BYTES = 4 << 10
METADATA_BYTES = 2_048
"""What all pairs of an object's metadata may take, names and values: S3's own limit."""

_KEPT_FIELDS = frozenset({b"content-disposition", b"content-encoding", b"content-language", b"cache-control"})
_METADATA = b"x-object-meta-"
_METADATA_NAME = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-")


class StoreDestination:
    """One tenant's place for objects."""

    def __init__(self, store: ObjectStore, template: KeyTemplate) -> None:
        self._store = store
        self._template = template

    def check_item(self, item: Item) -> None:
        """Refuse what can be known to be undeliverable.

        Raises:
            PathInvalid: no key can be made of the path.
            FormNotSupported, RangeRefused: what is sent is not one whole raw file.
            MetadataInvalid: a field that is to be kept with the object cannot be.
        """
        self._plan(item)

    @contextlib.asynccontextmanager
    async def deliver(self, item: Item, body: Body) -> AsyncIterator[Delivery]:
        """Store the body; entering returns when everything is published.

        Raises:
            ObjectExists: the key is taken and the destination refuses to replace.
            DependencyFault, RelayFault: the store failed. Nothing of the object is kept.
            ClientFault: as ``check_item`` says.
        """
        new = self._plan(item)
        writer = self._store.begin(new)
        try:
            await writer.open()
            await _write_body(writer, body)
            await writer.seal()
            stored = _describe(new, writer, await writer.publish())
        except BaseException:
            await writer.discard()
            raise
        yield StoreDelivery(item.upload_id, stored, writer.crc32c)

    async def check(self) -> Finding:
        """Let the store try itself."""
        return await self._store.check()

    async def close(self) -> None:
        """Let the store go."""
        await self._store.close()

    def _plan(self, item: Item) -> NewObject:
        """Say what object a raw body becomes."""
        if media_type_of(item.content_type) == "multipart/form-data":
            raise FormNotSupported
        if any(as_read(name.lower()) == b"content-range" for name, _ in item.headers):
            raise RangeRefused
        key = self._make_key(item, None)
        return NewObject(key, item.declared_bytes, _kept_fields(item), _metadata(item.headers))

    def _make_key(self, item: Item, filename: str | None) -> str:
        key = self._template.make(Name.of(item.segments, filename, item.upload_id))
        self._store.check_key(key)
        return key


class StoreDelivery:
    """The answer of a finished delivery: 201 with what was stored."""

    status = 201
    headers: Headers = ((b"content-type", b"application/json"),)
    is_settled = True
    is_body_taken = True

    def __init__(self, upload_id: str, stored: StoredObject, crc32c: str) -> None:
        self._content = json.dumps({"upload_id": upload_id, "objects": [asdict(stored)]}, ensure_ascii=False).encode()
        self._receipt = Receipt(bytes=stored.size, digests={"sha256": stored.sha256, "crc32c": crc32c}, objects=(stored,))

    @property
    def answer_bytes(self) -> int:
        """The answer's length."""
        return len(self._content)

    async def answer(self) -> AsyncIterator[bytes]:
        """Yield the answer, one JSON object."""
        yield self._content

    async def settled(self) -> Receipt:
        """The receipt; publishing is over by now."""
        return self._receipt


class Batch:
    """Bytes gathered for one write, as copies. Small pieces are joined, so that their number stays bounded too."""

    def __init__(self) -> None:
        self.pieces: list[bytes | bytearray] = []
        self.size = 0

    def take(self, piece: Piece) -> bool:
        """Take one more piece; true while there is room for more."""
        self.size += len(piece)
        if len(piece) >= SMALL_PIECE_BYTES:
            self.pieces.append(bytes(piece))
        elif self.pieces and isinstance(self.pieces[-1], bytearray):
            self.pieces[-1] += piece
        else:
            self.pieces.append(bytearray(piece))
        return self.size < BATCH_BYTES


def media_type_of(content_type: str | None) -> str:
    """The media type of a Content-Type, without its parameters."""
    return (content_type or "").partition(";")[0].strip().lower()


def _describe(new: NewObject, writer: ObjectWriter, published: Published) -> StoredObject:
    return StoredObject(
        key=new.key,
        size=writer.size,
        content_type=new.fields.get("content-type"),
        filename=None,
        field=None,
        sha256=writer.sha256,
        etag=published.etag,
        version=published.version,
    )


async def _write_body(writer: ObjectWriter, body: Body) -> None:
    has_ended = False
    while not has_ended:
        batch = Batch()
        has_ended = await body.pour(batch.take)
        if batch.size:
            await writer.write(batch.pieces)
    if body.declared_bytes not in {None, writer.size}:
        raise BodyIncomplete


def _kept_fields(item: Item) -> Mapping[str, str]:
    fields = {"content-type": item.content_type} if item.content_type is not None else {}
    for name, value in item.headers:
        if (read := as_read(name.lower())) in _KEPT_FIELDS:
            fields[read.decode()] = value.decode("latin-1")
    for kept, text in fields.items():
        _check_text(kept, text)
    return fields


def _metadata(headers: Headers) -> Mapping[str, str]:
    """The client's own pairs: the fields ``X-Object-Meta-<name>``."""
    found: dict[str, str] = {}
    for field, value in headers:
        name = as_read(field.lower())
        if name.startswith(_METADATA):
            short = name.removeprefix(_METADATA).decode("latin-1")
            if not short or not _METADATA_NAME.issuperset(name) or short in found:
                raise MetadataInvalid("Use letters, digits and hyphens in the names of X-Object-Meta fields, and each name once.")
            found[short] = value.decode("latin-1").strip()
            _check_text(name.decode(), found[short])
    if sum(len(name) + len(text) for name, text in found.items()) > METADATA_BYTES:
        raise MetadataInvalid(f"Send at most {METADATA_BYTES} bytes of names and values in X-Object-Meta fields.")
    return found


def _check_text(name: str, text: str) -> None:
    if not (text.isascii() and text.isprintable()):
        raise MetadataInvalid(f"Use printable ASCII as value of {name}: it is kept with the object.")
