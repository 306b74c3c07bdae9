"""Who changed what: each operation that changes something leaves one row of the audit, with its change or not at all.

The operations are those of the route table: one that ``CHANGES`` and ``CHANGES_NOTHING`` do not know fails here.
"""

import hashlib
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
from sqlalchemy import text

from relay.app import create_app
from relay.settings import load_settings
from tests.stories.speech import client_of, problem_of
from tests.stories.test_operators import CommandLine
from tests.support.live import begun_upload, until_running
from tests.support.route_table import Operation, changing_operations
from tests.support.running_relay import ADMIN_TOKEN, SECRET_KEY, RunningRelay, TestTenant, running_relay
from tests.support.upstreams import Upstream

MEMBERS = ["id", "at", "actor", "action", "target", "before", "after", "request_id"]
SEALED = "value-of-a-header-of-the-tenants-service"
HEADERS = {"headers": {"Authorization": SEALED}}
HTTP = {"kind": "http", "config": {"base_url": "https://files.example.com/in"}, "secrets": HEADERS}


@dataclass(frozen=True)
class Change:
    """How an operation is asked for, and what the audit says of it. ``target`` is an identifier's name or a member of the answer."""

    action: str
    kind: Literal["made", "changed", "removed"]
    target: str
    document: dict[str, Any] | None = None
    parameters: dict[str, str] = field(default_factory=dict)


CHANGES = {
    "create_tenant": Change("tenant.create", "made", "answer.slug", {"slug": "another"}),
    "change_tenant": Change("tenant.change", "changed", "slug", {"name": "Acme", "limits": {"max_upload_bytes": 7}}),
    "delete_tenant": Change("tenant.delete", "removed", "slug"),
    "issue_key": Change("key.issue", "made", "answer.id", {"name": "second"}),
    "rotate_key": Change("key.rotate", "changed", "key_id", {"overlap_seconds": 60}),
    "revoke_key": Change("key.revoke", "changed", "key_id"),
    "create_destination": Change("destination.create", "made", "answer.name", {"name": "third", **HTTP}),
    "change_destination": Change("destination.change", "changed", "name", {"secrets": {"headers": {"X-Other": SEALED}}}),
    "delete_destination": Change("destination.delete", "removed", "name"),
    "create_route": Change("route.create", "made", "answer.id", {"prefix": "videos", "destination": "main"}),
    "set_route": Change("route.change", "changed", "route_id", {"prefix": "pictures", "destination": "main"}),
    "delete_route": Change("route.delete", "removed", "route_id"),
    "cancel_upload": Change("upload.cancel", "removed", "upload_id"),
}
CHANGES_NOTHING = {"check_destination"}
CHANGES_NOT_ONLY_POSTGRES = {"cancel_upload"}
"""An upload that was ended stays ended, whatever becomes of the transaction."""

REFUSE_AT_COMMIT = (
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no audit today'; END $$",
    "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON audit DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()",
)

OPERATIONS = changing_operations(create_app(load_settings({})))


@dataclass
class Stage:
    """A tenant with one object of each noun, perhaps with an upload that runs."""

    identifiers: dict[str, str]
    secrets: list[str]


async def set_stage(relay: RunningRelay, upstream: Upstream, slug: str, stack: AsyncExitStack, *, is_uploading: bool = False) -> Stage:
    tenant: TestTenant = await relay.tenant(slug)
    await relay.http_destination(tenant, upstream.url)
    await relay.post(f"/tenants/{slug}/destinations", {"name": "spare", **HTTP})
    route = await relay.post(f"/tenants/{slug}/routes", {"prefix": "photos", "destination": "main"})
    identifiers = {"slug": slug, "key_id": tenant.key.split("_")[1], "name": "spare", "route_id": route["id"]}
    if is_uploading:
        await stack.enter_async_context(begun_upload(relay, tenant))
        [running] = await until_running(relay, tenant=slug)
        identifiers["upload_id"] = running["upload_id"]
    return Stage(identifiers, [tenant.key])


async def ask(relay: RunningRelay, operation: Operation, change: Change, stage: Stage) -> httpx.Response:
    path = operation.target(**stage.identifiers).removeprefix("/admin/v1")
    return await relay.admin.request(operation.method, path, json=change.document, params=change.parameters)


async def rows_of(relay: RunningRelay, *tables: str) -> list[str]:
    """Every row of these tables, as text."""
    found: list[str] = []
    async with relay.services.database.transaction() as session:
        for table in tables:
            found += (await session.execute(text(f"SELECT CAST(t AS text) FROM {table} AS t ORDER BY 1"))).scalars().all()
    return found


async def changes_of(relay: RunningRelay, **query: str | int) -> list[dict[str, Any]]:
    answer = await relay.admin.get("/audit", params={"limit": 500, **query})
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def test_every_operation_that_may_change_something_is_known_here() -> None:
    assert {operation.id for operation in OPERATIONS} == {*CHANGES, *CHANGES_NOTHING}, "say in CHANGES what the new one does"


async def test_each_change_leaves_one_row_and_no_secret(database_url: str, tmp_path: Path) -> None:
    variables = {"RELAY_ADMIN_TOKEN": f"alice:{ADMIN_TOKEN}", "RELAY_ADMIN_READ_TOKEN": "token-of-a-reader"}
    secrets = [ADMIN_TOKEN, SECRET_KEY.partition(":")[2], SEALED, "token-of-a-reader"]
    async with Upstream() as upstream, running_relay(database_url, tmp_path, **variables) as relay, AsyncExitStack() as stack:
        for number, operation in enumerate(OPERATIONS):
            stage = await set_stage(relay, upstream, f"acme-{number}", stack, is_uploading="upload_id" in operation.identifiers)
            secrets += stage.secrets
            earlier = {change["id"] for change in await changes_of(relay)}
            change = CHANGES.get(operation.id, Change("none", "changed", "slug"))
            answer = await ask(relay, operation, change, stage)
            assert answer.status_code in {200, 201, 204}, (operation, answer.text)
            found = [change for change in await changes_of(relay) if change["id"] not in earlier]
            if operation.id in CHANGES_NOTHING:
                assert found == [], operation
                continue
            assert len(found) == 1, (operation, found)
            target = answer.json()[change.target[7:]] if change.target.startswith("answer.") else stage.identifiers[change.target]
            row = found[0]
            assert list(row) == MEMBERS
            assert (row["actor"], row["action"], row["target"]) == ("operator:alice", change.action, target)
            assert row["request_id"] == answer.headers["relay-request-id"]
            assert (row["before"] is None, row["after"] is None) == (change.kind == "made", change.kind == "removed")
            assert row["before"] != row["after"]
            secrets += [answer.json()["key"]] if answer.content and "key" in answer.json() else []
        shown = "\n".join([*await rows_of(relay, "audit"), json.dumps(await changes_of(relay))])
        sealed = await rows_of(relay, "(SELECT encode(sealed, 'hex') FROM destinations WHERE sealed IS NOT NULL)")
    hashes = [hashlib.sha256(key.split("_")[2].encode()).hexdigest() for key in secrets if key.startswith("rk_")]
    assert len(hashes) >= len(OPERATIONS)
    assert sealed
    for secret in [
        *secrets,
        *(key.split("_")[2] for key in secrets if key.startswith("rk_")),
        *hashes,
        *(row.strip("()") for row in sealed),
    ]:
        assert secret not in shown
    assert "Authorization" in shown, "names of credentials are told"


async def test_a_change_that_cannot_be_audited_is_not_made(database_url: str, tmp_path: Path) -> None:
    """The commit itself fails, after everything was written: the change goes with its row."""
    tables = ("tenants", "api_keys", "destinations", "routes", "audit")
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay, AsyncExitStack() as stack:
        stage = await set_stage(relay, upstream, "acme", stack)
        async with relay.services.database.transaction() as session:
            for statement in REFUSE_AT_COMMIT:
                await session.execute(text(statement))
        before = await rows_of(relay, *tables)
        for operation in OPERATIONS:
            if operation.id not in CHANGES_NOTHING | CHANGES_NOT_ONLY_POSTGRES:
                problem_of(await ask(relay, operation, CHANGES[operation.id], stage), 500, "internal_error")
                assert await rows_of(relay, *tables) == before, operation


async def test_what_is_refused_or_changes_nothing_leaves_no_row(database_url: str, tmp_path: Path) -> None:
    async with running_relay(database_url, tmp_path) as relay:
        tenant = await relay.tenant()
        path = f"/tenants/acme/keys/{tenant.key.split('_')[1]}"
        assert (await relay.admin.delete(path)).status_code == 204
        earlier = await changes_of(relay)
        assert [change["action"] for change in earlier] == ["key.revoke", "key.issue", "tenant.create"]
        assert (await relay.admin.delete(path)).status_code == 204, "it is revoked already"
        problem_of(await relay.admin.post("/tenants", json={"slug": "acme"}), 409, "tenant_exists")
        problem_of(await relay.admin.delete("/tenants/acme", headers={"If-Match": '"other"'}), 412, "etag_mismatch")
        problem_of(await relay.admin.post(f"{path}/rotate", json={}, headers={"Authorization": "Bearer x"}), 401, "operator_token_invalid")
        assert (await relay.admin.patch("/tenants/acme", json={"limits": {"max_upload_bytes": -1}})).status_code == 422
        assert (await relay.admin.get("/tenants/acme")).status_code == 200
        assert await changes_of(relay) == earlier


async def test_the_audit_is_read_by_filter_and_page_over_rest_and_on_the_command_line(database_url: str, tmp_path: Path) -> None:
    variables = {"RELAY_ADMIN_TOKEN": f"{ADMIN_TOKEN},bob:token-of-bob"}
    async with running_relay(database_url, tmp_path, **variables) as relay, client_of(relay) as client:
        for slug in ("acme", "other"):
            await relay.tenant(slug)
        bob = {"Authorization": "Bearer token-of-bob"}
        assert (await client.patch("/admin/v1/tenants/acme", json={"name": "Acme"}, headers=bob)).status_code == 200
        everything = await changes_of(relay)
        assert [change["action"] for change in everything] == ["tenant.change", "key.issue", "tenant.create", "key.issue", "tenant.create"]
        assert everything[0]["before"]["name"] is None
        assert everything[0]["after"]["name"] == "Acme"
        assert await changes_of(relay, tenant="acme") == [everything[0], *everything[3:]]
        assert await changes_of(relay, actor="operator:bob") == everything[:1]
        assert await changes_of(relay, actor="operator", action="key.issue", tenant="other") == everything[1:2]
        assert await changes_of(relay, since=everything[1]["at"]) == everything[:2]
        assert await changes_of(relay, until=everything[1]["at"]) == everything[2:]
        for nobody in ({"tenant": "nobody"}, {"actor": "\ufffd"}, {"action": "key"}):
            assert await changes_of(relay, **nobody) == []

        walked: list[dict[str, Any]] = []
        query: dict[str, Any] = {"limit": 2}
        while query:
            page = (await relay.admin.get("/audit", params=query)).json()
            walked += page["items"]
            query = {"limit": 2, "cursor": page["next"]} if page["next"] else {}
        assert walked == everything

        line = CommandLine(relay, database_url)
        assert (await line.show("audit"))["items"] == everything
        assert (await line.show("audit", "--tenant", "acme", "--action", "key.issue"))["items"] == everything[3:4]
        assert await line.show("audit", "--limit", "2") == (await relay.admin.get("/audit", params={"limit": 2})).json()
        await line.show("tenant", "disable", "acme")
        [change] = (await line.show("audit", "--since", everything[0]["at"], "--limit", "1"))["items"]
        assert (change["action"], change["actor"].partition(":")[0], change["request_id"]) == ("tenant.change", "cli", None)
        table = (await line.run("audit", "--limit", "1")).splitlines()
        assert table[0].split() == ["AT", "ACTOR", "ACTION", "TENANT", "TARGET", "REQUEST", "ID"]
        assert table[1].split()[2:] == ["tenant.change", "acme", "acme", "-"]
