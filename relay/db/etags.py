"""Strong entity tags, and the comparison that ``If-Match`` asks for (RFC 9110, "If-Match").

A tag is derived from what is stored, so that every process makes the same one. The comparison belongs into the
transaction of the change, after the row is locked: otherwise two changes could both find the tag they expect.
"""

import hashlib

from relay.errors import EtagMismatch


def make_etag(*parts: object) -> str:
    """Make a strong tag from the members that identify one state of one object."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode("utf-8", "surrogatepass"))
    return f'"{digest.hexdigest()[:32]}"'


def check_if_match(etag: str, if_match: str | None) -> None:
    """Compare the current tag with the field value of ``If-Match``; ``None`` and ``*`` fit every object.

    Raises:
        EtagMismatch: the object is not in a state that the caller has seen.
    """
    if if_match is None or if_match.strip() == "*":
        return
    # A weak tag (W/"…") never equals a strong one: If-Match compares strongly.
    if etag not in {tag.strip() for tag in if_match.split(",")}:
        raise EtagMismatch
