"""Every setting: typed, described, its unit in the type; read once and handed down in groups.

Variables are ``RELAY_<GROUP>_<MEMBER>``. A ``RELAY_*`` variable that no setting claims stops the start
and names the nearest one. Every secret may come from a file: ``RELAY_ADMIN_TOKEN_FILE``. The operators' tokens
are never held as text: what is read of them is hashed at once.
"""

import base64
import binascii
import dataclasses
import difflib
import hashlib
import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, SecretStr, ValidationError, model_validator

PREFIX = "RELAY_"
INJECTED_BY_KUBERNETES = ("RELAY_PORT", "RELAY_SERVICE_")
EMBEDDED = "embedded"
OFF = "off"
CLIENT_VARIABLES = {
    "RELAY_CLIENT_URL": "Where the relay is, such as https://relay.example.com.",
    "RELAY_CLIENT_KEY": "The tenant's key. A secret.",
    "RELAY_CLIENT_KEY_FILE": "A file with the tenant's key.",
}
"""What `relay upload` reads. A server that shares its environment with a client does not mind them."""


class SettingsInvalid(Exception):
    """A setting is wrong or unknown; the message names the variable and what to do."""


def parse_listen(value: str) -> tuple[str, int]:
    """Split ``host:port`` (IPv6 in brackets).

    Raises:
        ValueError: it is not of this form.
    """
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"expected host:port, got {value!r}")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - ':8000' means every interface, as users expect


def _checked_listen(value: str) -> str:
    parse_listen(value)
    return value


def _checked_listen_or_off(value: str | None) -> str | None:
    return None if value is None or value == OFF else _checked_listen(value)


def _split(value: object) -> object:
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def _seconds(value: object) -> object:
    return float(value) if isinstance(value, str) else value


@dataclasses.dataclass(frozen=True, slots=True)
class OperatorToken:
    """A token of an operator, as its SHA-256 digest. ``name`` is the operator's, where one was given."""

    name: str | None
    digest: bytes = dataclasses.field(repr=False)
    is_read_only: bool = False

    @property
    def actor(self) -> str:
        """Who acts by this token, as the audit says it."""
        return "operator" if self.name is None else f"operator:{self.name}"


def split_tokens(text: str) -> list[tuple[str | None, str]]:
    """Split operators' tokens, ``token`` or ``name:token``, at commas and line breaks into names and tokens.

    Empty lines and those that begin with ``#`` do not count.

    Raises:
        ValueError: one is empty or given twice, a name is given twice, or there are only comments. No token is quoted.
    """
    lines = [line.strip() for line in text.splitlines()]
    items = [item for line in lines if line and not line.startswith("#") for item in line.split(",")]
    if not items and any(lines):
        raise ValueError("there is no token but only comments")
    tokens: list[tuple[str | None, str]] = []
    for number, item in enumerate(items, 1):
        named = _NAMED_TOKEN.fullmatch(item.strip())
        name, token = (named[1], named[2].strip()) if named else (None, item.strip())
        if not token:
            raise ValueError(f"token {number} of {len(items)} is empty")
        tokens.append((name, token))
    names = [name for name, _ in tokens if name is not None]
    if len(set(names)) < len(names) or len({token for _, token in tokens}) < len(tokens):
        raise ValueError("a name or a token is given twice")
    return tokens


def _hash_tokens(value: object, *, is_read_only: bool = False) -> object:
    if not isinstance(value, str):
        return value
    found = split_tokens(value)
    return tuple(OperatorToken(name, digest_token(token.encode("utf-8", "surrogateescape")), is_read_only) for name, token in found)


def digest_token(token: bytes) -> bytes:
    """The digest by which a token is known. A plain one will do: tokens are long and random, unlike passwords."""
    return hashlib.sha256(token).digest()


_NAMED_TOKEN = re.compile(r"([a-z][a-z0-9-]{0,31}):(.*)", re.DOTALL)

Listen = Annotated[str, BeforeValidator(_checked_listen)]
ListenOrOff = Annotated[str | None, BeforeValidator(_checked_listen_or_off)]
OperatorTokens = Annotated[tuple[OperatorToken, ...], BeforeValidator(_hash_tokens)]
ReadTokens = Annotated[tuple[OperatorToken, ...], BeforeValidator(partial(_hash_tokens, is_read_only=True))]
Networks = Annotated[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...], BeforeValidator(_split)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
Seconds = Annotated[timedelta, BeforeValidator(_seconds)]


class Group(BaseModel):
    """A group of settings; a component receives its group, never the whole."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class AdminSettings(Group):
    token: OperatorTokens = Field(
        (), description="Tokens of the operators for /admin/v1, each 'token' or 'name:token'. None: the admin side answers 401."
    )
    read_token: ReadTokens = Field((), description="Tokens of operators who may read and change nothing, written alike.")
    listen: Listen | None = Field(None, description="host:port of the admin side, health and metrics; default: the same as RELAY_LISTEN.")

    @model_validator(mode="after")
    def _check_tokens(self) -> Self:
        names = [token.name for token in self.operators() if token.name is not None]
        if len(set(names)) < len(names) or len({token.digest for token in self.operators()}) < len(self.operators()):
            raise ValueError("a name or a token is in RELAY_ADMIN_TOKEN and in RELAY_ADMIN_READ_TOKEN")
        return self

    def operators(self) -> tuple[OperatorToken, ...]:
        """Every token that opens the admin side."""
        return (*self.token, *self.read_token)


class DatabaseSettings(Group):
    url: SecretStr | None = Field(None, description="postgresql://user:password@host/name, or 'embedded' for one in the data directory.")
    listen_url: SecretStr | None = Field(None, description="A direct connection for LISTEN where the pool goes through PgBouncer.")
    pool_size: int = Field(5, ge=1, le=200, description="Connections that each worker keeps.")
    pool_overflow: int = Field(5, ge=0, le=200, description="Connections that each worker may add under load.")
    pool_timeout: Seconds = Field(timedelta(seconds=2), description="Longest wait for a free connection of the pool (seconds).")
    connect_timeout: Seconds = Field(timedelta(seconds=5), description="Longest time to connect (seconds).")
    statement_timeout: Seconds = Field(timedelta(seconds=10), description="Longest time of one statement (seconds).")
    start_timeout: Seconds = Field(timedelta(seconds=30), description="How long a start waits for Postgres (seconds).")
    embedded_bin: Path | None = Field(None, description="Folder with the Postgres programs to embed; default: found by itself.")


class DataSettings(Group):
    dir: Path = Field(Path(".relay"), description="Journal, embedded database, staging. A local persistent disk.")


class DiskSettings(Group):
    root: Path | None = Field(None, description="Folder below which every disk destination lies. None: no disk destinations.")
    threads: int = Field(16, ge=1, le=64, description="Threads that write to disk destinations; one tenant gets at most a quarter of them.")
    idle_timeout: Seconds = Field(timedelta(seconds=60), description="Longest time of one write to disk (seconds).")


class EgressSettings(Group):
    allow: Names = Field((), description="Networks (CIDR) and host names that destinations may use though they are private.")


class TlsSettings(Group):
    certificate: Path | None = Field(
        None, description="File with the certificate and its chain (PEM): both listeners then speak TLS. A new one is taken up by itself."
    )
    key: Path | None = Field(None, description="File with its key (PEM, without a passphrase).")
    handshake_timeout: Seconds = Field(
        timedelta(seconds=10), gt=timedelta(0), description="Longest time that a client's TLS handshake may take (seconds)."
    )

    @model_validator(mode="after")
    def _check_pair(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("RELAY_TLS_CERTIFICATE and RELAY_TLS_KEY belong together: set both or neither")
        return self

    @property
    def is_on(self) -> bool:
        """True when clients speak TLS with this process."""
        return self.certificate is not None


class TrustedSettings(Group):
    proxies: Networks = Field((), description="Networks (CIDR) of proxies whose Forwarded and X-Forwarded-* fields are believed.")


class SecretSettings(Group):
    key: SecretStr | None = Field(None, description="<id>:<base64 of 32 bytes>[,…]: the first seals credentials, all open them.")

    def keys(self) -> dict[str, bytes]:
        """The sealing keys by id, in order; empty when none is set.

        Raises:
            SettingsInvalid: a key is not ``<id>:<base64 of 32 bytes>``.
        """
        keys: dict[str, bytes] = {}
        for item in self.key.get_secret_value().split(",") if self.key else ():
            key_id, _, encoded = item.strip().partition(":")
            try:
                keys[key_id] = base64.b64decode(encoded, validate=True)
            except binascii.Error:
                keys[key_id] = b""
            if not key_id or len(keys[key_id]) != 32:
                raise SettingsInvalid("RELAY_SECRET_KEY: each key is <id>:<base64 of 32 bytes>")
        return keys


class ShutdownSettings(Group):
    timeout: Seconds = Field(timedelta(seconds=30), description="How long running uploads may go on after SIGTERM (seconds).")


class JournalSettings(Group):
    sync: Literal["process", "group"] = Field(
        "process", description="process: survives kill -9. group: survives power loss, at the cost of an fsync."
    )
    max_bytes: ByteSize = Field(
        ByteSize(1 << 30), description="Size of one worker's journal past which new uploads get 503 journal_full (bytes)."
    )


class LedgerSettings(Group):
    retention_days: int | None = Field(None, ge=1, description="Ledger partitions wholly older than this are dropped. None: kept for ever.")
    refusals_per_second: int = Field(20, ge=1, description="Refusals of one tenant told one by one each second; more are summed up.")


class DirectorySettings(Group):
    stale_seconds: Seconds = Field(
        timedelta(seconds=3600), description="How long known keys are honoured while Postgres is away (seconds)."
    )
    entries: int = Field(100_000, ge=1, description="Keys, and destinations, held in memory by each worker: 3 to 7 KiB each.")
    unknown_seconds: Seconds = Field(timedelta(seconds=5), description="How long an unknown key id is remembered (seconds).")


class UploadSettings(Group):
    max_bytes: ByteSize | None = Field(None, description="Largest body of any tenant (bytes). None: no limit but the tenant's.")
    idle_timeout: Seconds = Field(timedelta(seconds=60), description="Longest wait for the client's next byte (seconds).")
    min_rate: ByteSize = Field(ByteSize(1024), description="Slowest client, in bytes per second over the rate window. 0: any.")
    rate_window: Seconds = Field(timedelta(seconds=60), description="Waiting time over which the rate is measured (seconds).")


class FormSettings(Group):
    max_files: int = Field(
        1_000,
        ge=1,
        le=100_000,
        description="Files of one form: far more than people choose, few enough for one answer that names them all.",
    )
    max_fields: int = Field(1_000, ge=0, le=100_000, description="Plain fields of one form: as many as files, for a description of each.")
    max_field_bytes: ByteSize = Field(
        ByteSize(1 << 20),
        le=64 << 20,
        description="Names and values of all plain fields of one form (bytes), held until it ends. Large content belongs in a file.",
    )
    max_head_bytes: ByteSize = Field(
        ByteSize(8 << 10),
        ge=1 << 10,
        le=64 << 10,
        description="Header lines of one part (bytes): room for two names of 1,024 characters in most scripts.",
    )


class MemorySettings(Group):
    buffers: ByteSize = Field(
        ByteSize(256 << 20), description="What all running uploads of a worker may hold in buffers; more of them get smaller ones (bytes)."
    )
    parts: ByteSize = Field(
        ByteSize(512 << 20),
        ge=32 << 20,
        description="What parts on their way to buckets may hold in each worker; one tenant's get at most half of it (bytes).",
    )


class StoreSettings(Group):
    parts_parallel: int = Field(3, ge=1, le=64, description="Parts of one upload that are sent to a bucket at once.")


class HeadSettings(Group):
    timeout: Seconds = Field(timedelta(seconds=10), description="Longest time that the head of a request may take (seconds).")


class RefusalSettings(Group):
    discard_bytes: ByteSize = Field(ByteSize(8 << 20), description="Most of a refused body that is read and thrown away (bytes).")
    discard_seconds: Seconds = Field(timedelta(seconds=5), description="Longest time spent on that (seconds).")


class DnsSettings(Group):
    timeout: Seconds = Field(timedelta(seconds=5), description="Longest time of one name lookup (seconds).")
    cache_seconds: Seconds = Field(timedelta(seconds=30), description="How long an address is remembered (seconds).")
    threads: int = Field(16, ge=1, le=64, description="Lookups that may run at once.")


class LogSettings(Group):
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    format: Literal["json", "text"] = Field("json", description="json: one object a line. text: for people.")


class DemoSettings(Group):
    upstream_listen: Listen = Field("127.0.0.1:8001", description="host:port of the example upstream of 'relay demo'.")
    bucket_listen: ListenOrOff = Field("127.0.0.1:8002", description="host:port of the example bucket of 'relay demo'; 'off': without one.")


class Settings(Group):
    """All settings of a process; see the module's docstring."""

    listen: Listen = Field("127.0.0.1:8000", description="host:port of the main door.")
    admin: AdminSettings = AdminSettings()
    database: DatabaseSettings = DatabaseSettings()
    data: DataSettings = DataSettings()
    disk: DiskSettings = DiskSettings()
    egress: EgressSettings = EgressSettings()
    tls: TlsSettings = TlsSettings()
    trusted: TrustedSettings = TrustedSettings()
    secret: SecretSettings = SecretSettings()
    shutdown: ShutdownSettings = ShutdownSettings()
    journal: JournalSettings = JournalSettings()
    ledger: LedgerSettings = LedgerSettings()
    directory: DirectorySettings = DirectorySettings()
    upload: UploadSettings = UploadSettings()
    form: FormSettings = FormSettings()
    memory: MemorySettings = MemorySettings()
    store: StoreSettings = StoreSettings()
    head: HeadSettings = HeadSettings()
    refusal: RefusalSettings = RefusalSettings()
    dns: DnsSettings = DnsSettings()
    log: LogSettings = LogSettings()
    demo: DemoSettings = DemoSettings()


def variables() -> Iterator[tuple[str, Any]]:
    """Every variable and its pydantic field, in the order of this module."""
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Group):
            for member, inner in field.annotation.model_fields.items():
                yield f"{PREFIX}{name}_{member}".upper(), inner
        else:
            yield f"{PREFIX}{name}".upper(), field


def is_secret(field: Any) -> bool:
    """True for a setting whose value must never be shown."""
    return any(kind.__name__ in str(field.annotation) for kind in (SecretStr, OperatorToken))


def _claims_secret(fields: Mapping[str, Any], file_variable: str) -> bool:
    field = fields.get(file_variable.removesuffix("_FILE"))
    return field is not None and is_secret(field)


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from the environment (``os.environ`` by default), files of secrets included.

    Raises:
        SettingsInvalid: a variable is unknown, has a bad value, or its file cannot be read.
    """
    environ = os.environ if environ is None else environ
    fields = dict(variables())
    values: dict[str, Any] = {}
    for variable, value in environ.items():
        name = variable.upper()
        if not name.startswith(PREFIX) or name.startswith(INJECTED_BY_KUBERNETES) or name in CLIENT_VARIABLES:
            continue
        if name not in fields and name.endswith("_FILE") and _claims_secret(fields, name):
            name = name.removesuffix("_FILE")
            if name in environ:
                raise SettingsInvalid(f"{name} and {variable} are both set: keep one of them")
            _place(values, name, _read_secret(variable, value))
            continue
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1, cutoff=0.0)
            raise SettingsInvalid(f"{variable} is not a setting; the nearest is {near[0]}. Unset or rename it.")
        _place(values, name, value)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        variable = PREFIX + "_".join(str(part) for part in first["loc"][:2]).upper()
        raise SettingsInvalid(f"{variable}: {first['msg']}") from None


def find_secret(environ: Mapping[str, str], name: str) -> str | None:
    """The text of one secret, from its variable or its file, for the few who have to show it; ``None`` where none is set.

    Raises:
        SettingsInvalid: its file cannot be read.
    """
    for variable, value in environ.items():
        if variable.upper() == name:
            return value
        if variable.upper() == f"{name}_FILE":
            return _read_secret(variable, value)
    return None


def _read_secret(variable: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsInvalid(f"{variable}: {path} cannot be read ({type(error).__name__})") from None


def _place(values: dict[str, Any], name: str, value: str) -> None:
    group, _, member = name.removeprefix(PREFIX).lower().partition("_")
    if member:
        values.setdefault(group, {})[member] = value
    else:
        values[group] = value
