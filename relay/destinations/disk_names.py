"""Which names a file below the root of disk destinations may have, beyond what holds for every key (``keys``): pure judgement, no I/O.

No client's segment may be one of our own temporary names, however the file system folds case or normalises Unicode.
What a name leads to (links, folders) is judged by ``disk_file``, with the folder open.
"""

import unicodedata
from collections.abc import Sequence

from relay.destinations.keys import check_segments
from relay.errors import DestinationMisconfigured, PathInvalid

TEMP_FOLDER = ".relay-tmp"
"""Our own folder below the root; no client's segment begins like it."""


def check_file_names(segments: Sequence[str]) -> None:
    """Refuse a path that holds one of our own names.

    Raises:
        PathInvalid: as it says.
    """
    if any(_folded(segment).startswith(TEMP_FOLDER) for segment in segments):
        raise PathInvalid("The path uses a reserved name.")


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
        check_file_names(segments)
    except PathInvalid:
        raise DestinationMisconfigured("The destination's directory is not a plain path below the root of disk destinations.") from None
    return segments


def _folded(segment: str) -> str:
    """The segment as the most forgiving file system would compare it: case, width and invisible characters folded."""
    visible = "".join(character for character in segment if unicodedata.category(character) != "Cf")
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold())
