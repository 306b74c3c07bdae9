"""``relay tenant``: create, show, change and delete tenants."""

import click

from relay.api.admin.payloads import Listing
from relay.api.admin.tenants import TenantPayload
from relay.cli.desk import Desk, Options, at_desk, cut_option, desk_options, page_options, say, show, show_page
from relay.tenants import registry
from relay.tenants.cuts import RunningUploads
from relay.tenants.registry import TenantDraft
from relay.tenants.tenant import Limits, Tenant, TenantStatus


@click.group()
def tenant() -> None:
    """Create, show, change and delete tenants."""


@tenant.command()
@click.argument("slug")
@click.option("--name", help="A name for people.")
@click.option("--max-upload-bytes", type=int, help="Largest body; default: only the global limit.")
@click.option("--content-type", "content_types", multiple=True, metavar="PATTERN", help="Accept only these, such as image/*. Repeatable.")
@desk_options
def create(options: Options, slug: str, name: str | None, max_upload_bytes: int | None, content_types: tuple[str, ...]) -> None:
    """Make a tenant. SLUG is 1 to 63 of a-z, 0-9 and hyphens, and unique for ever."""
    draft = TenantDraft(slug, name, Limits(max_upload_bytes), content_types)

    async def work(desk: Desk) -> Tenant:
        async with desk.database.transaction() as session:
            return await registry.create_tenant(session, desk.actor, draft)

    show(options, TenantPayload.of(at_desk(options, work)))


@tenant.command("list")
@page_options
@desk_options
def list_tenants(options: Options, limit: int, cursor: str | None) -> None:
    """List tenants by slug."""

    async def work(desk: Desk) -> Listing[TenantPayload]:
        async with desk.database.transaction() as session:
            return Listing.of(await registry.list_tenants(session, limit, cursor), TenantPayload.of)

    show_page(options, at_desk(options, work).model_dump(mode="json"), ("slug", "name", "status", "default_destination", "created_at"))


@tenant.command("show")
@click.argument("slug")
@desk_options
def show_tenant(options: Options, slug: str) -> None:
    """Show one tenant."""

    async def work(desk: Desk) -> Tenant:
        async with desk.database.transaction() as session:
            return await registry.get_tenant(session, slug)

    show(options, TenantPayload.of(at_desk(options, work)))


@tenant.command()
@click.argument("slug")
@cut_option
@desk_options
def disable(options: Options, slug: str, running_uploads: RunningUploads) -> None:
    """Refuse a tenant's uploads at once; keys, destinations and ledger stay."""
    show(options, TenantPayload.of(_set_status(options, slug, TenantStatus.DISABLED, running_uploads)))


@tenant.command()
@click.argument("slug")
@desk_options
def enable(options: Options, slug: str) -> None:
    """Let a disabled tenant upload again."""
    show(options, TenantPayload.of(_set_status(options, slug, TenantStatus.ACTIVE)))


@tenant.command()
@click.argument("slug")
@cut_option
@desk_options
def delete(options: Options, slug: str, running_uploads: RunningUploads) -> None:
    """Delete a tenant for good: its keys stop, its slug stays taken, its ledger stays."""

    async def work(desk: Desk) -> None:
        async with desk.database.transaction() as session:
            await registry.delete_tenant(session, desk.actor, slug, running_uploads=running_uploads)

    at_desk(options, work)
    say(options, f"tenant {slug} is deleted; its ledger stays")


def _set_status(options: Options, slug: str, status: TenantStatus, running_uploads: RunningUploads = RunningUploads.FINISH) -> Tenant:
    async def work(desk: Desk) -> Tenant:
        async with desk.database.transaction() as session:
            return await registry.change_tenant(session, desk.actor, slug, {"status": status.value}, running_uploads=running_uploads)

    return at_desk(options, work)
