"""What the owner of a bucket tells: config and secrets of the kinds ``s3`` and ``gcs``."""

import json
import re
from collections.abc import Sequence
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from relay.destinations.addresses import BaseUrl, is_address
from relay.destinations.keys import KeyTemplateText
from relay.destinations.members import ConfigMembers, Reveal, Seconds, misfit
from relay.destinations.parts import PART_BYTES
from relay.destinations.tls_config import CLIENT_KEY, SecretsWithTls, Tls, check_identity, check_scheme, find_client_key

SMALLEST_PART = 5 << 20
LARGEST_PART = 5 << 30
GOOGLE_ENDPOINT = "https://storage.googleapis.com"

_PREFIX_LONGEST = 900
_SERVICE_ACCOUNT_LONGEST = 16_384
_SERVICE_ACCOUNT_MEMBERS = ("client_email", "private_key", "private_key_id")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_REGION = re.compile(r"[a-z0-9-]{1,64}")
_CREDENTIAL = re.compile(r"[\x21-\x7e]+")


def is_region(value: str) -> bool:
    """True for what may be the name of a region."""
    return _REGION.fullmatch(value) is not None


def _checked_bucket(value: str) -> str:
    if not _BUCKET.fullmatch(value) or ".." in value:
        raise ValueError("use a bucket's name: 3 to 255 letters, digits, dots, hyphens and underscores")
    return value


def _checked_region(value: str) -> str:
    if not is_region(value):
        raise ValueError("use a region's name: lower-case letters, digits and hyphens")
    return value


def _checked_prefix(value: str) -> str:
    prefix = value.removesuffix("/")
    if prefix and any(segment in {"", ".", ".."} for segment in prefix.split("/")):
        raise ValueError("leave out empty and dot segments, and a slash in front")
    if not prefix.isprintable():
        raise ValueError("leave out control characters")
    return prefix


def _checked_credential(value: SecretStr) -> SecretStr:
    if not _CREDENTIAL.fullmatch(value.get_secret_value()):
        raise ValueError("use printable ASCII without blanks")
    return value


def _checked_service_account(value: SecretStr) -> SecretStr:
    try:
        members = json.loads(value.get_secret_value())
    except (ValueError, RecursionError):
        members = None
    if not isinstance(members, dict) or members.get("type") != "service_account":
        raise ValueError("use the JSON text of a service account's key")
    if any(not isinstance(members.get(name), str) or not members[name] for name in _SERVICE_ACCOUNT_MEMBERS):
        raise ValueError(f"the key lacks one of {', '.join(_SERVICE_ACCOUNT_MEMBERS)}")
    # Of all the rest, addresses included, nothing is used, so nothing is kept.
    return SecretStr(json.dumps({"type": "service_account"} | {name: members[name] for name in _SERVICE_ACCOUNT_MEMBERS}))


Bucket = Annotated[str, AfterValidator(_checked_bucket)]
Credential = Annotated[SecretStr, Field(max_length=4_096), AfterValidator(_checked_credential)]


class BucketConfig(ConfigMembers):
    """What buckets of every maker have in common. Times are in seconds."""

    bucket: Bucket
    prefix: Annotated[str, Field(max_length=_PREFIX_LONGEST), AfterValidator(_checked_prefix)] = Field(
        "", description="The folder of the bucket in which every object lies."
    )
    region: Annotated[str, AfterValidator(_checked_region)] = "us-east-1"
    endpoint_url: BaseUrl | None = Field(None, description="Where the store is; by default the maker's own address.")
    path_style: bool | None = Field(
        None, description="True: the bucket is named in the path. False: in the host. By default in the path where `endpoint_url` is given."
    )
    key_template: KeyTemplateText = "{path}"
    overwrite: Literal["refuse", "replace"] = "refuse"
    part_bytes: Annotated[int, Field(ge=SMALLEST_PART, le=LARGEST_PART)] | None = Field(
        None,
        description="The size of a part, within half of `RELAY_MEMORY_PARTS`; a larger object gets larger ones. By default 16 MiB while "
        "few uploads to stores run, else 8 MiB, and with `total_timeout_seconds`.",
    )
    sign_bodies: bool | None = Field(
        None,
        description="Sign the SHA-256 of every body. By default only without TLS: there whoever stands in between could change a body "
        "that is not signed, and its checksum would not tell. False saves that digest on a connection that is safe by other means.",
    )
    ambient_credentials: bool = Field(
        default=False, description="Use the credentials of the machine that Relay runs on. Then no others may be given."
    )
    tls: Tls = None
    connect_timeout_seconds: Seconds = 5
    idle_timeout_seconds: Seconds = 60
    total_timeout_seconds: Seconds | None = Field(None, description="Longest time of one request to the store.")
    max_connections: Annotated[int, Field(ge=1, le=10_000)] = Field(100, description="Requests to the store at once; more wait.")

    @model_validator(mode="after")
    def _check_scheme(self) -> Self:
        check_scheme(self.tls, self.url, "endpoint_url")
        return self

    @model_validator(mode="after")
    def _check_style(self) -> Self:
        if not self.is_path_style and is_address(urlsplit(self.url).hostname or ""):
            raise ValueError("there are no names below an address: set path_style to true, or leave it out")
        return self

    def check_beside(self, secret_names: Sequence[str], reveal: Reveal) -> None:
        """Check that there are credentials of exactly one origin, and that the client certificate and its key belong together."""
        has_own = any(name != CLIENT_KEY for name in secret_names)
        if self.ambient_credentials and has_own:
            message = "Leave out either the credentials or config.ambient_credentials."
            raise misfit(("secrets",), "credentials_ambiguous", message)
        if not self.ambient_credentials and not has_own:
            raise misfit(("secrets",), "credentials_missing", "Give credentials, or set config.ambient_credentials.")
        check_identity(self.tls, find_client_key(reveal()) if CLIENT_KEY in secret_names else None)

    @property
    def url(self) -> str:
        """Where the store is."""
        raise NotImplementedError

    @property
    def told_part_bytes(self) -> int | None:
        """The size of a part where none is to be chosen: a large one could take longer than a request may."""
        return self.part_bytes or (PART_BYTES if self.total_timeout_seconds is not None else None)

    @property
    def is_path_style(self) -> bool:
        """True when the bucket is named in the path: a certificate is for no name with more dots than its asterisk stands for."""
        if self.path_style is not None:
            return self.path_style
        return self.endpoint_url is not None or "." in self.bucket


class S3Config(BucketConfig):
    """A bucket of S3, or of whatever speaks it."""

    @property
    def url(self) -> str:
        """Where the store is."""
        suffix = ".cn" if self.region.startswith("cn-") else ""
        return self.endpoint_url or f"https://s3.{self.region}.amazonaws.com{suffix}"


class GcsConfig(BucketConfig):
    """A bucket of Google Cloud Storage, by its XML interface."""

    region: Annotated[str, AfterValidator(_checked_region)] = "auto"

    @model_validator(mode="after")
    def _check_who_gets_the_token(self) -> Self:
        # The machine's token opens all that the machine may: whoever is sent it can use it.
        if self.ambient_credentials and self.endpoint_url not in {None, GOOGLE_ENDPOINT}:
            raise ValueError(f"with ambient_credentials the endpoint_url is {GOOGLE_ENDPOINT}: leave it out")
        return self

    @property
    def url(self) -> str:
        """Where the store is."""
        return self.endpoint_url or GOOGLE_ENDPOINT


class BucketSecrets(SecretsWithTls):
    """What opens a bucket of any maker."""

    access_key_id: Credential | None = None
    secret_access_key: Credential | None = None


class S3Secrets(BucketSecrets):
    """An access key, perhaps of a session."""

    session_token: Credential | None = None

    @model_validator(mode="after")
    def _check_pair(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("give access_key_id and secret_access_key together")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("a session_token belongs to an access_key_id")
        return self


class GcsSecrets(BucketSecrets):
    """A service account's key, or an HMAC key."""

    service_account: Annotated[SecretStr, Field(max_length=_SERVICE_ACCOUNT_LONGEST), AfterValidator(_checked_service_account)] | None = (
        None
    )

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("give access_key_id and secret_access_key together")
        if self.service_account is not None and self.access_key_id is not None:
            raise ValueError("give either service_account or an HMAC key")
        return self
