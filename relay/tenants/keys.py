"""API keys: made, taken apart, verified. ``rk_<id>_<secret>``; only the secret's SHA-256 is ever stored.

The secret has 43 characters of 62, some 256 random bits: no dictionary reaches it, so a slow hash would cost every
request and protect nothing. Not here: where keys are stored (``issued_keys``), who may use them (the edge).
What stays true: whatever a client sends, ``parse_key`` raises ``KeyInvalid`` or nothing, after bounded work.
"""

import hashlib
import hmac
import re
import secrets
import string
from dataclasses import dataclass, field

from relay.errors import KeyInvalid

ID_LENGTH = 16
SECRET_LENGTH = 43
KEY_LENGTH = len("rk_") + ID_LENGTH + len("_") + SECRET_LENGTH

_ID_ALPHABET = string.ascii_lowercase + string.digits
_SECRET_ALPHABET = string.ascii_letters + string.digits
_KEY = re.compile(rf"rk_([a-z0-9]{{{ID_LENGTH}}})_([A-Za-z0-9]{{{SECRET_LENGTH}}})")


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key that was just made: the only moment at which its text is known to us."""

    id: str
    text: str = field(repr=False)
    secret_hash: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """A well-formed key as a client sent it; nothing says yet that it is one of ours."""

    id: str
    secret: str = field(repr=False)


def issue_key() -> IssuedKey:
    """Make a new random key."""
    key_id = _random(_ID_ALPHABET, ID_LENGTH)
    secret = _random(_SECRET_ALPHABET, SECRET_LENGTH)
    return IssuedKey(key_id, f"rk_{key_id}_{secret}", hash_secret(secret))


def parse_key(text: str) -> ParsedKey:
    """Take a key apart.

    Raises:
        KeyInvalid: it is not of the form of a key.
    """
    # The length comes first: a megabyte of credentials costs one comparison.
    match = _KEY.fullmatch(text) if len(text) == KEY_LENGTH else None
    if match is None:
        raise KeyInvalid
    return ParsedKey(match[1], match[2])


def hash_secret(secret: str) -> bytes:
    """Hash a secret as it is stored."""
    return hashlib.sha256(secret.encode()).digest()


def verify(secret: str, secret_hash: bytes) -> bool:
    """Compare a secret with a stored hash, in a time that tells nothing."""
    return hmac.compare_digest(hash_secret(secret), secret_hash)


def _random(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))
