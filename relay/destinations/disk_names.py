"""Which names an object on disk may have: pure judgement, no I/O.

A client chooses the path, so every segment is taken for hostile: it must be one plain file name, on
every file system that may lie below the root, and never one of our own temporary names, however the
file system folds case or normalises Unicode. What a name leads to (links, folders) is judged by
``disk_file``, with the folder open.
"""

import unicodedata
from collections.abc import Sequence

from relay.errors import DestinationMisconfigured, PathInvalid

TEMP_FOLDER = ".relay-tmp"
"""Our own folder below the root; no client's segment begins like it."""

SEGMENT_BYTES = 255
PATH_BYTES = 2_048
PATH_SEGMENTS = 64
_PLACEHOLDER = "{path}"


def object_segments(template: str, segments: Sequence[str]) -> tuple[str, ...]:
    """Make the segments of an object's key from a key template and the path that the client chose.

    Raises:
        PathInvalid: the path or the key made of it is not a plain relative path of a file.
    """
    check_segments(segments)
    key = template.replace(_PLACEHOLDER, "/".join(segments))
    placed = tuple(key.split("/"))
    check_segments(placed)
    return placed


def folder_segments(directory: str) -> tuple[str, ...]:
    """Cut a destination's configured directory into segments; ``.`` or nothing is the root itself.

    Raises:
        DestinationMisconfigured: it is not a plain relative path.
    """
    if directory in {"", "."}:
        return ()
    segments = tuple(directory.removesuffix("/").split("/"))
    try:
        check_segments(segments)
    except PathInvalid:
        raise DestinationMisconfigured("The destination's directory is not a plain path below the root of disk destinations.") from None
    return segments


def check_segments(segments: Sequence[str]) -> None:
    """Refuse what is not a plain relative path of a file.

    Raises:
        PathInvalid: says which rule the path breaks.
    """
    if not segments or segments[-1] == "":
        raise PathInvalid("The path names no file. End it with a file name, without a trailing slash.")
    if len(segments) > PATH_SEGMENTS:
        raise PathInvalid(f"The path has more than {PATH_SEGMENTS} segments.")
    if sum(_check_segment(segment) + 1 for segment in segments) > PATH_BYTES:
        raise PathInvalid(f"The path is longer than {PATH_BYTES} bytes.")


def _check_segment(segment: str) -> int:
    """Return the segment's length in bytes."""
    if segment in {"", ".", ".."}:
        raise PathInvalid("The path holds an empty segment or a dot segment.")
    if "/" in segment or "\\" in segment or any(unicodedata.category(character) == "Cc" for character in segment):
        raise PathInvalid
    try:
        length = len(segment.encode())
    except UnicodeEncodeError:
        raise PathInvalid("The path is not UTF-8.") from None
    if length > SEGMENT_BYTES:
        raise PathInvalid(f"A segment of the path is longer than {SEGMENT_BYTES} bytes.")
    if _folded(segment).startswith(TEMP_FOLDER):
        raise PathInvalid("The path uses a reserved name.")
    return length


def _folded(segment: str) -> str:
    """The segment as the most forgiving file system would compare it: case, width and invisible characters folded."""
    visible = "".join(character for character in segment if unicodedata.category(character) != "Cf")
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold())
