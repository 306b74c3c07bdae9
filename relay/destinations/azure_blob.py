"""A container of Azure Blob Storage as a store: one object becomes one block blob.

``azure_writer`` writes one blob, ``azure_container`` knows what can be asked, ``azure_signing`` who may ask. Here is what names
blobs may have, and the check.
"""

import secrets
from typing import Final

from relay.destinations.azure_answers import DELETE, READ, WRITE, Refused
from relay.destinations.azure_config import AzureConfig
from relay.destinations.azure_container import BlobContainer, BlockNames, Content
from relay.destinations.azure_place import ASK_PATIENCE, AzurePlace
from relay.destinations.azure_signing import Signer
from relay.destinations.azure_writer import BlobWriter
from relay.destinations.destination import Finding
from relay.destinations.filling import PartTools
from relay.destinations.object_store import NewObject
from relay.destinations.store_requests import StoreLine
from relay.errors import DestinationBroke, DestinationMisconfigured, PathInvalid, RelayError
from relay.wire.client import Account, Client
from relay.wire.tls import TlsTerms

KEY_LONGEST: Final = 1_024
SEGMENTS_MOST: Final = 254
PROBE: Final = ".relay-probe-"

_NO_CHARACTERS: Final = frozenset("\ufffe\uffff")


class AzureStore:
    """One tenant's container, below a prefix."""

    def __init__(self, place: AzurePlace) -> None:
        self.place = place
        self._container = place.container

    @classmethod
    def open(
        cls,
        client: Client,
        account: Account,
        config: AzureConfig,
        signer: Signer,
        tools: PartTools,
        terms: TlsTerms | None = None,
    ) -> "AzureStore":
        """Open the container of a destination."""
        line = StoreLine(client, account, config.url, config, terms)
        return cls(AzurePlace(BlobContainer(line, config, signer), signer, config, tools, account.tenant))

    def check_key(self, key: str) -> None:
        """Refuse a key that the store cannot keep as it is.

        Raises:
            PathInvalid: it is too long, or the store would change it.
        """
        whole = self.place.whole_key(key)
        if len(whole.encode("utf-16-le")) > 2 * KEY_LONGEST:
            raise PathInvalid(f"The name is longer than a container takes: {KEY_LONGEST} characters with the destination's prefix.")
        segments = whole.split("/")
        if len(segments) > SEGMENTS_MOST:
            raise PathInvalid(f"The name has more segments than a container takes: {SEGMENTS_MOST}.")
        if any(segment.endswith(".") for segment in segments):
            raise PathInvalid("A segment of the name ends with a dot, which the store would drop. Choose another name.")
        if not _NO_CHARACTERS.isdisjoint(whole):
            raise PathInvalid

    def begin(self, new: NewObject) -> BlobWriter:
        """Begin a blob. Nothing is done before the writer is opened."""
        return BlobWriter(self.place, new)

    async def check(self) -> Finding:
        """Write a probe as uploads are written, try to write it once more, read it back, remove it."""
        key = self.place.whole_key(PROBE + secrets.token_hex(8))
        faults: list[RelayError] = []
        try:
            await self._write_probe(key)
        except RelayError as error:
            return Finding(ok=False, code=error.code, detail=error.detail)
        for step in (self._probe_condition, self._read_probe, self._remove_probe):
            try:
                await step(key)
            except RelayError as error:
                faults.append(error)
        if faults:
            return Finding(ok=False, code=faults[0].code, detail=" ".join(fault.detail for fault in faults))
        return Finding(ok=True, code=None, detail="Wrote a blob, was refused to write it twice, read it back and removed it.")

    async def _write_probe(self, key: str) -> None:
        """Write a blob of one block."""
        block, content = BlockNames().name(1), _probe(key)
        kept = {"x-ms-blob-content-md5": content.encoded_md5}
        await self.place.ask(lambda: self._container.put_block(key, block, content), WRITE, ASK_PATIENCE)
        await self.place.ask(lambda: self._container.put_block_list(key, kept, [block], is_new_only=True), WRITE, ASK_PATIENCE)

    async def _probe_condition(self, key: str) -> None:
        """See that the store refuses to make as new what is there."""
        content = _probe(key)
        kept = {"x-ms-blob-content-md5": content.encoded_md5}
        try:
            await ASK_PATIENCE.insist(lambda: self._container.put_blob(key, kept, content, is_new_only=True))
        except Refused as refused:
            if not refused.is_standing:
                raise self.place.explain(refused, WRITE) from None
            return
        raise DestinationMisconfigured("The store does not honour If-None-Match: it replaces blobs that it should refuse to replace.")

    async def _read_probe(self, key: str) -> None:
        if await self.place.ask(lambda: self._container.get(key), READ, ASK_PATIENCE) != key.encode():
            raise DestinationBroke("What the store gives back is not what was written.")

    async def _remove_probe(self, key: str) -> None:
        try:
            await self.place.ask(lambda: self._container.delete(key), DELETE, ASK_PATIENCE)
        except RelayError as error:
            raise DestinationMisconfigured(f"{error.detail} The blob {key} was left behind.") from None

    async def close(self) -> None:
        """Nothing is held here: connections belong to the shared client."""


def _probe(key: str) -> Content:
    return Content.of(key.encode())
