"""The kinds of destinations: one table of what each is told, and how it is opened.

A kind's models and code stand in modules of its own; whoever needs a kind by its name asks here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from relay.destinations.azure_blob import AzureStore
from relay.destinations.azure_config import AzureConfig, AzureSecrets
from relay.destinations.azure_signing import SasToken, SharedKey
from relay.destinations.destination import Destination, DestinationSpec
from relay.destinations.disk import DiskStore
from relay.destinations.disk_config import DiskConfig
from relay.destinations.http_config import HttpConfig, HttpSecrets
from relay.destinations.http_upstream import HttpUpstream
from relay.destinations.keys import KeyTemplate
from relay.destinations.means import Means
from relay.destinations.members import ConfigMembers, NoSecrets, SecretMembers, parse_members
from relay.destinations.s3 import S3Store
from relay.destinations.s3_config import GcsConfig, GcsSecrets, S3Config, S3Secrets
from relay.destinations.store import StoreDestination
from relay.destinations.tls_config import find_client_key, make_terms
from relay.errors import DestinationMisconfigured, FieldError, RequestInvalid
from relay.wire.client import Account


def _open_http(means: Means, spec: DestinationSpec, config: HttpConfig, secrets: Mapping[str, Any]) -> Destination:
    headers, tls = secrets.get("headers", {}), secrets.get("tls", {})
    if not isinstance(headers, dict) or not isinstance(tls, dict):
        raise DestinationMisconfigured
    return HttpUpstream(means.client, Account(spec.tenant, str(spec.id)), config, headers, make_terms(config.tls, find_client_key(secrets)))


def _open_disk(means: Means, spec: DestinationSpec, config: DiskConfig, _secrets: Mapping[str, Any]) -> Destination:
    if means.disk.root is None:
        raise DestinationMisconfigured("No disk destination can be used: the operator has not set RELAY_DISK_ROOT.")
    store = DiskStore(Path(means.disk.root), config, means.disk_threads.share(spec.tenant), means.disk.idle_timeout)
    return StoreDestination(store, KeyTemplate(config.key_template), means.forms)


def _open_azure(means: Means, spec: DestinationSpec, config: AzureConfig, secrets: Mapping[str, Any]) -> Destination:
    key, token = secrets.get("account_key"), secrets.get("sas_token")
    if not isinstance(key or token, str):
        raise DestinationMisconfigured("The destination has no credentials. Set secrets.sas_token or secrets.account_key.")
    signer = SharedKey(config.account, key) if key else SasToken(str(token))
    terms = make_terms(config.tls, find_client_key(secrets))
    store = AzureStore.open(means.client, Account(spec.tenant, str(spec.id)), config, signer, means.stores, terms)
    return StoreDestination(store, KeyTemplate(config.key_template), means.forms)


def _open_s3(means: Means, spec: DestinationSpec, config: S3Config, secrets: Mapping[str, Any]) -> Destination:
    return _open_bucket(means, spec, config, parse_members(S3Secrets, secrets, "secrets"))


def _open_gcs(means: Means, spec: DestinationSpec, config: GcsConfig, secrets: Mapping[str, Any]) -> Destination:
    return _open_bucket(means, spec, config, parse_members(GcsSecrets, secrets, "secrets"))


def _open_bucket(means: Means, spec: DestinationSpec, config: S3Config | GcsConfig, secrets: S3Secrets | GcsSecrets) -> Destination:
    terms = make_terms(config.tls, find_client_key(secrets.plain()))
    store = S3Store.open(means.client, spec, config, secrets, means.stores, terms)
    return StoreDestination(store, KeyTemplate(config.key_template), means.forms)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: the models of its ``config`` and ``secrets``, and what makes a destination of a spec, its config and its open secrets."""

    config: type[ConfigMembers]
    secrets: type[SecretMembers]
    open: Callable[[Means, DestinationSpec, Any, Mapping[str, Any]], Destination]


KINDS: Final[Mapping[str, Kind]] = {
    "http": Kind(HttpConfig, HttpSecrets, _open_http),
    "disk": Kind(DiskConfig, NoSecrets, _open_disk),
    "s3": Kind(S3Config, S3Secrets, _open_s3),
    "gcs": Kind(GcsConfig, GcsSecrets, _open_gcs),
    "azure": Kind(AzureConfig, AzureSecrets, _open_azure),
}


def kind_of(name: str) -> Kind:
    """The kind of this name.

    Raises:
        RequestInvalid: there is none.
    """
    kind = KINDS.get(name)
    if kind is None:
        error = FieldError(("body", "kind"), "kind_not_supported", f"Use one of: {', '.join(KINDS)}.")
        raise RequestInvalid("Destinations of this kind are not supported.", errors=[error])
    return kind


def parse_config(kind: str, config: Mapping[str, Any]) -> ConfigMembers:
    """Check the config of a destination of this kind.

    Raises:
        RequestInvalid: it names each wrong member, or says that the kind is not supported.
    """
    return parse_members(kind_of(kind).config, config, "config")


def parse_secrets(kind: str, secrets: Mapping[str, Any]) -> dict[str, Any]:
    """Check the secrets of a destination of this kind and give them back as plain JSON, to be sealed.

    Raises:
        RequestInvalid: it names each wrong member and no value, or says that the kind is not supported.
    """
    return parse_members(kind_of(kind).secrets, secrets, "secrets").plain()


def name_secrets(kind: str, plain: Mapping[str, Any]) -> list[str]:
    """Name what ``parse_secrets`` gave."""
    return kind_of(kind).secrets.names(plain)


def order_config(kind: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give a config's members in the order of their kind's definition: Postgres keeps JSON in an order of its own."""
    names = KINDS[kind].config.model_fields if kind in KINDS else ()
    return {name: config[name] for name in names if name in config} | dict(config)
