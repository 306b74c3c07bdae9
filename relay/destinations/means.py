"""What the destinations of one process share."""

from dataclasses import dataclass
from typing import Self

import httpx

from relay.destinations.disk_threads import DiskThreads
from relay.destinations.s3_place import StoreTools
from relay.destinations.upload_notes import NOTES_FOLDER, UploadNotes
from relay.settings import DiskSettings, FormSettings, Settings


@dataclass(frozen=True, slots=True)
class Means:
    """The one client that carries every outgoing byte, the threads that do disk work, and what all buckets share."""

    client: httpx.AsyncClient
    disk: DiskSettings
    forms: FormSettings
    disk_threads: DiskThreads
    tools: StoreTools

    @classmethod
    def of(cls, client: httpx.AsyncClient, settings: Settings) -> Self:
        """What a process with these settings has."""
        tools = StoreTools(settings.memory, settings.store, UploadNotes(settings.data.dir / NOTES_FOLDER))
        return cls(client, settings.disk, settings.form, DiskThreads(settings.disk.threads), tools)
