"""What a client claims of its body, and which digests it asks to be told. Headers in, values out; no I/O.

Sources: RFC 9530 "Digest Fields", RFC 9651 "Structured Field Values for HTTP", RFC 1864 "The Content-MD5 Header Field".

A body is kept, or passed on, as it was sent. So ``Content-Digest``, ``Repr-Digest`` and ``Content-MD5`` speak of the same
bytes: those of the body, content coding included, transfer coding not. Beside ``Content-Range`` they do not, for the body
is a part there: ``Content-Digest`` alone is of the part, and the others are left to whoever puts the parts together.

Of what is claimed, every algorithm that we take is verified, the weaker ones too: a body is never taken for good because
one of several claims holds. Others are passed over, as long as one remains. How much there is to verify is bounded: the
fields by ``FIELD_LIMIT``, and a body by one digest for each algorithm. A wish is a hint: a broken one is none.

Not here: fields in a trailer. Whoever is in between may drop them, and a body is handed on before they come.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import http_sf
from crc32c import crc32c

from relay.errors import DigestMismatch, DigestUnsupported
from relay.protocols.header_rules import Field, find_value, values_of

CONTENT: Final = b"content-digest"
REPR: Final = b"repr-digest"
CONTENT_MD5: Final = b"content-md5"
WISHES: Final[Mapping[bytes, bytes]] = MappingProxyType({b"want-content-digest": CONTENT, b"want-repr-digest": REPR})
"""The fields that ask for a digest, and those that it is told in."""

FIELDS: Final = frozenset([CONTENT, REPR, CONTENT_MD5, *WISHES])
FIELD_LIMIT: Final = 2_048
"""Longest value of one field, its lines combined (bytes); a claim in every registered algorithm has less than 500."""

CRC32C: Final = "crc32c"
SIZES: Final[Mapping[str, int]] = MappingProxyType({"sha-256": 32, "sha-512": 64, "md5": 16, CRC32C: 4})
"""The algorithms that we take, the one that we like best first, and how many bytes their digests have."""

SUPPORTED: Final = b"sha-256=10, sha-512=8, md5=1, crc32c=1"
"""The same as a wish of ours; the deprecated ones last: they are for corruption, not for adversaries."""

MALFORMED: Final = (
    "A digest field is not of its form: write sha-256=:<base64 of the 32 bytes>: into Content-Digest or Repr-Digest (RFC 9530), "
    "or the base64 of 16 bytes into Content-MD5. Or leave it out."
)


@dataclass(frozen=True, slots=True)
class Claims:
    """What was said of a body: its digests by algorithm, and the algorithm that is wanted in each field of an answer."""

    digests: Mapping[str, bytes]
    wanted: Mapping[bytes, str]

    def answer_fields(self, content: bytes) -> list[Field]:
        """The digests that were asked for of an answer of our own.

        An answer that tells what became of a request is what its ``Repr-Digest`` is of, not what was stored (RFC 9530 "Using Repr-Digest in
        State-Changing Requests"): that is told in the answer.
        """
        return [(field, b"%b=:%b:" % (name.encode(), base64.b64encode(_digest(name, content)))) for field, name in self.wanted.items()]


class Digests:
    """The digests of one body, taken as it passes: those that were claimed and those that were asked for."""

    def __init__(self, claims: Claims) -> None:
        self._claimed = claims.digests
        self._hashes = {
            name: _hash(name) for name in SIZES if name != CRC32C and (name in claims.digests or name in claims.wanted.values())
        }

    def update(self, piece: bytes | memoryview) -> None:
        """Take a piece of the body."""
        for taken in self._hashes.values():
            taken.update(piece)

    def leave(self, names: Iterable[str]) -> None:
        """Take no longer what somebody else takes."""
        for name in names:
            self._hashes.pop(name, None)

    def find_fault(self, elsewhere: Mapping[str, bytes]) -> DigestMismatch | None:
        """Say so when the body is not the one claimed, as far as its digests were taken here or ``elsewhere``."""
        for name, claimed in self._claimed.items():
            taken = self._hashes[name].digest() if name in self._hashes else elsewhere.get(name)
            if taken is not None and not hmac.compare_digest(taken, claimed):
                return DigestMismatch(
                    f"The {name} of the body is not the one claimed: it was changed on its way, or claimed wrongly. Send it again."
                )
        return None

    def in_hex(self) -> dict[str, str]:
        """What was taken, by the names of the ledger."""
        return {name.replace("-", ""): taken.hexdigest() for name, taken in self._hashes.items()}


def read_claims(headers: Sequence[Field]) -> Claims | None:
    """Read what a request says of its body; ``None`` when it says nothing.

    Raises:
        DigestUnsupported: a claim is malformed, or none of its algorithms is taken.
        DigestMismatch: two claims contradict each other, so that no body can have both.
    """
    for field, _ in headers:
        if field in FIELDS:
            break
    else:  # the quickest way to know that of a request that says nothing
        return None
    claimed: dict[str, bytes] = {}
    is_part = find_value(headers, b"content-range") is not None
    fields = [_members(headers, CONTENT)] if is_part else [_members(headers, CONTENT), _members(headers, REPR), _content_md5(headers)]
    for members in fields:
        for name, value in members.items():
            if claimed.setdefault(name, value) != value:
                raise DigestMismatch("Two fields claim different digests of one algorithm: no body has both. Claim one.")
    taken = {name: value for name, value in claimed.items() if name in SIZES}
    if claimed and not taken:
        raise DigestUnsupported
    wanted = {told: _find_wanted(headers, wish) for wish, told in WISHES.items()}
    return Claims(taken, {told: best for told, best in wanted.items() if best is not None})


def _members(headers: Sequence[Field], field: bytes) -> dict[str, bytes]:
    """The digests of one field, by algorithm.

    Raises:
        DigestUnsupported: it is malformed.
    """
    found: dict[str, bytes] = {}
    for name, value in _dictionary(headers, field).items():
        if not isinstance(value, bytes) or len(value) != SIZES.get(name, len(value)):
            raise DigestUnsupported(MALFORMED)
        found[name] = value
    return found


def _content_md5(headers: Sequence[Field]) -> dict[str, bytes]:
    values = values_of(headers, CONTENT_MD5)
    if not values:
        return {}
    try:
        digest = base64.b64decode(values[0].strip(), validate=True)
    except binascii.Error:
        digest = b""
    if len(values) > 1 or len(digest) != SIZES["md5"]:
        raise DigestUnsupported(MALFORMED)
    return {"md5": digest}


def _find_wanted(headers: Sequence[Field], field: bytes) -> str | None:
    """The algorithm that is wanted most, of those that we take; of several alike the one that we like best."""
    try:
        members = _dictionary(headers, field)
    except DigestUnsupported:
        return None
    weights = {name: members.get(name) for name in SIZES}
    wanted = {name: weight for name, weight in weights.items() if type(weight) is int and 0 < weight <= 10}  # a flag alone is no weight
    return max(wanted, key=wanted.__getitem__, default=None)


def _dictionary(headers: Sequence[Field], field: bytes) -> dict[str, Any]:
    """The members of a Dictionary, its lines combined, without their parameters.

    Raises:
        DigestUnsupported: it is none, or longer than anybody needs.
    """
    value = b", ".join(filter(None, values_of(headers, field)))
    if len(value) > FIELD_LIMIT:
        raise DigestUnsupported(MALFORMED)
    try:
        members: Any = http_sf.parse(value, tltype="dictionary")
    except ValueError:
        raise DigestUnsupported(MALFORMED) from None
    return {name: member[0] for name, member in members.items()}


def _hash(name: str) -> "hashlib._Hash":
    return hashlib.new(name.replace("-", ""), usedforsecurity=False)


def _digest(name: str, content: bytes) -> bytes:
    if name == CRC32C:
        return crc32c(content).to_bytes(SIZES[CRC32C])
    taken = _hash(name)
    taken.update(content)
    return taken.digest()
