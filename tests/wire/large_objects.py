"""Send large objects through a served relay to a bucket, and look at the bucket, and at the worker's memory.

    python -m tests.wire.large_objects

One object of 2 GiB, then 50 of 64 MiB at once, to a store that keeps them on disk, in a relay whose parts may hold 128 MiB
(``RELAY_MEMORY_PARTS``), of which one tenant gets half of what is not kept for small objects. Each time:

1. the bucket has objects of the same SHA-256, each once, and no upload is left open;
2. the ledger says of each that it was delivered;
3. the worker's peak memory (``VmHWM``) is above its value after an upload of 1 MiB by no more than what its parts may hold (of one object:
   those on their way and the one that is being filled), and 64 MiB for buffers of connections and what an allocator does not give back.

Ends with ``PASS``, or with ``FAIL n violations`` and exit code 1.
"""

import argparse
import asyncio
import hashlib
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.bulk import PIECE_BYTES, BulkClient, Taken, cpu_seconds_of, peak_of
from tests.support.serving import ServedRelay, serve_relay
from tests.support.stores import ACCESS_KEY, SECRET_KEY, TestBucket, rclone

MIB = 1 << 20
PART_BYTES = 8 * MIB
PARTS_PARALLEL = 3
PARTS_BYTES = 128 * MIB
BESIDE_BYTES = 64 * MIB
SETTLE_SECONDS = 30.0


@dataclass
class Load:
    """A relay with one worker, the bucket behind it, and what was found."""

    relay: ServedRelay
    bucket: TestBucket
    worker: int
    baseline: int = 0
    violations: list[str] = field(default_factory=list)

    def check(self, what: str, *, holds: bool) -> None:
        """Note a violation where something does not hold."""
        if not holds:
            self.violations.append(what)

    async def send(self, name: str, size: int) -> tuple[str, Taken]:
        """Upload an object of so many bytes."""
        host, _, port = self.relay.url.removeprefix("http://").partition(":")
        try:
            return name, await BulkClient((host, int(port)), self.relay.key).upload(f"bucket/{name}", size // PIECE_BYTES)
        except (OSError, EOFError) as error:  # answered early and cut: the ledger says why
            print(f"  {name}: {type(error).__name__}")
            return name, Taken(0, 0, "", 0, "", 0.0)

    def digest_of(self, name: str) -> str:
        """The SHA-256 of what the bucket has."""
        digest = hashlib.sha256()
        for piece in self.bucket.client.get_object(Bucket=self.bucket.name, Key=name)["Body"].iter_chunks(MIB):
            digest.update(piece)
        return digest.hexdigest()


async def send_at_once(load: Load, what: str, count: int, size: int) -> None:
    """Upload so many objects of this size at once, and judge."""
    began, cpu_seconds = time.monotonic(), cpu_seconds_of(load.worker)
    sent = await asyncio.gather(*(load.send(f"{what}/{number}.bin", size) for number in range(count)))
    seconds = time.monotonic() - began
    growth = peak_of(load.worker) - load.baseline
    parts = min(count * (PARTS_PARALLEL + 1) * PART_BYTES, PARTS_BYTES)
    print(
        f"  {count:3} of {size / MIB:5.0f} MiB {seconds:6.1f} s {count * size / MIB / seconds:5.0f} MiB/s"
        f"  worker {cpu_seconds_of(load.worker) - cpu_seconds:5.1f} CPU s"
        f"  VmHWM {peak_of(load.worker) / MIB:5.1f} MiB (+{growth / MIB:.1f}, bound +{(parts + BESIDE_BYTES) / MIB:.0f})",
        flush=True,
    )
    load.check(f"{what}: the worker grew by {growth / MIB:.1f} MiB", holds=growth <= parts + BESIDE_BYTES)
    for name, taken in sent:
        load.check(f"{name}: answered {taken.status}", holds=taken.status == 201)
        is_same = await asyncio.to_thread(load.digest_of, name) == taken.sent_sha256 if taken.status == 201 else False
        load.check(f"{name}: the bucket has other bytes", holds=is_same)
    keys = [key for key in load.bucket.keys() if key.startswith(f"{what}/")]  # noqa: SIM118 - no mapping
    load.check(f"{what}: the bucket has {len(keys)} objects", holds=sorted(keys) == sorted(name for name, _ in sent))
    load.check(f"{what}: uploads are left open", holds=load.bucket.open_uploads() == [])
    await check_ledger(load, what, count)


async def check_ledger(load: Load, what: str, count: int) -> None:
    """The ledger says of each that it was delivered."""
    deadline, outcomes = time.monotonic() + SETTLE_SECONDS, [""]
    while len(outcomes) < count or "" in outcomes:
        outcomes = [
            " ".join(filter(None, (entry["outcome"], entry["code"]))) for entry in await load.relay.ledger() if f"/{what}/" in entry["path"]
        ]
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(0.1)
    load.check(f"{what}: the ledger says {outcomes}", holds=outcomes == ["delivered"] * count)


async def set_up(relay: ServedRelay, bucket: TestBucket) -> None:
    """Make a tenant with a bucket."""
    await relay.set_up(http_base_url="http://127.0.0.1:9")
    config = {"bucket": bucket.name, "endpoint_url": bucket.server.url, "part_bytes": PART_BYTES}
    secrets = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
    async with relay.admin() as admin:
        for path, document in (
            ("destinations", {"name": "bucket", "kind": "s3", "config": config, "secrets": secrets}),
            ("routes", {"prefix": "bucket", "destination": "bucket", "strip_prefix": True}),
        ):
            answer = await admin.post(f"/tenants/storm/{path}", json=document)
            assert answer.status_code == 201, answer.text


async def load_bucket(folder: Path, large: int, many: tuple[int, int], **variables: str) -> list[str]:
    """Send one object of ``large`` bytes, then ``many`` (how many, of how many bytes); return the violations."""
    with rclone() as server:
        bucket = server.make_bucket()
        settings = {"RELAY_MEMORY_PARTS": str(PARTS_BYTES), "RELAY_STORE_PARTS_PARALLEL": str(PARTS_PARALLEL), **variables}
        async with serve_relay(folder, workers=1, **settings) as relay:
            (worker,) = await relay.wait_for_workers(1)
            await set_up(relay, bucket)
            load = Load(relay, bucket, worker)
            await load.send("warm.bin", MIB)
            load.baseline = peak_of(worker)
            print(f"worker {worker}: VmHWM {load.baseline / MIB:.1f} MiB after an upload of 1 MiB")
            await send_at_once(load, "one", 1, large)
            await send_at_once(load, "many", *many)
    for violation in load.violations:
        print(f"  {violation}")
    print("PASS" if not load.violations else f"FAIL {len(load.violations)} violations")
    return load.violations


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mebibytes", type=int, default=2_048, help="size of the one object")
    parser.add_argument("--uploads", type=int, default=50, help="how many at once")
    parser.add_argument("--each", type=int, default=64, help="size of each of them (MiB)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-large-") as folder:
        many = (arguments.uploads, arguments.each * MIB)
        sys.exit(1 if asyncio.run(load_bucket(Path(folder), arguments.mebibytes * MIB, many)) else 0)


if __name__ == "__main__":
    main()
