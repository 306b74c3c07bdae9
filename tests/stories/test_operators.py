"""An operator's day: a tenant from its first key to its end, over REST and on the command line alike."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
from click.testing import CliRunner

from relay.cli import relay as commands
from tests.stories.speech import client_of, problem_of
from tests.support.running_relay import ADMIN_TOKEN, SECRET_KEY, RunningRelay, running_relay
from tests.support.upstreams import Upstream
from tests.support.waiting import until

TENANT = ["slug", "name", "status", "limits", "content_types", "default_destination", "created_at", "updated_at"]
KEY = ["id", "name", "scopes", "status", "created_at", "expires_at", "last_used_at"]


async def until_status(client: httpx.AsyncClient, key: str, status: int) -> httpx.Response:
    """Upload until the answer has this status: within a second of the change."""
    answers: list[httpx.Response] = []

    async def has_changed() -> bool:
        answers.append(await client.post("/upload/a", content=b"hello", headers={"X-API-Key": key}))
        return answers[-1].status_code == status

    await until(has_changed, seconds=1)
    return answers[-1]


async def test_a_tenants_life_over_rest(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay, client_of(relay) as client:
        admin = relay.admin
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {ADMIN_TOKEN}"}, {"X-API-Key": ADMIN_TOKEN}):
            for path in ("/tenants", "/ledger", "/tenants/acme/keys"):
                refused = await client.get(f"/admin/v1{path}", headers=headers)
                problem_of(refused, 401, "operator_token_invalid")
                assert refused.headers["www-authenticate"] == 'Bearer realm="relay"'

        made = await admin.post("/tenants", json={"slug": "acme", "name": "Acme", "limits": {"max_upload_bytes": 1000}})
        assert made.status_code == 201
        assert list(made.json()) == TENANT
        assert made.headers["location"] == "/admin/v1/tenants/acme"
        assert (await client.get(made.headers["location"], headers=admin.headers)).json() == made.json()
        assert made.headers["etag"].startswith('"')
        problem_of(await admin.post("/tenants", json={"slug": "acme"}), 409, "tenant_exists")

        issued = (await admin.post("/tenants/acme/keys", json={"name": "first"})).json()
        assert list(issued) == [*KEY, "key"]
        listed = (await admin.get("/tenants/acme/keys")).json()["items"]
        assert listed == [{name: issued[name] for name in KEY}]

        problem_of(await client.post("/upload/a", content=b"x", headers={"X-API-Key": issued["key"]}), 404, "route_not_found")
        document = {"name": "main", "kind": "http", "config": {"base_url": upstream.url}}
        destination = await relay.post("/tenants/acme/destinations", document)
        assert destination["config"] == {
            "base_url": upstream.url,
            "connect_timeout_seconds": 5,
            "idle_timeout_seconds": 60,
            "total_timeout_seconds": None,
            "max_connections": 100,
        }
        assert (await admin.get("/tenants/acme")).json()["default_destination"] == "main"
        finding = (await admin.post("/tenants/acme/destinations/main/check")).json()
        assert list(finding) == ["ok", "code", "detail", "checked_at"]
        assert (finding["ok"], finding["code"]) == (True, None)
        route = await relay.post("/tenants/acme/routes", {"prefix": "in", "destination": "main", "strip_prefix": True})
        problem_of(await admin.delete("/tenants/acme/destinations/main"), 409, "destination_in_use")

        answer = await until_status(client, issued["key"], 200)
        entry = await relay.entry(upload_id=answer.headers["relay-upload-id"])
        listed = (await admin.get("/ledger", params={"upload_id": entry["upload_id"]})).json()["items"]
        assert listed == [entry]
        assert (entry["tenant"], entry["key_id"], entry["outcome"]) == ("acme", issued["id"], "delivered")

        second = (await admin.post("/tenants/acme/keys", json={})).json()
        assert (await admin.delete(f"/tenants/acme/keys/{issued['id']}")).status_code == 204
        problem_of(await until_status(client, issued["key"], 401), 401, "key_revoked")
        assert (await admin.get(f"/tenants/acme/keys/{issued['id']}")).json()["status"] == "revoked"
        assert (await client.post("/upload/a", content=b"x", headers={"X-API-Key": second["key"]})).status_code == 200

        assert (await admin.delete(f"/tenants/acme/routes/{route['id']}")).status_code == 204
        assert (await admin.delete("/tenants/acme")).status_code == 204
        problem_of(await until_status(client, second["key"], 401), 401, "key_invalid")
        problem_of(await admin.get("/tenants/acme"), 404, "tenant_not_found")
        problem_of(await admin.post("/tenants", json={"slug": "acme"}), 409, "tenant_exists")
        assert (await admin.get("/ledger", params={"tenant": "acme"})).json()["items"], "the ledger stays"


class CommandLine:
    """``relay … --json`` on the database of a running relay; in a thread, because a command has a loop of its own."""

    def __init__(self, relay: RunningRelay, database_url: str) -> None:
        self._runner = CliRunner(
            env={
                "RELAY_DATABASE_URL": database_url,
                "RELAY_SECRET_KEY": SECRET_KEY,
                "RELAY_DISK_ROOT": str(relay.settings.disk.root),
                "RELAY_EGRESS_ALLOW": "127.0.0.0/8",
            }
        )

    async def show(self, *arguments: str) -> Any:
        """The object that a command prints."""
        return json.loads(await self.run(*arguments, "--json") or "null")

    async def run(self, *arguments: str) -> str:
        """What a command prints."""
        result = await asyncio.to_thread(self._runner.invoke, commands, arguments)
        assert result.exit_code == 0, result.output
        return result.stdout


async def test_a_tenants_life_on_the_command_line_is_the_same(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay, client_of(relay) as client:
        line = CommandLine(relay, database_url)

        async def rest(path: str) -> Any:
            answer = await relay.admin.get(path)
            assert answer.status_code == 200, answer.text
            return answer.json()

        tenant = await line.show("tenant", "create", "acme", "--name", "Acme", "--max-upload-bytes", "1000")
        assert json.dumps(tenant) == json.dumps(await rest("/tenants/acme"))
        told = ("--http", upstream.url, "--header", "X-Source: the command line", "--default")
        destination = await line.show("destination", "set", "acme", "main", *told)
        issued = await line.show("key", "issue", "acme", "--name", "first")
        assert json.dumps(destination) == json.dumps(await rest("/tenants/acme/destinations/main"))
        assert "the command line" not in json.dumps(destination)
        assert {name: issued[name] for name in KEY} == await rest(f"/tenants/acme/keys/{issued['id']}")
        route = await line.show("route", "set", "acme", "in", "main", "--strip-prefix")
        assert json.dumps(route) == json.dumps(await rest(f"/tenants/acme/routes/{route['id']}"))

        answer = await client.post("/upload/in/x", content=b"hello", headers={"X-API-Key": issued["key"]})
        assert answer.status_code == 200
        assert (await upstream.ended()).target == "/x"
        assert upstream.requests[0].values("x-source") == [b"the command line"]
        entry = await relay.entry(upload_id=answer.headers["relay-upload-id"])

        ledger = await line.show("ledger", "list", "--tenant", "acme")
        assert ledger["items"] == [entry]
        assert json.dumps(ledger) == json.dumps(await rest("/ledger?tenant=acme"))
        assert json.dumps(await line.show("key", "list", "acme")) == json.dumps(await rest("/tenants/acme/keys"))
        finding = await line.show("destination", "check", "acme", "main")
        assert (list(finding), finding["ok"]) == (["ok", "code", "detail", "checked_at"], True)

        assert await line.show("key", "revoke", "acme", issued["id"]) is None
        problem_of(await until_status(client, issued["key"], 401), 401, "key_revoked")
        assert await line.show("tenant", "delete", "acme") is None
        problem_of(await until_status(client, issued["key"], 401), 401, "key_invalid")
