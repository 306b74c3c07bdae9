"""What the destinations of one process share."""

from dataclasses import dataclass
from typing import Self

from relay.destinations.disk_threads import DiskThreads
from relay.destinations.store_tools import StoreTools
from relay.settings import DiskSettings, FormSettings, Settings
from relay.wire.client import Client


@dataclass(frozen=True, slots=True)
class Means:
    """The one client that carries every outgoing byte, the threads that do disk work, and what stores need beyond."""

    client: Client
    disk: DiskSettings
    forms: FormSettings
    disk_threads: DiskThreads
    stores: StoreTools

    @classmethod
    def of(cls, client: Client, settings: Settings) -> Self:
        """What a process with these settings has."""
        return cls(client, settings.disk, settings.form, DiskThreads(settings.disk.threads), StoreTools.of(settings))
