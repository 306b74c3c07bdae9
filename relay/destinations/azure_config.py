"""What is told of a container of Azure Blob Storage: ``config`` and ``secrets``."""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Annotated, Final, Literal, Self
from urllib.parse import parse_qsl

from pydantic import AfterValidator, Field, SecretStr, model_validator

from relay.destinations.addresses import BaseUrl
from relay.destinations.keys import KeyTemplateText
from relay.destinations.members import ConfigMembers, Reveal, Seconds, check_relative, misfit
from relay.destinations.tls_config import CLIENT_KEY, SecretsWithTls, Tls, check_identity, check_scheme, find_client_key

MIB: Final = 1 << 20
LARGEST_BLOCK: Final = 4_000 * MIB

_PREFIX_LONGEST = 900
_SAS_LONGEST = 4_096
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_CONTAINER = re.compile(r"\$web|(?=.{3,63}\Z)[a-z0-9]+(?:-[a-z0-9]+)*")
_SAS_TEXT = re.compile(r"[!$%&'()*+,./0-9:;=@A-Z_a-z~-]+")
_SAS_NAME = re.compile(r"[a-z]{2,8}")
_RELAYS_OWN = frozenset({"blockid", "comp", "restype", "snapshot", "timeout", "versionid"})
_CREDENTIALS = frozenset({"account_key", "sas_token"})


def _checked_account(value: str) -> str:
    if not _ACCOUNT.fullmatch(value):
        raise ValueError("use the storage account's name: 3 to 24 lower-case letters and digits")
    return value


def _checked_container(value: str) -> str:
    if not _CONTAINER.fullmatch(value):
        raise ValueError("use the container's name: 3 to 63 lower-case letters and digits, with single hyphens between them")
    return value


def _checked_prefix(value: str) -> str:
    prefix = value.removesuffix("/")
    if prefix:
        check_relative(prefix, below="the container")
    if any(segment.endswith(".") for segment in prefix.split("/")):
        raise ValueError("use segments that do not end with a dot: the store drops it")
    return prefix


def _checked_sas(value: SecretStr) -> SecretStr:
    text = value.get_secret_value().removeprefix("?")
    if not _SAS_TEXT.fullmatch(text):
        raise ValueError("use the SAS token as it was issued: the query alone, percent-encoded, without the address in front")
    names = [name for name, _ in parse_qsl(text, keep_blank_values=True)]
    if "sig" not in names or "sv" not in names:
        raise ValueError("the token has no signature: use the whole of it, from sv= on")
    if len(set(names)) < len(names) or not all(_SAS_NAME.fullmatch(name) for name in names) or _RELAYS_OWN.intersection(names):
        raise ValueError("use the SAS token alone, without other parameters")
    return SecretStr(text)


def _checked_account_key(value: SecretStr) -> SecretStr:
    try:
        key = base64.b64decode(value.get_secret_value().encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        key = b""
    if not key:
        raise ValueError("use the account's key as it was issued, in base64")
    return value


class AzureConfig(ConfigMembers):
    """A container of Azure Blob Storage. Times are in seconds."""

    account: Annotated[str, AfterValidator(_checked_account)]
    container: Annotated[str, AfterValidator(_checked_container)]
    prefix: Annotated[str, Field(max_length=_PREFIX_LONGEST), AfterValidator(_checked_prefix)] = Field(
        "", description="The folder of the container in which every blob lies."
    )
    endpoint_url: BaseUrl | None = Field(None, description="Where the store is; by default the account's address in Azure's public cloud.")
    key_template: KeyTemplateText = "{path}"
    overwrite: Literal["refuse", "replace"] = "refuse"
    block_bytes: Annotated[int, Field(ge=MIB, le=LARGEST_BLOCK)] | None = Field(
        None,
        description="The size of a block, within half of `RELAY_MEMORY_PARTS`, which holds it. Very large blobs get larger ones. By "
        "default 16 MiB while few uploads to stores run, else 8 MiB.",
    )
    connect_timeout_seconds: Seconds = 5
    idle_timeout_seconds: Seconds = 60
    max_connections: Annotated[int, Field(ge=1, le=10_000)] = Field(100, description="Requests to the store at once; more of them wait.")
    tls: Tls = None

    @model_validator(mode="after")
    def _check_scheme(self) -> Self:
        check_scheme(self.tls, self.url, "endpoint_url")
        return self

    @property
    def url(self) -> str:
        """Where the store is."""
        return self.endpoint_url or f"https://{self.account}.blob.core.windows.net"

    def check_beside(self, secret_names: Sequence[str], reveal: Reveal) -> None:
        """Check that there are credentials, and that a client certificate and its key belong together."""
        if not _CREDENTIALS.intersection(secret_names):
            raise misfit(("secrets",), "credentials_missing", "Give secrets.sas_token or secrets.account_key.")
        check_identity(self.tls, find_client_key(reveal()) if CLIENT_KEY in secret_names else None)


class AzureSecrets(SecretsWithTls):
    """A shared access signature, or the account's key: exactly one of them."""

    sas_token: Annotated[SecretStr, Field(max_length=_SAS_LONGEST), AfterValidator(_checked_sas)] | None = Field(
        None, description="With the permissions create, write, read and delete (`sp=rcwd`) for the container."
    )
    account_key: Annotated[SecretStr, Field(max_length=256), AfterValidator(_checked_account_key)] | None = Field(
        None, description="Opens the whole storage account: a SAS of one container is enough."
    )

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if self.sas_token is not None and self.account_key is not None:
            raise ValueError("give exactly one of sas_token and account_key")
        return self
