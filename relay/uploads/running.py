"""The uploads that run in this process: who sends what, how fast, since when; and how one of them is cut.

An attempt enters when it has begun and leaves when it has finished; nothing is done for a chunk. What is shown is
read off the entry and the body when somebody asks. Rates come from samples that a loop takes once a second.

Cutting cancels the upload's task, and nothing else: its delivery is aborted by the clean-up that it has anyway, and
its attempt, which asks ``Run.is_cut``, finishes the entry as ``cancelled``. Two rules keep that honest:

- A run that has settled (its delivery can no longer be taken back) leaves the register at once, in the same step of
  the loop: what is as good as delivered cannot be cut any more.
- ``cut`` returns when the entry has finished, and says yes only if it finished as ``cancelled`` by this very cut.

A client that leaves while nothing is read from it is cut off the same way; its body says then that it is gone, and so does the entry.

Not here: other processes (``live_socket``, ``siblings``), and who may cut (``live``).
"""

import asyncio
import logging
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

from relay.ledger.entry import Entry, Outcome
from relay.uploads.body import RequestBody

logger = logging.getLogger(__name__)

SAMPLE_SECONDS: Final = 1.0
SAMPLES_AT_ONCE: Final = 1_000
ENDING_SECONDS: Final = 5.0
"""How long whoever cuts waits for the end. Clean-up is bounded well below it."""
RETRY_SECONDS: Final = 0.01
AGE_LEAST: Final = 0.05
"""Below this age (seconds) a rate says more about the clock than about the client."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningUpload:
    """What is shown of an upload while it runs. Travels between processes as JSON."""

    upload_id: str
    request_id: str
    tenant: str
    key_id: str | None
    destination: str | None
    method: str
    path: str
    bytes_in: int
    declared_length: int | None
    rate_bytes_per_second: int
    age_seconds: float
    started_us: int
    client_address: str | None
    worker: str | None

    def show(self) -> dict[str, Any]:
        """The members of the REST listing, in its order, as JSON has them."""
        members = asdict(self)
        del members["started_us"], members["client_address"], members["worker"]
        started_at = _EPOCH + timedelta(microseconds=self.started_us)
        members["started_at"] = started_at.isoformat(timespec="microseconds").replace("+00:00", "Z")
        return members | {"client_address": self.client_address, "worker": self.worker}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningFilter:
    """Which running uploads to show: newest first, ``limit`` at most, those with a lower id than ``before``."""

    limit: int
    upload_id: str | None = None
    tenant: str | None = None
    before: str | None = None

    def lets_through(self, entry: Entry) -> bool:
        """True when the upload of this entry is wanted."""
        return (self.tenant is None or entry.tenant == self.tenant) and (self.before is None or (entry.upload_id or "") < self.before)


class Run:
    """One upload that runs: its entry, its body, its task, and two samples of how far it has come."""

    # Of the class until they change: most uploads end before they are ever sampled, and few are cut.
    older_bytes = newer_bytes = 0
    is_wanted = is_cut = is_over = False
    ended: asyncio.Event | None = None

    def __init__(self, entry: Entry, body: RequestBody) -> None:
        self.entry = entry
        self.body = body
        self.task = asyncio.current_task()
        self.began = self.older_at = self.newer_at = time.monotonic()

    def sample(self, now: float) -> None:
        """Remember how far it has come."""
        self.older_at, self.older_bytes = self.newer_at, self.newer_bytes
        self.newer_at, self.newer_bytes = now, self.body.received_bytes

    def show(self, now: float) -> RunningUpload:
        """Show it as it is now. Its rate is that of the last one to two seconds."""
        entry = self.entry
        received = self.body.received_bytes
        return RunningUpload(
            upload_id=entry.upload_id or "",
            request_id=entry.request_id,
            tenant=entry.tenant,
            key_id=entry.key_id,
            destination=entry.destination,
            method=entry.method,
            path=entry.path,
            bytes_in=received,
            declared_length=entry.declared_length,
            rate_bytes_per_second=round((received - self.older_bytes) / max(now - self.older_at, AGE_LEAST)),
            age_seconds=round(now - self.began, 3),
            started_us=entry.started_us,
            client_address=entry.client_address,
            worker=entry.worker,
        )

    def cut(self) -> bool:
        """Have it end; true for whoever is first to want it."""
        is_first = not self.is_wanted
        self.is_wanted = True
        if is_first:
            self._cancel()
        return is_first

    def _cancel(self) -> None:
        """Cancel the task, unless somebody else is cancelling it at this moment.

        If that is the shutdown, a second cancellation would break the clean-up of the first. If it is a time limit that
        has just run out, the task may go on: then it is cancelled a little later.
        """
        if self.is_over or self.task is None:
            return
        if self.task.cancelling():
            self.task.get_loop().call_later(RETRY_SECONDS, self._cancel)
            return
        self.is_cut = True
        self.task.cancel("cut")

    def take_cut_back(self) -> bool:
        """Take the request to cancel back, once it has done its work; true when nobody else wants the task to end."""
        return self.is_cut and self.task is not None and self.task.uncancel() == 0


class Running:
    """The register of one process. Everything runs on the event loop's thread."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}

    def __len__(self) -> int:
        return len(self._runs)

    # ── what an attempt calls ────────────────────────────────────────────────────────────────────

    def enter(self, entry: Entry, body: RequestBody) -> Run:
        """Register the upload that the current task has begun."""
        run = self._runs[entry.upload_id or ""] = Run(entry, body)
        return run

    def settle(self, run: Run) -> None:
        """Say that it can no longer be cut: its outcome is decided and is being written."""
        run.is_over = True
        upload_id = run.entry.upload_id or ""
        if self._runs.get(upload_id) is run:
            del self._runs[upload_id]

    def leave(self, run: Run) -> None:
        """Say that its entry is finished; whoever cut it learns of it after the current step of the loop."""
        if not run.is_over:
            self.settle(run)
        if run.ended is not None:
            run.ended.set()

    # ── what operators ask ───────────────────────────────────────────────────────────────────────

    def list_uploads(self, wanted: RunningFilter) -> list[RunningUpload]:
        """Show the running uploads that a filter wants, newest first."""
        now = time.monotonic()
        if wanted.upload_id is not None:
            run = self._runs.get(wanted.upload_id)
            return [run.show(now)] if run is not None and wanted.lets_through(run.entry) else []
        newest_first = (self._runs[upload_id] for upload_id in sorted(self._runs, reverse=True))
        found = (run for run in newest_first if wanted.lets_through(run.entry))
        return [run.show(now) for run in islice(found, wanted.limit)]

    async def cut(self, upload_id: str) -> bool:
        """End a running upload, and wait until its entry is finished; false if it ended by itself or by another's cut.

        Raises:
            TimeoutError: it was told to end and has not ended within ``ENDING_SECONDS``.
        """
        run = self._runs.get(upload_id)
        if run is None:
            return False
        run.ended = run.ended or asyncio.Event()
        is_first = run.cut()
        async with asyncio.timeout(ENDING_SECONDS):
            await run.ended.wait()
        is_cancelled = is_first and run.entry.outcome is Outcome.CANCELLED
        if is_cancelled:
            logger.info("a running upload was cut", extra={"fields": {"upload_id": upload_id, "tenant": run.entry.tenant}})
        return is_cancelled

    def cut_all(self, tenant: str, key_id: str | None = None) -> int:
        """Tell every running upload of a tenant, or of one key of it, to end; returns how many were told, and waits for none."""
        told = [
            run
            for run in self._runs.values()
            if run.entry.tenant == tenant and (key_id is None or run.entry.key_id == key_id) and run.cut()
        ]
        if told:
            logger.info("running uploads were cut", extra={"fields": {"tenant": tenant, "key_id": key_id, "uploads": len(told)}})
        return len(told)

    # ── rates ────────────────────────────────────────────────────────────────────────────────────

    async def sample(self) -> None:
        """Take a sample of every run once a second, until cancelled; many runs never hold the loop up for long."""
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            for number, run in enumerate(tuple(self._runs.values()), 1):
                run.sample(time.monotonic())
                if number % SAMPLES_AT_ONCE == 0:
                    await asyncio.sleep(0)
