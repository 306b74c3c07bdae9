"""TLS with a destination: what its owner says of certificates, and what is asked for in the end."""

import ssl
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, SecretStr

from relay.destinations.addresses import ServerName
from relay.destinations.members import Members, SecretMembers, misfit
from relay.protocols.certificates import check_pair, parse_certificates, parse_key
from relay.wire.tls import TlsTerms, make_context

CLIENT_KEY = "tls.client_key"
"""How the key of a client certificate is named among a destination's credentials."""

_PEM_LONGEST = 131_072


def _checked_certificates(value: str) -> str:
    return parse_certificates(value).pem


def _checked_key(value: SecretStr) -> SecretStr:
    return SecretStr(parse_key(value.get_secret_value()))


class TlsConfig(Members):
    """How an `https` service is known, and how it knows Relay: PEM texts. The service's certificate is always verified."""

    ca: Annotated[str, Field(max_length=_PEM_LONGEST), AfterValidator(_checked_certificates)] | None = Field(
        None, description="Certificates that are trusted instead of the public authorities': of an authority, or the service's own."
    )
    client_certificate: Annotated[str, Field(max_length=_PEM_LONGEST), AfterValidator(_checked_certificates)] | None = Field(
        None, description="What Relay shows when it is asked: its certificate and the chain. The key is among the secrets."
    )
    server_name: ServerName | None = Field(
        None, description="The name that is asked for (SNI) and verified; by default the host of `base_url`."
    )


def _drop_empty(value: TlsConfig | None) -> TlsConfig | None:
    return None if value == TlsConfig() else value


Tls = Annotated[TlsConfig | None, AfterValidator(_drop_empty)]


def check_scheme(tls: TlsConfig | None, url: str, member: str) -> None:
    """Refuse TLS settings for what is not reached by TLS.

    Raises:
        ValueError: says what to change.
    """
    if tls is not None and not url.startswith("https:"):
        raise ValueError(f"tls belongs to a {member} of https://: change that, or set tls to null")


class TlsSecrets(Members):
    """The key of ``config.tls.client_certificate``."""

    client_key: Annotated[SecretStr, Field(max_length=_PEM_LONGEST), AfterValidator(_checked_key)] | None = Field(
        None, description="The key in PEM, without a passphrase."
    )


class SecretsWithTls(SecretMembers):
    """Credentials of a place that may be shown a client certificate, too: its key is among them."""

    tls: TlsSecrets | None = None

    def plain(self) -> dict[str, Any]:
        """Give them as plain JSON, to be sealed."""
        key = self.tls.client_key if self.tls is not None else None
        return super().plain() | ({"tls": {"client_key": key.get_secret_value()}} if key is not None else {})

    @staticmethod
    def names(plain: Mapping[str, Any]) -> list[str]:
        """Name them, and the client's key."""
        return [CLIENT_KEY if name == "tls" else name for name in plain]


def find_client_key(secrets: Mapping[str, Any]) -> str | None:
    """The key of the client certificate among a destination's credentials, as PEM."""
    key: str | None = secrets.get("tls", {}).get("client_key")
    return key


def check_identity(tls: TlsConfig | None, key: str | None) -> None:
    """Check that the client certificate and its key belong together, and that TLS can be made with all of it.

    Raises:
        RequestInvalid: one is there without the other, the key is another one's, or OpenSSL takes one of them not.
    """
    certificate = tls.client_certificate if tls is not None else None
    if certificate is None and key is not None:
        raise misfit(("secrets", "tls", "client_key"), "client_certificate_missing", "Give config.tls.client_certificate too, or no key.")
    if certificate is not None and key is None:
        message = "Give its key as secrets.tls.client_key too, or no certificate."
        raise misfit(("config", "tls", "client_certificate"), "client_key_missing", message)
    try:
        if certificate is not None and key is not None:
            check_pair(parse_certificates(certificate), key)
    except ValueError:
        message = "The key is not that of the first certificate of config.tls.client_certificate."
        raise misfit(("secrets", "tls", "client_key"), "client_key_mismatch", message) from None
    terms = make_terms(tls, key)
    if terms is None or terms.is_public:
        return
    try:
        make_context(terms if terms.ca is not None else TlsTerms(ca=certificate, identity=terms.identity))  # the public ones are known
    except ssl.SSLError as error:
        why = (error.reason or "no reason").replace("_", " ").lower()
        raise misfit(("config", "tls"), "tls_unusable", f"OpenSSL does not take these certificates: {why}.") from None


def make_terms(tls: TlsConfig | None, client_key: str | None) -> TlsTerms | None:
    """The terms on which a destination is spoken to; ``None`` where nothing of its own was said."""
    if tls is None:
        return None
    identity = tls.client_certificate + client_key if tls.client_certificate is not None and client_key is not None else None
    return TlsTerms(tls.ca, tls.server_name, identity)
