"""The register of what runs in one process: what it shows, and who is told what of a cut."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from relay.ledger.entry import Entry, Outcome
from relay.settings import UploadSettings
from relay.uploads.body import RequestBody
from relay.uploads.running import Run, Running, RunningFilter
from tests.support.bodies import SourceOf
from tests.support.entries import make_entry


def make_body() -> RequestBody:
    async def read() -> bytes | None:
        return None

    return RequestBody(SourceOf(read), declared_bytes=None, limit_bytes=None, settings=UploadSettings())


class Attempt:
    """An attempt as far as the register knows one: it waits until it is told to end, or cut."""

    def __init__(self, running: Running, entry: Entry, *, clean_up_seconds: float = 0.0) -> None:
        self.running = running
        self.entry = entry
        self.end = asyncio.Event()
        self.run: Run | None = None
        self._clean_up_seconds = clean_up_seconds
        self.task = asyncio.create_task(self._live())

    async def _live(self) -> None:
        self.run = self.running.enter(self.entry, make_body())
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(self._clean_up_seconds)
            self.entry.outcome = Outcome.CANCELLED if self.run.is_cut else Outcome.RELAY_FAILED
            is_back = self.run.take_cut_back()
            self.running.leave(self.run)
            if not is_back:
                raise
        else:
            self.running.settle(self.run)
            await asyncio.sleep(0)
            self.entry.outcome = Outcome.DELIVERED
            self.running.leave(self.run)


@asynccontextmanager
async def attempts(running: Running, *entries: Entry, clean_up_seconds: float = 0.0) -> AsyncIterator[list[Attempt]]:
    begun = [Attempt(running, entry, clean_up_seconds=clean_up_seconds) for entry in entries]
    await asyncio.sleep(0)
    try:
        yield begun
    finally:
        for attempt in begun:
            attempt.end.set()
        await asyncio.gather(*(attempt.task for attempt in begun), return_exceptions=True)
        assert len(running) == 0


def paths(running: Running, **wanted: str) -> list[str]:
    return [upload.path for upload in running.list_uploads(RunningFilter(**{"limit": 100, **wanted}))]  # type: ignore[arg-type] # text only


async def test_newest_come_first_and_a_page_begins_below_the_last_one() -> None:
    running = Running()
    entries = [make_entry(path=str(number), tenant="even" if number % 2 == 0 else "odd") for number in range(5)]
    async with attempts(running, *reversed(entries)):
        assert paths(running) == ["4", "3", "2", "1", "0"]
        assert paths(running, tenant="odd") == ["3", "1"]
        assert paths(running, before=entries[3].upload_id or "") == ["2", "1", "0"]
        assert paths(running, upload_id=entries[1].upload_id or "") == ["1"]
        assert paths(running, upload_id=entries[1].upload_id or "", tenant="even") == []
        assert [upload.path for upload in running.list_uploads(RunningFilter(limit=2))] == ["4", "3"]


async def test_rate_is_that_of_the_last_two_samples() -> None:
    running = Running()
    async with attempts(running, make_entry()) as [attempt]:
        run = attempt.run
        assert run is not None
        run.body.received_bytes = 1_000_000
        began = run.began
        assert run.show(began + 0.5).rate_bytes_per_second == 2_000_000
        run.sample(began + 1)
        run.body.received_bytes = 1_500_000
        assert run.show(began + 2).rate_bytes_per_second == 750_000, "from its beginning, for it has one sample"
        run.sample(began + 2)
        run.sample(began + 3)
        assert run.show(began + 3).rate_bytes_per_second == 0
        assert (run.show(began + 3).age_seconds, run.show(began + 3).bytes_in) == (3.0, 1_500_000)
        assert run.show(began).rate_bytes_per_second == 0, "no time has passed: nothing is divided by it"
        assert json.loads(json.dumps(run.show(began + 1).show()))["started_at"].endswith("Z")


async def test_samples_are_taken_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.uploads.running.SAMPLE_SECONDS", 0.02)
    running = Running()
    async with attempts(running, make_entry()) as [attempt]:
        run = attempt.run
        assert run is not None
        sampling = asyncio.create_task(running.sample())
        run.body.received_bytes = 7
        async with asyncio.timeout(10):
            while run.newer_bytes != 7:
                await asyncio.sleep(0.005)
        sampling.cancel()
        assert run.newer_at > run.began


async def test_cut_returns_when_the_clean_up_is_over() -> None:
    running = Running()
    async with attempts(running, make_entry(), clean_up_seconds=0.05) as [attempt]:
        assert await running.cut(attempt.entry.upload_id or "") is True
        assert attempt.task.cancelling() == 0
        assert not attempt.task.cancelled()
        assert attempt.entry.outcome is Outcome.CANCELLED
        assert await running.cut(attempt.entry.upload_id or "") is False


async def test_only_the_first_of_many_cuts_is_told_yes_and_clean_up_is_not_disturbed() -> None:
    running = Running()
    async with attempts(running, make_entry(), clean_up_seconds=0.05) as [attempt]:
        cuts = [asyncio.create_task(running.cut(attempt.entry.upload_id or "")) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert running.cut_all("acme") == 0
        assert await asyncio.gather(*cuts) == [True, False, False]


async def test_what_has_settled_cannot_be_cut() -> None:
    running = Running()
    async with attempts(running, make_entry()) as [attempt]:
        attempt.end.set()
        await asyncio.sleep(0)
        assert attempt.entry.outcome is None, "it is being written"
        assert await running.cut(attempt.entry.upload_id or "") is False
        await attempt.task
        assert attempt.entry.outcome is Outcome.DELIVERED


@pytest.mark.parametrize("is_cut_first", [True, False])
async def test_shutdown_ends_the_task_of_an_upload_that_is_cut_as_well(is_cut_first: bool) -> None:
    running = Running()
    async with attempts(running, make_entry()) as [attempt]:
        if not is_cut_first:
            attempt.task.cancel("shutdown")
        cutting = asyncio.create_task(running.cut(attempt.entry.upload_id or ""))
        if is_cut_first:
            await asyncio.sleep(0)
            attempt.task.cancel("shutdown")
        await asyncio.wait({attempt.task})
        assert attempt.task.cancelled(), "who wants the task to end is not taken for the operator"
        assert await cutting is is_cut_first
        assert attempt.entry.outcome is (Outcome.CANCELLED if is_cut_first else Outcome.RELAY_FAILED)


async def test_a_time_limit_that_runs_out_at_the_same_moment_does_not_save_an_upload() -> None:
    running = Running()
    survived = asyncio.Event()

    async def live() -> None:
        run = running.enter(make_entry(), make_body())
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await asyncio.Event().wait()
            survived.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            run.entry.outcome = Outcome.CANCELLED
        assert run.take_cut_back()
        running.leave(run)

    task = asyncio.create_task(live())
    await asyncio.sleep(0)
    while not task.cancelling():
        await asyncio.sleep(0)
    assert running.cut_all("acme") == 1
    await asyncio.wait_for(task, 5)
    assert survived.is_set(), "the limit was no more than a limit"
    assert len(running) == 0


async def test_shutdown_alone_is_no_cut() -> None:
    running = Running()
    async with attempts(running, make_entry()) as [attempt]:
        attempt.task.cancel("shutdown")
        await asyncio.wait({attempt.task})
        assert attempt.entry.outcome is Outcome.RELAY_FAILED
        assert attempt.task.cancelled()


async def test_all_of_a_tenant_or_of_one_key_are_cut_and_nobody_elses() -> None:
    running = Running()
    entries = [
        make_entry(tenant="acme", key_id="a"),
        make_entry(tenant="acme", key_id="b"),
        make_entry(tenant="other", key_id="a"),
    ]
    async with attempts(running, *entries):
        assert running.cut_all("acme", "a") == 1
        await asyncio.sleep(0.01)
        assert [entry.outcome for entry in entries] == [Outcome.CANCELLED, None, None]
        assert running.cut_all("acme") == 1
        await asyncio.sleep(0.01)
        assert [entry.outcome for entry in entries] == [Outcome.CANCELLED, Outcome.CANCELLED, None]
        assert running.cut_all("nobody") == 0


async def test_a_cut_that_never_ends_gives_up_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.uploads.running.ENDING_SECONDS", 0.05)
    running = Running()
    async with attempts(running, make_entry(), clean_up_seconds=0.3) as [attempt]:
        with pytest.raises(TimeoutError):
            await running.cut(attempt.entry.upload_id or "")


async def test_ten_thousand_are_listed_without_holding_the_loop_up() -> None:
    running = Running()
    body = make_body()
    runs = [running.enter(make_entry(tenant=f"t{number % 10}"), body) for number in range(10_000)]
    began = time.process_time()
    page = running.list_uploads(RunningFilter(limit=501, tenant="t3"))
    assert len(page) == 501
    assert time.process_time() - began < 0.5
    for run in runs:
        running.leave(run)
    assert len(running) == 0


async def test_an_upload_that_took_over_an_id_is_not_removed_by_the_one_before() -> None:
    running = Running()
    entry = make_entry()
    first, second = running.enter(entry, make_body()), running.enter(entry, make_body())
    running.leave(first)
    assert len(running) == 1
    running.leave(second)
    assert len(running) == 0
