"""Revoke keys beside a second relay, and measure how long that one goes on taking them.

    python -m tests.faults.revocation --times 20

Two relays on one Postgres. A key is revoked over the admin side of the first, or by SQL; a client of the second uploads
with it all the time. Ways: ``rest``; ``sql``; ``frozen``, as ``rest``, but the second one's listening connection was
frozen just before, and stays so. Of each revocation two times are told, from its commit on:

- *taken*: when the last upload began that the second relay still took (before the commit: 0);
- *refused*: when the first refusal was read.

Each must be below a second, the refusal must be ``key_revoked``, and nothing may be taken after it.
Ends with ``PASS``, or with ``FAIL n violations`` and exit code 1.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import httpx

from tests.support.fault_proxy import FaultProxy, address_of_postgres, url_through
from tests.support.postgres import OwnPostgres, execute
from tests.support.serving import ServedRelay, serve_relay
from tests.support.upstreams import Upstream
from tests.support.waiting import until

LONGEST_SECONDS = 1.0
PAUSE_SECONDS = 0.005
REFUSALS_AFTERWARDS = 10
Way = Literal["rest", "sql", "frozen"]
WAYS: tuple[Way, ...] = ("rest", "sql", "frozen")


@dataclass(slots=True)
class Pair:
    """The relay that revokes, and the one beside it, whose listening connection goes through ``proxy``."""

    first: ServedRelay
    second: ServedRelay
    proxy: FaultProxy
    database_url: str


@dataclass(slots=True)
class Trial:
    """One client of the second relay: uploads that were taken, by when they began, and the first refusal."""

    taken_at: list[float] = field(default_factory=list)
    refused_at: float | None = None
    code: str | None = None
    refusals: int = 0
    taken_afterwards: int = 0

    async def upload(self, relay: ServedRelay, key: str) -> None:
        """Upload again and again until a few refusals have come."""
        async with httpx.AsyncClient(base_url=relay.url, headers={"X-API-Key": key}, timeout=30, trust_env=False) as client:
            while self.refusals < REFUSALS_AFTERWARDS:
                began = time.monotonic()
                answer = await client.post("/upload/http/a", content=b"x")
                if answer.status_code == 200:
                    self.taken_at.append(began)
                    self.taken_afterwards += self.refused_at is not None
                else:
                    self.refused_at = self.refused_at or time.monotonic()
                    self.refusals += 1
                    self.code = answer.json()["code"]
                await asyncio.sleep(PAUSE_SECONDS)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one revocation took, in seconds."""

    taken: float
    refused: float
    violations: tuple[str, ...]


async def revoke_once(pair: Pair, way: Way, *, is_strict: bool) -> Measured:
    """Revoke one new key while a client uploads with it."""
    async with pair.first.admin() as admin:
        issued = (await admin.post("/tenants/storm/keys", json={})).json()
        await wait_until_proven(pair.second)
        trial = Trial()
        uploading = asyncio.create_task(trial.upload(pair.second, issued["key"]))
        try:
            await until(lambda: len(trial.taken_at) > 5 or uploading.done())
            if way == "frozen":
                pair.proxy.freeze()
            if way == "sql":
                await execute(pair.database_url, f"UPDATE api_keys SET revoked_at = now() WHERE id = '{issued['id']}'")
            else:
                answer = await admin.delete(f"/tenants/storm/keys/{issued['id']}")
                assert answer.status_code == 204, answer.text
            committed = time.monotonic()
            async with asyncio.timeout(20):
                await uploading
        finally:
            pair.proxy.thaw()
            uploading.cancel()
    assert trial.refused_at is not None
    taken = max(0.0, trial.taken_at[-1] - committed)
    refused = max(0.0, trial.refused_at - committed)
    violations = judge(way, trial, taken)
    if is_strict and refused >= LONGEST_SECONDS:
        violations.append(f"{way}: the first refusal was read after {refused:.3f} s")
    return Measured(taken, refused, tuple(violations))


def judge(way: Way, trial: Trial, taken: float) -> list[str]:
    """Say what does not fit."""
    violations = []
    if taken >= LONGEST_SECONDS:
        violations.append(f"{way}: an upload that began {taken:.3f} s after the revocation was taken")
    if trial.code != "key_revoked":
        violations.append(f"{way}: refused with {trial.code}")
    if trial.taken_afterwards:
        violations.append(f"{way}: {trial.taken_afterwards} uploads were taken after a refusal")
    return violations


async def wait_until_proven(relay: ServedRelay) -> None:
    """Wait until the relay's directory is up to date: its listening connection lives."""
    async with httpx.AsyncClient(base_url=relay.url, trust_env=False) as client:

        async def is_proven() -> bool:
            return bool((await client.get("/readyz")).json()["checks"]["directory"] == "ok")

        await until(is_proven)


@asynccontextmanager
async def two_relays(folder: Path, database_url: str) -> AsyncIterator[Pair]:
    """Two relays on one Postgres, with a tenant that both know."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(Upstream())
        proxy = await stack.enter_async_context(FaultProxy(address_of_postgres(database_url)))
        first = await stack.enter_async_context(serve_relay(folder / "first", workers=1, RELAY_DATABASE_URL=database_url))
        listen_url = url_through(proxy, database_url)
        second = await stack.enter_async_context(
            serve_relay(folder / "second", workers=1, RELAY_DATABASE_URL=database_url, RELAY_DATABASE_LISTEN_URL=listen_url)
        )
        await first.set_up(http_base_url=upstream.url)
        yield Pair(first, second, proxy, database_url)


async def measure(folder: Path, database_url: str, times: int, *, ways: Sequence[Way] = WAYS, is_strict: bool = False) -> list[str]:
    """Revoke so many keys each way; print the times and return the violations.

    ``is_strict``: the refusal must have been read within the second, too, which a busy machine cannot promise.
    """
    violations: list[str] = []
    async with two_relays(folder, database_url) as pair:
        for way in ways:
            found = [await revoke_once(pair, way, is_strict=is_strict) for _ in range(times)]
            for name, seconds in (("taken", [each.taken for each in found]), ("refused", [each.refused for each in found])):
                ordered = sorted(seconds)
                told = f"median {ordered[len(ordered) // 2]:.3f} s  longest {ordered[-1]:.3f} s"
                print(f"{way:<7} {times} revocations  {name:<8} {told}", flush=True)
            violations += [violation for each in found for violation in each.violations]
    for violation in violations[:20]:
        print(f"  {violation}")
    return violations


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-revocation-") as folder, OwnPostgres() as postgres:
        violations = asyncio.run(measure(Path(folder), postgres.url, arguments.times, is_strict=True))
    print("PASS" if not violations else f"FAIL {len(violations)} violations")
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
