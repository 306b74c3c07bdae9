"""Kill workers at random moments under concurrent uploads, then hold the ledger against what really happened.

    python -m tests.faults.crash_storm --kills 200

Two workers behind one supervisor; clients upload to a disk and to a recording HTTP service. At the end, joined
by ``Relay-Upload-Id``:

1. every upload that a client saw succeed is ``delivered``, once;
2. every ``delivered`` row has its object, or the one whole request that the service recorded;
3. no upload has two rows, no request arrived whole twice;
4. no upload of a worker that was never killed is ``interrupted``;
5. every object and every whole request has a row, ``delivered`` or ``interrupted``.

Ends with ``PASS``, or with ``FAIL n violations`` and exit code 1.
"""

import argparse
import asyncio
import contextlib
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.support.serving import ServedRelay, serve_relay

CLIENTS = 8
LARGEST = 2 << 20
SETTLE_SECONDS = 60.0


@dataclass(slots=True)
class Sent:
    """One upload as its client saw it."""

    sha256: str
    size: int
    upload_id: str | None
    has_succeeded: bool


@dataclass(slots=True)
class Storm:
    """Everything that was seen."""

    sent: list[Sent] = field(default_factory=list)
    arrived: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))
    kills: int = 0
    is_over: bool = False


class RecordingService:
    """A tenant's HTTP service: records every request that ended cleanly, by its upload id."""

    def __init__(self, storm: Storm) -> None:
        self._storm = storm
        self._conversations: set[asyncio.Task[None] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests, and close it, however it ends."""
        self._conversations.add(asyncio.current_task())
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._take(reader):
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    await writer.drain()
        finally:
            writer.close()

    async def _take(self, reader: asyncio.StreamReader) -> bool:
        """Record one request; false when its body was cut."""
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        digest = hashlib.sha256()
        left = size = int(fields[b"content-length"])
        while left:
            chunk = await reader.read(min(left, 65536))
            if not chunk:
                return False
            digest.update(chunk)
            left -= len(chunk)
        self._storm.arrived[fields[b"relay-upload-id"].decode()].append((size, digest.hexdigest()))
        return True

    async def ended(self) -> None:
        """Wait until every connection has ended; the relay that made them is gone."""
        await asyncio.gather(*(task for task in self._conversations if task is not None))


async def upload_for_ever(relay: ServedRelay, storm: Storm, number: int) -> None:
    """Send one upload after the other until the storm is over."""
    chance = random.Random(number)
    count = 0
    async with httpx.AsyncClient(base_url=relay.url, headers={"X-API-Key": relay.key}, timeout=30, trust_env=False) as client:
        while not storm.is_over:
            count += 1
            size = chance.choice([0, 1, 1000, chance.randrange(LARGEST), chance.randrange(LARGEST)])
            content = chance.randbytes(size)
            pause = chance.choice([0.0, 0.0, 0.01])
            path = f"/upload/{chance.choice(['disk', 'http'])}/{number}/{count}"
            headers = {"Content-Length": str(size)}
            upload = Sent(hashlib.sha256(content).hexdigest(), size, None, has_succeeded=False)
            try:
                async with client.stream("POST", path, content=in_pieces(content, pause), headers=headers) as answer:
                    upload.upload_id = answer.headers.get("relay-upload-id")
                    await answer.aread()
                    upload.has_succeeded = answer.is_success
            except httpx.TransportError:
                await asyncio.sleep(0.02)
            storm.sent.append(upload)


async def in_pieces(content: bytes, pause: float) -> AsyncIterator[bytes]:
    """Give the content in pieces, perhaps slowly."""
    for start in range(0, len(content), 65536):
        yield content[start : start + 65536]
        await asyncio.sleep(pause)


async def kill_workers(relay: ServedRelay, storm: Storm, kills: int) -> None:
    """Kill a random worker again and again, each time once both are there."""
    chance = random.Random(0)
    while storm.kills < kills:
        workers = await relay.wait_for_workers(2)
        await asyncio.sleep(chance.uniform(0.0, 0.6))
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(workers), signal.SIGKILL)
        storm.kills += 1
        if storm.kills % 20 == 0:
            print(f"  {storm.kills} kills, {len(storm.sent)} uploads", flush=True)


def judge(storm: Storm, rows: list[dict[str, Any]], objects: dict[str, tuple[int, str]], living: set[str]) -> list[str]:
    """Hold the ledger against what happened; say what does not fit."""
    violations = []
    by_id: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_id[row["upload_id"]].append(row)
    violations += [f"{upload_id} has {len(found)} rows" for upload_id, found in by_id.items() if len(found) != 1]
    for upload in storm.sent:
        found = by_id.get(upload.upload_id or "", [])
        if upload.has_succeeded and [row["outcome"] for row in found] != ["delivered"]:
            violations.append(f"{upload.upload_id} succeeded for its client and is {[row['outcome'] for row in found]}")
    content = {upload.upload_id: (upload.size, upload.sha256) for upload in storm.sent if upload.upload_id}
    for row in rows:
        upload_id = row["upload_id"]
        kept = [objects[row["path"]]] if row["path"] in objects else storm.arrived.get(upload_id, [])
        if row["outcome"] == "delivered" and len(kept) != 1:
            violations.append(f"{upload_id} is delivered and was kept {len(kept)} times")
        if row["outcome"] == "delivered" and upload_id in content and kept != [content[upload_id]]:
            violations.append(f"{upload_id} was kept with other content")
        if row["outcome"] == "interrupted" and row["worker"] in living:
            violations.append(f"{upload_id} is interrupted though its worker lives")
    violations += [f"{upload_id} arrived {len(times)} times" for upload_id, times in storm.arrived.items() if len(times) > 1]
    accounted = {row["path"] for row in rows if row["outcome"] in {"delivered", "interrupted"}}
    violations += [f"object {path} has no row" for path in objects if path not in accounted]
    told = {row["upload_id"] for row in rows if row["outcome"] in {"delivered", "interrupted"}}
    violations += [f"request {upload_id} has no row" for upload_id in storm.arrived if upload_id not in told]
    return violations


def read_objects(folder: Path) -> dict[str, tuple[int, str]]:
    """Every object below the disk destination, under the path that its client used."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and ".relay-tmp" not in path.parts:
            content = path.read_bytes()
            found[f"disk/{path.relative_to(folder)}"] = (len(content), hashlib.sha256(content).hexdigest())
    return found


async def ride(folder: Path, kills: int) -> int:
    """Run one storm below ``folder``; return the number of violations."""
    storm = Storm()
    recording = RecordingService(storm)
    service = await asyncio.start_server(recording.serve, "127.0.0.1", 0)
    port = service.sockets[0].getsockname()[1]
    began = time.monotonic()
    async with serve_relay(folder, workers=2) as relay:
        await relay.set_up(http_base_url=f"http://127.0.0.1:{port}")
        clients = [asyncio.create_task(upload_for_ever(relay, storm, number)) for number in range(CLIENTS)]
        await kill_workers(relay, storm, kills)
        storm.is_over = True
        await asyncio.gather(*clients)
        await relay.wait_for_workers(2)
        living = await relay.wait_for_journals(2, seconds=SETTLE_SECONDS)
        rows = await relay.ledger()
    service.close()
    await recording.ended()
    violations = judge(storm, rows, read_objects(folder / "disk" / "storm"), living)
    outcomes = Counter(row["outcome"] for row in rows)
    seen = sum(upload.has_succeeded for upload in storm.sent)
    print(f"kills {storm.kills}  uploads {len(storm.sent)}  seen to succeed {seen}  rows {len(rows)}  {time.monotonic() - began:.0f} s")
    print("outcomes " + "  ".join(f"{name} {count}" for name, count in sorted(outcomes.items())))
    for violation in violations[:20]:
        print(f"  {violation}")
    print("PASS" if not violations else f"FAIL {len(violations)} violations")
    return len(violations)


def main() -> None:
    """Run the storm from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-storm-") as folder:
        sys.exit(1 if asyncio.run(ride(Path(folder), arguments.kills)) else 0)


if __name__ == "__main__":
    main()
