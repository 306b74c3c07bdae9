"""A whole ``relay serve`` in processes of its own: supervisor, workers, embedded Postgres."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.support.loops import SHIPPED
from tests.support.running_relay import ADMIN_TOKEN, SECRET_KEY

START_SECONDS = 30.0
APPS = {"uvloop": (), "asyncio": ("--app", "tests.support.on_asyncio:create_app")}


@dataclass(slots=True)
class ServedRelay:
    """A running ``relay serve``. ``key`` is that of the tenant ``storm``, once it was set up."""

    url: str
    data_dir: Path
    process: asyncio.subprocess.Process
    key: str = field(default="", repr=False)

    @property
    def journal_root(self) -> Path:
        """Where the workers keep their journals."""
        return self.data_dir / "journal"

    def admin(self) -> httpx.AsyncClient:
        """A client of the admin side."""
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        return httpx.AsyncClient(base_url=f"{self.url}/admin/v1", headers=headers, timeout=30, trust_env=False)

    async def set_up(self, *, http_base_url: str) -> None:
        """Make the tenant ``storm``: route ``disk`` to a disk, everything else to an HTTP service."""
        async with self.admin() as admin:
            for path, document in (
                ("/tenants", {"slug": "storm"}),
                ("/tenants/storm/destinations", {"name": "http", "kind": "http", "config": {"base_url": http_base_url}}),
                ("/tenants/storm/destinations", {"name": "disk", "kind": "disk", "config": {"directory": "storm"}}),
                ("/tenants/storm/routes", {"prefix": "disk", "destination": "disk", "strip_prefix": True}),
            ):
                answer = await admin.post(path, json=document)
                assert answer.status_code == 201, answer.text
            self.key = (await admin.post("/tenants/storm/keys", json={})).json()["key"]

    async def ledger(self) -> list[dict[str, Any]]:
        """Every entry."""
        rows: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        async with self.admin() as admin:
            while True:
                page = (await admin.get("/ledger", params={"limit": "500", **cursor})).json()
                rows += page["items"]
                if page["next"] is None:
                    return rows
                cursor = {"cursor": page["next"]}

    def workers(self) -> dict[int, str]:
        """The workers that have opened their journal: process id and the journal's name."""
        found = {}
        for child in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="ascii").split():
            name = self._journal_of(int(child))
            if name is not None:
                found[int(child)] = name
        return found

    def _journal_of(self, pid: int) -> str | None:
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = descriptor.readlink()
                    if target.parent.parent == self.journal_root.resolve() and not target.parent.name.startswith("."):
                        return target.parent.name
        return None

    async def wait_for_workers(self, count: int, *, seconds: float = START_SECONDS) -> list[int]:
        """Wait until so many workers have opened their journals."""
        async with asyncio.timeout(seconds):
            while len(found := self.workers()) < count:
                await asyncio.sleep(0.02)
        return list(found)

    async def wait_for_journals(self, count: int, *, seconds: float) -> set[str]:
        """Wait until no journal but those of the living workers is left, and return their names."""
        async with asyncio.timeout(seconds):
            while True:
                living = set(self.workers().values())
                folders = {path.name for path in self.journal_root.iterdir() if path.is_dir() and not path.name.startswith(".")}
                if len(living) == count and folders == living:
                    return living
                await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def serve_relay(folder: Path, *, workers: int, loop: str = SHIPPED, **variables: str) -> AsyncIterator[ServedRelay]:
    """Run ``relay serve`` with everything below ``folder``; ``variables`` are more ``RELAY_*`` settings.

    ``PYTHONPATH`` among them is the folder of another release's code: that one runs. ``loop`` is the workers' event loop: uvloop, asyncio.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    data_dir = folder / "data"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RELAY_")},
        "RELAY_LISTEN": listen,
        "RELAY_DATABASE_URL": "embedded",
        "RELAY_ADMIN_TOKEN": ADMIN_TOKEN,
        "RELAY_SECRET_KEY": SECRET_KEY,
        "RELAY_DATA_DIR": str(data_dir),
        "RELAY_DISK_ROOT": str(folder / "disk"),
        "RELAY_EGRESS_ALLOW": "127.0.0.0/8",
        "RELAY_SHUTDOWN_TIMEOUT": "5",
        "RELAY_LOG_LEVEL": "warning",
        **variables,
    }
    command = (sys.executable, "-m", "relay", "serve", "--workers", str(workers), *APPS[loop])
    process = await asyncio.create_subprocess_exec(
        *command, cwd=variables.get("PYTHONPATH"), env=environment, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(START_SECONDS):
            line = await process.stdout.readline() if process.stdout else b""
        assert b"listening" in line, line
        yield ServedRelay(f"http://{listen}", data_dir, process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(START_SECONDS):
            await process.wait()
