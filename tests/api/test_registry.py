"""Tenants, keys, routes and destinations in a real Postgres, as REST and CLI find them."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text

from relay.db.engine import Database
from relay.destinations.registry import DestinationChange, DestinationDraft
from relay.destinations.registry import etag_of as destination_etag_of
from relay.destinations.sealing import Sealer
from relay.errors import (
    DestinationExists,
    DestinationInUse,
    DestinationNotFound,
    EtagMismatch,
    KeyNotFound,
    RequestInvalid,
    RouteExists,
    RouteNotFound,
    TenantExists,
    TenantNotFound,
)
from relay.ledger.audit import Actor, AuditFilter, list_audit
from relay.tenants import issued_keys, owned_destinations, registry, routing
from relay.tenants.issued_keys import KeyDraft
from relay.tenants.registry import TenantDraft
from relay.tenants.routing import RouteDraft
from relay.tenants.tenant import Limits, Scope, Tenant, TenantStatus

ACTOR = Actor("operator", "request-1")
SEALER = Sealer({"k1": bytes(32)})
ECHO = DestinationDraft("echo", "http", {"base_url": "http://127.0.0.1:8001/upload"}, {"headers": {"X-Token": "hush-hush"}})
DISK = DestinationDraft("disk", "disk", {"directory": "acme"})


async def _tenant(database: Database, slug: str = "acme") -> Tenant:
    async with database.transaction() as session:
        return await registry.create_tenant(session, ACTOR, TenantDraft(slug))


async def _destination(database: Database, draft: DestinationDraft, slug: str = "acme") -> None:
    async with database.transaction() as session:
        await owned_destinations.create_destination(session, ACTOR, SEALER, slug, draft)


# ── tenants ──────────────────────────────────────────────────────────────────────────────────────


async def test_tenant_is_created_changed_and_read_back(database: Database) -> None:
    draft = TenantDraft("acme", "Acme", Limits(5), ("image/*",))
    async with database.transaction() as session:
        created = await registry.create_tenant(session, ACTOR, draft)
    changes = {"name": None, "status": "disabled", "limits": {"max_upload_bytes": 7}, "content_types": ["text/plain"]}
    async with database.transaction() as session:
        changed = await registry.change_tenant(session, ACTOR, "acme", changes, registry.etag_of(created))
    async with database.transaction() as session:
        read = await registry.get_tenant(session, "acme")
    assert read == changed
    assert (read.name, read.status, read.limits, read.content_types) == (None, TenantStatus.DISABLED, Limits(7), ("text/plain",))
    assert read.updated_at > created.updated_at
    assert registry.etag_of(read) != registry.etag_of(created)


async def test_stale_if_match_changes_nothing(database: Database) -> None:
    created = await _tenant(database)
    async with database.transaction() as session:
        await registry.change_tenant(session, ACTOR, "acme", {"name": "first"}, registry.etag_of(created))
    with pytest.raises(EtagMismatch):
        async with database.transaction() as session:
            await registry.change_tenant(session, ACTOR, "acme", {"name": "second"}, registry.etag_of(created))
    async with database.transaction() as session:
        assert (await registry.get_tenant(session, "acme")).name == "first"


async def test_of_two_changes_at_once_with_one_tag_one_wins(database: Database) -> None:
    etag = registry.etag_of(await _tenant(database))

    async def change(name: str) -> bool:
        try:
            async with database.transaction() as session:
                await registry.change_tenant(session, ACTOR, "acme", {"name": name}, etag)
        except EtagMismatch:
            return False
        return True

    assert sorted(await asyncio.gather(*(change(f"name {number}") for number in range(4)))) == [False, False, False, True]


async def test_of_many_tenants_of_one_slug_made_at_once_one_exists(database: Database) -> None:
    async def create() -> str:
        try:
            await _tenant(database)
        except TenantExists as error:
            return error.code
        return "created"

    outcomes = await asyncio.gather(*(create() for _ in range(6)))
    assert sorted(outcomes) == ["created", *["tenant_exists"] * 5]


async def test_deleted_tenant_is_gone_for_everybody_and_keeps_its_slug(database: Database) -> None:
    await _tenant(database)
    async with database.transaction() as session:
        await registry.delete_tenant(session, ACTOR, "acme")
    for question in (
        lambda session: registry.get_tenant(session, "acme"),
        lambda session: registry.change_tenant(session, ACTOR, "acme", {}),
        lambda session: registry.delete_tenant(session, ACTOR, "acme"),
        lambda session: issued_keys.issue_key(session, ACTOR, "acme", KeyDraft()),
        lambda session: issued_keys.list_keys(session, "acme", 10, None),
        lambda session: routing.list_routes(session, "acme", 10, None),
        lambda session: owned_destinations.list_destinations(session, "acme", 10, None),
    ):
        with pytest.raises(TenantNotFound):
            async with database.transaction() as session:
                await question(session)
    with pytest.raises(TenantExists):
        await _tenant(database)
    async with database.transaction() as session:
        assert (await registry.list_tenants(session, 10, None)).items == ()


@pytest.mark.parametrize("slug", ["", "-a", "a-", "A", "a_b", "ä", "a" * 64, "a\n", "a\x00"])
async def test_bad_slug_is_refused_and_not_found(database: Database, slug: str) -> None:
    with pytest.raises(RequestInvalid) as refused:
        await _tenant(database, slug)
    assert refused.value.errors[0].location == ("body", "slug")
    with pytest.raises(TenantNotFound):
        async with database.transaction() as session:
            await registry.get_tenant(session, slug)


@pytest.mark.parametrize(
    ("changes", "location"),
    [
        ({"slug": "other"}, ("body", "slug")),
        ({"status": "sleeping"}, ("body", "status")),
        ({"status": None}, ("body", "status")),
        ({"limits": {"max_upload_bytes": 0}}, ("body", "limits", "max_upload_bytes")),
        ({"limits": {"max_upload_bytes": True}}, ("body", "limits", "max_upload_bytes")),
        ({"limits": {"max_upload_bytes": 1 << 63}}, ("body", "limits", "max_upload_bytes")),
        ({"limits": {"most": 1}}, ("body", "limits")),
        ({"limits": 5}, ("body", "limits")),
        ({"content_types": ["text/plain", "*/png"]}, ("body", "content_types", 1)),
        ({"content_types": "text/plain"}, ("body", "content_types")),
        ({"name": "a\x00b"}, ("body", "name")),
        ({"default_destination": "nowhere"}, ("body", "default_destination")),
        ({"default_destination": 5}, ("body", "default_destination")),
    ],
)
async def test_wrong_change_of_a_tenant_is_refused_by_member(
    database: Database, changes: dict[str, object], location: tuple[str, ...]
) -> None:
    await _tenant(database)
    with pytest.raises(RequestInvalid) as refused:
        async with database.transaction() as session:
            await registry.change_tenant(session, ACTOR, "acme", changes)
    assert [error.location for error in refused.value.errors] == [location]


async def test_tenants_are_listed_page_by_page_each_once(database: Database) -> None:
    slugs = [f"t{number}" for number in range(7)] + ["t-1", "ta"]
    for slug in slugs:
        await _tenant(database, slug)
    seen: list[str] = []
    cursor = None
    while True:
        async with database.transaction() as session:
            page = await registry.list_tenants(session, 2, cursor)
        seen += [tenant.slug for tenant in page.items]
        cursor = page.next
        if cursor is None:
            break
    assert seen == sorted(slugs)


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────


async def test_key_is_issued_listed_and_revoked_once(database: Database) -> None:
    await _tenant(database)
    expires_at = datetime.now(UTC) + timedelta(days=1)
    async with database.transaction() as session:
        issued = await issued_keys.issue_key(session, ACTOR, "acme", KeyDraft("ci", ("upload",), expires_at))
    assert issued.text.startswith(f"rk_{issued.key.id}_")
    assert issued.text not in repr(issued)
    async with database.transaction() as session:
        assert (await issued_keys.list_keys(session, "acme", 10, None)).items == (issued.key,)
        assert await issued_keys.get_key(session, "acme", issued.key.id) == issued.key
    assert issued.key.scopes == frozenset([Scope.UPLOAD])
    async with database.transaction() as session:
        revoked = await issued_keys.revoke_key(session, ACTOR, "acme", issued.key.id)
        again = await issued_keys.revoke_key(session, ACTOR, "acme", issued.key.id)
    assert revoked.status(datetime.now(UTC)) == "revoked"
    assert again == revoked
    async with database.transaction() as session:
        stored = (await session.execute(text("SELECT secret_hash FROM api_keys"))).scalar_one()
        assert issued.text.encode() not in bytes(stored)


async def test_key_of_another_tenant_is_not_found(database: Database) -> None:
    await _tenant(database)
    await _tenant(database, "other")
    async with database.transaction() as session:
        issued = await issued_keys.issue_key(session, ACTOR, "other", KeyDraft())
    for key_id in (issued.key.id, "nothing", "\x00", "a" * 5_000):
        with pytest.raises(KeyNotFound):
            async with database.transaction() as session:
                await issued_keys.revoke_key(session, ACTOR, "acme", key_id)


async def test_rotated_key_works_for_the_overlap_and_no_longer_than_it_would_have(database: Database) -> None:
    await _tenant(database)
    async with database.transaction() as session:
        old = await issued_keys.issue_key(session, ACTOR, "acme", KeyDraft("ci", ("read",)))
        new = await issued_keys.rotate_key(session, ACTOR, "acme", old.key.id, timedelta(minutes=5))
        replaced = await issued_keys.get_key(session, "acme", old.key.id)
    assert new.replaces == old.key.id
    assert (new.key.name, new.key.scopes, new.key.expires_at) == ("ci", frozenset([Scope.READ]), None)
    assert replaced.expires_at is not None
    assert timedelta(minutes=4) < replaced.expires_at - datetime.now(UTC) <= timedelta(minutes=5)


@pytest.mark.parametrize(
    ("draft", "member"),
    [
        (KeyDraft(scopes=()), "scopes"),
        (KeyDraft(scopes=("upload", "admin")), "scopes"),
        (KeyDraft(scopes=("upload", "upload")), "scopes"),
        (KeyDraft(name=""), "name"),
        (KeyDraft(expires_at=datetime(2020, 1, 1, tzinfo=UTC)), "expires_at"),
        (KeyDraft(expires_at=datetime(2920, 1, 1)), "expires_at"),  # noqa: DTZ001 - a time without a zone is the case
    ],
)
async def test_wrong_key_is_refused_by_member(database: Database, draft: KeyDraft, member: str) -> None:
    await _tenant(database)
    with pytest.raises(RequestInvalid) as refused:
        async with database.transaction() as session:
            await issued_keys.issue_key(session, ACTOR, "acme", draft)
    assert [error.location for error in refused.value.errors] == [("body", member)]


# ── destinations ─────────────────────────────────────────────────────────────────────────────────


async def test_first_destination_becomes_the_default_and_the_second_does_not(database: Database) -> None:
    await _tenant(database)
    await _destination(database, ECHO)
    await _destination(database, DISK)
    async with database.transaction() as session:
        assert (await registry.get_tenant(session, "acme")).default_destination == "echo"
        changed = await registry.change_tenant(session, ACTOR, "acme", {"default_destination": "disk"})
    assert changed.default_destination == "disk"


async def test_credentials_are_stored_sealed_and_shown_by_name(database: Database) -> None:
    await _tenant(database)
    await _destination(database, ECHO)
    async with database.transaction() as session:
        spec = await owned_destinations.get_destination(session, "acme", "echo")
    assert spec.secret_names == ("X-Token",)
    assert spec.config["connect_timeout_seconds"] == 5
    assert spec.sealed is not None
    assert b"hush-hush" not in spec.sealed
    assert SEALER.open(spec.sealed, identity=spec.id) == {"headers": {"X-Token": "hush-hush"}}
    assert "hush-hush" not in repr((spec, ECHO))


async def test_change_of_a_destination_merges_config_and_credentials(database: Database) -> None:
    await _tenant(database)
    await _destination(database, ECHO)
    async with database.transaction() as session:
        before = await owned_destinations.get_destination(session, "acme", "echo")
        members = {"config": {"max_connections": 3}, "secrets": {"headers": {"X-Other": "quiet", "X-Token": None}}}
        change = DestinationChange(members, destination_etag_of(before))
        after = await owned_destinations.change_destination(session, ACTOR, SEALER, ("acme", "echo"), change)
    assert after.config == {**before.config, "max_connections": 3}
    assert after.secret_names == ("X-Other",)
    assert after.sealed is not None
    assert SEALER.open(after.sealed, identity=after.id) == {"headers": {"X-Other": "quiet"}}
    assert after.version > before.version
    with pytest.raises(EtagMismatch):
        async with database.transaction() as session:
            await owned_destinations.change_destination(session, ACTOR, SEALER, ("acme", "echo"), change)
    async with database.transaction() as session:
        change = DestinationChange({"secrets": None})
        bare = await owned_destinations.change_destination(session, ACTOR, SEALER, ("acme", "echo"), change)
    assert (bare.sealed, bare.secret_names) == (None, ())


async def test_destination_in_use_stays_and_a_deleted_default_is_none(database: Database) -> None:
    await _tenant(database)
    await _destination(database, DISK)
    async with database.transaction() as session:
        route = await routing.create_route(session, ACTOR, "acme", RouteDraft("photos", "disk"))
        before = await registry.get_tenant(session, "acme")
    with pytest.raises(DestinationInUse):
        async with database.transaction() as session:
            await owned_destinations.delete_destination(session, ACTOR, "acme", "disk")
    async with database.transaction() as session:
        await routing.delete_route(session, ACTOR, "acme", route.id)
        await owned_destinations.delete_destination(session, ACTOR, "acme", "disk")
        tenant = await registry.get_tenant(session, "acme")
    assert tenant.default_destination is None
    assert registry.etag_of(tenant) != registry.etag_of(before)
    with pytest.raises(DestinationNotFound):
        async with database.transaction() as session:
            await owned_destinations.get_destination(session, "acme", "disk")


async def test_destination_name_is_unique_per_tenant(database: Database) -> None:
    await _tenant(database)
    await _tenant(database, "other")
    await _destination(database, DISK)
    await _destination(database, DISK, "other")
    with pytest.raises(DestinationExists):
        await _destination(database, DISK)


async def test_credentials_without_a_secret_key_are_refused_and_nothing_is_stored(database: Database) -> None:
    await _tenant(database)
    with pytest.raises(RequestInvalid, match="RELAY_SECRET_KEY"):
        async with database.transaction() as session:
            await owned_destinations.create_destination(session, ACTOR, Sealer({}), "acme", ECHO)
    async with database.transaction() as session:
        assert (await owned_destinations.list_destinations(session, "acme", 10, None)).items == ()


@pytest.mark.parametrize("members", [{"name": "x"}, {"config": None}, {"config": []}, {"secrets": "x"}])
async def test_wrong_change_of_a_destination_is_refused(database: Database, members: dict[str, object]) -> None:
    await _tenant(database)
    await _destination(database, DISK)
    with pytest.raises(RequestInvalid):
        async with database.transaction() as session:
            await owned_destinations.change_destination(session, ACTOR, SEALER, ("acme", "disk"), DestinationChange(members))


# ── routes ───────────────────────────────────────────────────────────────────────────────────────


async def test_route_is_put_changed_listed_and_deleted(database: Database) -> None:
    await _tenant(database)
    await _destination(database, DISK)
    await _destination(database, ECHO)
    route_id = uuid4()
    async with database.transaction() as session:
        made, is_new = await routing.set_route(session, ACTOR, ("acme", route_id), RouteDraft("/photos/%61b/", "disk"))
        assert (made.prefix, is_new) == ("photos/ab", True)
    async with database.transaction() as session:
        draft = RouteDraft("pictures", "echo", strip_prefix=True)
        changed, is_new = await routing.set_route(session, ACTOR, ("acme", route_id), draft, routing.etag_of(made))
        assert not is_new
        assert (changed.id, changed.prefix, changed.destination, changed.strip_prefix) == (route_id, "pictures", "echo", True)
    async with database.transaction() as session:
        assert (await routing.list_routes(session, "acme", 10, None)).items == (changed,)
        with pytest.raises(EtagMismatch):
            await routing.delete_route(session, ACTOR, "acme", route_id, routing.etag_of(made))
        await routing.delete_route(session, ACTOR, "acme", route_id, routing.etag_of(changed))
        with pytest.raises(RouteNotFound):
            await routing.get_route(session, "acme", route_id)
        with pytest.raises(EtagMismatch):
            await routing.set_route(session, ACTOR, ("acme", route_id), draft, "*")


async def test_two_spellings_of_one_prefix_are_one_route(database: Database) -> None:
    await _tenant(database)
    await _destination(database, DISK)
    async with database.transaction() as session:
        await routing.create_route(session, ACTOR, "acme", RouteDraft("photos", "disk"))
    with pytest.raises(RouteExists):
        async with database.transaction() as session:
            await routing.create_route(session, ACTOR, "acme", RouteDraft("/%70hotos/", "disk"))


async def test_route_to_a_destination_that_is_not_the_tenants_is_refused(database: Database) -> None:
    await _tenant(database)
    await _tenant(database, "other")
    await _destination(database, DISK, "other")
    with pytest.raises(RequestInvalid) as refused:
        async with database.transaction() as session:
            await routing.create_route(session, ACTOR, "acme", RouteDraft("photos", "disk"))
    assert refused.value.errors[0].location == ("body", "destination")


# ── lists and audit ──────────────────────────────────────────────────────────────────────────────


async def test_keys_and_routes_made_in_one_transaction_are_paged_each_once(database: Database) -> None:
    await _tenant(database)
    await _destination(database, DISK)
    async with database.transaction() as session:
        for number in range(5):
            await issued_keys.issue_key(session, ACTOR, "acme", KeyDraft())
            await routing.create_route(session, ACTOR, "acme", RouteDraft(f"p{number}", "disk"))
    async with database.transaction() as session:
        for list_some in (issued_keys.list_keys, routing.list_routes, owned_destinations.list_destinations):
            whole = await list_some(session, "acme", 500, None)
            seen: list[object] = []
            cursor = None
            while True:
                page = await list_some(session, "acme", 2, cursor)
                seen += page.items
                cursor = page.next
                if cursor is None:
                    break
            assert tuple(seen) == whole.items


@pytest.mark.parametrize("cursor", ["", "x", "é", "W10", "WyJhIl0", "bm90aGluZw", "WyIyMDI2LTAxLTAxIiwiYSJd", "A" * 2_000])
async def test_broken_cursor_is_refused_by_every_list(database: Database, cursor: str) -> None:
    await _tenant(database)
    async with database.transaction() as session:
        for listing in (issued_keys.list_keys, routing.list_routes):
            with pytest.raises(RequestInvalid) as refused:
                await listing(session, "acme", 10, cursor)
            assert refused.value.errors[0].location == ("query", "cursor")
        with pytest.raises(RequestInvalid):
            await list_audit(session, AuditFilter(), 10, cursor)


@pytest.mark.parametrize("limit", [0, -1, 501])
async def test_limit_out_of_range_is_refused(database: Database, limit: int) -> None:
    async with database.transaction() as session:
        with pytest.raises(RequestInvalid) as refused:
            await registry.list_tenants(session, limit, None)
    assert refused.value.errors[0].location == ("query", "limit")


async def test_every_change_has_its_audit_row_and_none_a_secret(database: Database) -> None:
    await _tenant(database)
    await _destination(database, ECHO)
    async with database.transaction() as session:
        issued = await issued_keys.issue_key(session, ACTOR, "acme", KeyDraft())
        await issued_keys.revoke_key(session, ACTOR, "acme", issued.key.id)
        route = await routing.create_route(session, ACTOR, "acme", RouteDraft("photos", "echo"))
        await routing.set_route(session, ACTOR, ("acme", route.id), RouteDraft("pictures", "echo"))
        await routing.delete_route(session, ACTOR, "acme", route.id)
        change = DestinationChange({"secrets": {"headers": {"X-Token": "hush-hush-2"}}})
        await owned_destinations.change_destination(session, ACTOR, SEALER, ("acme", "echo"), change)
        await owned_destinations.delete_destination(session, ACTOR, "acme", "echo")
        await registry.change_tenant(session, ACTOR, "acme", {"name": "new"})
        await registry.delete_tenant(session, ACTOR, "acme")
    async with database.transaction() as session:
        records = (await list_audit(session, AuditFilter(tenant="acme"), 500, None)).items
        page = await list_audit(session, AuditFilter(tenant="acme"), 4, None)
        rest = await list_audit(session, AuditFilter(tenant="acme"), 500, page.next)
    assert [record.action for record in reversed(records)] == [
        "tenant.create",
        "destination.create",
        "key.issue",
        "key.revoke",
        "route.create",
        "route.change",
        "route.delete",
        "destination.change",
        "destination.delete",
        "tenant.change",
        "tenant.delete",
    ]
    assert page.items + rest.items == records
    assert {(record.actor, record.request_id) for record in records} == {("operator", "request-1")}
    assert "hush" not in repr(records)
    assert issued.text.rpartition("_")[2] not in repr(records)


async def _create_and_fail(database: Database) -> None:
    async with database.transaction() as session:
        await registry.create_tenant(session, ACTOR, TenantDraft("acme"))
        raise ZeroDivisionError


async def test_change_that_is_rolled_back_leaves_no_audit_row(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        await _create_and_fail(database)
    async with database.transaction() as session:
        assert (await list_audit(session, AuditFilter(), 10, None)).items == ()
        assert (await registry.list_tenants(session, 10, None)).items == ()
