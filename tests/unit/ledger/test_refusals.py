"""A client in a loop does not fill the ledger, and every refusal counts."""

from pathlib import Path
from typing import Any

import pytest

from relay.ledger.entry import Entry, Outcome
from relay.ledger.folders import list_segments
from relay.ledger.journal import Journal
from relay.ledger.refusals import Refusals
from relay.ledger.segments import read_segment
from relay.settings import LedgerSettings
from tests.support.entries import finished_entry, make_entry, open_journal


class Clock:
    """Seconds that pass when the test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def refusal(**members: Any) -> Entry:
    known: dict[str, Any] = {"outcome": Outcome.REFUSED, "code": "key_expired", "status": 401, "bytes_in": 3, "bytes_delivered": 0}
    return finished_entry(**{**known, **members})


def told(journal: Journal) -> list[dict[str, Any]]:
    journal._disk.submit(lambda: None).result()  # segments without a finished entry go in this thread: first those, then the list
    return [record.entry() for path in list_segments(journal.folder) for record in read_segment(path).finished]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return open_journal(tmp_path, max_bytes=32 << 10)


@pytest.fixture
def refusals(journal: Journal, clock: Clock) -> Refusals:
    return Refusals(journal, LedgerSettings(refusals_per_second=3), clock)


async def test_refusals_beyond_the_rate_become_one_entry_a_second(journal: Journal, refusals: Refusals, clock: Clock) -> None:
    for _ in range(10):
        await refusals.tell(refusal())
    assert [entry.get("repeated") for entry in told(journal)] == [None] * 3
    clock.now += 1
    await refusals.tell(refusal())
    assert [entry.get("repeated") for entry in told(journal)] == [None] * 3 + [7, None]
    assert told(journal)[3]["bytes_in"] == 21
    journal.close()


async def test_each_tenant_has_a_rate_of_its_own(journal: Journal, refusals: Refusals) -> None:
    for tenant in ("acme", "globex"):
        for _ in range(3):
            await refusals.tell(refusal(tenant=tenant))
    assert [entry["tenant"] for entry in told(journal)] == ["acme"] * 3 + ["globex"] * 3
    journal.close()


async def test_members_in_which_the_summed_ones_differ_are_null(journal: Journal, refusals: Refusals) -> None:
    for number in range(6):
        await refusals.tell(refusal(code=f"code-{number}", client_address="10.0.0.1"))
    await refusals.flush()
    summed = told(journal)[-1]
    assert ("code" in summed, summed["client_address"], summed["repeated"], summed["status"]) == (False, "10.0.0.1", 3, 401)
    journal.close()


async def test_the_timer_tells_the_seconds_that_are_over_and_forgets_them(journal: Journal, refusals: Refusals, clock: Clock) -> None:
    for _ in range(5):
        await refusals.tell(refusal())
    await refusals._tell_sums(is_over=True)
    assert len(told(journal)) == 3
    clock.now += 1
    await refusals._tell_sums(is_over=True)
    assert [entry.get("repeated") for entry in told(journal)] == [None, None, None, 2]
    assert not refusals._windows
    journal.close()


async def test_a_full_journal_gets_no_refusals_until_it_has_room_and_none_is_forgotten(
    journal: Journal, refusals: Refusals, clock: Clock
) -> None:
    while not journal.is_full:
        journal.begin(make_entry())
    before = len(told(journal))
    for _ in range(20):
        await refusals.tell(refusal(code="journal_full"))
        clock.now += 0.5
        await refusals._tell_sums(is_over=True)
    assert len(told(journal)) == before
    await refusals.flush()
    assert [entry.get("repeated") for entry in told(journal)[before:]] == [20]
    journal.close()


async def test_a_refusal_that_the_disk_refuses_is_summed_up_and_does_not_fail_its_caller(journal: Journal, refusals: Refusals) -> None:
    journal.close()
    await refusals.tell(refusal())
    await refusals.tell(refusal())
    assert refusals._windows["acme"].sum is not None
    assert refusals._windows["acme"].sum.repeated == 2
