"""What Relay says about itself: log configuration, the list of all metrics, the context of a request.

Every metric is declared here and nowhere else. With several workers the values are joined from files
that each process keeps in ``PROMETHEUS_MULTIPROC_DIR``, which must be set before this module is imported.

What every upload adds to is added up in memory, and given to Prometheus's library once a second, before ``/metrics`` is
answered, and when the process ends (``tell_metrics``): the library locks and writes to a mapped file for each addition.
"""

import asyncio
import functools
import json
import logging
import sys
import time
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Final, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from uuid_utils import uuid7

from relay.json_text import encode
from relay.settings import LogSettings

try:
    VERSION = metadata.version("relay")
except metadata.PackageNotFoundError:
    VERSION = "0.1.0"

# Each counter would come with a second series, of the time of its making.
disable_created_metrics()  # type: ignore[no-untyped-call] # the library has no types here
REGISTRY = CollectorRegistry()
TELL_SECONDS: Final = 1.0
REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class Tally:
    """A counter or gauge that is added to in memory until its sum is told."""

    def __init__(self, metric: Counter | Gauge) -> None:
        self._metric = metric
        self._untold: dict[tuple[str, ...], float] = {}

    def inc(self, amount: float = 1, *labels: str) -> None:
        """Add to it, under the values of its labels."""
        self._untold[labels] = self._untold.get(labels, 0) + amount

    def tell(self) -> None:
        """Give the library what has come together."""
        untold, self._untold = self._untold, {}
        for labels, amount in untold.items():
            (self._metric.labels(*labels) if labels else self._metric).inc(amount)


class TallyOfSeconds(Histogram):
    """A histogram whose observations are counted in memory until they are told."""

    def __init__(self, name: str, documentation: str) -> None:
        super().__init__(name, documentation, buckets=REQUEST_BUCKETS, registry=REGISTRY)
        self._forget()

    def _forget(self) -> None:
        self._untold = [0] * len(self._upper_bounds)
        self._untold_seconds = 0.0

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Count one duration."""
        del exemplar
        self._untold[bisect_left(self._upper_bounds, amount)] += 1
        self._untold_seconds += amount

    def tell(self) -> None:
        """Give the library what has come together."""
        untold, seconds = self._untold, self._untold_seconds
        self._forget()
        for bucket, count in zip(self._buckets, untold, strict=True):
            if count:
                bucket.inc(count)
        self._sum.inc(seconds)


REQUESTS = Tally(Counter("relay_requests", "Requests that reached a tenant, by outcome.", ["outcome"], registry=REGISTRY))
RECEIVED_BYTES = Tally(Counter("relay_received_bytes", "Body bytes received from clients.", registry=REGISTRY))
DELIVERED_BYTES = Tally(Counter("relay_delivered_bytes", "Body bytes of delivered uploads.", registry=REGISTRY))
UPLOADS_RUNNING = Tally(
    Gauge("relay_uploads_running", "Uploads between begun and finished.", registry=REGISTRY, multiprocess_mode="livesum")
)
REQUEST_SECONDS = TallyOfSeconds("relay_request_seconds", "Time from a request's head to its end (seconds).")
UPSTREAM_WAIT_SECONDS = TallyOfSeconds("relay_upstream_wait_seconds", "Time from the body's end to the destination's answer (seconds).")
_TALLIES: Final = (REQUESTS, RECEIVED_BYTES, DELIVERED_BYTES, UPLOADS_RUNNING, REQUEST_SECONDS, UPSTREAM_WAIT_SECONDS)
JOURNAL_ENTRIES = Gauge(
    "relay_journal_entries",
    "Finished entries that are not in Postgres yet.",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
JOURNAL_OLDEST_SECONDS = Gauge(
    "relay_journal_oldest_seconds",
    "Age of the oldest finished entry that is not in Postgres yet (seconds).",
    registry=REGISTRY,
    multiprocess_mode="livemax",
)
LEDGER_SHIPPED = Counter("relay_ledger_shipped", "Entries written to Postgres.", registry=REGISTRY)
LEDGER_REJECTED = Counter("relay_ledger_rejected", "Entries that Postgres refused, kept in rejected.ndjson.", registry=REGISTRY)
TLS_HANDSHAKES = Counter(
    "relay_tls_handshakes", "TLS handshakes of clients: completed, failed, too_slow, dropped.", ["result"], registry=REGISTRY
)


def tell_metrics() -> None:
    """Give the library what was added up since the last time."""
    for tally in _TALLIES:
        tally.tell()


async def tell_metrics_on() -> None:
    """Do so once a second, until cancelled, and once more then."""
    try:
        while True:
            await asyncio.sleep(TELL_SECONDS)
            tell_metrics()
    finally:
        tell_metrics()


@dataclass(slots=True)
class RequestContext:
    """What is known of a request beside its own bytes. The middleware makes one; the edge fills it in."""

    request_id: str = field(default_factory=lambda: str(uuid7()))
    tenant: str | None = None
    upload_id: str | None = None
    outcome: str | None = None
    code: str | None = None
    client_address: str | None = None
    status: int | None = None
    """Of the answer; ``None`` until it has begun."""
    bytes_in: int = 0


Fields = Mapping[str, object]


class LineFormatter(logging.Formatter):
    """What happened as one line: time, level, logger, message, and whatever ``extra={"fields": {…}}`` holds."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        text = self.formatException(record.exc_info) if record.exc_info else None
        return self.compose(record.created, record.levelname.lower(), record.name, record.getMessage(), fields, text)

    def compose(self, created: float, level: str, name: str, message: str, fields: Fields, exception: str | None = None) -> str:
        """Make the line."""
        raise NotImplementedError


@functools.lru_cache(maxsize=1)
def _second(second: int) -> str:
    """A second as a log has it; made once, however many lines need it."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class JsonFormatter(LineFormatter):
    """One JSON object a line."""

    def compose(self, created: float, level: str, name: str, message: str, fields: Fields, exception: str | None = None) -> str:
        """Make the line."""
        second, rest = divmod(created, 1)
        at = f"{_second(int(second))}.{int(rest * 1000):03d}+00:00"
        line = {"at": at, "level": level, "logger": name, "message": message, **fields}
        if exception is not None:
            line["exception"] = exception
        return encode(line).decode()


class TextFormatter(LineFormatter):
    """The same for people."""

    def compose(self, created: float, level: str, name: str, message: str, fields: Fields, exception: str | None = None) -> str:
        """Make the line."""
        shown = " ".join(f"{name}={_on_one_line(value)}" for name, value in fields.items() if value is not None)
        at = datetime.fromtimestamp(created, UTC).strftime("%H:%M:%S.%f")[:-3]
        text = f"{at} {level:7} {name}: {message} {shown}".rstrip()
        return f"{text}\n{exception}" if exception is not None else text


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes lines to a stream."""

    def __init__(self, stream: TextIO, form: LineFormatter) -> None:
        super().__init__(stream)
        self.setFormatter(form)
        self._form = form

    def write(self, level: int, name: str, message: str, fields: Fields) -> None:
        """Write a line that was never a record."""
        line = self._form.compose(time.time(), logging.getLevelName(level).lower(), name, message, fields)
        self.acquire()
        try:
            self.stream.write(line + self.terminator)  # standard error is written at each line's end
        except (OSError, ValueError):
            return  # as for a record: what cannot be logged does not fail what was logged
        finally:
            self.release()


def tell(logger: logging.Logger, level: int, fields: Fields) -> None:
    """Log what happened as one line called ``request``. Where nobody but our own handler listens, it is never made a record.

    To make one, and to hand it from handler to handler, costs more than to write the line.
    """
    if not logger.isEnabledFor(level):
        return
    listening = logging.root.handlers
    if len(listening) == 1 and isinstance(own := listening[0], LineHandler) and not logger.handlers:
        own.write(level, logger.name, "request", fields)
    else:
        # Made here: the logger's own way looks through the stack for the line that called it.
        logger.handle(logger.makeRecord(logger.name, level, __file__, 0, "request", (), None, extra={"fields": fields}))


def _on_one_line(value: object) -> str:
    """A value as text that can neither begin a line of its own nor move a terminal's cursor: a client may have chosen it."""
    text = str(value)
    return text if text.isprintable() else json.dumps(text)[1:-1].replace("\x7f", "\\u007f")


def _is_about_a_cut_answer(record: logging.LogRecord) -> bool:
    is_cancelled = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return is_cancelled or "returned without completing response" in record.getMessage()


def configure_logging(settings: LogSettings) -> None:
    """Send every log to standard error in the chosen form. Libraries that log URLs or credentials stay quiet."""
    handler = LineHandler(sys.stderr, JsonFormatter() if settings.format == "json" else TextFormatter())
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no form of ours shows them
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    for name in ("httpx", "httpcore", "asyncio", "alembic", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # An answer that is cut on purpose, or by the deadline of a shutdown, ends this way; the server would report it as a bug.
    logging.getLogger("uvicorn.error").addFilter(lambda record: not _is_about_a_cut_answer(record))
