"""Send a GiB through a served relay on every path, and look at the far end and at the worker's memory.

    python -m tests.wire.one_gibibyte

To an HTTP service with a declared length, chunked, and as a form; to a disk; and an answer of a quarter of that back, to
a client that reads as fast as it can and to one that stops in the middle. Each time:

1. the far end has the same SHA-256;
2. the worker's peak memory (``VmHWM``) is at most 32 MiB above its value after an upload of 1 MiB on each path;
3. the far end had bytes before the client sent its last piece;
4. while a client does not read, the service that answers it is held.

Ends with ``PASS``, or with ``FAIL n violations`` and exit code 1.
"""

import argparse
import asyncio
import contextlib
import hashlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.support.bulk import PIECE_BYTES, BulkClient, Framing, LazyPieces, Taken, cpu_seconds_of, peak_of
from tests.support.serving import ServedRelay, serve_relay
from tests.support.upstreams import Conduct, Upstream

MIB = 1 << 20
MOST_GROWTH_BYTES = 32 * MIB
LEAST_ANSWER_BYTES = 48 * MIB
"""More than the kernel takes on the way from a service to a client that does not read."""

STEADY_SECONDS = 1.0
FIRST_BYTES_SECONDS = 20.0


@dataclass
class Passage:
    """One relay with its worker, the service behind it, and what was found."""

    relay: ServedRelay
    upstream: Upstream
    disk: Path
    worker: int
    baseline: int = 0
    cpu_seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    def client(self) -> BulkClient:
        """A client of the main door."""
        host, _, port = self.relay.url.removeprefix("http://").partition(":")
        return BulkClient((host, int(port)), self.relay.key)

    def check(self, what: str, *, holds: bool) -> None:
        """Note a violation where something does not hold."""
        if not holds:
            self.violations.append(what)

    def tell(self, name: str, size: int, seconds: float, note: str) -> None:
        """Print one line of the account, and judge the memory."""
        peak = peak_of(self.worker)
        growth = peak - self.baseline
        before, self.cpu_seconds = self.cpu_seconds, cpu_seconds_of(self.worker)
        speed = f"{seconds:6.1f} s {size / MIB / seconds:5.0f} MiB/s  worker {self.cpu_seconds - before:5.1f} CPU s"
        print(f"  {name:<18} {size / MIB:5.0f} MiB {speed}  VmHWM {peak / MIB:5.1f} MiB (+{growth / MIB:.1f})  {note}", flush=True)
        self.check(f"{name}: the worker grew by {growth / MIB:.1f} MiB", holds=growth <= MOST_GROWTH_BYTES)


async def pass_to_http(passage: Passage, framing: Framing, pieces: int, *, is_told: bool = True) -> None:
    """Upload to the HTTP service."""
    index = len(passage.upstream.requests)
    arrived = 0

    async def first_bytes() -> None:
        nonlocal arrived
        async with asyncio.timeout(FIRST_BYTES_SECONDS):
            arrived = (await passage.upstream.received(1, index)).body_bytes

    taken = await passage.client().upload(f"http/{framing}", pieces, framing, before_last=first_bytes)
    recorded = passage.upstream.requests[index]
    name = f"HTTP, {framing}"
    passage.check(f"{name}: answered {taken.status}", holds=taken.status == 200)
    is_same = recorded.is_whole and (recorded.body_bytes, recorded.sha256) == (taken.sent_bytes, taken.sent_sha256)
    passage.check(f"{name}: the service has other bytes", holds=is_same)
    passage.check(f"{name}: no byte arrived before the last was sent", holds=arrived > 0 or pieces == 1)
    if is_told:
        passage.tell(name, taken.sent_bytes, taken.seconds, f"{arrived / MIB:.0f} MiB there before the last piece")


async def pass_to_disk(passage: Passage, pieces: int, *, is_told: bool = True) -> None:
    """Upload to the disk."""
    written = 0

    async def first_bytes() -> None:
        nonlocal written
        async with asyncio.timeout(FIRST_BYTES_SECONDS):
            while not (written := bytes_being_written(passage.worker, passage.disk)):
                await asyncio.sleep(0.01)

    name = f"big-{pieces}.bin"
    # A single piece is less than what is gathered for one write: nothing of it is on disk before it is whole.
    taken = await passage.client().upload(f"disk/{name}", pieces, before_last=first_bytes if is_told else None)
    passage.check(f"disk: answered {taken.status}", holds=taken.status == 201)
    with (passage.disk / "storm" / name).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    passage.check("disk: the file has other bytes", holds=digest == taken.sent_sha256)
    if is_told:
        passage.tell("disk", taken.sent_bytes, taken.seconds, f"{written / MIB:.0f} MiB there before the last piece")


def bytes_being_written(pid: int, folder: Path) -> int:
    """The size of the files below a folder that a process holds open, names or not."""
    total = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(descriptor.readlink()).startswith(str(folder)) and descriptor.is_file():
                total += descriptor.stat().st_size
    return total


async def answer_back(passage: Passage, pieces: int, *, is_stopping: bool) -> None:
    """Get a long answer; a client that stops reads a few MiB, then nothing until the service is held, then on."""
    answer = LazyPieces(pieces)
    passage.upstream.conduct = Conduct(pieces=answer)
    held_at = 0

    async def stop(received: int) -> None:
        nonlocal held_at
        if is_stopping and not held_at and received >= 4 * MIB:
            held_at = await steady(answer)

    client = passage.client()
    taken: Taken = await client.upload("http/answer", 1, after_piece=stop)
    passage.upstream.conduct = Conduct()
    name = "answer, stopping" if is_stopping else "answer"
    passage.check(f"{name}: {taken.status}", holds=taken.status == 200)
    is_same = (taken.answer_bytes, taken.answer_sha256) == (pieces * PIECE_BYTES, answer.sha256)
    passage.check(f"{name}: other bytes came", holds=is_same)
    passage.check(f"{name}: the service was not held", holds=not is_stopping or 0 < held_at < pieces)
    note = f"the service was held at {held_at * PIECE_BYTES / MIB:.0f} MiB" if is_stopping else ""
    passage.tell(name, taken.answer_bytes, taken.seconds, note)


async def steady(answer: LazyPieces) -> int:
    """Wait until no more of the answer is taken from the service, and say how much was."""
    given = -1
    while given != answer.given:
        given = answer.given
        await asyncio.sleep(STEADY_SECONDS)
    return given


async def send_all(passage: Passage, pieces: int) -> None:
    """Upload to the HTTP service in every framing, and to the disk."""
    for framing in ("length", "chunked", "form"):
        await pass_to_http(passage, framing, pieces)
    await pass_to_disk(passage, pieces)


Part = Literal["uploads", "answers"]


async def pass_all(folder: Path, size: int, parts: Sequence[Part] = ("uploads", "answers"), **variables: str) -> list[str]:
    """Take every path with uploads of ``size`` bytes, and answers of a quarter; return the violations."""
    warm = MIB // PIECE_BYTES
    async with Upstream() as upstream, serve_relay(folder, workers=1, **variables) as relay:
        await relay.set_up(http_base_url=upstream.url)
        (worker,) = await relay.wait_for_workers(1)
        passage = Passage(relay, upstream, folder / "disk", worker)
        await pass_to_http(passage, "length", warm, is_told=False)
        await pass_to_disk(passage, warm, is_told=False)
        passage.baseline, passage.cpu_seconds = peak_of(worker), cpu_seconds_of(worker)
        print(f"worker {worker}: VmHWM {passage.baseline / MIB:.1f} MiB after uploads of 1 MiB")
        if "uploads" in parts:
            await send_all(passage, size // PIECE_BYTES)
        if "answers" in parts:
            pieces = max(size // 4, LEAST_ANSWER_BYTES) // PIECE_BYTES
            await answer_back(passage, pieces, is_stopping=False)
            await answer_back(passage, pieces, is_stopping=True)
    for violation in passage.violations:
        print(f"  {violation}")
    print("PASS" if not passage.violations else f"FAIL {len(passage.violations)} violations")
    return passage.violations


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mebibytes", type=int, default=1024)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-gibibyte-") as folder:
        sys.exit(1 if asyncio.run(pass_all(Path(folder), arguments.mebibytes * MIB)) else 0)


if __name__ == "__main__":
    main()
