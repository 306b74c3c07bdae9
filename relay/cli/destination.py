"""``relay destination``: say where a tenant's bytes go, and whether they can get there."""

import contextlib
from collections.abc import Mapping
from typing import Any

import click
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from relay.api.admin.destinations import DestinationPayload, FindingPayload
from relay.api.admin.payloads import Listing
from relay.cli import FAILED, NOT_FOUND_OR_CONFLICT, Failure
from relay.cli.desk import Desk, Options, at_desk, desk_options, page_options, say, show, show_page
from relay.cli.destination_draft import PEM, Told, make_draft
from relay.destinations.destination import DestinationSpec, Finding
from relay.destinations.egress import Egress
from relay.destinations.means import Means
from relay.destinations.opened import OpenDestinations
from relay.destinations.registry import DestinationChange, DestinationDraft
from relay.destinations.sealing import Sealer
from relay.destinations.tls_config import CLIENT_KEY
from relay.errors import DestinationMisconfigured, DestinationNotFound
from relay.tenants import owned_destinations, registry, resealing
from relay.wire.client import Transport, make_client
from relay.wire.names import Names


class ResealingPayload(BaseModel):
    """What sealing anew came to: how many were sealed anew, how many were so already, and which cannot be opened."""

    key_id: str
    resealed: int
    current: int
    unopened: list[str]


@click.group()
def destination() -> None:
    """Say where a tenant's bytes go."""


@destination.command("set")
@click.argument("tenant")
@click.argument("name")
@click.option("--http", "base_url", metavar="URL", help="A tenant's HTTP service; the rest of the path is put after it.")
@click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="Sent with every upload, sealed at rest. Repeatable.")
@click.option("--host", metavar="HOST", help="The Host that the service is sent, in place of the URL's; '': that again.")
@click.option("--tls-ca", type=PEM, help="Certificates to trust instead of the public authorities'.")
@click.option("--tls-server-name", metavar="NAME", help="The name to ask for and to verify, in place of the URL's host.")
@click.option("--tls-client-certificate", type=PEM, help="What Relay shows to the service, with the chain.")
@click.option("--tls-client-key", type=PEM, help="Its key, sealed at rest.")
@click.option("--no-tls", is_flag=True, help="Forget all that was said by --tls-… before.")
@click.option("--disk", "directory", metavar="DIR", help="A folder below RELAY_DISK_ROOT.")
@click.option("--s3", "s3_bucket", metavar="BUCKET", help="A bucket of S3, or of what speaks it (--set endpoint_url=…).")
@click.option("--gcs", "gcs_bucket", metavar="BUCKET", help="A bucket of Google Cloud Storage.")
@click.option("--azure", "azure_container", metavar="ACCOUNT/CONTAINER", help="A container of Azure Blob Storage.")
@click.option("--overwrite", type=click.Choice(["refuse", "replace"]), help="When an object of this name exists; default: refuse.")
@click.option(
    "--set", "members", multiple=True, metavar="MEMBER=VALUE", help="Any other member of config, such as region=eu-west-1. Repeatable."
)
@click.option("--secret-file", "secret_files", multiple=True, metavar="MEMBER=PATH", help="A credential, read from a file. Repeatable.")
@click.option("--default", "is_default", is_flag=True, help="Make it the tenant's default destination.")
@desk_options
def set_destination(options: Options, tenant: str, name: str, *, is_default: bool, **told: Any) -> None:
    """Make a destination, or change it; a tenant's first one becomes its default.

    Headers that are given replace those of before; without --header they stay. What is not said stays as well.
    """
    draft = make_draft(name, Told(**told))

    async def work(desk: Desk) -> DestinationSpec:
        sealer = Sealer(desk.settings.secret.keys())
        async with desk.database.transaction() as session:
            spec = await _put(session, desk, sealer, tenant, draft)
            if is_default:
                await registry.change_tenant(session, desk.actor, tenant, {"default_destination": name})
            return spec

    show(options, DestinationPayload.of(at_desk(options, work)))


@destination.command("list")
@click.argument("tenant")
@page_options
@desk_options
def list_destinations(options: Options, tenant: str, limit: int, cursor: str | None) -> None:
    """List a tenant's destinations by name."""

    async def work(desk: Desk) -> Listing[DestinationPayload]:
        async with desk.database.transaction() as session:
            return Listing.of(await owned_destinations.list_destinations(session, tenant, limit, cursor), DestinationPayload.of)

    show_page(options, at_desk(options, work).model_dump(mode="json"), ("name", "kind", "config", "secret_names"))


@destination.command()
@click.argument("tenant")
@click.argument("name")
@desk_options
def check(options: Options, tenant: str, name: str) -> None:
    """Say whether a destination is reachable, permitted and writable, as seen from here. Exit code 1 if not."""

    async def work(desk: Desk) -> Finding:
        async with desk.database.transaction() as session:
            spec = await owned_destinations.get_destination(session, tenant, name)
        return await _check(desk, spec)

    finding = at_desk(options, work)
    show(options, FindingPayload.of(finding))
    if not finding.ok:
        click.get_current_context().exit(FAILED)


@destination.command()
@desk_options
def reseal(options: Options) -> None:
    """Seal the credentials of all destinations anew, with the first key of RELAY_SECRET_KEY.

    The last but one step of a key's rotation: put the new key in front of the old one on every host and restart,
    run this, take the old key away. May be repeated. Exit code 1 if a credential cannot be opened; it stays as it is.
    """

    async def work(desk: Desk) -> ResealingPayload:
        sealer = Sealer(desk.settings.secret.keys())
        batches: list[resealing.Batch] = []
        while not batches or batches[-1].last is not None:
            async with desk.database.transaction() as session:
                batches.append(await resealing.reseal_some(session, desk.actor, sealer, batches[-1].last if batches else None))
        return ResealingPayload(
            key_id=sealer.key_id or "",
            resealed=sum(batch.resealed for batch in batches),
            current=sum(batch.current for batch in batches),
            unopened=[f"{place.tenant}/{place.destination}" for batch in batches for place in batch.unopened],
        )

    done = at_desk(options, work)
    show(options, done)
    if done.unopened:
        raise Failure("Some credentials cannot be opened. Add the key that sealed them to RELAY_SECRET_KEY, or set them again.")


@destination.command()
@click.argument("tenant")
@click.argument("name")
@desk_options
def delete(options: Options, tenant: str, name: str) -> None:
    """Delete a destination that no route leads to."""

    async def work(desk: Desk) -> None:
        async with desk.database.transaction() as session:
            await owned_destinations.delete_destination(session, desk.actor, tenant, name)

    at_desk(options, work)
    say(options, f"destination {name} of {tenant} is deleted")


async def _put(session: AsyncSession, desk: Desk, sealer: Sealer, tenant: str, draft: DestinationDraft) -> DestinationSpec:
    try:
        before = await owned_destinations.get_destination(session, tenant, draft.name)
    except DestinationNotFound:
        return await owned_destinations.create_destination(session, desk.actor, sealer, tenant, draft)
    if before.kind != draft.kind:
        message = f"{draft.name} is a destination of kind {before.kind}. Delete it first, or choose another name."
        raise Failure(message, NOT_FOUND_OR_CONFLICT)
    members: dict[str, Any] = {"config": draft.config}
    if draft.secrets is not None:
        headers = draft.secrets.get("headers")
        members["secrets"] = dict(draft.secrets) | ({"headers": _replace_headers(before, headers)} if headers is not None else {})
    change = DestinationChange(members)
    return await owned_destinations.change_destination(session, desk.actor, sealer, (tenant, draft.name), change)


def _replace_headers(before: DestinationSpec, headers: Mapping[str, str]) -> dict[str, Any]:
    """A merge patch that leaves these headers and no others."""
    return {**dict.fromkeys(name for name in before.secret_names if name != CLIENT_KEY), **headers}


async def _check(desk: Desk, spec: DestinationSpec) -> Finding:
    settings = desk.settings
    async with contextlib.AsyncExitStack() as stack:
        names = Names(settings.dns)
        stack.callback(names.close)
        client = await stack.enter_async_context(make_client(Transport(names, Egress(settings.egress).permit)))
        destinations = OpenDestinations(Sealer(settings.secret.keys()), Means.of(client, settings), kept=1)
        stack.push_async_callback(destinations.close)
        try:
            return await destinations.open(spec).check()
        except DestinationMisconfigured as error:
            return Finding(ok=False, code=error.code, detail=error.detail)
