"""What a log line looks like when a client has chosen a part of it."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from relay.telemetry import JsonFormatter, LineHandler, TextFormatter, tell


def _record(**fields: object) -> logging.LogRecord:
    record = logging.LogRecord("relay.access", logging.INFO, "", 0, "request", (), None)
    record.fields = fields
    return record


@pytest.mark.parametrize("text", ["/a\n03:00:00 error relay: forged", "\x1b[2J", "a\rb", "a\x85b", "a\u2028b", "\x7f", "\x9b2J"])
def test_a_client_forges_no_line_and_moves_no_cursor(text: str) -> None:
    line = TextFormatter().format(_record(path=text, status=200))
    assert line.isprintable()
    assert line.endswith("status=200")


def test_text_that_is_plain_stays_as_it_is() -> None:
    assert TextFormatter().format(_record(path="/upload/Zo\u00eb b", code=None)).endswith("request path=/upload/Zo\u00eb b")


def test_json_is_one_line_whatever_is_in_it() -> None:
    line = JsonFormatter().format(_record(path="a\nb"))
    assert "\n" not in line
    assert json.loads(line)["path"] == "a\nb"


@pytest.fixture
def alone() -> Iterator[io.StringIO]:
    """What our own handler writes while it is the only one."""
    stream, root = io.StringIO(), logging.root
    before, level = root.handlers, root.level
    root.handlers, root.level = [LineHandler(stream, JsonFormatter())], logging.INFO
    yield stream
    root.handlers, root.level = before, level


class Kept(logging.Handler):
    """Keeps the fields of the records that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: list[object] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep them."""
        self.fields.append(getattr(record, "fields", None))


def test_a_line_without_a_record_is_the_line_of_a_record(alone: io.StringIO) -> None:
    logger = logging.getLogger("relay.told")
    tell(logger, logging.INFO, {"path": "a\nb", "status": 200})
    tell(logger, logging.DEBUG, {"path": "not asked for"})
    logger.info("request", extra={"fields": {"path": "a\nb", "status": 200}})
    direct, recorded = ({**json.loads(line), "at": None} for line in alone.getvalue().splitlines())
    assert direct == recorded


def test_another_handler_gets_a_record(alone: io.StringIO) -> None:
    logger, kept = logging.getLogger("relay.told.other"), Kept()
    logger.addHandler(kept)
    tell(logger, logging.INFO, {"status": 200})
    assert kept.fields == [{"status": 200}]
    assert len(alone.getvalue().splitlines()) == 1


def test_a_log_that_cannot_be_written_fails_nobody(alone: io.StringIO) -> None:
    alone.close()
    tell(logging.getLogger("relay.told"), logging.INFO, {"status": 200})
