"""``relay health``: what ``/readyz`` of a running relay answers, for a container's health check and a probe.

Light on purpose, because it is run every few seconds: no HTTP client but the standard library's. It never
waits longer than ``ANSWER_SECONDS`` for any step of the answer.
"""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import click

from relay.cli import Failure
from relay.settings import load_settings, parse_listen

ANSWER_SECONDS = 2.0
MOST_BYTES = 65_536
KINDS = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
EVERY_INTERFACE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where a listener on all of them can be asked


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
    url = url or own_url()
    try:
        readiness = ask_readiness(url)
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
    host, port = parse_listen(settings.admin.listen or settings.listen)
    host = EVERY_INTERFACE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def ask_readiness(url: str) -> Readiness:
    """Ask ``/readyz`` once.

    Raises:
        NoAnswer: nobody is there, or what answers is no relay.
    """
    status, content = _get(url, "/readyz")
    try:
        checks = json.loads(content)["checks"]
        return Readiness(status == http.HTTPStatus.OK, {str(name): str(value) for name, value in checks.items()})
    except (ValueError, LookupError, TypeError, AttributeError):
        raise NoAnswer(f"status {status}, and not what a relay says of itself") from None


def _get(url: str, path: str) -> tuple[int, bytes]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise NoAnswer("not a URL") from None
    if not host or parts.scheme not in KINDS:
        raise NoAnswer("not the URL of an HTTP service")
    try:
        connection = KINDS[parts.scheme](host, port, timeout=ANSWER_SECONDS)
    except http.client.HTTPException:
        raise NoAnswer("not a URL") from None
    try:
        connection.request("GET", parts.path.rstrip("/") + path)
        answer = connection.getresponse()
        return answer.status, answer.read(MOST_BYTES)
    except (OSError, UnicodeError, http.client.HTTPException) as error:
        raise NoAnswer(type(error).__name__) from None
    finally:
        connection.close()
