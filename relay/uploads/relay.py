"""The story of one plain upload, top to bottom.

    attempt                the tenant is known: an entry is open, whatever happens next
      place                path → route → destination, or a refusal
      admit                size, type, and what the destination takes, or a refusal
      begin                journal: *begun*, before the first byte goes anywhere
      deliver              the destination takes the body and answers
      pass on              its answer goes to the client, except what would let the client believe it is done
      finish               journal: *finished*
      end                  the rest of the answer

However an attempt ends, its entry is finished once, here, with one outcome. The client can believe
that its upload is done only after *finished* is in the journal. From *begun* until its delivery has settled an
attempt stands in the register of what runs (``running``), and an operator may cut it.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import asdict
from types import TracebackType
from typing import NamedTuple, Self

from relay.destinations.destination import Delivery, DestinationSpec, Headers, Item, Receipt, StoredObject
from relay.destinations.opened import OpenDestinations
from relay.errors import (
    ClientFault,
    ClientGone,
    DependencyFault,
    DestinationBusy,
    InternalError,
    RelayError,
    RouteNotFound,
    ShuttingDown,
    UploadCancelled,
)
from relay.ledger.entry import Entry, Outcome, clean_fields, clean_filenames, clean_objects, now_us
from relay.ledger.journal import Journal
from relay.ledger.refusals import Refusals
from relay.protocols.paths import UploadPath, parse_path
from relay.telemetry import (
    DELIVERED_BYTES,
    RECEIVED_BYTES,
    REQUESTS,
    UPLOADS_RUNNING,
    UPSTREAM_WAIT_SECONDS,
)
from relay.tenants.admission import Admission
from relay.tenants.tenant import Grant, Route
from relay.uploads.answer import Answer
from relay.uploads.body import RequestBody
from relay.uploads.running import Run, Running

FIRST_REFUSAL = 300
"""A final status from here on that comes before the body's end ends the body: nothing good can come of the rest."""

logger = logging.getLogger(__name__)


class Order(NamedTuple):
    """What a client asks for, as the edge has read it. ``headers`` are those that may go on."""

    grant: Grant
    upload_id: str
    method: str
    raw_path: bytes
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    declared_bytes: int | None
    content_type: str | None


class Relay:
    """What every attempt needs, wired once."""

    def __init__(
        self, *, destinations: OpenDestinations, admission: Admission, journal: Journal, refusals: Refusals, running: Running
    ) -> None:
        self.destinations = destinations
        self.admission = admission
        self.journal = journal
        self.refusals = refusals
        self.running = running
        self.shutting_down = False

    def attempt(self, entry: Entry) -> "Attempt":
        """Open the account of one request whose tenant is known."""
        return Attempt(self, entry)


class Attempt:
    """One request from the moment its tenant is known. Leaving it finishes its entry."""

    def __init__(self, relay: Relay, entry: Entry) -> None:
        self._relay = relay
        self.entry = entry
        self._body: RequestBody | None = None
        self._run: Run | None = None
        self._landed: list[StoredObject] = []
        self._is_finished = False
        self._is_cut = False

    async def __aenter__(self) -> Self:
        return self

    async def upload(self, order: Order, body: RequestBody, answer: Answer) -> None:
        """Relay one upload: from its verdict to the end of its answer.

        Raises:
            RelayError: it was refused or failed; the entry says so already when this leaves the attempt.
        """
        self._body = body
        path = parse_path(order.raw_path)
        spec, rest = place(order.grant, path)
        self.entry.destination = spec.name
        self._relay.admission.admit(order.grant, declared_bytes=order.declared_bytes, content_type=order.content_type)
        destination = self._relay.destinations.open(spec)
        item = make_item(order, rest)
        self._landed = item.landed
        destination.check_item(item)
        self._begin(body)
        async with destination.deliver(item, body) as delivery:
            last = await self._pass_on(delivery, body, answer)
        if not self._is_cut:
            await answer.end(last)

    def abandon(self) -> None:
        """The client left before its whole body came: end what runs at once, even where the destination takes nothing of it."""
        if self._run is not None and self._body is not None and self._body.abandon():
            self._run.cut()

    def _begin(self, body: RequestBody) -> None:
        self._relay.journal.begin(self.entry)
        self._run = self._relay.running.enter(self.entry, body)
        UPLOADS_RUNNING.inc()

    async def _pass_on(self, delivery: Delivery, body: RequestBody, answer: Answer) -> bytes:
        """Pass the answer on, but for its last piece, which is returned: *finished* is in the journal by then."""
        self._note_answer(delivery, body)
        is_early = self.entry.early
        if delivery.is_settled or delivery.answer_bytes == 0:
            is_ours = delivery.is_settled
            last = b"".join([chunk async for chunk in delivery.answer()])
            await self._settle(delivery, answer, len(last), is_early=is_early)
            told = body.claims.answer_fields(last) if is_ours and body.claims is not None else ()
            await self._start(delivery, answer, told, is_early=is_early)
        else:
            await self._start(delivery, answer, is_early=is_early)
            last = await self._stream(delivery, answer)
            await self._settle(delivery, answer, len(last), is_early=is_early)
        return last

    async def _start(self, delivery: Delivery, answer: Answer, told: Headers = (), *, is_early: bool) -> None:
        try:
            await answer.start(delivery.status, (*delivery.headers, *told), delivery.answer_bytes, close=is_early)
        except TimeoutError:
            self._cut()

    def _cut(self) -> None:
        """The client takes nothing: its answer is cut, for a hole in it must not go unseen. The real outcome still counts."""
        self._is_cut = self.entry.client_left = True

    def _note_answer(self, delivery: Delivery, body: RequestBody) -> None:
        self.entry.upstream_status = self.entry.status = delivery.status
        self.entry.early = delivery.status >= FIRST_REFUSAL and not delivery.is_body_taken
        if body.completed_us is not None:
            waited_seconds = max(0, now_us() - body.completed_us) / 1_000_000
            self.entry.upstream_wait_ms = round(waited_seconds * 1000, 3)
            UPSTREAM_WAIT_SECONDS.observe(waited_seconds)

    async def _stream(self, delivery: Delivery, answer: Answer) -> bytes:
        """Pass the answer on, but for the piece that completes a declared length."""
        length = delivery.answer_bytes
        last = b""
        async for chunk in delivery.answer():
            if length is not None and answer.sent_bytes + len(chunk) >= length:
                last = chunk
            elif not self._is_cut:
                try:
                    await answer.send(chunk)
                except TimeoutError:
                    self._cut()
        return last

    async def _settle(self, delivery: Delivery, answer: Answer, last_bytes: int, *, is_early: bool) -> None:
        """Write *finished*: the whole body was handed over and the whole answer seen, or it was rejected early."""
        receipt = None if is_early else await delivery.settled()
        if self._run is not None:
            self._relay.running.settle(self._run)
        self.entry.client_left = self.entry.client_left or (not is_early and await answer.client_left())
        self.entry.bytes_out = answer.sent_bytes + (0 if self._is_cut else last_bytes)
        is_delivered = receipt is not None and delivery.status < 400
        await self._finish(Outcome.DELIVERED if is_delivered else Outcome.REJECTED, receipt if is_delivered else None)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._is_finished:
            return
        fault = self._fault_of(error)
        fault.objects = tuple(map(asdict, self._landed))
        self.entry.code = fault.code
        self.entry.status = self.entry.status or fault.status
        is_cut = self._run is not None and self._run.take_cut_back()
        if self._run is None:
            await self._refuse()
        else:
            await self._finish(self._outcome_of(fault), None)
        # The client of an upload that was cut is told why; a task that the shutdown wants to end, too, ends.
        if fault is not error and (is_cut or isinstance(error, Exception)):
            raise fault from error

    def _fault_of(self, error: BaseException | None) -> RelayError:
        """Say who is to blame. The body knows about the client; nobody else is asked."""
        if self._body is not None and self._body.fault is not None:
            return self._body.fault
        if isinstance(error, RelayError):
            return error
        if isinstance(error, asyncio.CancelledError):
            if self._run is not None and self._run.is_cut:
                return UploadCancelled()
            return ShuttingDown("Relay was shut down before this upload had ended.")
        logger.error("an upload failed unexpectedly", exc_info=error, extra={"fields": {"request_id": self.entry.request_id}})
        return InternalError()

    def _outcome_of(self, fault: RelayError) -> Outcome:
        is_untouched = self._body is None or not self._body.is_asked
        match fault:
            case ClientGone():
                return Outcome.CLIENT_GONE
            case UploadCancelled():
                return Outcome.CANCELLED
            case DestinationBusy():
                return Outcome.REFUSED
            case ClientFault():
                return Outcome.REFUSED if is_untouched else Outcome.CLIENT_FAULT
            case DependencyFault():
                return Outcome.DESTINATION_FAILED
            case _:
                return Outcome.RELAY_FAILED

    async def _refuse(self) -> None:
        self._is_finished = True
        self._close_account(Outcome.REFUSED)
        await self._relay.refusals.tell(self.entry)

    async def _finish(self, outcome: Outcome, receipt: Receipt | None) -> None:
        self._close_account(outcome)
        if receipt is not None:
            self._note_receipt(receipt)
        self._is_finished = True
        UPLOADS_RUNNING.inc(-1)
        if self._run is not None:
            self._relay.running.leave(self._run)
        await self._relay.journal.finish(self.entry)

    def _close_account(self, outcome: Outcome) -> None:
        self.entry.outcome = outcome
        self.entry.finished_us = now_us()
        if self._body is not None:
            self.entry.bytes_in = self._body.received_bytes
            self.entry.first_byte_us = self._body.first_byte_us
            self.entry.body_complete_us = self._body.completed_us
        RECEIVED_BYTES.inc(self.entry.bytes_in)
        REQUESTS.inc(1, outcome)
        if self._landed:
            self.entry.objects = clean_objects(map(asdict, self._landed))
            self.entry.filenames = clean_filenames(stored.filename for stored in self._landed)

    def _note_receipt(self, receipt: Receipt) -> None:
        self.entry.bytes_delivered = receipt.bytes
        self.entry.digests = {**(self._body.digests if self._body is not None else {}), **receipt.digests}
        if receipt.fields is not None:
            self.entry.fields = clean_fields(receipt.fields)
        DELIVERED_BYTES.inc(receipt.bytes)


def place(grant: Grant, path: UploadPath) -> tuple[DestinationSpec, UploadPath]:
    """Find where a path leads: the longest route that matches whole segments, else the default.

    Raises:
        RouteNotFound: no route matches and there is no default destination.
    """
    route = _longest(route for route in grant.routes if path.starts_with(route.segments)) if grant.routes else None
    name = route.destination if route is not None else grant.tenant.default_destination
    spec = grant.destinations.get(name) if name is not None else None
    if spec is None:
        raise RouteNotFound
    if route is not None and route.strip_prefix:
        return spec, path.without(len(route.segments))
    return spec, path


def _longest(routes: Iterable[Route]) -> Route | None:
    return max(routes, key=lambda route: len(route.segments), default=None)


def make_item(order: Order, path: UploadPath) -> Item:
    """What is delivered of an order, at the path that its route leaves."""
    return Item(
        upload_id=order.upload_id,
        tenant=order.grant.tenant.slug,
        method=order.method,
        path=path.target,
        segments=path.segments,
        query=order.query,
        headers=order.headers,
        declared_bytes=order.declared_bytes,
        content_type=order.content_type,
        landed=[],
    )
