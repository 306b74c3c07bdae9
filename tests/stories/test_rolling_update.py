"""The previous release beside this one, on this one's schema: it serves, both see each other's changes, and each settles
what the other left in its journal.

The previous release is the code before the last revision of the schema was added, taken from git. It runs on the
packages of today: where its locks need others, this test fails at its start and says so.
"""

import io
import re
import subprocess
import tarfile
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from relay.db.schema import HEAD, MIGRATIONS, REVISIONS
from tests.support.fault_proxy import FaultProxy, address_of_postgres, url_through
from tests.support.processes import ROOT
from tests.support.serving import ServedRelay, serve_relay
from tests.support.upstreams import Upstream
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(120)

SETTLE_SECONDS = 60.0
"""Adoption looks every five seconds; the rest is for a busy machine."""


def ask_git(*arguments: str) -> bytes:
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the previous release is not in this checkout's history: `git fetch --unshallow` in a clone brings it")


def find_previous() -> str:
    """The last commit before the schema's head was added, be it by a merge; while that is not committed, the last commit."""
    (head,) = MIGRATIONS.glob(f"versions/{HEAD}_*.py")
    added = ask_git("log", "-m", "--diff-filter=A", "--format=%H", "--", str(head.relative_to(ROOT))).decode().split()
    return ask_git("rev-parse", "--verify", f"{added[-1]}^" if added else "HEAD").decode().strip()


@pytest.fixture
def previous(tmp_path: Path) -> Path:
    """A folder with the previous release's code."""
    if len(REVISIONS) == 1:
        pytest.skip("this release has the first schema: write a second revision with `make migration`")
    folder = tmp_path / "previous"
    with tarfile.open(fileobj=io.BytesIO(ask_git("archive", find_previous(), "relay", "migrations"))) as archive:
        archive.extractall(folder)  # noqa: S202 - git's own archive of our own code; the first 3.11 know no filter
    revisions = re.search(r"^REVISIONS = \((.*)\)$", (folder / "relay/db/schema.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert revisions is not None
    assert re.findall(r'"(\w+)"', revisions[1]) == list(REVISIONS[:-1])
    return folder


async def upload(relay: ServedRelay, key: str, *paths: str) -> list[str]:
    """Upload to each path; what the relay calls these uploads."""
    found = []
    async with httpx.AsyncClient(base_url=relay.url, headers={"X-API-Key": key}, timeout=30, trust_env=False) as client:
        for path in paths:
            answer = await client.post(f"/upload/{path}", content=path.encode())
            assert answer.status_code in {200, 201}, answer.text
            found.append(answer.headers["relay-upload-id"])
    return found


async def status_of(relay: ServedRelay, key: str) -> int:
    async with httpx.AsyncClient(base_url=relay.url, headers={"X-API-Key": key}, timeout=30, trust_env=False) as client:
        return (await client.post("/upload/http/a", content=b"a")).status_code


async def wait_for_entries(relay: ServedRelay, *uploads: str) -> None:
    """Wait until each of these uploads has its one entry, ``delivered``."""

    async def are_told() -> bool:
        rows = await relay.ledger()
        return [[row["outcome"] for row in rows if row["upload_id"] == upload] for upload in uploads] == [["delivered"]] * len(uploads)

    await until(are_told, seconds=SETTLE_SECONDS)


async def check_changes_are_seen(changing: ServedRelay, other: ServedRelay) -> None:
    """A key that one of them issues is taken by the other, and refused when it is revoked."""
    async with changing.admin() as admin:
        issued = (await admin.post("/tenants/storm/keys", json={})).json()
        await wait_for_entries(other, *await upload(other, issued["key"], "http/new"))
        assert (await admin.delete(f"/tenants/storm/keys/{issued['id']}")).status_code == 204

        async def is_refused() -> bool:
            return await status_of(other, issued["key"]) == 401

        await until(is_refused)


async def leave_in_the_journal(relay: ServedRelay, proxy: FaultProxy, *paths: str) -> list[str]:
    """Take Postgres away from a relay, upload, and kill it with everything that it has not shipped."""
    await wait_for_entries(relay, *await upload(relay, relay.key, "http/known"))  # what the directory has, it goes on with
    proxy.freeze()
    left = await upload(relay, relay.key, *paths)
    relay.process.kill()
    await relay.process.wait()
    return left


async def test_old_and_new_serve_together_and_settle_what_the_other_leaves(
    previous: Path, database_url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(Upstream())
        beside_old, beside_new = [await stack.enter_async_context(FaultProxy(address_of_postgres(database_url))) for _ in range(2)]

        async def start(code: Path | None, proxy: FaultProxy | None) -> ServedRelay:
            variables = {"RELAY_DATABASE_URL": url_through(proxy, database_url) if proxy else database_url}
            if code is not None:
                variables["PYTHONPATH"] = str(code)
            return await stack.enter_async_context(serve_relay(tmp_path / "host", workers=1, **variables))

        old = await start(previous, beside_old)
        assert f"The database is at revision {HEAD}, newer than this release's {REVISIONS[-2]}" in capfd.readouterr().err
        new = await start(None, beside_new)
        await new.set_up(http_base_url=upstream.url)
        old.key = new.key
        await wait_for_entries(new, *await upload(old, old.key, "http/a", "disk/a"), *await upload(new, new.key, "http/b", "disk/b"))
        await check_changes_are_seen(old, new)
        await check_changes_are_seen(new, old)

        await wait_for_entries(new, *await leave_in_the_journal(old, beside_old, "http/c", "disk/c"))

        again = await start(previous, None)
        known = len(await again.ledger())
        await wait_for_entries(again, *await leave_in_the_journal(new, beside_new, "http/d", "disk/d"))
        assert len(await again.ledger()) == known + 3
        journal = tmp_path / "host" / "data" / "journal"
        assert not (journal / "rejected.ndjson").exists()
        assert not (journal / "corrupt").exists()
