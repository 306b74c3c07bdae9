"""TLS, as client and as server: the terms on which a destination is spoken to, contexts made of them, and why it failed.

Verification cannot be switched off: whoever has no public certificate gives the authority, or the certificate itself. A
context is made once for each set of terms, in a thread, and kept as long as it is used and there is room.
"""

import asyncio
import contextlib
import hashlib
import os
import ssl
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from relay.errors import DestinationMisconfigured, DestinationRefusedTls

PROTOCOL: Final = ["http/1.1"]
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2, those with forward secrecy and authenticated encryption; TLS 1.3 has no others."""

KEPT: Final = 256
"""Contexts that are kept. One with the public authorities holds nearly 1 MB, one with its own hardly anything."""

_VERDICTS: Final = {
    9: "Its certificate is not valid yet.",
    10: "A certificate of its chain has expired.",
    18: "Its certificate is signed by itself. Give it, or its authority's, as config.tls.ca.",
    19: "The authority of its certificate is not trusted. Give that one's as config.tls.ca.",
    20: "The authority of its certificate is not trusted, or the chain it sends is not whole. Give the authority's as config.tls.ca.",
    21: "The authority of its certificate is not trusted, or the chain it sends is not whole. Give the authority's as config.tls.ca.",
    62: "Its certificate is for another name. Give that name as config.tls.server_name if it is the right one.",
    64: "Its certificate is for another address. Give its name as config.tls.server_name.",
    66: "A key in its chain is too weak.",
    68: "A signature in its chain is too weak.",
}
"""What OpenSSL finds wrong with a certificate, by its number (``X509_V_ERR_…``)."""

_NO_TRUST: Final = "No trusted TLS connection to the destination could be made."
_ALERTS: Final = {
    "CERTIFICATE_REQUIRED": "It wants a client certificate. Give config.tls.client_certificate and secrets.tls.client_key.",
    "CERTIFICATE_EXPIRED": "It says that the client certificate has expired.",
    "CERTIFICATE_REVOKED": "It says that the client certificate was revoked.",
    "UNKNOWN_CA": "It does not know the authority of the client certificate.",
    "BAD_CERTIFICATE": "It does not take the client certificate.",
    "UNSUPPORTED_CERTIFICATE": "It does not take the client certificate.",
    "CERTIFICATE_UNKNOWN": "It does not take the client certificate.",
    "ACCESS_DENIED": "It does not let the client certificate in.",
    "DECRYPT_ERROR": "It could not verify the client certificate.",
}
"""What a destination may say of us, by the end of the reason's name."""

_HANDSHAKE: Final = {
    "HANDSHAKE_FAILURE": "It refused the handshake: it may want a client certificate, or ciphers of another age.",
    "UNRECOGNIZED_NAME": "It has no certificate for that name. Give another one as config.tls.server_name.",
    "PROTOCOL_VERSION": "It speaks no TLS 1.2 or newer.",
    "UNSUPPORTED_PROTOCOL": "It speaks no TLS 1.2 or newer.",
    "WRONG_VERSION_NUMBER": "It does not speak TLS at that port.",
    "HTTP_REQUEST": "It does not speak TLS at that port.",
    "RECORD_LAYER_FAILURE": "It does not speak TLS at that port.",
    "DH_KEY_TOO_SMALL": "Its key exchange is too weak.",
}


@dataclass(frozen=True, slots=True)
class TlsTerms:
    """On which terms a destination is spoken to over TLS; equal when their contents are, by ``digest``.

    ``ca``: the certificates that are trusted instead of the public authorities', as PEM. ``server_name``: the name that is
    asked for and verified in place of the URL's host. ``identity``: the client's certificates and key, as PEM; a secret.
    """

    ca: str | None = field(default=None, repr=False, compare=False)
    server_name: str | None = field(default=None, compare=False)
    identity: str | None = field(default=None, repr=False, compare=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256()
        for part in (self.ca, self.server_name, self.identity):
            data = b"" if part is None else part.encode()
            digest.update(b"%d %d " % (part is not None, len(data)) + data)
        object.__setattr__(self, "digest", digest.hexdigest())

    @property
    def is_public(self) -> bool:
        """True when the context of everybody will do."""
        return self.ca is None and self.identity is None


PUBLIC: Final = TlsTerms()
"""The public authorities, the URL's own name, no client certificate."""


class Contexts:
    """A context for each set of terms."""

    def __init__(self, public: ssl.SSLContext | None = None) -> None:
        self._public = public or make_public_context()
        self._made: OrderedDict[str, ssl.SSLContext] = OrderedDict()
        self._making: dict[str, asyncio.Future[ssl.SSLContext]] = {}

    async def get(self, terms: TlsTerms) -> ssl.SSLContext:
        """The context of these terms.

        Raises:
            DestinationMisconfigured: none can be made of them.
        """
        if terms.is_public:
            return self._public
        made = self._made.get(terms.digest)
        if made is not None:
            self._made.move_to_end(terms.digest)
            return made
        making = self._making.get(terms.digest)
        if making is None:
            making = asyncio.ensure_future(asyncio.to_thread(make_context, terms))
            self._making[terms.digest] = making
            making.add_done_callback(lambda done: self._keep(terms.digest, done))
        try:
            return await asyncio.shield(making)
        except (ssl.SSLError, ValueError):
            raise DestinationMisconfigured("The TLS settings of the destination cannot be used. Set config.tls anew.") from None

    def _keep(self, digest: str, done: "asyncio.Future[ssl.SSLContext]") -> None:
        del self._making[digest]
        if done.cancelled() or done.exception() is not None:
            return
        self._made[digest] = done.result()
        while len(self._made) > KEPT:
            self._made.popitem(last=False)


def make_public_context() -> ssl.SSLContext:
    """Make the context that trusts the public authorities, or those that ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` name."""
    context = httpx.create_ssl_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(PROTOCOL)
    return context


def make_context(terms: TlsTerms) -> ssl.SSLContext:
    """Make a context; takes a while, mostly where the public authorities are read.

    Raises:
        ssl.SSLError: OpenSSL does not take the certificates or the key.
    """
    if terms.ca is None:
        context = make_public_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(PROTOCOL)
        # What was given is trusted as it stands: a root, an intermediate authority, or the destination's own certificate.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=terms.ca)
    if terms.identity is not None:
        with _in_a_file(terms.identity) as path:
            context.load_cert_chain(path, password="")
    return context


def make_server_context(certificate: bytes, key: bytes) -> ssl.SSLContext:
    """Make what a server speaks TLS with, from PEM.

    Raises:
        ssl.SSLError: OpenSSL does not take the certificates or the key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(PROTOCOL)
    with _in_a_file((certificate + b"\n" + key).decode("utf-8", "replace")) as path:
        context.load_cert_chain(path, password="")
    return context


def explain(error: Exception) -> DestinationRefusedTls:
    """Say in our words why TLS with a destination failed; the library's may hold names of files and hosts."""
    why = ""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = _VERDICTS.get(error.verify_code, "Its certificate cannot be verified.")
    elif isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        why = next((words for name, words in (_ALERTS | _HANDSHAKE).items() if reason.endswith(name)), "")
    elif isinstance(error, ConnectionError):
        why = "It closed the connection during the handshake: it may want a client certificate."
    return DestinationRefusedTls(f"{_NO_TRUST} {why}".strip())


def find_refusal(error: Exception | None) -> DestinationRefusedTls | None:
    """What a destination said of our certificate on a connection that was open already, if it did.

    In TLS 1.3 a client is done with the handshake before the server has judged its certificate.
    """
    if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or "") and str(error.reason).endswith(tuple(_ALERTS)):
        return explain(error)
    return None


@contextlib.contextmanager
def _in_a_file(pem: str) -> Iterator[str | Path]:
    """Put text where OpenSSL can read it, and nowhere else where the system allows that: it takes keys from files alone."""
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        descriptor = os.memfd_create("identity", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, pem.encode())
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile(prefix="relay-", suffix=".pem") as file:  # mode 0600
        file.write(pem.encode())
        file.flush()
        yield file.name
