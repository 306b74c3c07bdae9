"""One request's account, and the closed table of outcomes.

An entry is opened when the tenant is known and finished once. It travels as JSON through the journal
and becomes one row of the ledger. Times are integer microseconds since the epoch, so that a replay is
equal to the first telling to the last digit. Text is cleaned when it is put in, never later: Postgres
takes neither NUL nor lone surrogates, and one such value would fail a whole batch.
"""

import dataclasses
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from operator import attrgetter
from typing import Any, Self

PATH_LIMIT = 2_048
FILENAME_LIMIT = 1_024
USER_AGENT_LIMIT = 512
TEXT_LIMIT = 1_024
OBJECTS_LIMIT = 1_000
FIELDS_LIMIT = 100
OBJECTS_TEXT_LIMIT = 256 * 1024


class Outcome(StrEnum):
    """How a request ended. Closed: the ledger's check constraint holds the same list."""

    DELIVERED = "delivered"
    REJECTED = "rejected"
    REFUSED = "refused"
    CLIENT_FAULT = "client_fault"
    CLIENT_GONE = "client_gone"
    DESTINATION_FAILED = "destination_failed"
    RELAY_FAILED = "relay_failed"
    INTERRUPTED = "interrupted"
    ACCEPTED = "accepted"
    CANCELLED = "cancelled"


def now_us() -> int:
    """Wall-clock time in microseconds since the epoch."""
    return time.time_ns() // 1_000


def clean_text(value: str | bytes | None, limit: int = TEXT_LIMIT) -> str | None:
    """Make text that Postgres takes: NUL and lone surrogates become U+FFFD, at most ``limit`` characters."""
    if value is None:
        return None
    if isinstance(value, bytes):
        value = value[: limit * 4].decode("utf-8", "replace")
    value = value[:limit]
    if "\x00" in value:
        value = value.replace("\x00", "\ufffd")
    try:
        value.encode()
    except UnicodeEncodeError:
        value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def clean_objects(objects: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    """Make the objects of a receipt fit to be kept: text cleaned and cut to its limit; none is null.

    The first thousand are kept, fewer where they have more characters than ``OBJECTS_TEXT_LIMIT``: a page has five hundred entries.
    Names and types of form parts are the client's words, and an object's key repeats its path.
    """
    kept: list[dict[str, Any]] = []
    characters = 0
    for stored in islice(objects, OBJECTS_LIMIT):
        cleaned = {name: _clean_member(name, value) for name, value in stored.items()}
        characters += sum(len(value) for value in cleaned.values() if isinstance(value, str))
        if characters > OBJECTS_TEXT_LIMIT:
            break
        kept.append(cleaned)
    return kept or None


def clean_filenames(names: Iterable[str | None]) -> list[str] | None:
    """Make the file names that a form gave fit to be kept, as many as its objects; none is null."""
    kept = [cleaned for name in islice(names, OBJECTS_LIMIT) if (cleaned := clean_text(name, FILENAME_LIMIT))]
    return kept or None


def clean_fields(pairs: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    """Make the plain fields of a form fit to be kept: text cleaned and cut to its limit, the first of them."""
    return [{"name": clean_text(name) or "", "value": clean_text(value) or ""} for name, value in islice(pairs, FIELDS_LIMIT)]


def _clean_member(name: str, value: Any) -> Any:
    return clean_text(value, PATH_LIMIT if name == "key" else TEXT_LIMIT) if isinstance(value, str) else value


@dataclass(slots=True, kw_only=True)
class Entry:
    """The account of one request. Members and their order are those of the ledger's REST listing."""

    request_id: str
    client_request_id: str | None = None
    upload_id: str | None = None
    tenant: str
    key_id: str | None = None
    destination: str | None = None
    method: str
    path: str
    protocol: str = "plain"
    outcome: Outcome | None = None
    code: str | None = None
    early: bool = False
    client_left: bool = False
    repeated: int | None = None
    status: int | None = None
    upstream_status: int | None = None
    bytes_in: int = 0
    bytes_delivered: int = 0
    bytes_out: int = 0
    declared_length: int | None = None
    content_type: str | None = None
    filenames: list[str] | None = None
    digests: dict[str, str] | None = None
    started_us: int
    first_byte_us: int | None = None
    body_complete_us: int | None = None
    finished_us: int | None = None
    upstream_wait_ms: float | None = None
    client_address: str | None = None
    user_agent: str | None = None
    trace_id: str | None = None
    version: str | None = None
    worker: str | None = None
    objects: list[dict[str, Any]] | None = None
    fields: list[dict[str, str]] | None = None

    def to_json(self) -> dict[str, Any]:
        """The entry as a JSON object, made to be encoded at once; members that are null are left out."""
        return {name: value for name, value in zip(ENTRY_MEMBERS, _get_members(self), strict=True) if value is not None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` wrote; unknown members (of a newer release) are ignored."""
        known = {name: value[name] for name in ENTRY_MEMBERS if name in value}
        if known.get("outcome") is not None:
            known["outcome"] = Outcome(known["outcome"])
        return cls(**known)


ENTRY_MEMBERS = tuple(member.name for member in dataclasses.fields(Entry))
_get_members = attrgetter(*ENTRY_MEMBERS)
