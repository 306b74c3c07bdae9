"""Destinations that are in use, opened once from their configuration and kept."""

import asyncio
import contextlib
import threading
from collections import OrderedDict
from pathlib import Path
from uuid import UUID

from relay.destinations.config import make_terms, parse_disk_config, parse_http_config
from relay.destinations.destination import Destination, DestinationSpec
from relay.destinations.disk import DiskDestination
from relay.destinations.disk_threads import DiskThreads
from relay.destinations.http_upstream import HttpUpstream
from relay.destinations.sealing import Sealer
from relay.errors import DestinationMisconfigured, RequestInvalid
from relay.settings import DiskSettings
from relay.wire.client import Account, Client

KEPT = 10_000
CLOSE_SECONDS = 5.0


class OpenDestinations:
    """Opens destinations; one whose configuration changed is opened anew, the old one serves what it began."""

    def __init__(self, client: Client, sealer: Sealer, disk: DiskSettings) -> None:
        self._client = client
        self._sealer = sealer
        self._disk = disk
        self._threads = DiskThreads(disk.threads)
        self._open: OrderedDict[UUID, tuple[DestinationSpec, Destination]] = OrderedDict()

    def open(self, spec: DestinationSpec) -> Destination:
        """The destination of this configuration.

        Raises:
            DestinationMisconfigured: its configuration or credentials cannot be used.
        """
        kept = self._open.get(spec.id)
        if kept is not None and (kept[0] is spec or kept[0] == spec):
            self._open.move_to_end(spec.id)
            return kept[1]
        destination = self._make(spec)
        self._open[spec.id] = (spec, destination)
        while len(self._open) > KEPT:
            self._open.popitem(last=False)
        return destination

    def _make(self, spec: DestinationSpec) -> Destination:
        try:
            if spec.kind == "http":
                return self._make_http(spec)
            if spec.kind == "disk":
                return self._make_disk(spec)
        except RequestInvalid:
            raise DestinationMisconfigured from None
        raise DestinationMisconfigured(f"Destinations of kind {spec.kind} cannot be used by this release.")

    def _make_http(self, spec: DestinationSpec) -> Destination:
        secrets = self._sealer.open(spec.sealed, identity=spec.id) if spec.sealed else {}
        headers, tls = secrets.get("headers", {}), secrets.get("tls", {})
        if not isinstance(headers, dict) or not isinstance(tls, dict):
            raise DestinationMisconfigured
        config = parse_http_config(spec.config)
        terms = make_terms(config, tls.get("client_key"))
        return HttpUpstream(self._client, Account(spec.tenant, str(spec.id)), config, headers, terms)

    def _make_disk(self, spec: DestinationSpec) -> Destination:
        if self._disk.root is None:
            raise DestinationMisconfigured("No disk destination can be used: the operator has not set RELAY_DISK_ROOT.")
        return DiskDestination(
            Path(self._disk.root), parse_disk_config(spec.config), self._threads.share(spec.tenant), self._disk.idle_timeout
        )

    async def close(self) -> None:
        """Close every destination and let go of the threads once their writes have ended, or hang."""
        while self._open:
            _, (_, destination) = self._open.popitem()
            await destination.close()
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()

        def end() -> None:
            self._threads.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(ended.set)

        threading.Thread(target=end, daemon=True).start()
        with contextlib.suppress(TimeoutError):  # a disk that hangs is not waited for
            async with asyncio.timeout(CLOSE_SECONDS):
                await ended.wait()
