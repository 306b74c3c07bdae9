"""What the destinations of one process share."""

from dataclasses import dataclass
from typing import Self

import httpx

from relay.destinations.disk_threads import DiskThreads
from relay.settings import DiskSettings, FormSettings, Settings


@dataclass(frozen=True, slots=True)
class Means:
    """The one client that carries every outgoing byte, and the threads that do disk work."""

    client: httpx.AsyncClient
    disk: DiskSettings
    forms: FormSettings
    disk_threads: DiskThreads

    @classmethod
    def of(cls, client: httpx.AsyncClient, settings: Settings) -> Self:
        """What a process with these settings has."""
        return cls(client, settings.disk, settings.form, DiskThreads(settings.disk.threads))
