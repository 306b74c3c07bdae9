"""Opaque cursors of listings, and the page that a listing returns.

A cursor holds the sort key of the last item of a page, as base64url of a JSON array. It is not a secret and
not signed: a forged one can only name another place in a listing that its reader may read anyway. Not here:
the queries; a listing takes the decoded key and asks for what comes after it.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from relay.errors import FieldError, RequestInvalid

LIMIT_DEFAULT = 50
LIMIT_MOST = 500
CURSOR_LONGEST = 1_024

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """One page of a listing; ``next`` is the cursor of the following page, ``None`` at the end."""

    items: tuple[Item, ...]
    next: str | None


def encode_cursor(*key: str) -> str:
    """Make the cursor that follows the item with this sort key."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, parts: int) -> tuple[str, ...]:
    """Read the sort key of ``parts`` members from a cursor.

    Raises:
        RequestInvalid: it is not a cursor of such a listing.
    """
    if len(cursor) > CURSOR_LONGEST:
        raise broken_cursor()
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (UnicodeError, binascii.Error, ValueError, RecursionError):
        raise broken_cursor() from None
    if not isinstance(key, list) or len(key) != parts or not all(_is_text(part) for part in key):
        raise broken_cursor()
    return tuple(key)


def decode_time(part: str) -> datetime:
    """Read a member of a cursor that holds a time with its zone.

    Raises:
        RequestInvalid: it does not.
    """
    try:
        at = datetime.fromisoformat(part)
        if at.tzinfo is None:
            raise broken_cursor()
        return at.astimezone(UTC)
    except (ValueError, OverflowError):  # a forged zone may lead out of the years that there are
        raise broken_cursor() from None


def broken_cursor() -> RequestInvalid:
    """The refusal of a cursor that this listing did not make."""
    error = FieldError(("query", "cursor"), "cursor_invalid", "Send the 'next' of an earlier page, unchanged, or no cursor.")
    return RequestInvalid("The cursor is not one of this listing.", errors=[error])


def check_limit(limit: int) -> None:
    """Raise ``RequestInvalid`` unless a page of this many items may be asked for."""
    if not 1 <= limit <= LIMIT_MOST:
        error = FieldError(("query", "limit"), "limit_invalid", f"Ask for 1 to {LIMIT_MOST} items.")
        raise RequestInvalid("The limit is out of range.", errors=[error])


def split_page(rows: Sequence[Item], limit: int) -> tuple[Sequence[Item], bool]:
    """Cut the one row that was read beyond the limit; the second value says whether there was one."""
    return rows[:limit], len(rows) > limit


def _is_text(part: object) -> bool:
    # Postgres takes neither NUL nor lone surrogates, and a forged cursor may hold both.
    return isinstance(part, str) and "\x00" not in part and part.isprintable()
