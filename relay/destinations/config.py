"""What a destination is told by its owner: ``config`` and ``secrets`` of each kind, checked member by member.

Values go in as JSON and come out frozen, with their defaults filled in. Whatever is wrong becomes one
``RequestInvalid`` that names every wrong member; a secret's value is in no error, because inputs are never quoted.
Not here: whether the place can be reached (``check`` of the destination) or may be reached (``egress``).
"""

import contextlib
import ipaddress
import re
import ssl
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from relay.errors import FieldError, RequestInvalid
from relay.protocols.certificates import check_pair, parse_certificates, parse_key
from relay.protocols.header_rules import HOP_BY_HOP
from relay.wire.tls import TlsTerms, make_context

SUPPORTED_KINDS = ("http", "disk")
CLIENT_KEY = "tls.client_key"
"""How the key of a client certificate is named among a destination's credentials."""

_HEADERS_MOST = 64
_HEADER_VALUE_LONGEST = 8_192
_DIRECTORY_LONGEST = 1_024
_SEGMENT_LONGEST = 255
_PEM_LONGEST = 131_072

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e]*")
_URL_CHARACTERS = re.compile(r"[\x21-\x7e]+")
_HOST_WITH_PORT = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?", re.ASCII)
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_NOT_THE_OWNERS = frozenset(name.decode() for name in HOP_BY_HOP) | {
    "content-length",
    "expect",
    "host",
    "proxy-authenticate",
    "proxy-authorization",
    "via",
}


def checked_base_url(value: str) -> str:
    """Judge a URL that requests are sent to.

    Raises:
        ValueError: says what to do instead.
    """
    if not _URL_CHARACTERS.fullmatch(value) or "\\" in value or _BROKEN_ESCAPE.search(value):
        raise ValueError("use a URL of printable ASCII, everything else percent-encoded")
    if "?" in value or "#" in value:
        raise ValueError("leave out query and fragment: the client's query is passed on")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError("use a valid host and a port from 1 to 65535") from None
    try:
        httpx.URL(value)  # what will send to it judges IPv4 addresses, international names and ports by rules of its own
    except (httpx.InvalidURL, UnicodeError):
        raise ValueError("use a valid host and a port from 1 to 65535") from None
    if parts.scheme not in {"http", "https"}:
        raise ValueError("use http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("leave out user and password: send them by secrets.headers, as Authorization")
    if port == 0 or parts.netloc.endswith(":") or not _is_host(parts.hostname or "", is_bracketed="[" in parts.netloc):
        raise ValueError("use a valid host and a port from 1 to 65535")
    if any(segment in {".", ".."} for segment in parts.path.replace("%2e", ".").replace("%2E", ".").split("/")):
        raise ValueError("leave out dot segments")
    return value


def _is_host(host: str, *, is_bracketed: bool) -> bool:
    if is_bracketed:
        try:
            return ipaddress.IPv6Address(host).scope_id is None
        except ValueError:
            return False
    return 0 < len(host) <= 253 and all(_HOST_LABEL.fullmatch(label) for label in host.removesuffix(".").split("."))


def _checked_host(value: str) -> str:
    name, port = value, ""
    if found := _HOST_WITH_PORT.fullmatch(value):
        name, port = found[1], found[2] or ""
    is_bracketed = name.startswith("[") and name.endswith("]")
    if not _is_host(name[1:-1] if is_bracketed else name, is_bracketed=is_bracketed) or not (not port or 0 < int(port) <= 65_535):
        raise ValueError("use host or host:port: letters, digits, dots and hyphens, an international name as xn--…")
    return value


def _checked_server_name(value: str) -> str:
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(value))
    if not _is_host(value, is_bracketed=False):
        raise ValueError("use a host name or an address: letters, digits, dots and hyphens, an international name as xn--…")
    return value.removesuffix(".").lower()


def _checked_certificates(value: str) -> str:
    return parse_certificates(value).pem


def _checked_key(value: SecretStr) -> SecretStr:
    return SecretStr(parse_key(value.get_secret_value()))


def _checked_directory(value: str) -> str:
    _check_relative(value)
    return value


def checked_key_template(value: str) -> str:
    """Judge a template of object keys.

    Raises:
        ValueError: says what to do instead.
    """
    if value.count("{path}") != 1 or set(value.replace("{path}", "")) & set("{}"):
        raise ValueError("use {path} exactly once, and no other braces")
    _check_relative(value.replace("{path}", "path"))
    return value


def _check_relative(value: str) -> None:
    if not value.isprintable() or "\\" in value:
        raise ValueError("leave out backslashes, NUL and control characters")
    if value.startswith("/"):
        raise ValueError("use a relative path: it lies below RELAY_DISK_ROOT")
    for segment in value.split("/"):
        if segment in {"", ".", ".."}:
            raise ValueError("leave out empty and dot segments")
        if len(segment.encode()) > _SEGMENT_LONGEST:
            raise ValueError(f"use segments of at most {_SEGMENT_LONGEST} bytes")


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


Seconds = Annotated[int | float, Field(gt=0, le=86_400)]


class Members(BaseModel):
    """Members of a config or of secrets: strict, frozen, and never quoted in errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class TlsConfig(Members):
    """How an `https` service is known, and how it knows Relay: PEM texts. The service's certificate is always verified."""

    ca: Annotated[str, Field(max_length=_PEM_LONGEST), AfterValidator(_checked_certificates)] | None = Field(
        None, description="Certificates that are trusted instead of the public authorities': of an authority, or the service's own."
    )
    client_certificate: Annotated[str, Field(max_length=_PEM_LONGEST), AfterValidator(_checked_certificates)] | None = Field(
        None, description="What Relay shows when it is asked: its certificate and the chain. The key is among the secrets."
    )
    server_name: Annotated[str, Field(max_length=255), AfterValidator(_checked_server_name)] | None = Field(
        None, description="The name that is asked for (SNI) and verified; by default the host of `base_url`."
    )


class HttpConfig(Members):
    """A tenant's HTTP service. Times are in seconds; ``total_timeout_seconds`` of ``None`` is no limit."""

    base_url: Annotated[str, Field(max_length=2_048), AfterValidator(checked_base_url)]
    host: Annotated[str, Field(max_length=261), AfterValidator(_checked_host)] | None = Field(
        None, description="The `Host` that the service is sent; by default that of `base_url`. It changes nothing else."
    )
    tls: TlsConfig | None = None
    connect_timeout_seconds: Seconds = 5
    idle_timeout_seconds: Seconds = 60
    total_timeout_seconds: Seconds | None = None
    max_connections: Annotated[int, Field(ge=1, le=10_000)] = 100

    @field_validator("tls")
    @classmethod
    def _drop_empty(cls, value: TlsConfig | None) -> TlsConfig | None:
        return None if value == TlsConfig() else value

    @model_validator(mode="after")
    def _check_scheme(self) -> Self:
        if self.tls is not None and not self.base_url.startswith("https:"):
            raise ValueError("tls belongs to a base_url of https://: change that, or set tls to null")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_said(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # An earlier release, which may run beside this one, knows neither member.
        members: dict[str, Any] = write(self)
        if members["tls"] is not None:
            members["tls"] = {name: value for name, value in members["tls"].items() if value is not None}
        return {name: value for name, value in members.items() if value is not None or name not in {"host", "tls"}}


class TlsSecrets(Members):
    """The key of ``config.tls.client_certificate``."""

    client_key: Annotated[SecretStr, Field(max_length=_PEM_LONGEST), AfterValidator(_checked_key)] | None = Field(
        None, description="The key in PEM, without a passphrase."
    )


class HttpSecrets(Members):
    """Header fields that go to a tenant's HTTP service with every upload, and the key of the client certificate."""

    headers: Annotated[dict[str, SecretStr], Field(max_length=_HEADERS_MOST), AfterValidator(_checked_headers)] = {}
    tls: TlsSecrets | None = None

    @property
    def client_key(self) -> str | None:
        """The key, as PEM."""
        return self.tls.client_key.get_secret_value() if self.tls is not None and self.tls.client_key is not None else None


class DiskConfig(Members):
    """A folder below ``RELAY_DISK_ROOT``; ``key_template`` names the file from the upload's ``{path}``."""

    directory: Annotated[str, Field(min_length=1, max_length=_DIRECTORY_LONGEST), AfterValidator(_checked_directory)]
    overwrite: Literal["refuse", "replace"] = "refuse"
    key_template: Annotated[str, Field(max_length=_DIRECTORY_LONGEST), AfterValidator(checked_key_template)] = "{path}"


class NoSecrets(Members):
    """Of a kind that has no credentials."""


_MODELS: Mapping[str, type[Members]] = {"http": HttpConfig, "disk": DiskConfig}
Config = HttpConfig | DiskConfig
Secrets = HttpSecrets | NoSecrets
Model = TypeVar("Model", bound=Members)


def parse_http_config(config: Mapping[str, Any]) -> HttpConfig:
    """Check the config of an HTTP destination.

    Raises:
        RequestInvalid: it names each wrong member.
    """
    return _parse(HttpConfig, config, "config")


def parse_http_secrets(secrets: Mapping[str, Any]) -> HttpSecrets:
    """Check the secrets of an HTTP destination.

    Raises:
        RequestInvalid: it names each wrong member and no value.
    """
    return _parse(HttpSecrets, secrets, "secrets")


def parse_disk_config(config: Mapping[str, Any]) -> DiskConfig:
    """Check the config of a disk destination.

    Raises:
        RequestInvalid: it names each wrong member.
    """
    return _parse(DiskConfig, config, "config")


def parse_config(kind: str, config: Mapping[str, Any]) -> Config:
    """Check the config of a destination of this kind.

    Raises:
        RequestInvalid: it names each wrong member, or says that the kind is not supported.
    """
    check_kind(kind)
    return parse_http_config(config) if kind == "http" else parse_disk_config(config)


def order_config(kind: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give a config's members in the order of their kind's definition: Postgres keeps JSON in an order of its own."""
    names = _MODELS[kind].model_fields if kind in _MODELS else ()
    return {name: config[name] for name in names if name in config} | dict(config)


def parse_secrets(kind: str, secrets: Mapping[str, Any]) -> dict[str, Any]:
    """Check the secrets of a destination of this kind and give them back as plain JSON, to be sealed.

    Raises:
        RequestInvalid: it names each wrong member and no value, or says that the kind is not supported.
    """
    check_kind(kind)
    if kind == "http":
        parsed = parse_http_secrets(secrets)
        headers = {name: value.get_secret_value() for name, value in parsed.headers.items()}
        key = parsed.client_key
        return ({"headers": headers} if headers else {}) | ({"tls": {"client_key": key}} if key is not None else {})
    _parse(NoSecrets, secrets, "secrets")
    return {}


def name_secrets(secrets: Mapping[str, Any]) -> list[str]:
    """Name what ``parse_secrets`` gave: the header names of an HTTP destination, in order, and the client's key."""
    return [*secrets.get("headers", {}), *([CLIENT_KEY] if "tls" in secrets else [])]


def check_identity(config: Config, secrets: Mapping[str, Any]) -> None:
    """Check that the client certificate and what ``parse_secrets`` gave belong together, and that TLS can be made with all of it.

    Raises:
        RequestInvalid: one is there without the other, the key is another one's, or OpenSSL takes one of them not.
    """
    key: str | None = secrets.get("tls", {}).get("client_key")
    tls = config.tls if isinstance(config, HttpConfig) else None
    certificate = tls.client_certificate if tls is not None else None
    if certificate is None and key is not None:
        raise _invalid(("secrets", "tls", "client_key"), "client_certificate_missing", "Give config.tls.client_certificate too, or no key.")
    if certificate is not None and key is None:
        message = "Give its key as secrets.tls.client_key too, or no certificate."
        raise _invalid(("config", "tls", "client_certificate"), "client_key_missing", message)
    try:
        if certificate is not None and key is not None:
            check_pair(parse_certificates(certificate), key)
    except ValueError:
        message = "The key is not that of the first certificate of config.tls.client_certificate."
        raise _invalid(("secrets", "tls", "client_key"), "client_key_mismatch", message) from None
    terms = make_terms(config, key)
    if terms is None or terms.is_public:
        return
    try:
        make_context(terms if terms.ca is not None else TlsTerms(ca=certificate, identity=terms.identity))  # the public ones are known
    except ssl.SSLError as error:
        why = (error.reason or "no reason").replace("_", " ").lower()
        raise _invalid(("config", "tls"), "tls_unusable", f"OpenSSL does not take these certificates: {why}.") from None


def make_terms(config: Config, client_key: str | None) -> TlsTerms | None:
    """The terms on which a destination is spoken to; ``None`` where nothing of its own was said."""
    tls = config.tls if isinstance(config, HttpConfig) else None
    if tls is None:
        return None
    identity = tls.client_certificate + client_key if tls.client_certificate is not None and client_key is not None else None
    return TlsTerms(tls.ca, tls.server_name, identity)


def _invalid(place: tuple[str, ...], code: str, message: str) -> RequestInvalid:
    return RequestInvalid(errors=[FieldError(("body", *place), code, message)])


def check_kind(kind: str) -> None:
    """Raise ``RequestInvalid`` unless destinations of this kind can be made."""
    if kind not in SUPPORTED_KINDS:
        error = FieldError(("body", "kind"), "kind_not_supported", f"Use one of: {', '.join(SUPPORTED_KINDS)}.")
        raise RequestInvalid("Destinations of this kind are not supported.", errors=[error])


def _parse(model: type[Model], value: Mapping[str, Any], member: str) -> Model:
    try:
        return model.model_validate(dict(value))
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        errors = [_field_error(item["loc"], item["type"], item["msg"], member) for item in found if not _is_half(item["loc"], item["type"])]
        raise RequestInvalid(errors=errors) from None


def _is_half(location: tuple[int | str, ...], code: str) -> bool:
    """True for the first of two reports of one fault: a number that may be whole or not is tried as both."""
    return code == "int_type" and location[-1] == "int"


def _field_error(location: tuple[int | str, ...], code: str, message: str, member: str) -> FieldError:
    # The number type that was tried is no member of the request.
    place = location[:-1] if code == "float_type" and location[-1] == "float" else location
    return FieldError(("body", member, *place), code, message.removeprefix("Value error, "))
