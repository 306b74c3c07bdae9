"""Certificates of a test: made anew for each, by an authority or by themselves."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Certificate:
    """One file with a certificate, and its key behind it."""

    path: Path
    pem: str
    key_pem: str = field(repr=False)
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    def server_context(self, *, clients_of: "Certificate | None" = None) -> ssl.SSLContext:
        """What a server speaks TLS with; where ``clients_of`` is given, a client must have a certificate of that authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path)
        if clients_of is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=clients_of.pem)
        return context

    def client_context(self) -> ssl.SSLContext:
        """What trusts it, and nothing else."""
        return ssl.create_default_context(cadata=self.pem)

    def key_pem_with(self, passphrase: bytes) -> str:
        """The key, encrypted."""
        sealed = serialization.BestAvailableEncryption(passphrase)
        return self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed).decode()

    def issue(self, *names: str, until: datetime | None = None, folder: Path | None = None) -> "Certificate":
        """Make a certificate for these names and addresses, signed by this one."""
        return _make(folder or self.path.parent, names, issuer=self, until=until)


def make_certificate(folder: Path, *names: str, until: datetime | None = None) -> Certificate:
    """Make a certificate that has signed itself; for 127.0.0.1 unless names or addresses are given."""
    return _make(folder, names or ("127.0.0.1",), issuer=None, until=until)


def make_authority(folder: Path) -> Certificate:
    """Make an authority, good for a year; what it issues is good for a day unless more is asked."""
    return _make(folder, (), issuer=None, until=datetime.now(UTC) + 365 * DAY)


def _make(folder: Path, names: Sequence[str], *, issuer: Certificate | None, until: datetime | None) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"relay.test {serial}")])
    ends = until or datetime.now(UTC) + DAY
    builder = x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=subject if issuer is None else issuer.certificate.subject,
        public_key=key.public_key(),
        serial_number=serial,
        not_valid_before=min(ends, datetime.now(UTC)) - DAY,
        not_valid_after=ends,
    ).add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
    made = builder.sign(key if issuer is None else issuer.key, hashes.SHA256())
    pem = made.public_bytes(serialization.Encoding.PEM).decode()
    plain = serialization.NoEncryption()
    key_pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode()
    path = folder / f"{'-'.join(names) or 'authority'}-{serial:x}.pem"
    path.write_text(pem + key_pem, encoding="ascii")
    return Certificate(path, pem, key_pem, made, key)


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
