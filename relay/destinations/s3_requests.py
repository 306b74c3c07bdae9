"""Requests to one bucket: signed, sent by ``store_requests``, and sent again where that helps.

Every request may be sent again: what is sent is held until it is acknowledged, and the rest of the house knows what to make of
a request that was done twice.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import quote, urlsplit

import httpx

from relay.destinations.parts import OwnedPiece
from relay.destinations.s3_answers import Refused, Reply, read_refusal
from relay.destinations.s3_config import BucketConfig
from relay.destinations.s3_signing import EMPTY_SHA256, Signer, Unsigned
from relay.destinations.store_requests import Patience, StoreLine
from relay.wire.client import Account, Client
from relay.wire.tls import TlsTerms

_UNRESERVED: Final = "-_.~"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to a store, of an object or of the bucket. ``sha256`` is that of the body, in hex, where it is known."""

    method: str
    key: str | None
    query: Sequence[tuple[str, str]] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    pieces: Sequence[OwnedPiece] = ()
    size: int = 0
    sha256: str | None = EMPTY_SHA256


Judge = Callable[[Reply], Awaitable[None]]
"""Raises, as the request itself would, where an answer of success is none."""


class Requests:
    """Sends requests to one tenant's bucket."""

    def __init__(self, client: Client, account: Account, config: BucketConfig, signer: Signer, terms: TlsTerms | None = None) -> None:
        self._signer = signer
        parts = urlsplit(config.url)
        url = httpx.URL(config.url)
        host = url.netloc.decode("ascii")
        if not config.is_path_style:
            host = f"{config.bucket}.{host}"
        self._origin = f"{url.scheme}://{host}"
        self._line = StoreLine(client, account, self._origin, config, terms)
        self._base = parts.path.rstrip("/") + (f"/{quote(config.bucket, safe=_UNRESERVED)}" if config.is_path_style else "")
        self._signs_bodies = config.sign_bodies if config.sign_bodies is not None else url.scheme != "https"
        self._total_seconds = config.total_timeout_seconds
        self.patience = Patience()

    @property
    def signs_bodies(self) -> bool:
        """True when the digest of every body is part of the signature: where nothing else protects it on the way, unless its owner says."""
        return self._signs_bodies

    async def call(self, ask: Ask, patience: Patience | None = None, judge: Judge | None = None) -> Reply:
        """Send a request until it is done, or hopeless.

        Raises:
            Refused: the store said no.
            DependencyFault: it cannot be reached, broke, or is too slow.
        """
        attempts = 0

        async def attempt() -> Reply:
            nonlocal attempts
            attempts += 1
            try:
                return await self._attempt(ask, attempts, judge)
            except Refused as refused:
                refused.attempts = attempts
                raise

        return await (patience or self.patience).insist(attempt)

    async def _attempt(self, ask: Ask, attempt: int, judge: Judge | None) -> Reply:
        reply = replace(await self._send(ask), attempts=attempt)
        if judge is not None:
            await judge(reply)
        return reply

    async def _send(self, ask: Ask) -> Reply:
        target = self._target(ask)
        signed_digest = ask.sha256 if self._signs_bodies or not ask.size else None
        unsigned = Unsigned(ask.method, self._origin + target, {"host": self._line.host, **ask.fields}, signed_digest)
        fields = {name.lower(): value for name, value in (await self._signer.sign(unsigned)).items()}
        del fields["host"]  # the line says it
        if ask.size or ask.method in {"PUT", "POST"}:
            fields["content-length"] = str(ask.size)
        told = await self._line.send(ask.method, target, fields, ask.pieces, self._total_seconds)
        reply = Reply(told.status, told.fields, told.body)
        if not 200 <= reply.status < 300:
            raise read_refusal(reply)
        return reply

    def _target(self, ask: Ask) -> str:
        """The request's target: every octet but the unreserved ones is encoded, once."""
        path = self._base + (f"/{quote(ask.key, safe=_UNRESERVED + '/')}" if ask.key is not None else "")
        query = "&".join(f"{quote(name, safe=_UNRESERVED)}={quote(value, safe=_UNRESERVED)}" for name, value in ask.query)
        return (path or "/") + (f"?{query}" if query else "")
