"""A crowd of tenants on one relay, each with a key and a destination of its own.

They are laid into the database at once; over REST a hundred thousand would take half an hour. Before the first trial each
has uploaded once, so that the relay knows them all; what its processes have grown by then is told for each of them.
"""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import asyncpg
from uuid_utils.compat import uuid7

from bench.memory import private_bytes
from bench.processes import BrokenError, tree_of
from bench.rows import Entrant
from bench.stage import Stage
from bench.trials import Trial, generator, hear, order_for, rest, run_load, say
from relay.db.embedded import find_running
from relay.tenants.keys import issue_key

BATCH = 5_000


class Crowd:
    """The tenants of one running relay; their keys stand in a file."""

    def __init__(self, stage: Stage, entrant: Entrant, count: int) -> None:
        self._stage = stage
        self._server = stage.server(entrant.server)
        self._keys = stage.folder_of(entrant.server) / "keys"
        url = stage.database_url or find_running(stage.folder_of(entrant.server) / "data")
        if url is None:
            raise BrokenError("the relay's Postgres is not running")
        keys = asyncio.run(lay(url, count, stage.port_of(entrant.load.sink)))
        self._keys.write_text("\n".join(keys), encoding="ascii")
        self._key = keys[0]
        before = self._memory()
        self._use_each(entrant, count)
        self._kib_per_tenant = (self._memory() - before) / count / 1024

    def _memory(self) -> int:
        return sum(private_bytes(tree_of(pid)[0]) for pid in self._server.pids())

    def _use_each(self, entrant: Entrant, count: int) -> None:
        """One upload of each tenant."""
        order = order_for(self._server, entrant.load, 0.0) | self._drawing(count) | {"is_each_once": True}
        with generator(order) as process:
            hear(process)
            say(process, "go")
            self._refused = json.loads(hear(process))["values"]["refused"]
        rest(self._server)

    def _drawing(self, count: int) -> dict[str, Any]:
        return {"keys": str(self._keys), "tenants": count, "key": self._key}

    def run(self, row: str, round_: int, entrant: Entrant, seconds: float) -> Trial:
        """Run a trial in which every request is from a tenant drawn at random."""
        trial = run_load(self._stage, row, round_, entrant, seconds, **self._drawing(entrant.load.tenants))
        trial.values |= {"kib_per_tenant": self._kib_per_tenant, "refused": self._refused}
        return trial


async def lay(url: str, count: int, port: int) -> list[str]:
    """Lay tenants with a key and a destination into a database; return the keys."""
    connection = await asyncpg.connect(url)
    try:
        texts: list[str] = []
        for at in range(0, count, BATCH):
            texts += await _lay_batch(connection, at, min(BATCH, count - at), port)
        return texts
    finally:
        await connection.close()


async def _lay_batch(connection: Any, at: int, count: int, port: int) -> list[str]:
    now = datetime.now(UTC)
    config = json.dumps({"base_url": f"http://127.0.0.1:{port}/u"})
    made = [(uuid7(), uuid7(), issue_key()) for _ in range(count)]
    tenants = [(tenant, f"crowd-{str(tenant)[-12:]}-{at + index}", now, now) for index, (tenant, _, _) in enumerate(made)]
    destinations = [(destination, tenant, "sink", "http", config, now, now) for tenant, destination, _ in made]
    keys = [(key.id, tenant, key.secret_hash, now) for tenant, _, key in made]
    async with connection.transaction():
        await connection.executemany("INSERT INTO tenants (id, slug, created_at, updated_at) VALUES ($1, $2, $3, $4)", tenants)
        await connection.executemany(
            "INSERT INTO destinations (id, tenant_id, name, kind, config, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7)",
            destinations,
        )
        await connection.executemany(
            "UPDATE tenants SET default_destination_id = $2 WHERE id = $1", [(tenant, destination) for tenant, destination, _ in made]
        )
        await connection.executemany("INSERT INTO api_keys (id, tenant_id, secret_hash, created_at) VALUES ($1, $2, $3, $4)", keys)
    return [key.text for _, _, key in made]
