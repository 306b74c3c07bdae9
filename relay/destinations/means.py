"""What the destinations of one process share."""

from dataclasses import dataclass
from typing import Self

import httpx

from relay.destinations.disk_threads import DiskThreads
from relay.destinations.part_digests import DigestThreads
from relay.destinations.parts import PartMemory
from relay.settings import DiskSettings, MemorySettings, StoreSettings


@dataclass(frozen=True, slots=True)
class PartTools:
    """What all stores share that take objects in parts: room, threads, and how many parts of an upload are sent at once."""

    memory: PartMemory
    digests: DigestThreads
    parallel: int

    @classmethod
    def of(cls, memory: MemorySettings, store: StoreSettings) -> Self:
        """Make those of a process."""
        return cls(PartMemory(memory.parts), DigestThreads(), store.parts_parallel)


@dataclass(frozen=True, slots=True)
class Means:
    """The one client that carries every outgoing byte, the threads that do disk work, and what parts on their way need."""

    client: httpx.AsyncClient
    disk: DiskSettings
    disk_threads: DiskThreads
    parts: PartTools
