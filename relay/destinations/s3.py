"""A bucket as a destination: S3, what speaks it, and Google Cloud Storage by its XML interface.

``s3_object`` writes one object; ``s3_bucket`` knows what can be asked of a bucket, ``s3_requests`` asks, ``s3_signing`` signs.
Here a bucket is opened and checked, and multipart uploads that nobody sees to any more are ended.
"""

import secrets
from datetime import datetime, timedelta
from typing import Final

from relay.destinations.destination import DestinationSpec, Finding
from relay.destinations.object_store import NewObject, ObjectWriter
from relay.destinations.s3_answers import Refused
from relay.destinations.s3_bucket import AMAZON, GOOGLE, Bucket
from relay.destinations.s3_config import BucketConfig, GcsConfig, GcsSecrets, S3Secrets
from relay.destinations.s3_object import S3Writer
from relay.destinations.s3_place import PROBE, S3Place, make_content
from relay.destinations.s3_requests import Requests
from relay.destinations.s3_signing import AccessKey, BearerSigner, GivenKey, Signer, V4Signer, service_account_tokens
from relay.destinations.store_tools import StoreTools
from relay.errors import DestinationBroke, DestinationMisconfigured, PathInvalid, RelayError
from relay.wire.client import Account, Client
from relay.wire.tls import TlsTerms

KEY_LONGEST: Final = 1_024
CLOCKS_DIFFER: Final = timedelta(minutes=1)
BEGUN_WITHIN: Final = timedelta(minutes=5)
"""How long after its note a multipart upload may have been begun."""


class S3Store:
    """One tenant's bucket, below a prefix."""

    def __init__(self, place: S3Place) -> None:
        self.place = place
        self._bucket = place.bucket

    @classmethod
    def open(
        cls,
        client: Client,
        spec: DestinationSpec,
        config: BucketConfig,
        secrets: S3Secrets | GcsSecrets,
        tools: StoreTools,
        terms: TlsTerms | None = None,
    ) -> "S3Store":
        """Open the bucket of a destination."""
        is_google = isinstance(config, GcsConfig)
        account = Account(spec.tenant, str(spec.id))
        requests = Requests(client, account, config, make_signer(config, secrets, tools), terms)
        bucket = Bucket(requests, GOOGLE if is_google else AMAZON, tools.digests)
        return cls(S3Place(bucket, config, tools, spec.tenant, spec.id))

    def check_key(self, key: str) -> None:
        """Refuse a key that a bucket cannot keep.

        Raises:
            PathInvalid: it is too long, has no encoding, or is Relay's own.
        """
        try:
            length = len(self.place.whole_key(key).encode())
        except UnicodeEncodeError:
            raise PathInvalid("The name has no encoding in UTF-8. Choose another path.") from None
        if length > KEY_LONGEST:
            raise PathInvalid(f"The name is longer than a bucket takes: {KEY_LONGEST} bytes with the destination's prefix.")
        if key == PROBE:
            raise PathInvalid(f"The name {PROBE} is Relay's own. Choose another path.")

    def begin(self, new: NewObject) -> ObjectWriter:
        """Begin an object. Nothing is done before the writer is opened."""
        return S3Writer(self.place, new)

    async def check(self) -> Finding:
        """Write a probe, read it back, remove it, begin and abort a multipart upload, and find out what the store honours."""
        try:
            return Finding(ok=True, code=None, detail=await self._probe())
        except RelayError as error:
            return Finding(ok=False, code=error.code, detail=error.detail)

    async def _probe(self) -> str:
        key = self.place.whole_key(f"{PROBE}-{secrets.token_hex(8)}")
        data = secrets.token_bytes(64)
        try:
            await self._bucket.put(key, NewObject(PROBE), make_content(data), is_new_only=False)
        except Refused as refused:
            raise self._bucket.explain(refused, "put") from None
        try:
            if await self._bucket.get(key) != data:
                raise DestinationBroke("What the store gives back is not what was written.")
        finally:
            is_removed = await self.place.remove_quietly(key)
        if not is_removed:
            await self._bucket.delete(key)
        upload_id, note = await self.place.begin_noted(key)
        try:
            await self._bucket.abort(key, upload_id)
            note.remove()
        finally:
            note.abandon()
        return "Wrote an object, read it back and removed it; began and aborted a multipart upload." + await self._tell_conditions()

    async def _tell_conditions(self) -> str:
        if not self.place.is_refusing:
            return ""
        conditions = await self.place.conditions()
        if conditions.put and conditions.complete:
            return " The store refuses by itself to replace an object."
        which = "an object of several parts" if conditions.put else "an object"
        return (
            f" The store does not refuse by itself to replace {which}: Relay asks whether the key is free before it publishes,"
            " so of two uploads of one key that end at the same moment both may succeed, and the later one stays."
        )

    async def abort(self, key: str, upload_id: str) -> bool:
        """End a multipart upload, by its whole key; true when the store has forgotten it.

        Raises:
            DependencyFault: the store cannot be reached, or refuses.
        """
        await self._bucket.abort(key, upload_id)
        try:
            return not await self._bucket.has_upload(key, upload_id)
        except DestinationMisconfigured:  # the right to ask is missing: the store's word for the abort must do
            return True

    async def find_begun(self, key: str, since: datetime) -> list[str]:
        """The ids of open multipart uploads of a whole key that were begun soon after a moment.

        Raises:
            DependencyFault: the store cannot be reached, or refuses.
        """
        earliest, latest = since - CLOCKS_DIFFER, since + BEGUN_WITHIN + CLOCKS_DIFFER
        found = await self._bucket.list_uploads(key)
        return [each.upload_id for each in found if each.initiated_at is not None and earliest <= each.initiated_at <= latest]

    async def close(self) -> None:
        """Nothing is held here: connections belong to the shared client."""


def make_signer(config: BucketConfig, secrets: S3Secrets | GcsSecrets, tools: StoreTools) -> Signer:
    """Who signs requests to a bucket.

    Raises:
        DestinationMisconfigured: there are no credentials.
    """
    is_google = isinstance(config, GcsConfig)
    if config.ambient_credentials:
        return BearerSigner(tools.machine_tokens) if is_google else V4Signer(tools.machine_key, config.region)
    if isinstance(secrets, GcsSecrets) and secrets.service_account is not None:
        return BearerSigner(service_account_tokens(secrets.service_account.get_secret_value()))
    if secrets.access_key_id is None or secrets.secret_access_key is None:
        raise DestinationMisconfigured("The destination has no credentials. Set them, or config.ambient_credentials.")
    token = secrets.session_token if isinstance(secrets, S3Secrets) else None
    key = AccessKey(
        secrets.access_key_id.get_secret_value(),
        secrets.secret_access_key.get_secret_value(),
        token.get_secret_value() if token is not None else None,
    )
    return V4Signer(GivenKey(key), config.region, is_google=is_google)
