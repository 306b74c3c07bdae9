"""What Relay says about itself: log configuration, the list of all metrics, the context of a request.

Every metric is declared here and nowhere else. With several workers the values are joined from files
that each process keeps in ``PROMETHEUS_MULTIPROC_DIR``, which must be set before this module is imported.
"""

import asyncio
import json
import logging
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from uuid_utils import uuid7

from relay.settings import LogSettings

try:
    VERSION = metadata.version("relay")
except metadata.PackageNotFoundError:
    VERSION = "0.1.0"

# Each counter would come with a second series, of the time of its making.
disable_created_metrics()  # type: ignore[no-untyped-call] # the library has no types here
REGISTRY = CollectorRegistry()
REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)

REQUESTS = Counter("relay_requests", "Requests that reached a tenant, by outcome.", ["outcome"], registry=REGISTRY)
RECEIVED_BYTES = Counter("relay_received_bytes", "Body bytes received from clients.", registry=REGISTRY)
DELIVERED_BYTES = Counter("relay_delivered_bytes", "Body bytes of delivered uploads.", registry=REGISTRY)
UPLOADS_RUNNING = Gauge("relay_uploads_running", "Uploads between begun and finished.", registry=REGISTRY, multiprocess_mode="livesum")
REQUEST_SECONDS = Histogram(
    "relay_request_seconds", "Time from a request's head to its end (seconds).", buckets=REQUEST_BUCKETS, registry=REGISTRY
)
UPSTREAM_WAIT_SECONDS = Histogram(
    "relay_upstream_wait_seconds",
    "Time from the body's end to the destination's answer (seconds).",
    buckets=REQUEST_BUCKETS,
    registry=REGISTRY,
)
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


@dataclass(slots=True)
class RequestContext:
    """What is known of a request beside its own bytes. The middleware makes one; the edge fills it in."""

    request_id: str = field(default_factory=lambda: str(uuid7()))
    tenant: str | None = None
    upload_id: str | None = None
    outcome: str | None = None
    code: str | None = None
    client_address: str | None = None
    bytes_in: int = 0


_encode_json: Final = json.JSONEncoder(ensure_ascii=False, check_circular=False, default=str).encode


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and whatever ``extra={"fields": {…}}`` holds."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode_json(line)


class TextFormatter(logging.Formatter):
    """The same for people."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={_on_one_line(value)}" for name, value in getattr(record, "fields", {}).items() if value is not None)
        at = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        line = f"{at} {record.levelname.lower():7} {record.name}: {record.getMessage()}"
        text = f"{line} {fields}".rstrip()
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _on_one_line(value: object) -> str:
    """A value as text that can neither begin a line of its own nor move a terminal's cursor: a client may have chosen it."""
    text = str(value)
    return text if text.isprintable() else json.dumps(text)[1:-1].replace("\x7f", "\\u007f")


def _is_about_a_cut_answer(record: logging.LogRecord) -> bool:
    is_cancelled = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return is_cancelled or "returned without completing response" in record.getMessage()


def configure_logging(settings: LogSettings) -> None:
    """Send every log to standard error in the chosen form. Libraries that log URLs or credentials stay quiet."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no form of ours shows them
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    for name in ("httpx", "httpcore", "asyncio", "alembic", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # An answer that is cut on purpose, or by the deadline of a shutdown, ends this way; the server would report it as a bug.
    logging.getLogger("uvicorn.error").addFilter(lambda record: not _is_about_a_cut_answer(record))
