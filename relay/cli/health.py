"""``relay health``: what ``/readyz`` of a running relay answers, for a container's health check and a probe.

Light on purpose, because it is run every few seconds: no HTTP client but the standard library's. It never
waits longer than ``ANSWER_SECONDS`` for any step of the answer.
"""

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import click

from relay.cli import Failure
from relay.cli.listening import url_at
from relay.settings import load_settings, parse_listen

ANSWER_SECONDS = 2.0
MOST_BYTES = 65_536


class NoAnswer(Exception):
    """Nobody answered in HTTP at that address in time; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """What a relay says of itself."""

    is_ready: bool
    checks: Mapping[str, str]


@click.command()
@click.option("--url", help="Where the relay is; by default as RELAY_ADMIN_LISTEN or RELAY_LISTEN says, on this host.")
def health(url: str | None) -> None:
    """Ask a running relay whether it is ready, and print its checks.

    Exit code 0 if it is, else 1: for HEALTHCHECK in a container and exec probes in Kubernetes.
    """
    is_own = url is None
    url = url or own_url()
    try:
        readiness = ask_readiness(url, is_own=is_own)
    except NoAnswer as error:
        raise Failure(f"{url} does not answer ({error}). Does 'relay serve' run there?") from None
    click.echo("ready" if readiness.is_ready else "not ready")
    for name, value in readiness.checks.items():
        click.echo(f"{name}: {value}")
    if not readiness.is_ready:
        raise SystemExit(1)


def own_url() -> str:
    """The URL of the relay that the settings of this process describe."""
    settings = load_settings()
    return url_at(*parse_listen(settings.admin.listen or settings.listen), is_tls=settings.tls.is_on)


def ask_readiness(url: str, *, is_own: bool = False) -> Readiness:
    """Ask ``/readyz`` once.

    ``is_own``: the address is one of this host's own listeners. Then its certificate, which is for another name than the
    loopback's, is not verified: nothing secret is sent, and who listens at our own port could lie without TLS as well.

    Raises:
        NoAnswer: nobody is there, or what answers is no relay.
    """
    status, content = _get(url, "/readyz", is_own=is_own)
    try:
        checks = json.loads(content)["checks"]
        return Readiness(status == http.HTTPStatus.OK, {str(name): str(value) for name, value in checks.items()})
    except (ValueError, LookupError, TypeError, AttributeError):
        raise NoAnswer(f"status {status}, and not what a relay says of itself") from None


def _get(url: str, path: str, *, is_own: bool) -> tuple[int, bytes]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise NoAnswer("not a URL") from None
    if not host or parts.scheme not in {"http", "https"}:
        raise NoAnswer("not the URL of an HTTP service")
    try:
        connection = _connection(parts.scheme, host, port, is_own=is_own)
    except http.client.HTTPException:
        raise NoAnswer("not a URL") from None
    try:
        connection.request("GET", parts.path.rstrip("/") + path)
        answer = connection.getresponse()
        return answer.status, answer.read(MOST_BYTES)
    except (OSError, UnicodeError, http.client.HTTPException) as error:
        raise NoAnswer(
            "its certificate is not trusted" if isinstance(error, ssl.SSLCertVerificationError) else type(error).__name__
        ) from None
    finally:
        connection.close()


def _connection(scheme: str, host: str, port: int | None, *, is_own: bool) -> http.client.HTTPConnection:
    if scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_own else ssl.create_default_context()
    if is_own:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=ANSWER_SECONDS, context=context)
