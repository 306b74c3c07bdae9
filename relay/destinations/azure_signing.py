"""Who may ask a blob store: a signature over each request by the account's key, or a SAS token in its query.

"Authorize with Shared Key" in the REST reference of Azure Storage, for versions from 2015-02-21 on. A secret stands in no
``repr``, and a target that holds a SAS goes to the wire and nowhere else.
"""

import base64
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol
from urllib.parse import parse_qs, quote

_SIGNED: Final = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A request before it may be sent. ``path`` is encoded as it will be sent, ``query`` is plain; ``fields`` have lower-case names."""

    method: str
    path: str
    query: Sequence[tuple[str, str]]
    fields: Mapping[str, str]

    @property
    def target(self) -> str:
        """Its target, without what a signer adds."""
        query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in self.query)
        return f"{self.path}?{query}" if query else self.path


class Signer(Protocol):
    """Makes requests ones that are permitted."""

    name: str
    """What the credentials are called where people read it."""

    def sign(self, request: Unsigned) -> tuple[str, Mapping[str, str]]:
        """The target and the fields to be sent."""
        ...

    def expired_at(self, now: datetime) -> datetime | None:
        """When the credentials ran out, if they have."""
        ...


class SharedKey:
    """The account's key."""

    name = "account key"

    def __init__(self, account: str, key: str) -> None:
        self._account = account
        self._key = base64.b64decode(key)

    def sign(self, request: Unsigned) -> tuple[str, Mapping[str, str]]:
        """Add the signature as a field."""
        digest = hmac.digest(self._key, string_to_sign(self._account, request).encode(), "sha256")
        signature = base64.b64encode(digest).decode("ascii")
        return request.target, {**request.fields, "authorization": f"SharedKey {self._account}:{signature}"}

    def expired_at(self, now: datetime) -> datetime | None:
        """It does not run out."""
        del now
        return None


class SasToken:
    """A shared access signature."""

    name = "SAS token"

    def __init__(self, token: str) -> None:
        self._token = token
        self._expires_at = _time(parse_qs(token).get("se", [""])[0])

    def sign(self, request: Unsigned) -> tuple[str, Mapping[str, str]]:
        """Add the token to the query."""
        return f"{request.target}{'&' if request.query else '?'}{self._token}", request.fields

    def expired_at(self, now: datetime) -> datetime | None:
        """When it ran out, where it says so itself and not a policy of the container."""
        return self._expires_at if self._expires_at is not None and self._expires_at <= now else None


def string_to_sign(account: str, request: Unsigned) -> str:
    """What the account's key signs of a request."""
    fields = {name: value for name, value in request.fields.items() if (name, value) != ("content-length", "0")}
    own = sorted((name for name in fields if name.startswith("x-ms-")), key=_order)
    return "\n".join(
        [
            request.method,
            *(fields.get(name, "") for name in _SIGNED),
            *(f"{name}:{fields[name].strip()}" for name in own),
            f"/{account}{request.path}",
            *(f"{name}:{value}" for name, value in sorted(request.query)),
        ]
    )


def _order(name: str) -> str:
    """The service sorts names as words: hyphens do not count, and an underscore comes before digits."""
    return name.replace("-", "").replace("_", "!")


def _time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
