"""What ``relay destination set`` was told, as the draft of a destination: REST's own ``kind``, ``config`` and ``secrets``."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from relay.cli import Failure
from relay.destinations.registry import DestinationDraft

PEM = click.Path(path_type=Path, dir_okay=False)
PEM_MEMBERS = ("ca", "client_certificate")
SECRET_LONGEST = 131_072


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The options as they were given."""

    base_url: str | None
    headers: tuple[str, ...]
    host: str | None
    tls_ca: Path | None
    tls_server_name: str | None
    tls_client_certificate: Path | None
    tls_client_key: Path | None
    no_tls: bool
    directory: str | None
    s3_bucket: str | None
    gcs_bucket: str | None
    azure_container: str | None
    overwrite: str | None
    members: tuple[str, ...]
    secret_files: tuple[str, ...]

    def tls(self) -> dict[str, Any]:
        """The members of ``config.tls`` that were given."""
        given = {"ca": self.tls_ca, "client_certificate": self.tls_client_certificate, "server_name": self.tls_server_name}
        return {name: value for name, value in given.items() if value is not None}

    def places(self) -> dict[str, dict[str, Any]]:
        """For each kind of place that was named, its config so far."""
        account, _, container = (self.azure_container or "").partition("/")
        named: dict[str, tuple[str | None, dict[str, Any]]] = {
            "http": (self.base_url, {"base_url": self.base_url}),
            "disk": (self.directory, {"directory": self.directory}),
            "s3": (self.s3_bucket, {"bucket": self.s3_bucket}),
            "gcs": (self.gcs_bucket, {"bucket": self.gcs_bucket}),
            "azure": (self.azure_container, {"account": account, "container": container}),
        }
        return {kind: config for kind, (place, config) in named.items() if place is not None}


def make_draft(name: str, told: Told) -> DestinationDraft:
    """Make the draft of the one place that was named.

    Raises:
        UsageError: none or several were named, or an option belongs to another kind.
        Failure: a file cannot be read.
    """
    places = told.places()
    if len(places) != 1:
        raise click.UsageError("Name one place: --http URL, --disk DIR, --s3 BUCKET, --gcs BUCKET or --azure ACCOUNT/CONTAINER.")
    ((kind, config),) = places.items()
    secrets: dict[str, Any] = {}
    if kind != "http" and (told.headers or told.host is not None):
        raise click.UsageError("--header and --host belong to --http.")
    if kind == "disk" and (told.tls() or told.tls_client_key is not None or told.no_tls):
        raise click.UsageError("--tls-… and --no-tls do not belong to --disk.")
    if kind == "http" and told.overwrite is not None:
        raise click.UsageError("--overwrite does not belong to --http.")
    if told.overwrite is not None:
        config["overwrite"] = told.overwrite
    if told.host is not None:
        config["host"] = told.host or None
    if told.headers:
        secrets["headers"] = _parse_headers(told.headers)
    _add_tls(config, secrets, told)
    for place, value in map(_cut, told.members):
        _put(config, place, _parse_value(value))
    for place, value in map(_cut, told.secret_files):
        _put(secrets, place, _read(Path(value)).rstrip("\r\n"))
    return DestinationDraft(name, kind, config, secrets or None)


def _add_tls(config: dict[str, Any], secrets: dict[str, Any], told: Told) -> None:
    tls: dict[str, Any] = {name: _read(value) if name in PEM_MEMBERS else value for name, value in told.tls().items()}
    if told.no_tls and (tls or told.tls_client_key is not None):
        raise click.UsageError("--no-tls forgets what --tls-… says: give one of them.")
    if tls or told.no_tls:
        config["tls"] = tls or None
    if told.tls_client_key is not None or told.no_tls:
        secrets["tls"] = {"client_key": _read(told.tls_client_key)} if told.tls_client_key is not None else None


def _cut(given: str) -> tuple[str, str]:
    place, sign, value = given.partition("=")
    if not sign or not place:
        raise click.UsageError(f"{given.partition('=')[0]!r} has no value: give MEMBER=VALUE.")
    return place, value


def _put(members: dict[str, Any], place: str, value: Any) -> None:
    """Put a value where ``a.b`` says: at the member b of the member a."""
    *outer, last = place.split(".")
    for name in outer:
        inner = members.setdefault(name, {})
        if not isinstance(inner, dict):
            raise click.UsageError(f"{name} is said twice: by itself and by its members.")
        members = inner
    members[last] = value


def _parse_value(text: str) -> Any:
    """JSON where it is some, but for numbers out of range and the like; text otherwise."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(SECRET_LONGEST + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{path} cannot be read ({type(error).__name__})") from None
    if len(text) > SECRET_LONGEST:
        raise Failure(f"{path} is longer than {SECRET_LONGEST} characters")
    return text


def _parse_headers(headers: tuple[str, ...]) -> dict[str, str]:
    parsed: dict[str, str] = {}
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon:
            raise click.UsageError(f"--header takes 'Name: value'; {name!r} has no colon.")
        parsed[name.strip()] = value.strip()
    return parsed
