"""How an entry becomes the two records that the journal keeps of it.

Encoding is most of what an entry costs on the request path, so nothing is encoded twice: the values that are
known when an entry begins stand first, and their JSON is used again when it finishes. Should one of them have
changed meanwhile, it is encoded anew; a *finished* record always says all that the entry says.

``RECORD_MEMBERS`` opens every segment, so this order may change from release to release.
"""

import json
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

from relay.ledger.entry import ENTRY_MEMBERS, Entry
from relay.ledger.segments import frame_payload

_OPENING: Final = (
    "request_id",
    "client_request_id",
    "upload_id",
    "tenant",
    "key_id",
    "destination",
    "method",
    "path",
    "protocol",
    "declared_length",
    "content_type",
    "started_us",
    "client_address",
    "user_agent",
    "trace_id",
    "version",
    "worker",
)
_CLOSING: Final = tuple(name for name in ENTRY_MEMBERS if name not in _OPENING)
RECORD_MEMBERS: Final = _OPENING + _CLOSING

_opening_values = attrgetter(*_OPENING)
_closing_values = attrgetter(*_CLOSING)
_encode_json: Final = json.JSONEncoder(separators=(",", ":"), check_circular=False, default=str).encode


@dataclass(slots=True)
class Begun:
    """An entry that is open: its record, and its first values with their JSON."""

    record: bytes
    values: tuple[Any, ...]
    text: str


def begin_record(entry: Entry) -> Begun:
    """Encode that an entry has begun."""
    values = _opening_values(entry)
    text = _encode_json(values)[1:-1]
    closing = _closing_values(entry)
    rest = _UNTOUCHED_JSON if closing == _UNTOUCHED else _encode_json(closing)[1:]
    return Begun(frame_payload(f'["begun",{text},{rest}'.encode()), values, text)


def finish_record(entry: Entry, begun: Begun | None) -> bytes:
    """Encode that an entry is finished; ``begun`` is what ``begin_record`` made of it, if it began."""
    values = _opening_values(entry)
    text = begun.text if begun is not None and begun.values == values else _encode_json(values)[1:-1]
    return frame_payload(f'["finished",{text},{_encode_json(_closing_values(entry))[1:]}'.encode())


_UNTOUCHED: Final[tuple[Any, ...]] = _closing_values(Entry(request_id="", tenant="", method="", path="", started_us=0))
_UNTOUCHED_JSON: Final = _encode_json(_UNTOUCHED)[1:]
