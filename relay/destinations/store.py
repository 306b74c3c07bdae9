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
from relay.destinations.form_parts import FilePart, FormReader
from relay.destinations.keys import KeyTemplate, Name
from relay.destinations.object_store import NewObject, ObjectStore, ObjectWriter, Published
from relay.errors import BodyIncomplete, DigestUnsupported, FormInvalid, MetadataInvalid, RangeRefused
from relay.protocols.form_heads import is_form, parse_boundary
from relay.protocols.header_rules import as_read
from relay.settings import FormSettings

METADATA_BYTES = 2_048
"""What all pairs of an object's metadata may take, names and values: S3's own limit."""

CLAIMED_FORM = (
    "A claimed digest is verified before anything becomes visible, so a form with one holds one file. "
    "Send the files one by one, or the form without a digest."
)
_KEPT_FIELDS = frozenset({b"content-disposition", b"content-encoding", b"content-language", b"cache-control"})
_METADATA = b"x-object-meta-"
_METADATA_NAME = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-")


class StoreDestination:
    """One tenant's place for objects."""

    def __init__(self, store: ObjectStore, template: KeyTemplate, forms: FormSettings) -> None:
        self.store = store
        self._template = template
        self._forms = forms

    def check_item(self, item: Item) -> None:
        """Refuse what can be known to be undeliverable.

        Raises:
            PathInvalid: no key can be made of the path.
            FormInvalid: the form has no good boundary.
            RangeRefused: what is sent is a part of a file.
            MetadataInvalid: a field that is to be kept with the object cannot be.
        """
        if any(as_read(name.lower()) == b"content-range" for name, _ in item.headers):
            raise RangeRefused
        if is_form(item.content_type):
            parse_boundary(item.content_type or "")
            self._make_key(item, "file")
            find_metadata(item.headers)
        else:
            self._plan(item)

    @contextlib.asynccontextmanager
    async def deliver(self, item: Item, body: Body) -> AsyncIterator[Delivery]:
        """Store the body; entering returns when everything is published.

        Raises:
            ObjectExists: the key is taken and the destination refuses to replace.
            DependencyFault, RelayFault: the store failed. Nothing of the object is kept.
            DigestMismatch: a digest was claimed that is not the body's.
            DigestUnsupported: a digest was claimed of a form with several files.
            FormInvalid: the form is malformed, cut off, holds no file, or names one key twice.
            ClientFault: as ``check_item`` says. What of a form had landed before stands in ``item.landed``.
        """
        self.check_item(item)
        filing = _Filing(self.store, item.landed)
        try:
            if is_form(item.content_type):
                yield await self._take_form(item, body, filing)
            else:
                yield await self._take_file(item, body, filing)
        finally:
            await filing.discard()

    async def check(self) -> Finding:
        """Let the store try itself."""
        return await self.store.check()

    async def close(self) -> None:
        """Let the store go."""
        await self.store.close()

    async def _take_file(self, item: Item, body: Body, filing: "_Filing") -> "StoreDelivery":
        writer = await filing.begin(self._plan(item))
        body.leave_digests({"sha-256", "crc32c"})
        await _write_body(writer, body)
        await filing.seal()
        body.judge({"sha-256": bytes.fromhex(writer.sha256), "crc32c": bytes.fromhex(writer.crc32c)})
        await filing.publish()
        receipt = Receipt(writer.size, {"sha256": writer.sha256, "crc32c": writer.crc32c}, tuple(filing.landed))
        return StoreDelivery(item.upload_id, receipt)

    async def _take_form(self, item: Item, body: Body, filing: "_Filing") -> "StoreDelivery":
        form = FormReader(body, item.content_type or "", self._forms)
        metadata = find_metadata(item.headers)
        async for part in form.files():
            if body.is_claimed and filing.has_begun:
                raise DigestUnsupported(CLAIMED_FORM)
            await filing.publish()
            new = self._plan_part(item, part, metadata)
            writer = await filing.begin(new, part)
            await _write_part(writer, part)
            await filing.seal()
        await filing.publish()
        if not filing.landed:
            raise FormInvalid("The form holds no file. Send one as a part with a file name.")
        receipt = Receipt(sum(stored.size for stored in filing.landed), {}, tuple(filing.landed), tuple(form.fields))
        return StoreDelivery(item.upload_id, receipt)

    def _plan(self, item: Item) -> NewObject:
        """Say what object a raw body becomes."""
        return NewObject(self._make_key(item, None), item.declared_bytes, find_fields(item), find_metadata(item.headers))

    def _plan_part(self, item: Item, part: FilePart, metadata: Mapping[str, str]) -> NewObject:
        """Say what object a file of a form becomes; one that was sent without a name is called by its field."""
        fields = {"content-type": part.content_type} if part.content_type is not None else {}
        return NewObject(self._make_key(item, part.filename or part.field), None, fields, metadata)

    def _make_key(self, item: Item, filename: str | None) -> str:
        key = self._template.make(Name.of(item.segments, filename, item.upload_id))
        self.store.check_key(key)
        return key


class _Filing:
    """What one delivery has made visible, and the object that it is writing."""

    def __init__(self, store: ObjectStore, landed: list[StoredObject]) -> None:
        self._store = store
        self._keys: set[str] = set()
        self._writer: ObjectWriter | None = None
        self._new: NewObject | None = None
        self._part: FilePart | None = None
        self.landed = landed

    @property
    def has_begun(self) -> bool:
        """True once there was an object."""
        return bool(self._keys)

    async def begin(self, new: NewObject, part: FilePart | None = None) -> ObjectWriter:
        """Begin the next object; the one before is published."""
        if new.key in self._keys:
            raise FormInvalid("Two files of the form would have the same key. Name them differently, or send each by itself.")
        self._keys.add(new.key)
        self._new, self._part, self._writer = new, part, self._store.begin(new)
        await self._writer.open()
        return self._writer

    async def seal(self) -> None:
        """The object's bytes have ended."""
        if self._writer is not None:
            await self._writer.seal()

    async def publish(self) -> None:
        """The object is whole: make it visible, if one is waiting for that."""
        if self._writer is None or self._new is None:
            return
        self._tell(self._writer, self._new, await self._writer.publish())

    def _tell(self, writer: ObjectWriter, new: NewObject, published: Published) -> None:
        stored = StoredObject(
            key=new.key,
            size=writer.size,
            content_type=new.fields.get("content-type"),
            filename=self._part.filename if self._part is not None else None,
            field=self._part.field if self._part is not None else None,
            sha256=writer.sha256,
            etag=published.etag,
            version=published.version,
        )
        self.landed.append(stored)
        self._writer = None

    async def discard(self) -> None:
        """Leave nothing of an object that was not published, and tell of one that was when nobody waited for it any more."""
        writer, new = self._writer, self._new
        if writer is not None and new is not None and (published := await writer.discard()) is not None:
            self._tell(writer, new, published)


class StoreDelivery:
    """The answer of a finished delivery: 201 with what was stored."""

    status = 201
    headers: Headers = ((b"content-type", b"application/json"),)
    is_settled = True
    is_body_taken = True

    def __init__(self, upload_id: str, receipt: Receipt) -> None:
        content = {"upload_id": upload_id, "objects": [asdict(stored) for stored in receipt.objects]}
        if receipt.fields is not None:
            content["fields"] = [{"name": name, "value": value} for name, value in receipt.fields]
        self._content = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
        self._receipt = receipt

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


async def _write_body(writer: ObjectWriter, body: Body) -> None:
    has_ended = False
    while not has_ended:
        await writer.ready()
        has_ended = await body.pour(writer.take)
    if body.declared_bytes not in {None, writer.size}:
        raise BodyIncomplete


async def _write_part(writer: ObjectWriter, part: FilePart) -> None:
    async for chunk in part:
        if not writer.take(chunk):
            await writer.ready()


def find_fields(item: Item) -> Mapping[str, str]:
    """The fields of a request that are kept with the object.

    Raises:
        MetadataInvalid: one of them cannot be.
    """
    fields = {"content-type": item.content_type} if item.content_type is not None else {}
    for name, value in item.headers:
        if (read := as_read(name.lower())) in _KEPT_FIELDS:
            fields[read.decode()] = value.decode("latin-1")
    for kept, text in fields.items():
        _check_text(kept, text)
    return fields


def find_metadata(headers: Headers) -> Mapping[str, str]:
    """The client's own pairs: the fields ``X-Object-Meta-<name>``.

    Raises:
        MetadataInvalid: they are malformed, or too much.
    """
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
