"""Uploads that are to be cut while something is away: the listener, Postgres, or the process that shuts down."""

from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from relay.db.engine import Database
from relay.ledger.audit import Act, Actor, record
from relay.tenants import issued_keys, registry
from relay.tenants.cuts import Cut, RunningUploads, list_cuts, note_of
from relay.tenants.issued_keys import KeyDraft
from relay.tenants.registry import TenantDraft
from tests.stories.speech import problem_of, raw_problem_of
from tests.support.directories import ACTOR
from tests.support.fault_proxy import FaultProxy, address_of_postgres, url_through
from tests.support.live import begun_upload, live, until_running
from tests.support.running_relay import running_relay
from tests.support.upstreams import Upstream
from tests.support.waiting import until


async def test_a_cut_that_the_listener_did_not_hear_is_made_up_for(database_url: str, tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        FaultProxy(address_of_postgres(database_url)) as proxy,
        running_relay(database_url, tmp_path, RELAY_DATABASE_LISTEN_URL=url_through(proxy, database_url)) as relay,
    ):
        tenant, back = await relay.tenant(), await relay.tenant("back")
        for owner in (tenant, back):
            await relay.http_destination(owner, upstream.url)
        async with begun_upload(relay, tenant, "1") as first, begun_upload(relay, back, "2") as second:
            await until_running(relay, 2, bytes_in=5)
            session = relay.services.directory._changes.session
            proxy.refuse()
            await until(lambda: session is not None and not session.is_open)
            for slug in ("acme", "back"):
                answer = await relay.admin.patch(f"/tenants/{slug}?running_uploads=cut", json={"status": "disabled"})
                assert answer.status_code == 200
            await relay.admin.patch("/tenants/back", json={"status": "active"})
            assert len((await live(relay))["items"]) == 2, "nobody has heard of it"
            proxy.allow()
            raw_problem_of(await first.final_answer(), 403, "upload_cancelled")
            assert [item["tenant"] for item in (await live(relay))["items"]] == ["back"], "who was let in again goes on"
            await second.send(bytes(995))
            assert (await second.final_answer()).status == 200


async def test_without_postgres_nothing_is_cut_and_the_listing_goes_on(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, FaultProxy(address_of_postgres(database_url)) as proxy:
        url = url_through(proxy, database_url)
        async with running_relay(url, tmp_path) as relay:
            tenant = await relay.tenant()
            await relay.http_destination(tenant, upstream.url)
            async with begun_upload(relay, tenant) as client:
                [seen] = await until_running(relay, bytes_in=5)
                proxy.refuse()
                problem_of(await relay.admin.delete(f"/live/{seen['upload_id']}"), 503, "database_unavailable")
                assert len((await live(relay))["items"]) == 1
                await client.send(bytes(995))
                assert (await client.final_answer()).status == 200
                proxy.allow()
            assert (await relay.entry(upload_id=seen["upload_id"]))["outcome"] == "delivered"
    connection = await asyncpg.connect(database_url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM audit WHERE action = 'upload.cancel'") == 0
    finally:
        await connection.close()


async def test_the_shutdowns_own_cancellation_is_told_from_a_cut(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        for is_shutdown_first, expected in ((True, ("relay_failed", "shutting_down")), (False, ("cancelled", "upload_cancelled"))):
            async with begun_upload(relay, tenant):
                [seen] = await until_running(relay, bytes_in=5)
                running = relay.services.relay.running
                task = running._runs[seen["upload_id"]].task
                assert task is not None
                if is_shutdown_first:
                    task.cancel("as the server does")
                assert running.cut_all("acme") == 1
                if not is_shutdown_first:
                    task.cancel("as the server does")
                entry = await relay.entry(upload_id=seen["upload_id"])
                assert (entry["outcome"], entry["code"]) == expected
        assert [(await upstream.ended(index)).ending for index in range(2)] == ["cut", "cut"]


async def test_only_cuts_that_were_asked_for_of_late_and_still_hold_are_made_up_for(database: Database) -> None:
    async with database.transaction() as session:
        for slug in ("gone", "off", "on", "spared", "keys"):
            await registry.create_tenant(session, ACTOR, TenantDraft(slug))
        key = (await issued_keys.issue_key(session, ACTOR, "keys", KeyDraft())).key
    async with database.transaction() as session:
        await registry.delete_tenant(session, ACTOR, "gone", running_uploads=RunningUploads.CUT)
        for slug, cut in (("off", RunningUploads.CUT), ("on", RunningUploads.CUT), ("spared", RunningUploads.FINISH)):
            await registry.change_tenant(session, ACTOR, slug, {"status": "disabled"}, running_uploads=cut)
        await registry.change_tenant(session, ACTOR, "on", {"status": "active"})
        await issued_keys.revoke_key(session, ACTOR, "keys", key.id, running_uploads=RunningUploads.CUT)
    async with database.transaction() as session:
        found = await list_cuts(session, timedelta(minutes=1))
        assert set(found) == {Cut("gone"), Cut("off"), Cut("keys", key.id)}
        assert await list_cuts(session, timedelta(0)) == []
    async with database.transaction() as session:
        record(session, Actor("cli:test"), Act("tenant.change", None, "x", None, note_of(RunningUploads.CUT)))
        await session.flush()
        assert len(await list_cuts(session, timedelta(minutes=1))) == 3


@pytest.mark.parametrize("payload", ["", "*", "[]", "{}", '{"tenant": "acme"}', '{"tenant": 1, "key_id": null}', "[" * 5000, '"x"'])
async def test_a_notification_that_is_not_understood_cuts_nothing(payload: str) -> None:
    assert Cut.from_text(payload) is None
    assert Cut.from_text(Cut("acme", "k").to_text()) == Cut("acme", "k")
