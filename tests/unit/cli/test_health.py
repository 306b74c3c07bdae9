"""``relay health``: the exit code that probes go by, and what it says when nobody or somebody else answers."""

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from relay.cli import relay
from relay.cli.health import own_url
from tests.support.certificates import make_certificate

CHECKS = {"directory": "ok", "database": "away", "journal": "lagging", "shutdown": "no"}


@contextmanager
def answering(status: int, content: bytes, tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[str]]]:
    """A server that gives one answer to everything; yields its URL and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def ask(*arguments: str) -> Result:
    return CliRunner().invoke(relay, ["health", *arguments])


@pytest.mark.parametrize(("status", "code", "first"), [(200, 0, "ready"), (503, 1, "not ready")])
def test_exit_code_is_the_readiness(status: int, code: int, first: str) -> None:
    with answering(status, json.dumps({"status": "any", "checks": CHECKS}).encode()) as (url, asked):
        result = ask("--url", url)
    assert result.exit_code == code
    assert result.output.splitlines() == [first, "directory: ok", "database: away", "journal: lagging", "shutdown: no"]
    assert asked == ["/readyz"]


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"null", b'{"checks": 1}', b"\xff" * 10])
def test_something_else_that_answers_200_is_not_ready(content: bytes) -> None:
    with answering(200, content) as (url, _):
        result = ask("--url", url)
    assert result.exit_code == 1
    assert "not what a relay says of itself" in result.output


def test_nobody_there_is_one_line_and_exit_code_1() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        result = ask("--url", f"http://127.0.0.1:{bound.getsockname()[1]}")
    assert result.exit_code == 1
    assert result.output.startswith("error: http://127.0.0.1:")
    assert "ConnectionRefusedError" in result.output


@pytest.mark.parametrize(
    "url", ["http://", "http://:80", "ftp://127.0.0.1", "http://h:x", "http://[::1", "nonsense", "http://a b/", "http://127.0.0.1:1/\n"]
)
def test_bad_address_is_no_trace(url: str) -> None:
    result = ask("--url", url)
    assert result.exit_code == 1
    assert result.output.startswith("error: ")


def test_silence_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.cli.health.ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = ask("--url", f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert result.exit_code == 1
    assert "does not answer (TimeoutError)" in result.output


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({"RELAY_LISTEN": "0.0.0.0:8000", "RELAY_ADMIN_LISTEN": "0.0.0.0:9000"}, "http://127.0.0.1:9000"),
        ({"RELAY_LISTEN": "10.1.2.3:8000"}, "http://10.1.2.3:8000"),
        ({"RELAY_LISTEN": "[::]:8000"}, "http://[::1]:8000"),
    ],
)
def test_own_relay_is_found_by_its_settings(monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], url: str) -> None:
    for name in ("RELAY_LISTEN", "RELAY_ADMIN_LISTEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert own_url() == url


def test_ones_own_relay_is_asked_over_tls_whatever_name_its_certificate_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = make_certificate(tmp_path, "upload.test")
    with answering(200, json.dumps({"checks": CHECKS}).encode(), shown.server_context()) as (url, asked):
        for name in ("CERTIFICATE", "KEY"):
            monkeypatch.setenv(f"RELAY_TLS_{name}", str(shown.path))
        monkeypatch.setenv("RELAY_LISTEN", url.removeprefix("https://"))
        assert own_url() == url
        assert ask().exit_code == 0
        distrusted = ask("--url", url)
    assert (distrusted.exit_code, "its certificate is not trusted" in distrusted.output) == (1, True)
    assert asked == ["/readyz"]
