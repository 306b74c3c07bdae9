"""Certificates and keys as PEM text: read, judged, and written anew without anything else that stood there.

A file of certificates often holds the key as well. Whoever hands over certificates alone, because they are shown again,
must not hand over a key by mistake: that is refused. No file is read here and no clock is asked. The library is imported
when it is needed first: it takes longer to import than a start can spare.
"""

import warnings
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from typing import Any, Final

CERTIFICATES_MOST: Final = 64


@dataclass(frozen=True, slots=True)
class Certificates:
    """Some certificates in their order. ``pem`` is the text of them and of nothing else."""

    pem: str
    begins: tuple[datetime, ...]
    ends: tuple[datetime, ...]
    public_key: Any

    @property
    def chain_ends_at(self) -> datetime:
        """When a chain of these is good no longer: its first one to end ends it."""
        return min(self.ends)

    @property
    def begins_at(self) -> datetime:
        """When a chain of these begins to be good."""
        return max(self.begins)

    @property
    def last_ends_at(self) -> datetime:
        """When the last one of these ends: authorities among which there is a choice."""
        return max(self.ends)


def parse_certificates(text: str, *, may_hold_key: bool = False) -> Certificates:
    """Read certificates, the owner's own one first.

    Raises:
        ValueError: there is none, one cannot be read, or a private key stands among them and may not.
    """
    if "PRIVATE KEY-----" in text and not may_hold_key:
        raise ValueError("leave out the private key: give certificates alone, in PEM")
    x509 = import_module("cryptography.x509")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd certificates that are read all the same; TLS itself has the last word
            found = x509.load_pem_x509_certificates(text.encode())
            key = found[0].public_key()
    except (ValueError, TypeError, import_module("cryptography.exceptions").UnsupportedAlgorithm):
        raise ValueError("use certificates in PEM: -----BEGIN CERTIFICATE----- and what follows") from None
    if len(found) > CERTIFICATES_MOST:
        raise ValueError(f"use at most {CERTIFICATES_MOST} certificates")
    encoding = import_module("cryptography.hazmat.primitives.serialization").Encoding.PEM
    pem = "".join(each.public_bytes(encoding).decode("ascii") for each in found)
    return Certificates(
        pem, tuple(each.not_valid_before_utc for each in found), tuple(each.not_valid_after_utc for each in found), public_key=key
    )


def parse_key(text: str) -> str:
    """Read a private key and write it anew, as PEM.

    Raises:
        ValueError: it is none, or has a passphrase. The key is in no message.
    """
    serialization = import_module("cryptography.hazmat.primitives.serialization")
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    plain: bytes = _load_key(text).private_bytes(encoding, form, serialization.NoEncryption())
    return plain.decode("ascii")


def check_pair(certificates: Certificates, key: str) -> None:
    """Check that a key is that of the first certificate.

    Raises:
        ValueError: it is another one's, or no key.
    """
    if _load_key(key).public_key() != certificates.public_key:
        raise ValueError("the key is not that of the first certificate")


def describe_time(certificates: Certificates, now: datetime) -> str | None:
    """Say what is wrong with the time of a chain, if anything is."""
    if now >= certificates.chain_ends_at:
        return f"expired at {certificates.chain_ends_at:%Y-%m-%d %H:%M} UTC"
    if now < certificates.begins_at:
        return f"is not valid before {certificates.begins_at:%Y-%m-%d %H:%M} UTC"
    return None


def _load_key(text: str) -> Any:
    serialization = import_module("cryptography.hazmat.primitives.serialization")
    try:
        return serialization.load_pem_private_key(text.encode(), None)
    except TypeError:
        raise ValueError("use a key without a passphrase") from None
    except (ValueError, import_module("cryptography.exceptions").UnsupportedAlgorithm):
        raise ValueError("use a private key in PEM: -----BEGIN PRIVATE KEY----- and what follows") from None
