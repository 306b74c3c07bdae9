"""Running uploads: an operator sees them in every worker of the host, and ends them, one by one or a tenant's all."""

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from click.testing import CliRunner, Result

from relay.cli import relay as commands
from tests.stories.speech import client_of, problem_of, raw_problem_of
from tests.support.disks import tree
from tests.support.live import begun_upload, live, until_running
from tests.support.raw_client import RawClient
from tests.support.running_relay import RunningRelay, TestTenant, running_relay
from tests.support.upstreams import Conduct, Upstream

MEMBERS = [
    "upload_id",
    "request_id",
    "tenant",
    "key_id",
    "destination",
    "method",
    "path",
    "bytes_in",
    "declared_length",
    "rate_bytes_per_second",
    "age_seconds",
    "started_at",
    "client_address",
    "worker",
]
UNKNOWN = "01920000-0000-7000-8000-000000000000"


async def audit(url: str, action: str = "upload.cancel") -> list[dict[str, Any]]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT * FROM audit WHERE action = $1 ORDER BY at", action)
    finally:
        await connection.close()
    return [dict(row) for row in rows]


async def cut(relay: RunningRelay, upload_id: str) -> httpx.Response:
    return await relay.admin.delete(f"/live/{upload_id}")


def ended_cancelled(entry: dict[str, Any]) -> bool:
    return (entry["outcome"], entry["code"], entry["bytes_delivered"]) == ("cancelled", "upload_cancelled", 0)


async def test_an_upload_is_seen_while_it_runs_whichever_worker_is_asked(database_url: str, tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        running_relay(database_url, tmp_path) as one,
        running_relay(database_url, tmp_path) as two,
    ):
        tenant = await one.tenant()
        await one.http_destination(tenant, upstream.url)
        assert await live(one) == {"items": [], "next": None, "unreachable": 0}
        nobody = (await one.admin.get("/live", params={"tenant": "a" * 300})).json()
        assert nobody == {"items": [], "next": None, "unreachable": 0}
        async with begun_upload(one, tenant, "in/a%20b?q=1") as client:
            [seen] = await until_running(two, bytes_in=5)
            assert list(seen) == MEMBERS
            told = {name: seen[name] for name in ("tenant", "destination", "method", "path", "bytes_in", "declared_length")}
            assert told == {
                "tenant": "acme",
                "destination": "main",
                "method": "POST",
                "path": "in/a%20b",
                "bytes_in": 5,
                "declared_length": 1000,
            }
            assert seen["client_address"] == "127.0.0.1"
            assert seen["age_seconds"] > 0
            [own] = (await live(one))["items"]
            assert {name: own[name] for name in ("upload_id", "worker")} == {name: seen[name] for name in ("upload_id", "worker")}
            assert own["age_seconds"] > seen["age_seconds"]
            await client.send(bytes(995))
            answer = await client.final_answer()
            assert answer.value("relay-upload-id") == seen["upload_id"]
        assert await until_running(two, 0) == []
        entry = await one.entry(upload_id=seen["upload_id"])
        assert {name: entry[name] for name in ("request_id", "started_at", "worker", "key_id")} == {
            name: seen[name] for name in ("request_id", "started_at", "worker", "key_id")
        }


async def test_the_listing_comes_in_pages_newest_first(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay, AsyncExitStack() as clients:
        tenant = await relay.tenant()
        other = await relay.tenant("other")
        for owner in (tenant, other):
            await relay.http_destination(owner, upstream.url)
        for count, (owner, path) in enumerate(((tenant, "1"), (other, "2"), (tenant, "3")), 1):
            await clients.enter_async_context(begun_upload(relay, owner, path, sent=bytes(50_000), length=100_000))
            await until_running(relay, count, bytes_in=50_000)
        everything = (await live(relay))["items"]
        assert [item["path"] for item in everything] == ["3", "2", "1"]
        assert all(0 < item["rate_bytes_per_second"] <= 1_000_000 for item in everything)
        assert [item["path"] for item in (await live(relay, tenant="acme"))["items"]] == ["3", "1"]
        pages: list[list[str]] = []
        query: dict[str, str | int] = {"limit": 1}
        while True:
            page = await live(relay, **query)
            pages.append([item["path"] for item in page["items"]])
            if page["next"] is None:
                break
            query |= {"cursor": page["next"]}
        assert pages == [["3"], ["2"], ["1"]]
        for wrong in ({"limit": 0}, {"cursor": "x"}, {"nonsense": 1}):
            problem = (await relay.admin.get("/live", params=wrong)).json()
            assert problem["code"] == "request_invalid"


async def test_an_upload_that_is_cut_has_ended_when_the_operator_is_answered(database_url: str, tmp_path: Path) -> None:
    async with (
        Upstream(Conduct(is_answering=False)) as silent,
        Upstream(Conduct(pieces=[b"piece"] * 1000, pause_seconds=0.05)) as talking,
        running_relay(database_url, tmp_path) as relay,
        running_relay(database_url, tmp_path) as neighbour,
    ):
        tenant = await relay.tenant()
        await relay.http_destination(tenant, silent.url, "silent")
        await relay.http_destination(tenant, talking.url, "talking")
        await relay.disk_destination(tenant)
        for name in ("silent", "talking", "disk"):
            await relay.post("/tenants/acme/routes", {"prefix": name, "destination": name, "strip_prefix": True})
        for asked in (relay, neighbour):
            for path, length in (("silent/body", 1000), ("disk/body", 1000), ("silent/waiting", 5), ("talking/answer", 5)):
                async with begun_upload(relay, tenant, path, length=length) as client:
                    [seen] = await until_running(asked, bytes_in=5)
                    for upstream in (silent, talking):
                        if path.startswith("silent" if upstream is silent else "talking"):
                            await upstream.received(5, index=len(upstream.requests) - 1)
                    if path == "talking/answer":
                        await client.read(1)
                    answer = await cut(asked, seen["upload_id"])
                    assert (answer.status_code, answer.content) == (204, b"")
                    assert (await live(relay))["items"] == []
                    assert relay.services.journal.running == 0
                    assert not any(isinstance(content, bytes) for content in tree(tmp_path / "disk").values())
                    problem_of(await cut(asked, seen["upload_id"]), 404, "upload_not_running")
                    if path == "talking/answer":
                        assert await is_cut_off(client)
                    else:
                        raw_problem_of(await client.final_answer(), 403, "upload_cancelled")
                entry = await relay.entry(upload_id=seen["upload_id"])
                assert ended_cancelled(entry), entry
                assert (entry["status"], entry["bytes_in"]) == (200 if path == "talking/answer" else 403, 5)
        assert [(await silent.ended(index)).ending for index in range(4)] == ["cut", "whole"] * 2
        await talking.until(lambda: talking.open_connections == 0)
        rows = await audit(database_url)
        assert [(row["actor"], row["tenant"], json.loads(row["before"])["path"]) for row in rows] == [
            ("operator", "acme", path) for path in ("silent/body", "disk/body", "silent/waiting", "talking/answer") * 2
        ]
        assert all(list(json.loads(row["before"])) and json.loads(row["before"])["upload_id"] == row["target"] for row in rows)
        assert all(tenant.key not in row["before"] for row in rows)


async def is_cut_off(client: RawClient) -> bool:
    """True when the answer ends without its framing's end."""
    rest = b""
    try:
        while True:
            rest += await client.read(1)
    except (asyncio.IncompleteReadError, ConnectionError):
        return not rest.endswith(b"0\r\n\r\n")


async def test_what_does_not_run_cannot_be_cut_and_what_runs_is_cut_once(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay, client_of(relay) as client:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        done = await client.post("/upload/a", content=b"hello", headers=tenant.headers)
        problem_of(await cut(relay, done.headers["relay-upload-id"]), 404, "upload_not_running")
        problem_of(await cut(relay, UNKNOWN), 404, "upload_not_running")
        assert (await cut(relay, "nonsense")).json()["code"] == "request_invalid"
        problem_of(await client.delete(f"/admin/v1/live/{UNKNOWN}"), 401, "operator_token_invalid")
        problem_of(await client.get("/admin/v1/live", headers=tenant.headers), 401, "operator_token_invalid")
        assert await audit(database_url) == []
        async with begun_upload(relay, tenant):
            [seen] = await until_running(relay, bytes_in=5)
            answers = await asyncio.gather(*(cut(relay, seen["upload_id"]) for _ in range(4)))
            assert sorted(answer.status_code for answer in answers) == [204, 404, 404, 404]
            assert len(await audit(database_url)) == 1


async def test_a_cut_that_races_the_natural_end_is_told_as_it_ends(database_url: str, tmp_path: Path) -> None:
    uploads = 40
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay, AsyncExitStack() as clients:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        folder = await relay.disk_destination(tenant)
        await relay.post("/tenants/acme/routes", {"prefix": "disk", "destination": "disk", "strip_prefix": True})
        waiting = {}
        for number in range(uploads):
            path = f"disk/{number}" if number % 2 else str(number)
            waiting[path] = await clients.enter_async_context(begun_upload(relay, tenant, path, length=6))
        running = await until_running(relay, uploads, bytes_in=5, limit="500")

        async def end_both_ways(number: int, item: dict[str, Any]) -> tuple[str, int]:
            cutting = asyncio.ensure_future(cut(relay, item["upload_id"]))
            await asyncio.sleep(0.004 * (number % 8))
            await waiting[item["path"]].send(b"!")
            return item["upload_id"], (await cutting).status_code

        # A few at a time, or the first would all have ended before the last was asked for.
        told: dict[str, int] = {}
        for first in range(0, uploads, 4):
            some = running[first : first + 4]
            told |= dict(await asyncio.gather(*(end_both_ways(first + number, item) for number, item in enumerate(some))))
        answers = {path: await client.final_answer() for path, client in waiting.items()}
        entries = {entry["upload_id"]: entry for entry in await relay.every_entry()}
        assert len(entries) == uploads
        for upload_id, entry in entries.items():
            is_cut = told[upload_id] == 204
            assert (entry["outcome"], told[upload_id]) == (("cancelled", 204) if is_cut else ("delivered", 404))
            answer = answers[entry["path"]]
            assert answer.status == entry["status"]
            assert is_cut == (answer.status == 403 or not answer.is_whole), "its head may have been passed on before the cut"
            if entry["destination"] == "disk":
                assert (folder / entry["path"].removeprefix("disk/")).exists() == (not is_cut)
        assert len(await audit(database_url)) == list(told.values()).count(204)


async def test_uploads_of_a_disabled_tenant_finish_unless_they_are_to_be_cut(database_url: str, tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        running_relay(database_url, tmp_path / "one") as one,
        running_relay(database_url, tmp_path / "two") as two,
    ):
        tenant = await one.tenant()
        other = await one.tenant("other")
        for owner in (tenant, other):
            await one.http_destination(owner, upstream.url)
        refused = await one.admin.patch("/tenants/acme", params={"running_uploads": "cut"}, json={"name": "Acme"})
        assert (refused.status_code, refused.json()["errors"][0]["location"]) == (422, ["query", "running_uploads"])
        assert (await one.admin.delete("/tenants/acme", params={"running_uploads": "pause"})).status_code == 422
        async with (
            begun_upload(one, tenant, "1") as first,
            begun_upload(two, tenant, "2") as second,
            begun_upload(two, other, "3") as third,
        ):
            await until_running(one, 1, bytes_in=5)
            await until_running(two, 2, bytes_in=5)
            assert (await one.admin.patch("/tenants/acme", json={"status": "disabled"})).status_code == 200
            await first.send(bytes(995))
            assert (await first.final_answer()).status == 200, "it finishes: nobody wanted it cut"

            cutting = await one.admin.patch("/tenants/acme", params={"running_uploads": "cut"}, json={"status": "disabled"})
            assert cutting.status_code == 200
            raw_problem_of(await second.final_answer(), 403, "upload_cancelled")
            assert [item["tenant"] for item in (await live(two))["items"]] == ["other"], "on every host, and nobody else's"
            await third.send(bytes(995))
            assert (await third.final_answer()).status == 200
        outcomes = {entry["path"]: entry["outcome"] for entry in [*await one.every_entry(), *await two.every_entry()]}
        assert outcomes == {"1": "delivered", "2": "cancelled", "3": "delivered"}
        after = [json.loads(row["after"]).get("running_uploads") for row in await audit(database_url, "tenant.change")]
        assert after == [None, "cut"]


async def test_deleting_a_tenant_or_revoking_a_key_cuts_what_runs_with_it(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        issued = await relay.post("/tenants/acme/keys", {})
        leaked = TestTenant("acme", issued["key"])
        async with begun_upload(relay, leaked, "1") as first, begun_upload(relay, tenant, "2") as second:
            await until_running(relay, 2, bytes_in=5)
            assert (await relay.admin.delete(f"/tenants/acme/keys/{issued['id']}")).status_code == 204
            assert len((await live(relay))["items"]) == 2, "a revoked key's uploads finish"
            revoking = await relay.admin.delete(f"/tenants/acme/keys/{issued['id']}", params={"running_uploads": "cut"})
            assert revoking.status_code == 204
            raw_problem_of(await first.final_answer(), 403, "upload_cancelled")
            assert [item["path"] for item in (await live(relay))["items"]] == ["2"]
            assert (await relay.admin.delete("/tenants/acme", params={"running_uploads": "cut"})).status_code == 204
            raw_problem_of(await second.final_answer(), 403, "upload_cancelled")
        usage = await usage_of(database_url, relay)
        assert (usage["uploads"], usage["failed"], usage["delivered"], usage["bytes_in"]) == (2, 0, 0, 10)


async def usage_of(url: str, relay: RunningRelay) -> dict[str, Any]:
    await relay.every_entry()
    connection = await asyncpg.connect(url)
    try:
        return dict(await connection.fetchrow("SELECT * FROM usage_daily"))
    finally:
        await connection.close()


async def test_the_command_line_sees_and_cuts_the_same(database_url: str, tmp_path: Path) -> None:
    environment = {"RELAY_DATABASE_URL": database_url, "RELAY_DATA_DIR": str(tmp_path / "data")}

    async def run(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner(env=environment).invoke, commands, list(arguments))

    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        async with begun_upload(relay, tenant, "1") as first, begun_upload(relay, tenant, "2") as second:
            [_, seen] = await until_running(relay, 2, bytes_in=5)
            listed = json.loads((await run("live", "list", "--tenant", "acme", "--limit", "1", "--json")).stdout)
            assert ([item["path"] for item in listed["items"]], listed["unreachable"]) == (["2"], 0)
            assert list(listed["items"][0]) == MEMBERS
            listed = json.loads((await run("live", "list", "--cursor", listed["next"], "--json")).stdout)
            assert [item["path"] for item in listed["items"]] == ["1"]
            assert seen["upload_id"] in (await run("live", "list")).stdout
            done = await run("live", "cut", seen["upload_id"])
            assert (done.exit_code, done.stdout) == (0, f"upload {seen['upload_id']} has ended\n")
            raw_problem_of(await first.final_answer(), 403, "upload_cancelled")
            assert (await run("live", "cut", seen["upload_id"])).exit_code == 3
            [row] = await audit(database_url)
            assert row["actor"].startswith("cli:")
            assert (await run("tenant", "disable", "acme", "--cut-running")).exit_code == 0
            raw_problem_of(await second.final_answer(), 403, "upload_cancelled")
    empty = await run("live", "list", "--data-dir", str(tmp_path / "elsewhere"), "--json")
    assert (empty.exit_code, json.loads(empty.stdout)) == (0, {"items": [], "next": None, "unreachable": 0})
    assert "no worker runs in" in empty.stderr
