"""The record format: what is written is read, and a broken tail or record costs no other."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.ledger.segments import READ_BYTES, RECORD_LIMIT, End, Record, frame_payload, members_record, read_segment

MEMBERS = ("request_id", "path")
OPENING = members_record(MEMBERS)
texts = st.text(st.characters(exclude_categories=()), max_size=40)


def encode(kind: str, *values: str | None) -> bytes:
    return frame_payload(json.dumps([kind, *values]).encode())


def read_all(path: Path, most_finished: int = 500) -> tuple[list[Record], End]:
    records: list[Record] = []
    reading = read_segment(path, most_finished=most_finished)
    while reading.end is End.MORE:
        records += reading.records
        reading = read_segment(path, reading.offset, reading.members, most_finished=most_finished)
    return records + list(reading.records), reading.end


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    return tmp_path / "00000001.segment"


@given(entries=st.lists(st.tuples(texts, texts), max_size=8), cut=st.integers(0, 2_000), most=st.integers(1, 3))
def test_whatever_was_cut_off_every_whole_record_is_read_and_no_other(entries: list[tuple[str, str]], cut: int, most: int) -> None:
    framed = [encode("finished", *entry) for entry in entries]
    whole = OPENING + b"".join(framed)
    kept = whole[: max(0, len(whole) - cut)]
    boundaries = [0, len(OPENING)]
    for record in framed:
        boundaries.append(boundaries[-1] + len(record))
    with TemporaryDirectory() as folder:
        path = Path(folder, "segment")
        path.write_bytes(kept)
        records, end = read_all(path, most)
    survivors = sum(boundary <= len(kept) for boundary in boundaries[2:])
    expected = [dict(zip(MEMBERS, entry, strict=True)) for entry in entries[:survivors]]
    assert [record.entry() for record in records] == expected
    assert end is (End.WHOLE if len(kept) in boundaries else End.TORN)


@given(position=st.integers(0), bit=st.integers(0, 7))
def test_a_flipped_bit_never_yields_a_record_that_was_not_written(position: int, bit: int) -> None:
    written = [("id-1", "a"), ("id-2", "b"), ("id-3", "c")]
    data = bytearray(OPENING + b"".join(encode("finished", *entry) for entry in written))
    data[position % len(data)] ^= 1 << bit
    with TemporaryDirectory() as folder:
        path = Path(folder, "segment")
        path.write_bytes(data)
        records, end = read_all(path)
    assert end in (End.TORN, End.CORRUPT)
    assert [(record.entry()["request_id"], record.entry()["path"]) for record in records] == written[: len(records)]


def test_a_corrupt_record_ends_the_reading_of_its_segment(segment: Path) -> None:
    bad = bytearray(encode("finished", "2", "b"))
    bad[-3] ^= 0xFF
    segment.write_bytes(OPENING + encode("finished", "1", "a") + bad + encode("finished", "3", "c"))
    records, end = read_all(segment)
    assert ([record.entry()["request_id"] for record in records], end) == (["1"], End.CORRUPT)


def test_zeros_at_the_end_are_a_torn_tail_and_zeros_before_a_record_are_not(segment: Path) -> None:
    one = encode("finished", "1", "a")
    segment.write_bytes(OPENING + one + bytes(3 * READ_BYTES))
    assert read_all(segment)[1] is End.TORN
    segment.write_bytes(OPENING + one + bytes(100) + one)
    assert read_all(segment)[1] is End.CORRUPT


def test_a_record_longer_than_one_read_is_read(segment: Path) -> None:
    long = "x" * (2 * READ_BYTES)
    segment.write_bytes(OPENING + encode("finished", "1", "a") + encode("finished", "2", long) + encode("finished", "3", "c"))
    records, end = read_all(segment)
    assert ([record.entry()["path"] for record in records], end) == (["a", long, "c"], End.WHOLE)


def test_a_reader_stops_where_it_is_told_to(segment: Path) -> None:
    first = OPENING + encode("finished", "1", "a")
    segment.write_bytes(first + b"half a record")
    assert read_segment(segment, stop=len(first)).end is End.WHOLE


def test_a_limited_reading_goes_on_where_it_stopped(segment: Path) -> None:
    segment.write_bytes(OPENING + encode("begun", "1", "a") + encode("finished", "1", "a") + encode("finished", "2", "b"))
    first = read_segment(segment, most_finished=1)
    assert ([record.is_finished for record in first.records], first.end) == ([False, True], End.MORE)
    second = read_segment(segment, first.offset, first.members, most_finished=1)
    assert ([record.entry() for record in second.records], second.end) == ([{"request_id": "2", "path": "b"}], End.WHOLE)


def test_values_are_named_by_their_own_segment(segment: Path) -> None:
    segment.write_bytes(members_record(("path", "new_member", "request_id")) + encode("finished", "a", None, "1"))
    assert [record.entry() for record in read_all(segment)[0]] == [{"path": "a", "request_id": "1"}]


def test_text_that_no_database_takes_travels_unharmed(segment: Path) -> None:
    hostile = "\x00 \ud800 \U0001f600 \u2028"
    segment.write_bytes(OPENING + encode("finished", "1", hostile))
    assert read_all(segment)[0][0].entry()["path"] == hostile


def test_a_record_that_no_reader_would_believe_is_not_written() -> None:
    with pytest.raises(ValueError, match="bytes"):
        frame_payload(b"x" * (RECORD_LIMIT + 1))


@pytest.mark.parametrize("payload", [b"{}", b'"finished"', b"12", b"not json"])
def test_a_payload_that_is_no_entry_says_so(payload: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own, or ours
        Record(is_finished=True, payload=payload, members=MEMBERS).entry()
