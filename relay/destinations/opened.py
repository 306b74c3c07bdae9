"""Destinations that are in use, opened once from their configuration and kept."""

import asyncio
import contextlib
import threading
from collections import OrderedDict
from uuid import UUID

from relay.destinations.destination import Destination, DestinationSpec
from relay.destinations.kinds import kind_of, parse_config
from relay.destinations.means import Means
from relay.destinations.sealing import Sealer
from relay.errors import DestinationMisconfigured, RequestInvalid

CLOSE_SECONDS = 5.0


class OpenDestinations:
    """Opens destinations; one whose configuration changed is opened anew, the old one serves what it began."""

    def __init__(self, sealer: Sealer, means: Means, *, kept: int) -> None:
        """``kept`` is how many stay open, those used last: to open one again costs an upload a tenth."""
        self._sealer = sealer
        self._means = means
        self._kept = kept
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
        while len(self._open) > self._kept:
            self._open.popitem(last=False)
        return destination

    def _make(self, spec: DestinationSpec) -> Destination:
        try:
            kind = kind_of(spec.kind)
        except RequestInvalid:
            raise DestinationMisconfigured(f"Destinations of kind {spec.kind} cannot be used by this release.") from None
        secrets = self._sealer.open(spec.sealed, identity=spec.id) if spec.sealed else {}
        try:
            return kind.open(self._means, spec, parse_config(spec.kind, spec.config), secrets)
        except RequestInvalid:
            raise DestinationMisconfigured from None

    async def close(self) -> None:
        """Close every destination and let go of the threads once their writes have ended, or hang."""
        while self._open:
            _, (_, destination) = self._open.popitem()
            await destination.close()
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()

        def end() -> None:
            self._means.disk_threads.shutdown()
            self._means.stores.close()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(ended.set)

        threading.Thread(target=end, daemon=True).start()
        with contextlib.suppress(TimeoutError):  # a disk that hangs is not waited for
            async with asyncio.timeout(CLOSE_SECONDS):
                await ended.wait()
