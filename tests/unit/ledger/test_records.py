"""An entry and its two records say the same."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from relay.ledger.entry import FILENAME_LIMIT, Entry, Outcome, clean_text
from relay.ledger.records import RECORD_MEMBERS, begin_record, finish_record
from relay.ledger.segments import Record, decode_payload
from tests.support.entries import make_entry


def told(framed: bytes) -> tuple[bool, dict[str, Any]]:
    found = decode_payload(framed, 0)
    assert found is not None
    payload, end = found
    assert end == len(framed)
    kind = json.loads(payload)[0]
    return kind == "finished", Record(is_finished=True, payload=payload, members=RECORD_MEMBERS).entry()


def test_begun_and_finished_tell_what_the_entry_says_at_their_time() -> None:
    entry = make_entry(declared_length=0, user_agent="\ud800\x00")
    assert told(begin_record(entry)) == (False, entry.to_json())
    entry.outcome = Outcome.DELIVERED
    entry.digests = {"sha256": "00"}
    entry.filenames = ["a", "b"]
    entry.upstream_wait_ms = 1.5
    assert told(finish_record(entry)) == (True, entry.to_json())


def test_an_entry_that_begins_with_an_outcome_tells_it() -> None:
    entry = make_entry(outcome=Outcome.REFUSED, filenames=[])
    assert told(begin_record(entry)) == (False, entry.to_json())


def test_what_was_told_can_be_made_an_entry_again() -> None:
    entry = make_entry(outcome=Outcome.REJECTED, repeated=3)
    _, members = told(finish_record(entry))
    assert Entry.from_json(members | {"of_a_newer_release": 1}) == entry


@given(st.text(st.characters(exclude_categories=()), max_size=300) | st.binary(max_size=300))
def test_cleaned_text_is_always_what_postgres_takes(value: str | bytes) -> None:
    cleaned = clean_text(value, 64)
    assert cleaned is not None
    assert "\x00" not in cleaned
    cleaned.encode()
    assert len(cleaned) <= 64


def test_a_megabyte_of_name_is_cut() -> None:
    cleaned = clean_text("n\ud800" * 500_000, FILENAME_LIMIT)
    assert cleaned == "n\ufffd" * (FILENAME_LIMIT // 2)
