"""The path of an upload: parsed once, matched against routes, mapped to a destination. No I/O.

The raw path is used as it was sent; segments are compared after percent-decoding. What could be read
as another path by anybody behind us is refused here, for every destination alike.
"""

import re
import unicodedata
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from relay.errors import PathInvalid

_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_PLAIN = re.compile(rb"[A-Za-z0-9_\-~!$&'()*+,=:@/]*")


class UploadPath(NamedTuple):
    """The rest of the path after the door: ``raw`` segments as sent, ``segments`` percent-decoded."""

    raw: tuple[bytes, ...]
    segments: tuple[str, ...]

    def starts_with(self, prefix: tuple[str, ...]) -> bool:
        """True when the path's first segments are the prefix's."""
        return self.segments[: len(prefix)] == prefix

    def without(self, count: int) -> "UploadPath":
        """The path without its first ``count`` segments."""
        return UploadPath(self.raw[count:], self.segments[count:])

    @property
    def target(self) -> bytes:
        """The path as it was sent, without a leading slash."""
        return b"/".join(self.raw)


def parse_path(raw: bytes) -> UploadPath:
    """Cut a raw, percent-encoded path into segments and refuse what is not one plain path.

    Raises:
        PathInvalid: a dot segment, an encoded slash or backslash, NUL, a control character, or a
            broken percent escape.
    """
    pieces = tuple(raw.split(b"/"))
    if _PLAIN.fullmatch(raw):
        return UploadPath(pieces, tuple(raw.decode("ascii").split("/")))
    if b"#" in raw:
        raise PathInvalid("The path holds a number sign, which would begin a fragment. Encode it as %23.")
    if _BROKEN_ESCAPE.search(raw):
        raise PathInvalid("The path holds a percent sign that starts no escape. Encode it as %25.")
    return UploadPath(pieces, tuple(_decode_segment(piece) for piece in pieces))


def _decode_segment(piece: bytes) -> str:
    segment = unquote_to_bytes(piece).decode("utf-8", "surrogateescape")
    name = segment.partition(";")[0]  # some servers cut path parameters off and then read '..;x' as '..'
    if name in {".", ".."} or "/" in segment or "\\" in segment:
        raise PathInvalid
    if any(unicodedata.category(character) == "Cc" for character in segment):
        raise PathInvalid
    return segment
