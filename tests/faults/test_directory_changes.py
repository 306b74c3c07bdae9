"""Changes are seen within a second: by REST's code, by SQL, in every process, with a frozen or cut listener too."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import text

from relay.db.engine import Database
from relay.tenants import issued_keys, owned_destinations, registry, routing
from relay.tenants.changes import CHANNEL
from relay.tenants.issued_keys import KeyDraft
from relay.tenants.routing import RouteDraft
from relay.tenants.tenant import Grant, TenantStatus
from tests.support.directories import ACTOR, PROMISED_SECONDS, make_tenant, run_directory
from tests.support.fault_proxy import FaultProxy, address_of_postgres, url_through
from tests.support.postgres import execute
from tests.support.waiting import until


async def test_key_revoked_by_sql_is_refused_in_two_processes_within_a_second(database: Database, database_url: str) -> None:
    key_id = await make_tenant(database)
    async with run_directory(database_url) as one, run_directory(database_url) as two:
        for running in (one, two):
            assert (await running.get(key_id)).key.revoked_at is None
            assert running.directory.cached_grant(key_id) is not None
        await execute(database_url, "UPDATE api_keys SET revoked_at = now()")

        async def is_refused() -> bool:
            grants = [await running.get(key_id) for running in (one, two)]
            return all(grant.key.revoked_at is not None for grant in grants)

        await until(is_refused, seconds=PROMISED_SECONDS)


async def test_notification_is_enough_before_any_proof_lapses(database: Database, database_url: str) -> None:
    key_id = await make_tenant(database)
    async with run_directory(database_url) as running:
        await running.get(key_id)
        told: list[object] = []

        def forget(tenant_id: UUID | None) -> None:
            running.directory.forget(tenant_id)
            told.append(tenant_id)

        running.changes.tell(forget, lambda: None)
        await execute(database_url, "UPDATE api_keys SET revoked_at = now()")
        await until(lambda: bool(told))
        assert (await running.get(key_id)).key.revoked_at is not None


async def test_key_revoked_behind_a_frozen_listener_is_refused_within_a_second(database: Database, database_url: str) -> None:
    key_id = await make_tenant(database)
    async with (
        FaultProxy(address_of_postgres(database_url)) as proxy,
        run_directory(database_url, url_through(proxy, database_url)) as running,
    ):
        await running.get(key_id)
        proxy.freeze()
        await execute(database_url, "UPDATE api_keys SET revoked_at = now()")

        async def is_refused() -> bool:
            return (await running.get(key_id)).key.revoked_at is not None

        await until(is_refused, seconds=PROMISED_SECONDS)
        await until(lambda: running.directory.state == "stale")
        proxy.thaw()
        await until(lambda: running.directory.state == "ok")


async def test_key_revoked_while_the_listener_is_cut_is_refused_within_a_second(database: Database, database_url: str) -> None:
    key_id = await make_tenant(database)
    async with (
        FaultProxy(address_of_postgres(database_url)) as proxy,
        run_directory(database_url, url_through(proxy, database_url)) as running,
    ):
        await running.get(key_id)
        proxy.refuse()
        await execute(database_url, "UPDATE api_keys SET revoked_at = now()")

        async def is_refused() -> bool:
            return (await running.get(key_id)).key.revoked_at is not None

        await until(is_refused, seconds=PROMISED_SECONDS)
        proxy.allow()
        await until(lambda: running.directory.state == "ok")
        await running.get(key_id)
        assert running.directory.cached_grant(key_id) is not None


async def test_change_during_a_gap_of_the_listener_is_seen_by_the_next_session(database: Database, database_url: str) -> None:
    key_id = await make_tenant(database)
    async with (
        FaultProxy(address_of_postgres(database_url)) as proxy,
        run_directory(database_url, url_through(proxy, database_url)) as running,
    ):
        await running.get(key_id)
        first = running.changes.session
        proxy.refuse()
        await until(lambda: first is not None and not first.is_open)
        await execute(database_url, "UPDATE api_keys SET revoked_at = now()")
        proxy.allow()
        await until(lambda: running.changes.session is not first and running.directory.state == "ok")
        assert running.directory.cached_grant(key_id) is None
        assert (await running.get(key_id)).key.revoked_at is not None


async def test_unknown_key_is_found_at_once_when_it_is_issued(database: Database, database_url: str) -> None:
    await make_tenant(database)
    async with run_directory(database_url) as running:
        async with database.transaction() as session:
            issued = await issued_keys.issue_key(session, ACTOR, "acme", KeyDraft())
            assert await running.directory.find_grant(issued.key.id) is None  # not committed yet, and remembered as unknown

        async def is_found() -> bool:
            return await running.directory.find_grant(issued.key.id) is not None

        await until(is_found, seconds=PROMISED_SECONDS)


Change = Callable[[Database], Awaitable[object]]


async def _disable(database: Database) -> None:
    async with database.transaction() as session:
        await registry.change_tenant(session, ACTOR, "acme", {"status": "disabled"})


async def _add_route(database: Database) -> None:
    async with database.transaction() as session:
        await routing.create_route(session, ACTOR, "acme", RouteDraft("photos", "disk"))


async def _remove_destination(database: Database) -> None:
    async with database.transaction() as session:
        await owned_destinations.delete_destination(session, ACTOR, "acme", "disk")


@pytest.mark.parametrize(
    ("change", "is_as_changed"),
    [
        (_disable, lambda grant: grant.tenant.status is TenantStatus.DISABLED),
        (_add_route, lambda grant: [route.prefix for route in grant.routes] == ["photos"]),
        (_remove_destination, lambda grant: not grant.destinations and grant.tenant.default_destination is None),
    ],
)
async def test_change_of_a_tenant_is_seen(
    database: Database, database_url: str, change: Change, is_as_changed: Callable[[Grant], bool]
) -> None:
    key_id = await make_tenant(database)
    async with run_directory(database_url) as running:
        assert not is_as_changed(await running.get(key_id))
        await change(database)

        async def is_seen() -> bool:
            return is_as_changed(await running.get(key_id))

        await until(is_seen, seconds=PROMISED_SECONDS)


async def test_keys_of_a_deleted_tenant_are_unknown(database: Database, database_url: str) -> None:
    key_id = await make_tenant(database)
    async with run_directory(database_url) as running:
        await running.get(key_id)
        async with database.transaction() as session:
            await registry.delete_tenant(session, ACTOR, "acme")

        async def is_unknown() -> bool:
            return await running.directory.find_grant(key_id) is None

        await until(is_unknown, seconds=PROMISED_SECONDS)


async def test_truncated_table_is_seen(database: Database, database_url: str) -> None:
    key_id = await make_tenant(database)
    async with run_directory(database_url) as running:
        await running.get(key_id)
        await execute(database_url, "TRUNCATE api_keys")

        async def is_unknown() -> bool:
            return await running.directory.find_grant(key_id) is None

        await until(is_unknown, seconds=PROMISED_SECONDS)


async def test_grant_holds_routes_and_destinations_of_its_own_tenant_alone(database: Database, database_url: str) -> None:
    key_id = await make_tenant(database)
    await make_tenant(database, "other")
    async with database.transaction() as session:
        for slug, prefix in (("acme", "photos"), ("acme", "music"), ("other", "films")):
            await routing.create_route(session, ACTOR, slug, RouteDraft(prefix, "disk"))
    async with run_directory(database_url) as running:
        grant = await running.get(key_id)
    assert sorted(route.prefix for route in grant.routes) == ["music", "photos"]
    assert grant.tenant.default_destination == "disk"
    assert [(spec.tenant, spec.config["directory"]) for spec in grant.destinations.values()] == [("acme", "acme")]


async def test_use_of_a_key_by_itself_invalidates_nothing(database: Database, database_url: str) -> None:
    key_id = await make_tenant(database)
    async with run_directory(database_url) as running:
        told: list[object] = []
        await running.get(key_id)
        running.changes.tell(told.append, lambda: None)
        async with database.transaction() as session:
            await session.execute(text("UPDATE api_keys SET last_used_at = now()"))
        await execute(database_url, "UPDATE tenants SET name = 'later'")
        await until(lambda: len(told) >= 1)
        await asyncio.sleep(0)
        assert len(told) == 1


async def test_reply_to_a_ping_comes_after_the_notifications_of_earlier_commits(database: Database, database_url: str) -> None:
    await make_tenant(database)
    told: list[str] = []
    listener = await asyncpg.connect(database_url)
    writer = await asyncpg.connect(database_url)
    try:
        await listener.add_listener(CHANNEL, lambda *message: told.append(message[3]))
        for number in range(1, 101):
            await writer.execute(f"UPDATE tenants SET name = '{number}'")
            await listener.execute("SELECT 1")
            assert len(told) == number
    finally:
        await writer.close()
        await listener.close()
