"""Have a tenant's service refuse uploads early, in every way that services do, and count what the clients are told.

    python -m tests.wire.early_refusals

The service reads a random amount of each body, from nothing to more than the sockets hold. Then it

    drains    answers 413 and reads on
    closes    answers 413 and closes, with much unread: the kernel sends a reset behind the answer
    stops     answers 413 and reads nothing more
    resets    resets the connection without an answer
    vanishes  answers 413 and resets, which destroys what is still on its way: the one or the other is told

on both event loops, plain and over TLS. The client gets the 413 in the first three, a 502 ``destination_broke`` in
the fourth, one of the two in the last; each within ``LATEST_SECONDS`` of the service's act, and whole. The ledger tells the
same. Afterwards the worker holds no more descriptors than before.

Ends with ``PASS``, or with ``FAIL n violations`` and exit code 1.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import os
import random
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Final

from tests.support.certificates import Certificate, make_certificate
from tests.support.raw_client import Answer, ConnectionEnded, RawClient
from tests.support.serving import ServedRelay, serve_relay
from tests.support.waiting import until

LATEST_SECONDS: Final = 2.0
BODY_BYTES: Final = 6_000_000
READ_MOST_BYTES: Final = 3_000_000
AT_ONCE: Final = 4
PIECE_BYTES: Final = 65536
REFUSAL: Final = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 9\r\nContent-Type: text/plain\r\n\r\ntoo large"
REFUSED, BROKE = "413 too large", "502 destination_broke"
EXPECTED: Final = {"drains": {REFUSED}, "closes": {REFUSED}, "stops": {REFUSED}, "resets": {BROKE}, "vanishes": {REFUSED, BROKE}}
OUTCOMES: Final = {REFUSED: "rejected", BROKE: "destination_failed"}


class Refusing:
    """A service of blocking sockets, a thread for each connection. The last segment of a target says what to do: ``<way>-<bytes>``."""

    def __init__(self, certificate: Certificate | None) -> None:
        self._context = certificate.server_context() if certificate is not None else None
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._running: list[threading.Thread] = []
        self._is_over = threading.Event()
        self.acted_at: dict[str, float] = {}
        self.port: int = self._listening.getsockname()[1]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Accept until left."""
        accepting = threading.Thread(target=self._accept)
        accepting.start()
        try:
            yield
        finally:
            self._is_over.set()
            self._listening.shutdown(socket.SHUT_RDWR)
            accepting.join()
            self._listening.close()
            for thread in self._running:
                thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self._running.append(threading.Thread(target=self._serve, args=(connection,)))
                self._running[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(20)
            connection.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
            )  # or the refusal stays here, behind TLS's tickets, and dies here
            if self._context is None:
                self._refuse(connection)
                return
            with self._context.wrap_socket(connection, server_side=True) as secured:
                self._refuse(secured)

    def _refuse(self, connection: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += _some(connection)
        target = data.split(b" ")[1].decode()
        way, _, amount = target.rpartition("/")[2].partition("-")
        read = len(data.partition(b"\r\n\r\n")[2])
        while read < int(amount):
            read += len(_some(connection))
        self.acted_at[target] = time.monotonic()
        if way != "resets":
            connection.sendall(REFUSAL)
        if way in {"resets", "vanishes"}:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif way == "stops":
            self._is_over.wait(10)
        elif way == "drains":
            with contextlib.suppress(ConnectionError):
                while True:
                    _some(connection)


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(PIECE_BYTES)
    if not data:
        raise ConnectionResetError
    return data


@dataclass
class Account:
    """What the clients were told, for one way on one kind of connection."""

    told: "Counter[str]" = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


@dataclass
class Attempt:
    """One served relay, the service behind it, and what was found."""

    name: str
    relay: ServedRelay
    service: Refusing
    worker: int
    told: "Counter[str]" = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    async def refuse(self, way: str, repetitions: int, rng: random.Random) -> None:
        """Upload so many times and judge what came of it."""
        account = Account()
        amounts = iter([rng.choice([0, rng.randrange(PIECE_BYTES), rng.randrange(READ_MOST_BYTES)]) for _ in range(repetitions)])
        numbers = iter(range(repetitions))

        async def upload_some() -> None:
            for number, amount in zip(numbers, amounts, strict=False):
                await self._upload(account, f"{number}/{way}-{amount}", is_chunked=number % 2 == 1)

        await asyncio.gather(*(upload_some() for _ in range(AT_ONCE)))
        self.told += account.told
        self.judge(way, account)

    def judge(self, way: str, account: Account) -> None:
        """Print what the clients were told, and note what they should not have been."""
        latest = max(account.seconds)
        counts = ", ".join(f"{count} x {what}" for what, count in sorted(account.told.items()))
        print(f"  {self.name:<14} {way:<9} {counts}; at the latest after {latest:.3f} s", flush=True)
        if wrong := sum(count for what, count in account.told.items() if what not in EXPECTED[way]):
            self.violations.append(f"{self.name}, {way}: {wrong} clients were told something else")
        if latest > LATEST_SECONDS:
            self.violations.append(f"{self.name}, {way}: one was told only after {latest:.1f} s")

    async def _upload(self, account: Account, path: str, *, is_chunked: bool) -> None:
        framing = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {BODY_BYTES}"
        lines = [f"POST /upload/{path} HTTP/1.1", "Host: relay", f"Authorization: Bearer {self.relay.key}", framing, "", ""]
        host, _, port = self.relay.url.removeprefix("http://").partition(":")
        async with RawClient(host, int(port)) as client:
            sending = asyncio.create_task(self._send(client, "\r\n".join(lines).encode(), is_chunked=is_chunked))
            try:
                what = _told(await client.answer())
            except (ConnectionEnded, TimeoutError) as error:
                what = type(error).__name__
            account.seconds.append(time.monotonic() - self.service.acted_at.get(f"/{path}", 0))
            account.told[what] += 1
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, client: RawClient, head: bytes, *, is_chunked: bool) -> None:
        piece = bytes(PIECE_BYTES)
        await client.send(head)
        for _ in range(BODY_BYTES // PIECE_BYTES):
            if not await client.try_to_send(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece):
                return

    async def check_ledger(self) -> None:
        """The ledger tells of each upload once, and the same as the clients were told."""
        expected: Counter[str] = Counter()
        for what, count in self.told.items():
            expected[OUTCOMES.get(what, what)] += count
        found: Counter[str] = Counter()

        async def is_told() -> bool:
            found.clear()
            found.update(entry["outcome"] for entry in await self.relay.ledger())
            return sum(found.values()) >= sum(expected.values())

        with contextlib.suppress(TimeoutError):
            await until(is_told)
        if found != expected:
            self.violations.append(f"{self.name}: the ledger tells {dict(found)}, the clients {dict(expected)}")

    async def check_descriptors(self, before: int) -> None:
        """The worker has closed what it opened."""
        with contextlib.suppress(TimeoutError):
            await until(lambda: descriptors_of(self.worker) <= before)
            return
        self.violations.append(f"{self.name}: {descriptors_of(self.worker)} descriptors, {before} before")


def _told(answer: Answer) -> str:
    if not answer.is_whole:
        return f"{answer.status} cut"
    is_problem = answer.value("content-type") == "application/problem+json"
    return f"{answer.status} {json.loads(answer.body)['code'] if is_problem else answer.body.decode()}"


def descriptors_of(pid: int) -> int:
    """How many descriptors a process holds; of this one, without those that only garbage holds."""
    if pid == os.getpid():
        gc.collect()
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def refuse_all(folder: Path, loop: str, ways: Sequence[str], repetitions: int, *, is_tls: bool, **variables: str) -> list[str]:
    """Have uploads refused in these ways by one relay; return the violations."""
    certificate = make_certificate(folder) if is_tls else None
    if certificate is not None:
        variables["SSL_CERT_FILE"] = str(certificate.path)
    service = Refusing(certificate)
    with service.running():
        async with serve_relay(folder, workers=1, loop=loop, **variables) as relay:
            await relay.set_up(http_base_url=f"{'https' if is_tls else 'http'}://127.0.0.1:{service.port}")
            (worker,) = await relay.wait_for_workers(1)
            attempt = Attempt(f"{loop}, {'TLS' if is_tls else 'plain'}", relay, service, worker)
            seed = random.randrange(1 << 32)
            await attempt.refuse("drains", AT_ONCE, random.Random(seed))  # opens what stays open: files, connections to Postgres
            before = descriptors_of(worker) + AT_ONCE
            for way in ways:
                await attempt.refuse(way, repetitions, random.Random(seed))
            await attempt.check_ledger()
            await attempt.check_descriptors(before)
    return [f"{violation} (seed {seed})" for violation in attempt.violations]


def tell(violations: list[str]) -> None:
    """Print the last lines."""
    for violation in violations:
        print(f"  {violation}")
    print("PASS" if not violations else f"FAIL {len(violations)} violations")


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--loop", choices=["asyncio", "uvloop"])
    parser.add_argument("--way", choices=list(EXPECTED))
    arguments = parser.parse_args()
    violations: list[str] = []
    loops = [arguments.loop] if arguments.loop else ["asyncio", "uvloop"]
    for loop, is_tls in product(loops, [False, True]):
        with tempfile.TemporaryDirectory(prefix="relay-refusals-") as folder:
            ways = [arguments.way] if arguments.way else list(EXPECTED)
            violations += asyncio.run(refuse_all(Path(folder), loop, ways, arguments.repetitions, is_tls=is_tls))
    tell(violations)
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
