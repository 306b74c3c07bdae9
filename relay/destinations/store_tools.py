"""What all stores of a process share that take objects in parts."""

from typing import Self

from relay.destinations.part_digests import DigestThreads
from relay.destinations.parts import PartMemory
from relay.destinations.s3_signing import MachineKey, TokenSource, machine_tokens
from relay.destinations.upload_notes import NOTES_FOLDER, UploadNotes
from relay.settings import Settings


class StoreTools:
    """Room for parts, threads for their digests, notes of the uploads that are open, the machine's own credentials."""

    def __init__(self, memory: PartMemory, parallel: int, notes: UploadNotes) -> None:
        self.memory = memory
        self.parallel = parallel
        self.notes = notes
        self.digests = DigestThreads()
        self.machine_key = MachineKey()
        self.machine_tokens: TokenSource = machine_tokens()

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """What a process with these settings has."""
        return cls(PartMemory(settings.memory.parts), settings.store.parts_parallel, UploadNotes(settings.data.dir / NOTES_FOLDER))

    def close(self) -> None:
        """Let go of threads and notes."""
        self.digests.shutdown()
        self.notes.close()
