"""Who signs requests to a bucket, and with what: keys that a tenant gave, or the machine's own.

Libraries sign and find credentials; they never open a connection to a store. They are imported when the first bucket is
used, in a thread: a relay that has none does not pay for them. What a machine's chain of providers finds is asked for in
a thread, with a deadline, and kept until it runs out. A service account's key signs its own tokens, so nobody is asked for one,
least of all an address that came with the key.
"""

import asyncio
import hmac
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, Protocol, TypeVar

from relay.errors import DestinationMisconfigured

CHAIN_SECONDS: Final = 20.0
EARLY_SECONDS: Final = 300
EMPTY_SHA256: Final = sha256(b"").hexdigest()
UNSIGNED: Final = "UNSIGNED-PAYLOAD"
SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_write"

# At their lowest levels these tell whole requests, session tokens included.
for _name in ("botocore", "google.auth", "urllib3"):
    logging.getLogger(_name).setLevel(logging.WARNING)

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A request as it is to be signed.

    ``url`` is encoded as it will be sent; ``sha256`` is that of the body, in hex, if it is to be signed.
    """

    method: str
    url: str
    fields: Mapping[str, str]
    sha256: str | None = None


class Signer(Protocol):
    """Signs requests to one store."""

    async def sign(self, request: Unsigned) -> Mapping[str, str]:
        """All the fields of the request, signed.

        Raises:
            DestinationMisconfigured: there are no credentials, or they cannot be used.
        """
        ...


async def _find(call: Callable[[], Found], what: str) -> Found:
    """Ask a chain of providers in a thread.

    Raises:
        DestinationMisconfigured: it found nothing in time. What it says is not passed on.
    """
    try:
        async with asyncio.timeout(CHAIN_SECONDS):
            return await asyncio.to_thread(call)
    except Exception as error:  # noqa: BLE001 - whatever a provider meets
        logging.getLogger(__name__).warning("no credentials were found", extra={"fields": {"kind": what, "error": type(error).__name__}})
        raise DestinationMisconfigured(f"This machine has no credentials for {what} that can be used.") from None


@dataclass(frozen=True, slots=True)
class AccessKey:
    """An access key as the signer takes it."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


class KeySource(Protocol):
    """Where an access key comes from."""

    async def get(self) -> AccessKey:
        """The key, valid for a while."""
        ...


class GivenKey:
    """A key that a tenant gave."""

    def __init__(self, key: AccessKey) -> None:
        self._key = key

    async def get(self) -> AccessKey:
        """The key."""
        return self._key


class MachineKey:
    """The key that botocore's chain of providers finds on this machine: one for all who may use it."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._credentials: Any = None
        self._key: AccessKey | None = None

    async def get(self) -> AccessKey:
        """The key; the chain is asked again when it is about to run out."""
        async with self._lock:
            if self._key is None or self._is_running_out():
                self._key = await _find(self._ask, "S3")
            return self._key

    def _is_running_out(self) -> bool:
        needs = getattr(self._credentials, "refresh_needed", None)
        return needs is not None and bool(needs(refresh_in=EARLY_SECONDS))

    def _ask(self) -> AccessKey:
        if self._credentials is None:
            import botocore.session  # noqa: PLC0415 - see the module

            self._credentials = botocore.session.Session().get_credentials()
        frozen = self._credentials.get_frozen_credentials()
        return AccessKey(frozen.access_key, frozen.secret_key, frozen.token)


class V4Signer:
    """AWS Signature Version 4, or Google's of the same make, by botocore."""

    def __init__(self, source: KeySource, region: str, *, is_google: bool = False) -> None:
        self._source = source
        self._region = region
        self._is_google = is_google

    async def sign(self, request: Unsigned) -> Mapping[str, str]:
        """Sign by header fields. Signing takes a tenth of a millisecond."""
        key = await self._source.get()
        classes = await _classes()
        make, to_sign = classes.google if self._is_google else classes.amazon, classes.request
        prepared = to_sign(method=request.method, url=request.url, headers=dict(request.fields))
        prepared.context["payload"] = request.sha256 or UNSIGNED
        make(key, "storage" if self._is_google else "s3", self._region).add_auth(prepared)
        return dict(prepared.headers.items())


class TokenSource(Protocol):
    """Where an OAuth token comes from."""

    async def get(self) -> str:
        """A token that is valid for a while."""
        ...


class BearerSigner:
    """OAuth: a token, and nothing is signed."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    async def sign(self, request: Unsigned) -> Mapping[str, str]:
        """Add the token."""
        return {**request.fields, "authorization": f"Bearer {await self._source.get()}"}


class _Tokens:
    """Tokens of google-auth's credentials, kept until they run out."""

    def __init__(self, make: Callable[[], tuple[Any, Any]], what: str) -> None:
        self._make = make
        self._what = what
        self._lock = asyncio.Lock()
        self._credentials: Any = None
        self._transport: Any = None

    async def get(self) -> str:
        """A token; a new one when the last one is about to run out."""
        async with self._lock:
            if self._credentials is None or not self._credentials.valid:
                await _find(self._refresh, self._what)
            return str(self._credentials.token if isinstance(self._credentials.token, str) else self._credentials.token.decode("ascii"))

    def _refresh(self) -> None:
        if self._credentials is None:
            self._credentials, self._transport = self._make()
        self._credentials.refresh(self._transport)


def service_account_tokens(text: str) -> TokenSource:
    """Tokens that a service account's own key signs; ``text`` is the key as it was checked."""

    def make() -> tuple[Any, Any]:
        from google.auth import crypt, jwt  # noqa: PLC0415 - see the module

        members = json.loads(text)
        email = members["client_email"]
        signer = crypt.RSASigner.from_service_account_info(members)
        return jwt.Credentials(signer, issuer=email, subject=email, audience=None, additional_claims={"scope": SCOPE}), None

    return _Tokens(make, "Google Cloud Storage in this service account's key")


def machine_tokens() -> TokenSource:
    """Tokens for what google-auth finds on this machine."""

    def make() -> tuple[Any, Any]:
        import google.auth  # noqa: PLC0415 - see the module
        import google.auth.transport.urllib3  # noqa: PLC0415
        import urllib3  # noqa: PLC0415

        transport = google.auth.transport.urllib3.Request(urllib3.PoolManager())
        return google.auth.default(scopes=[SCOPE], request=transport)[0], transport

    return _Tokens(make, "Google Cloud Storage")


@dataclass(frozen=True, slots=True)
class _Classes:
    amazon: Any
    google: Any
    request: Any


_loaded: list[_Classes] = []


async def _classes() -> _Classes:
    if not _loaded:
        _loaded.append(await asyncio.to_thread(_load))
    return _loaded[0]


def _load() -> _Classes:
    from botocore.auth import S3SigV4Auth  # noqa: PLC0415 - see the module
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415

    class AmazonAuth(S3SigV4Auth):  # type: ignore[misc,unused-ignore]
        """Signs what it is told of the body instead of the body."""

        def payload(self, request: Any) -> str:
            payload: str = request.context["payload"]
            return payload

    class GoogleAuth(AmazonAuth):
        """The same with Google's names: fields of both makers must not be mixed, and conditions exist in Google's only."""

        def _modify_request_before_signing(self, request: Any) -> None:
            request.headers["x-goog-date"] = request.context["timestamp"]
            request.headers["x-goog-content-sha256"] = self.payload(request)

        def credential_scope(self, request: Any) -> str:
            return f"{request.context['timestamp'][:8]}/{self._region_name}/{self._service_name}/goog4_request"

        def scope(self, request: Any) -> str:
            return f"{self.credentials.access_key}/{self.credential_scope(request)}"

        def string_to_sign(self, request: Any, canonical_request: str) -> str:
            digest = sha256(canonical_request.encode()).hexdigest()
            return "\n".join(["GOOG4-HMAC-SHA256", request.context["timestamp"], self.credential_scope(request), digest])

        def signature(self, string_to_sign: str, request: Any) -> str:
            key = f"GOOG4{self.credentials.secret_key}".encode()
            for step in (request.context["timestamp"][:8], self._region_name, self._service_name, "goog4_request"):
                key = hmac.digest(key, step.encode(), "sha256")
            return hmac.digest(key, string_to_sign.encode(), "sha256").hex()

        def _inject_signature_to_request(self, request: Any, signature: str) -> Any:
            auth: Any = self
            signed = auth.signed_headers(auth.headers_to_sign(request))
            request.headers["Authorization"] = (
                f"GOOG4-HMAC-SHA256 Credential={self.scope(request)}, SignedHeaders={signed}, Signature={signature}"
            )
            return request

    return _Classes(AmazonAuth, GoogleAuth, AWSRequest)
