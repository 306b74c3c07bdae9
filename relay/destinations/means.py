"""What the destinations of one process share."""

from dataclasses import dataclass

import httpx

from relay.destinations.disk_threads import DiskThreads
from relay.settings import DiskSettings


@dataclass(frozen=True, slots=True)
class Means:
    """The one client that carries every outgoing byte, and the threads that do disk work."""

    client: httpx.AsyncClient
    disk: DiskSettings
    disk_threads: DiskThreads
