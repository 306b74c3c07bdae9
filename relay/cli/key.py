"""``relay key``: issue, list, rotate and revoke the keys of a tenant. A key's text is printed once."""

from datetime import datetime, timedelta

import click

from relay.api.admin.keys import IssuedKeyPayload, KeyPayload, RotatedKeyPayload
from relay.api.admin.payloads import Listing
from relay.cli.desk import Desk, Options, at_desk, cut_option, desk_options, page_options, say, show, show_page
from relay.cli.times import Time
from relay.tenants import issued_keys
from relay.tenants.cuts import RunningUploads
from relay.tenants.issued_keys import ALL_SCOPES, KeyDraft, NewKey


@click.group()
def key() -> None:
    """Issue, list, rotate and revoke the keys of a tenant."""


@key.command()
@click.argument("tenant")
@click.option("--name", help="A name for people.")
@click.option("--scope", "scopes", multiple=True, type=click.Choice([str(scope) for scope in ALL_SCOPES]), help="Repeatable; default: all.")
@click.option("--expires-at", type=Time(), help="When it stops working, such as 2026-12-31T00:00:00Z; default: never.")
@desk_options
def issue(options: Options, tenant: str, name: str | None, scopes: tuple[str, ...], expires_at: datetime | None) -> None:
    """Issue a key and print it: this is the only time that it is shown."""
    draft = KeyDraft(name, scopes or ALL_SCOPES, expires_at)

    async def work(desk: Desk) -> NewKey:
        async with desk.database.transaction() as session:
            return await issued_keys.issue_key(session, desk.actor, tenant, draft)

    show(options, IssuedKeyPayload.of_new(at_desk(options, work)))


@key.command("list")
@click.argument("tenant")
@page_options
@desk_options
def list_keys(options: Options, tenant: str, limit: int, cursor: str | None) -> None:
    """List a tenant's keys, oldest first, expired and revoked ones among them."""

    async def work(desk: Desk) -> Listing[KeyPayload]:
        async with desk.database.transaction() as session:
            return Listing.of(await issued_keys.list_keys(session, tenant, limit, cursor), KeyPayload.of)

    columns = ("id", "name", "scopes", "status", "created_at", "expires_at", "last_used_at")
    show_page(options, at_desk(options, work).model_dump(mode="json"), columns)


@key.command()
@click.argument("tenant")
@click.argument("key_id")
@click.option("--overlap-seconds", type=int, default=3600, show_default=True, help="How long the old key goes on working.")
@desk_options
def rotate(options: Options, tenant: str, key_id: str, overlap_seconds: int) -> None:
    """Issue a key in place of this one, which goes on working for the overlap."""

    async def work(desk: Desk) -> NewKey:
        async with desk.database.transaction() as session:
            return await issued_keys.rotate_key(session, desk.actor, tenant, key_id, timedelta(seconds=overlap_seconds))

    show(options, RotatedKeyPayload.of_new(at_desk(options, work)))


@key.command()
@click.argument("tenant")
@click.argument("key_id")
@cut_option
@desk_options
def revoke(options: Options, tenant: str, key_id: str, running_uploads: RunningUploads) -> None:
    """Revoke a key at once; it stays in the list."""

    async def work(desk: Desk) -> None:
        async with desk.database.transaction() as session:
            await issued_keys.revoke_key(session, desk.actor, tenant, key_id, running_uploads=running_uploads)

    at_desk(options, work)
    say(options, f"key {key_id} of {tenant} is revoked")
