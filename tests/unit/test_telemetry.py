"""What a log line looks like when a client has chosen a part of it."""

import json
import logging

import pytest

from relay.telemetry import JsonFormatter, TextFormatter


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
