"""Credentials at rest: AES-256-GCM, a key id for rotation, the row's identity as associated data.

A sealed value is ``version (1) · length of the key id (1) · key id · nonce (12) · ciphertext and tag``. The first
configured key seals, every configured key opens, so a key is rotated by putting a new one in front and sealing anew
what the old one sealed. The head and the row's identity are authenticated: a value copied into another row, or
moved under another key id, does not open.

What stays true: the plain value appears neither in an error nor in a log, and nothing is stored unsealed because no
key was set.
"""

import json
import os
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from relay.errors import DestinationMisconfigured, FieldError, RequestInvalid

_VERSION = 1
_NONCE_BYTES = 12
_KEY_ID_LONGEST = 255


class Sealer:
    """Seals and opens credentials with the keys of this process."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """Take the keys by id, 32 bytes each; the first one seals. None at all is allowed: then nothing can be sealed."""
        self._ciphers = {key_id.encode(): AESGCM(key) for key_id, key in keys.items()}
        if any(not 0 < len(key_id) <= _KEY_ID_LONGEST for key_id in self._ciphers):
            raise ValueError(f"RELAY_SECRET_KEY: a key id has 1 to {_KEY_ID_LONGEST} bytes")

    def __repr__(self) -> str:
        return f"Sealer({len(self._ciphers)} keys)"

    @property
    def key_id(self) -> str | None:
        """The id of the key that seals; ``None`` when none is set."""
        return next(iter(self._ciphers)).decode() if self._ciphers else None

    @property
    def can_seal(self) -> bool:
        """True when a key is set."""
        return bool(self._ciphers)

    def seal(self, value: Mapping[str, object], *, identity: UUID) -> bytes:
        """Encrypt a JSON object for the row with this identity.

        Raises:
            RequestInvalid: no key is set, so credentials cannot be stored.
        """
        for key_id, cipher in self._ciphers.items():
            head = bytes([_VERSION, len(key_id)]) + key_id
            nonce = os.urandom(_NONCE_BYTES)
            return head + nonce + cipher.encrypt(nonce, json.dumps(value).encode(), head + identity.bytes)
        error = FieldError(("body", "secrets"), "secret_key_missing", "Set RELAY_SECRET_KEY and start Relay again, or leave 'secrets' out.")
        raise RequestInvalid("Credentials cannot be stored: RELAY_SECRET_KEY is not set.", errors=[error])

    def open(self, sealed: bytes, *, identity: UUID) -> dict[str, Any]:
        """Decrypt what ``seal`` made for the row with this identity.

        Raises:
            DestinationMisconfigured: the key is not set here, or the value was altered.
        """
        if len(sealed) < 2 or sealed[0] != _VERSION:
            raise DestinationMisconfigured("The destination's credentials are damaged. Set them again.")
        head, rest = sealed[: 2 + sealed[1]], sealed[2 + sealed[1] :]
        cipher = self._ciphers.get(head[2:])
        if cipher is None:
            raise DestinationMisconfigured("The key that sealed the destination's credentials is not in RELAY_SECRET_KEY.")
        try:
            plain = cipher.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], head + identity.bytes)
        except (InvalidTag, ValueError):
            raise DestinationMisconfigured("The destination's credentials are damaged. Set them again.") from None
        value: dict[str, Any] = json.loads(plain)
        return value


def find_key_id(sealed: bytes | None) -> str | None:
    """The id of the key that sealed a value, as its head says; ``None`` when it has no such head."""
    if sealed is None or len(sealed) < 2 or sealed[0] != _VERSION or len(sealed) < 2 + sealed[1] + _NONCE_BYTES:
        return None
    return sealed[2 : 2 + sealed[1]].decode("utf-8", "replace")
