"""How an entry becomes the two records that the journal keeps of it: all that it says, at its beginning and at its end."""

from operator import attrgetter
from typing import Final

from relay.json_text import encode
from relay.ledger.entry import ENTRY_MEMBERS, Entry
from relay.ledger.segments import frame_payload

RECORD_MEMBERS: Final = ENTRY_MEMBERS
"""They open every segment, so they may change from release to release."""

_values: Final = attrgetter(*RECORD_MEMBERS)


def begin_record(entry: Entry) -> bytes:
    """Encode that an entry has begun."""
    return frame_payload(encode(("begun", *_values(entry))))


def finish_record(entry: Entry) -> bytes:
    """Encode that an entry is finished."""
    return frame_payload(encode(("finished", *_values(entry))))
