"""The record format of the journal's segments: how one record is written and how a segment is read.

A record is eight bytes of head (length and CRC-32C of the payload, both big-endian) and the payload, a JSON
array whose first element says what it is:

- ``["members", "request_id", …]`` opens every segment and names the values of the entries that follow, so that
  an entry costs half of what an object would cost to write, and any other release can still read it;
- ``["begun", …values]`` and ``["finished", …values]`` tell an entry.

A segment is read from its start, record by record, until one of three ends:

- its end, at a record's boundary;
- a *torn tail*: what is left is shorter than a record, or nothing but zeros (what a power cut leaves of a
  file whose length was written and whose content was not). Nothing follows it; it is dropped;
- a *corrupt* record: all its bytes are there and they are not what was written. Where the next record
  begins is unknown, so the rest of this segment cannot be read. Other segments can.

Not here: how an entry becomes a payload (``records``); which files there are and whose they are (``journal``,
``folders``, ``adoption``).
"""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final

from crc32c import crc32c

from relay.json_text import decode, encode

SEGMENT_SUFFIX: Final = ".segment"
RECORD_LIMIT: Final = 16 << 20  # a longer length is not ours: the record is corrupt
READ_BYTES: Final = 1 << 20

_HEAD: Final = struct.Struct(">II")
_MEMBERS_PREFIX: Final = b'["members",'
_FINISHED_PREFIX: Final = b'["finished",'


class RecordCorrupt(Exception):
    """The bytes of a record are all there and are not what was written."""


class End(Enum):
    """Why reading stopped."""

    MORE = auto()  # it did not: read again from where it stopped
    WHOLE = auto()  # the segment ends here, at a record's boundary
    TORN = auto()
    CORRUPT = auto()


@dataclass(frozen=True, slots=True)
class Record:
    """One entry as read. ``payload`` is its JSON and ``members`` name its values; none of it has been judged."""

    is_finished: bool
    payload: bytes
    members: tuple[str, ...]

    def entry(self) -> dict[str, Any]:
        """The entry's values by name, those that are null left out.

        Raises:
            ValueError: it is not the JSON of an entry.
            RecursionError: nor could it be.
        """
        values = decode(self.payload)
        if not isinstance(values, list):
            raise ValueError("an entry is an array")  # noqa: TRY004 - as any other text that is not the JSON of an entry
        return {name: value for name, value in zip(self.members, values[1:], strict=False) if value is not None}


@dataclass(frozen=True, slots=True)
class Reading:
    """What one read of a segment gave; the next one begins at ``offset`` with these ``members``."""

    records: tuple[Record, ...]
    offset: int
    members: tuple[str, ...]
    end: End

    @property
    def finished(self) -> tuple[Record, ...]:
        """The records of finished entries, in their order."""
        return tuple(record for record in self.records if record.is_finished)


def members_record(members: Sequence[str]) -> bytes:
    """Encode the record that opens a segment."""
    return frame_payload(encode(("members", *members)))


def frame_payload(payload: bytes) -> bytes:
    """Put a record's head in front of its payload.

    Raises:
        ValueError: the payload is longer than a reader would believe.
    """
    if len(payload) > RECORD_LIMIT:
        raise ValueError(f"a record of {len(payload)} bytes")
    return _HEAD.pack(len(payload), crc32c(payload)) + payload


def decode_payload(data: bytes, offset: int) -> tuple[bytes, int] | None:
    """Read the payload of the record at ``offset`` and say where it ends; ``None`` when ``data`` ends before it does.

    Raises:
        RecordCorrupt: the record is not what was written.
    """
    start = offset + _HEAD.size
    if len(data) < start:
        return None
    length, checksum = _HEAD.unpack_from(data, offset)
    if not 0 < length <= RECORD_LIMIT:
        raise RecordCorrupt(f"a length of {length} bytes")
    if len(data) < start + length:
        return None
    payload = data[start : start + length]
    if crc32c(payload) != checksum:
        raise RecordCorrupt("the checksum differs")
    return payload, start + length


def read_segment(
    path: Path, offset: int = 0, members: tuple[str, ...] = (), *, stop: int | None = None, most_finished: int = 500
) -> Reading:
    """Read records from ``offset`` on: about 1 MiB of them, at most ``most_finished`` finished ones.

    ``members`` are those of the reading before; ``stop`` is where the segment ends for this reader (default:
    the file's size). Blocks on the disk.

    Raises:
        OSError: the file cannot be read.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(file).st_size
        last = size if stop is None else min(stop, size)
        want = max(0, min(READ_BYTES, last - offset))
        data = os.pread(file, want, offset)
        needed = _bytes_of_first_record(data)
        if want < needed <= last - offset:
            data = os.pread(file, needed, offset)
        reading = _decode(data, members, most_finished)
        reading = replace(reading, end=_end_of(reading, len(data), last - offset, is_limited=len(reading.finished) >= most_finished))
        if reading.end is End.CORRUPT and _is_zero_from(file, offset + reading.offset, last):
            reading = replace(reading, end=End.TORN)
    finally:
        os.close(file)
    return replace(reading, offset=offset + reading.offset)


def _bytes_of_first_record(data: bytes) -> int:
    return _HEAD.size + min(_HEAD.unpack_from(data)[0], RECORD_LIMIT) if len(data) >= _HEAD.size else 0


def _decode(data: bytes, members: tuple[str, ...], most_finished: int) -> Reading:
    records: list[Record] = []
    position = finished = 0
    while finished < most_finished:
        try:
            found = decode_payload(data, position)
            if found is None:
                break
            payload, after = found
            if payload.startswith(_MEMBERS_PREFIX):
                members = tuple(decode(payload)[1:])
            else:
                records.append(Record(payload.startswith(_FINISHED_PREFIX), payload, members))
                finished += records[-1].is_finished
        except (RecordCorrupt, ValueError):
            return Reading(tuple(records), position, members, End.CORRUPT)
        position = after
    return Reading(tuple(records), position, members, End.MORE)


def _end_of(reading: Reading, length: int, left: int, *, is_limited: bool) -> End:
    """Say how a reading of ``length`` bytes ended, where ``left`` bytes were there to be read."""
    if reading.end is End.CORRUPT:
        return End.CORRUPT
    if reading.offset == left:
        return End.WHOLE
    # A record that only this read has cut begins the next one, which takes all of it.
    return End.MORE if is_limited or (length < left and reading.offset) else End.TORN


def _is_zero_from(file: int, offset: int, last: int) -> bool:
    while offset < last:
        data = os.pread(file, min(READ_BYTES, last - offset), offset)
        if not data:
            break
        if data.strip(b"\0"):
            return False
        offset += len(data)
    return True
