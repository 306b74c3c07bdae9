"""An object, written to any store as an upload writes it."""

from collections.abc import Sequence

from relay.destinations.object_store import NewObject, ObjectStore, ObjectWriter, Published
from relay.destinations.store_requests import Patience

SHORT = Patience(tries=4, first_pause=0.02, longest_pause=0.1, total=10)
"""That of stores in tests: what is hopeless is given up soon."""


def cut_up(data: bytes, size: int = 70_001) -> list[bytes]:
    """The same in pieces."""
    return [data[start : start + size] for start in range(0, len(data), size)]


async def store_object(store: ObjectStore, new: NewObject, pieces: Sequence[bytes]) -> tuple[Published, ObjectWriter]:
    """Write an object as an upload does."""
    writer = store.begin(new)
    try:
        await writer.open()
        for piece in pieces:
            await writer.write([piece])
        await writer.seal()
        return await writer.publish(), writer
    finally:
        await writer.discard()
