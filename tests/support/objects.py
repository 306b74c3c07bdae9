"""An object, written to any store as an upload writes it."""

from collections.abc import Sequence

from relay.destinations.object_store import NewObject, ObjectStore, ObjectWriter, Published
from relay.destinations.store_requests import Patience
from relay.wire.pieces import PLENTY

SHORT = Patience(tries=4, first_pause=0.02, longest_pause=0.1, total=10)
"""That of stores in tests: what is hopeless is given up soon."""


def cut_up(data: bytes, size: int = 70_001) -> list[bytes]:
    """The same in pieces."""
    return [data[start : start + size] for start in range(0, len(data), size)]


async def write(writer: ObjectWriter, data: bytes) -> None:
    """Give bytes to a writer as an upload does: what goes into the place that it wants them in lies there already."""
    view, room = memoryview(data), writer.take(b"")
    while view:
        if not room:
            await writer.ready()
            room = PLENTY
        given = view
        if isinstance(room, memoryview):
            given = room[: len(view)]
            given[:] = view[: len(given)]
        view = view[len(given) :]
        room = writer.take(given)
    if not room:
        await writer.ready()


async def store_object(store: ObjectStore, new: NewObject, pieces: Sequence[bytes]) -> tuple[Published, ObjectWriter]:
    """Write an object as an upload does."""
    writer = store.begin(new)
    try:
        await writer.open()
        for piece in pieces:
            await write(writer, piece)
        await writer.seal()
        return await writer.publish(), writer
    finally:
        await writer.discard()
