"""What can be asked of a bucket, one request each, in the dialect of its maker.

Whatever a store says of what it took is compared with what was sent: a checksum where it tells one, else an ETag that is an MD5.
Stores that know neither are believed.
"""

import base64
import binascii
import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from html import escape
from typing import Final

from crc32c import crc32c as crc

from relay.destinations.object_store import NewObject
from relay.destinations.part_digests import DigestThreads, Md5Job
from relay.destinations.parts import OwnedPiece
from relay.destinations.s3_answers import Refused, Reply, explain, find_all, find_text, name_of, parse_xml, read_refusal
from relay.destinations.s3_requests import Ask, Judge, Requests
from relay.destinations.store_requests import Patience
from relay.errors import DestinationBroke, ObjectExists, RelayError

_PLAIN_MD5: Final = re.compile(r"[0-9a-f]{32}")
_PAGES_MOST: Final = 10
_WORD_LONGEST: Final = 4_096
"""Longer than what any store calls an upload or a part: whatever a store says is held until the upload ends."""

_NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
_NOT_WHAT_WAS_SENT: Final = "What the store says it has is not what was sent. Nothing was published."


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a maker names what all of them have.

    ``version`` is the answer's field that names what was made, and the parameter that asks for just that;
    ``is_complete_conditional``: what completes several parts may have a condition.
    """

    prefix: str
    version: tuple[str, str]
    condition: tuple[str, str]
    is_complete_conditional: bool
    permissions: Mapping[str, str]

    @property
    def is_google(self) -> bool:
        return self.prefix == "x-goog-"

    def checksum(self, crc32c: int) -> Mapping[str, str]:
        """The field that tells the store what it should have got."""
        encoded = encode_crc(crc32c)
        return {"x-goog-hash": f"crc32c={encoded}"} if self.is_google else {"x-amz-checksum-crc32c": encoded}

    def told_checksum(self, fields: Mapping[str, str]) -> str | None:
        """The checksum that the store tells, as it tells it."""
        if not self.is_google:
            return fields.get("x-amz-checksum-crc32c")
        hashes = [item.strip() for item in fields.get("x-goog-hash", "").split(",")]
        return next((item.removeprefix("crc32c=") for item in hashes if item.startswith("crc32c=")), None)

    def told_version(self, fields: Mapping[str, str]) -> str | None:
        """The version that the store gave to what it made, where it keeps versions."""
        return fields.get(self.version[0])


AMAZON: Final = Dialect(
    "x-amz-",
    ("x-amz-version-id", "versionId"),
    ("if-none-match", "*"),
    is_complete_conditional=True,
    permissions={
        "put": "s3:PutObject",
        "get": "s3:GetObject (and s3:ListBucket, to be told that there is none)",
        "delete": "s3:DeleteObject",
        "abort": "s3:AbortMultipartUpload",
        "list": "s3:ListBucketMultipartUploads",
        "parts": "s3:ListMultipartUploadParts",
    },
)
GOOGLE: Final = Dialect(
    "x-goog-",
    ("x-goog-generation", "generation"),
    ("x-goog-if-generation-match", "0"),
    is_complete_conditional=False,
    permissions={
        "put": "storage.objects.create",
        "get": "storage.objects.get",
        "delete": "storage.objects.delete",
        "abort": "storage.multipartUploads.abort",
        "list": "storage.multipartUploads.list",
        "parts": "storage.multipartUploads.listParts",
    },
)


@dataclass(frozen=True, slots=True)
class Content:
    """What is sent of an object: its pieces and their digests."""

    pieces: Sequence[OwnedPiece]
    size: int
    crc32c: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class SentPart:
    """A part that a store has. ``checksum`` as the store told it."""

    number: int
    etag: str
    size: int
    crc32c: int
    checksum: str | None


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands at a key."""

    size: int | None
    etag: str | None
    checksum: str | None
    version: str | None


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """A multipart upload that was begun and neither completed nor aborted."""

    key: str
    upload_id: str
    initiated_at: datetime | None


class Bucket:
    """One tenant's bucket. Keys are whole here: the destination's prefix is part of them."""

    def __init__(self, requests: Requests, dialect: Dialect, threads: DigestThreads) -> None:
        self.requests = requests
        self._threads = threads
        self._takes_checksums = True
        self._tells_md5 = False
        self.dialect = dialect

    @property
    def signs_bodies(self) -> bool:
        """True when the SHA-256 of every body must be known before it is sent."""
        return self.requests.signs_bodies

    async def put(self, key: str, new: NewObject, content: Content, *, is_new_only: bool) -> Standing:
        """Make an object in one request; compares what the store says of it, and returns that.

        Raises:
            Refused: 412 where the key is taken and ``is_new_only``.
            DestinationBroke: the store has something else; it was asked to remove it.
        """
        fields = dict(self._fields_of(new))
        if is_new_only:
            fields.update([self.dialect.condition])
        reply = await self._send(Ask("PUT", key, (), fields, content.pieces, content.size, content.sha256), content)
        standing = self._standing(reply, content.size)
        try:
            await self._compare(reply, content)
        except DestinationBroke:
            await self.delete(key, standing.version)
            raise
        return standing

    async def create(self, key: str, new: NewObject) -> str:
        """Begin a multipart upload and return its id."""
        algorithm = {"x-amz-checksum-algorithm": "CRC32C"} if self._takes_checksums and not self.dialect.is_google else {}
        reply = await self._ask(Ask("POST", key, [("uploads", "")], {**self._fields_of(new), **algorithm}), "put")
        root = parse_xml(reply.body)
        upload_id = find_text(root, "UploadId") if root is not None else None
        if not upload_id or len(upload_id) > _WORD_LONGEST:
            raise DestinationBroke("The store began no multipart upload that has an id. Nothing was published.")
        return upload_id

    async def put_part(self, key: str, upload_id: str, number: int, content: Content) -> SentPart:
        """Send a part."""
        query = [("partNumber", str(number)), ("uploadId", upload_id)]
        ask = Ask("PUT", key, query, {}, content.pieces, content.size, content.sha256)
        md5 = self._threads.start_md5(content.pieces) if self._tells_md5 else None  # as it did of the part before: it will be asked for
        try:
            reply = await self._send(ask, content, lambda reply: self._compare(reply, content, md5))
        except Refused as refused:
            raise self.explain(refused, "put") from None
        etag = reply.fields.get("etag")
        if not etag or len(etag) > _WORD_LONGEST:
            raise DestinationBroke("The store took a part without naming it. Nothing was published.")
        return SentPart(number, etag, content.size, content.crc32c, self.dialect.told_checksum(reply.fields))

    async def complete(self, key: str, upload_id: str, parts: Sequence[SentPart], *, is_new_only: bool) -> Standing:
        """Make the object of its parts; returns what the store says that it is.

        Raises:
            Refused: 412 where the key is taken and ``is_new_only``; 404 where the upload is gone, perhaps because it was completed.
        """
        body = _write_parts(parts)
        fields = {"content-type": "application/xml"}
        if is_new_only:
            fields.update([self.dialect.condition])
        ask = Ask("POST", key, [("uploadId", upload_id)], fields, [body], len(body), hashlib.sha256(body).hexdigest())
        reply = await self.requests.call(ask, judge=_judge_completion)
        root = parse_xml(reply.body)
        etag = (find_text(root, "ETag") if root is not None else None) or reply.fields.get("etag")
        told = (find_text(root, "ChecksumCRC32C") if root is not None else None) or self.dialect.told_checksum(reply.fields)
        return Standing(None, etag, told, self.dialect.told_version(reply.fields))

    async def abort(self, key: str, upload_id: str, patience: Patience | None = None) -> None:
        """Forget a multipart upload; harmless when it is gone."""
        try:
            await self.requests.call(Ask("DELETE", key, [("uploadId", upload_id)]), patience)
        except Refused as refused:
            if refused.status != 404 or refused.code == "NoSuchBucket":
                raise explain(refused, self.dialect.permissions["abort"]) from None

    async def has_upload(self, key: str, upload_id: str, patience: Patience | None = None) -> bool:
        """True while the store knows a multipart upload."""
        try:
            await self.requests.call(Ask("GET", key, [("max-parts", "1"), ("uploadId", upload_id)]), patience)
        except Refused as refused:
            if refused.status == 404:
                return False
            raise explain(refused, self.dialect.permissions["parts"]) from None
        return True

    async def list_uploads(self, key: str) -> list[OpenUpload]:
        """The multipart uploads of exactly this key that are open; not all of them where they are more than anybody begins."""
        found: list[OpenUpload] = []
        marks: list[tuple[str, str]] = []
        for _ in range(_PAGES_MOST):
            reply = await self._ask(Ask("GET", None, [("prefix", key), *marks, ("uploads", "")]), "list")
            root = parse_xml(reply.body)
            if root is None:
                raise DestinationBroke("The store's list of multipart uploads cannot be read.")
            for item in find_all(root, "Upload"):
                upload = OpenUpload(find_text(item, "Key") or "", find_text(item, "UploadId") or "", _time(find_text(item, "Initiated")))
                if upload.key == key and upload.upload_id:
                    found.append(upload)
            key_mark, upload_mark = find_text(root, "NextKeyMarker"), find_text(root, "NextUploadIdMarker")
            next_marks = [("key-marker", key_mark or ""), ("upload-id-marker", upload_mark or "")]
            if find_text(root, "IsTruncated") != "true" or key_mark != key or next_marks == marks:
                break
            marks = next_marks
        return found

    async def head(self, key: str, patience: Patience | None = None) -> Standing | None:
        """What stands at a key; ``None`` when nothing does."""
        fields = {} if self.dialect.is_google else {"x-amz-checksum-mode": "ENABLED"}
        try:
            reply = await self.requests.call(Ask("HEAD", key, (), fields), patience)
        except Refused as refused:
            if refused.status == 404:
                return None
            raise explain(refused, self.dialect.permissions["get"]) from None
        size = reply.fields.get("content-length", "")
        return self._standing(reply, int(size) if size.isdigit() else None)

    async def get(self, key: str) -> bytes:
        """A small object, whole."""
        return (await self._ask(Ask("GET", key), "get")).body

    async def delete(self, key: str, version: str | None = None) -> None:
        """Remove an object, or one version of it."""
        _, parameter = self.dialect.version
        await self._ask(Ask("DELETE", key, [(parameter, version)] if version is not None else ()), "delete")

    def explain(self, refused: Refused, right: str) -> RelayError:
        """Say a refusal in our words; a condition that does not hold is an object that exists."""
        return ObjectExists() if refused.is_taken else explain(refused, self.dialect.permissions[right])

    async def _send(self, ask: Ask, content: Content, judge: Judge | None = None) -> Reply:
        """Send content with a checksum; a store that has never heard of ours gets an MD5, from then on."""
        if self._takes_checksums:
            try:
                return await self.requests.call(replace(ask, fields={**ask.fields, **self.dialect.checksum(content.crc32c)}), judge=judge)
            except Refused as refused:
                if refused.code != "NotImplemented" and refused.status != 501:
                    raise
        md5 = base64.b64encode(bytes.fromhex(await self._threads.md5(content.pieces))).decode("ascii")
        reply = await self.requests.call(replace(ask, fields={**ask.fields, "content-md5": md5}), judge=judge)
        self._takes_checksums = False  # what is refused either way says nothing of checksums
        return reply

    async def _ask(self, ask: Ask, right: str) -> Reply:
        try:
            return await self.requests.call(ask)
        except Refused as refused:
            raise self.explain(refused, right) from None

    def _standing(self, reply: Reply, size: int | None) -> Standing:
        told = reply.fields
        return Standing(size, told.get("etag"), self.dialect.told_checksum(told), self.dialect.told_version(told))

    def _fields_of(self, new: NewObject) -> Mapping[str, str]:
        return {**new.fields, **{f"{self.dialect.prefix}meta-{name}": value for name, value in new.metadata.items()}}

    async def _compare(self, reply: Reply, content: Content, started: Md5Job | None = None) -> None:
        """Compare what the store says that it took with what was sent, whose MD5 may have been started.

        Raises:
            DestinationBroke: it is something else.
        """
        told = self.dialect.told_checksum(reply.fields)
        if told is not None:
            if told != encode_crc(content.crc32c):
                raise DestinationBroke(_NOT_WHAT_WAS_SENT)
            return
        md5 = plain_md5(reply.fields)
        self._tells_md5 = md5 is not None
        if md5 is not None and md5 != await self._threads.md5(content.pieces, started):
            raise DestinationBroke(_NOT_WHAT_WAS_SENT)


def encode_crc(crc32c: int) -> str:
    """A CRC-32C as stores write it."""
    return base64.b64encode(crc32c.to_bytes(4, "big")).decode("ascii")


def plain_md5(fields: Mapping[str, str]) -> str | None:
    """The MD5 that an ETag is; ``None`` where it is something else, as with keys that the store does not own."""
    etag = fields.get("etag", "").strip('"').lower()
    is_encrypted = fields.get("x-amz-server-side-encryption", "AES256") != "AES256" or any("customer-algorithm" in name for name in fields)
    return etag if _PLAIN_MD5.fullmatch(etag) and not is_encrypted else None


def etag_of_parts(parts: Sequence[SentPart]) -> str | None:
    """The ETag that most stores give to an object of these parts; ``None`` when theirs are no MD5s."""
    digests = [part.etag.strip('"').lower() for part in parts]
    if not all(_PLAIN_MD5.fullmatch(digest) for digest in digests):
        return None
    whole = hashlib.md5(b"".join(map(binascii.unhexlify, digests)), usedforsecurity=False)
    return f"{whole.hexdigest()}-{len(parts)}"


def checksums_of_parts(parts: Sequence[SentPart], crc32c: int) -> frozenset[str]:
    """What a store may say of an object of these parts: the checksum of the whole, or of the parts' checksums, with their count or not."""
    composite = functools.reduce(lambda so_far, part: crc(part.crc32c.to_bytes(4, "big"), so_far), parts, 0)
    return frozenset({encode_crc(crc32c), encode_crc(composite), f"{encode_crc(composite)}-{len(parts)}"})


def _write_parts(parts: Sequence[SentPart]) -> bytes:
    items = "".join(
        f"<Part><PartNumber>{part.number}</PartNumber><ETag>{escape(part.etag, quote=False)}</ETag>"
        + (f"<ChecksumCRC32C>{escape(part.checksum, quote=False)}</ChecksumCRC32C>" if part.checksum else "")
        + "</Part>"
        for part in parts
    )
    return f'<CompleteMultipartUpload xmlns="{_NAMESPACE}">{items}</CompleteMultipartUpload>'.encode()


async def _judge_completion(reply: Reply) -> None:
    """A completion may fail after its 200: the store says so in the body."""
    root = parse_xml(reply.body)
    if root is None:
        raise DestinationBroke
    if name_of(root) == "Error":
        raise read_refusal(reply)


def _time(text: str | None) -> datetime | None:
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
