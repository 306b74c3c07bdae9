"""What is told of a tenant's HTTP service: ``config`` and ``secrets``."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, SecretStr, SerializerFunctionWrapHandler, model_serializer, model_validator

from relay.destinations.addresses import BaseUrl, Host
from relay.destinations.members import ConfigMembers, Reveal, Seconds, SecretMembers
from relay.destinations.tls_config import CLIENT_KEY, Tls, TlsSecrets, check_identity, check_scheme, find_client_key
from relay.protocols.header_rules import HOP_BY_HOP

_HEADERS_MOST = 64
_HEADER_VALUE_LONGEST = 8_192
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e]*")
_NOT_THE_OWNERS = frozenset(name.decode() for name in HOP_BY_HOP) | {
    "content-length",
    "expect",
    "host",
    "proxy-authenticate",
    "proxy-authorization",
    "via",
}


def _checked_headers(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    names = [name.lower() for name in headers]
    if len(set(names)) < len(names):
        raise ValueError("give each header name once, whatever its case")
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            raise ValueError("use header names made of letters, digits and -_.!#$%&'*+^`|~")
        if name.lower() == CLIENT_KEY:
            raise ValueError(f"leave out {name}: by this name the client's key is shown among the credentials")
        if name.lower() in _NOT_THE_OWNERS:
            raise ValueError(f"leave out {name}: framing, Host, Via and hop-by-hop fields are Relay's own")
        text = value.get_secret_value()
        if not _FIELD_VALUE.fullmatch(text) or text != text.strip() or len(text) > _HEADER_VALUE_LONGEST:
            raise ValueError(f"use printable ASCII without outer blanks, at most {_HEADER_VALUE_LONGEST} characters, as value of {name}")
    return headers


class HttpConfig(ConfigMembers):
    """A tenant's HTTP service. Times are in seconds; ``total_timeout_seconds`` of ``None`` is no limit."""

    base_url: BaseUrl
    host: Host | None = Field(
        None, description="The `Host` that the service is sent; by default that of `base_url`. It changes nothing else."
    )
    tls: Tls = None
    connect_timeout_seconds: Seconds = 5
    idle_timeout_seconds: Seconds = 60
    total_timeout_seconds: Seconds | None = None
    max_connections: Annotated[int, Field(ge=1, le=10_000)] = 100

    @model_validator(mode="after")
    def _check_scheme(self) -> Self:
        check_scheme(self.tls, self.base_url, "base_url")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_said(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # An earlier release, which may run beside this one, knows neither member.
        members: dict[str, Any] = write(self)
        if members["tls"] is not None:
            members["tls"] = {name: value for name, value in members["tls"].items() if value is not None}
        return {name: value for name, value in members.items() if value is not None or name not in {"host", "tls"}}

    def check_beside(self, secret_names: Sequence[str], reveal: Reveal) -> None:
        """Check that the client certificate and its key belong together."""
        check_identity(self.tls, find_client_key(reveal()) if CLIENT_KEY in secret_names else None)


class HttpSecrets(SecretMembers):
    """Header fields that go to a tenant's HTTP service with every upload, and the key of the client certificate."""

    headers: Annotated[dict[str, SecretStr], Field(max_length=_HEADERS_MOST), AfterValidator(_checked_headers)] = Field(
        default_factory=dict
    )
    tls: TlsSecrets | None = None

    @property
    def client_key(self) -> str | None:
        """The key, as PEM."""
        return self.tls.client_key.get_secret_value() if self.tls is not None and self.tls.client_key is not None else None

    def plain(self) -> dict[str, Any]:
        """Give them as plain JSON, to be sealed."""
        headers = {name: value.get_secret_value() for name, value in self.headers.items()}
        key = self.client_key
        return ({"headers": headers} if headers else {}) | ({"tls": {"client_key": key}} if key is not None else {})

    @staticmethod
    def names(plain: Mapping[str, Any]) -> list[str]:
        """Name the header fields, in order, and the client's key."""
        return [*plain.get("headers", {}), *([CLIENT_KEY] if "tls" in plain else [])]
