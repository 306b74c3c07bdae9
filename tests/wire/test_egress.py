"""Destinations at addresses that no tenant may reach: refused at connect, by the table of egress.toml, over the real transport."""

import asyncio
import contextlib
import os
import socket
import tomllib
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest

from relay.destinations.destination import Destination, DestinationSpec
from relay.destinations.disk_threads import DiskThreads
from relay.destinations.egress import Egress
from relay.destinations.kinds import kind_of, parse_config, parse_secrets
from relay.destinations.means import Means
from relay.destinations.parts import PartMemory
from relay.destinations.store_tools import StoreTools
from relay.destinations.upload_notes import UploadNotes
from relay.errors import DestinationUnreachable, EgressDenied, RequestInvalid
from relay.settings import DiskSettings, FormSettings, load_settings
from relay.wire.client import Client, Transport, make_client
from relay.wire.names import Names, look_up
from tests.support.bodies import ScriptedBody, make_item
from tests.support.upstreams import Conduct, Upstream

VECTORS: Final = tomllib.loads((Path(__file__).parent.parent / "vectors" / "egress.toml").read_text(encoding="utf-8"))
REFUSED: Final = VECTORS["refused"]
CONTENT: Final = b"what nobody else may see"
REDIRECTS: Final = (301, 302, 303, 307, 308)

Document = dict[str, Any]
KEY_PAIR = {"access_key_id": "of-the-tenant", "secret_access_key": "of-the-tenant"}
ADDRESSED: Final[Mapping[str, Callable[[str], Document]]] = {
    "http": lambda url: {"config": {"base_url": url}, "secrets": {"headers": {"Authorization": "Bearer of-the-tenant"}}},
    "s3": lambda url: {"config": {"bucket": "b00", "endpoint_url": url}, "secrets": KEY_PAIR},
    "gcs": lambda url: {"config": {"bucket": "b00", "endpoint_url": url}, "secrets": KEY_PAIR},
    "azure": lambda url: {
        "config": {"account": "acme", "container": "b00", "endpoint_url": url},
        "secrets": {"sas_token": "sv=1&sig=of-the-tenant"},
    },
}
"""How a destination of each kind names its address: given a URL, its ``config`` and ``secrets``."""


class Resolver:
    """Answers for the names that it was given, each with its next answer, the last one again and again; asks no network."""

    def __init__(self, answers: Mapping[str, list[list[str]]]) -> None:
        self._answers = answers
        self.asked: list[str] = []

    def look_up(self, host: str) -> list[str]:
        self.asked.append(host)
        answers = self._answers.get(host)
        if answers is None:
            socket.inet_aton(host)  # a spelling of an address, which the system reads by itself; OSError: a name that nobody gave
            return look_up(host)
        return answers.pop(0) if len(answers) > 1 else answers[0]


@contextlib.asynccontextmanager
async def client_with(resolver: Resolver, allow: str = "") -> AsyncIterator[Client]:
    """The one client of a process, which remembers no address."""
    settings = load_settings({"RELAY_EGRESS_ALLOW": allow, "RELAY_DNS_CACHE_SECONDS": "0"})
    names = Names(settings.dns, resolver.look_up)
    async with make_client(Transport(names, Egress(settings.egress).permit)) as client:
        yield client
    names.close()


@contextlib.asynccontextmanager
async def knocks_at(address: str, port: int) -> AsyncIterator[list[str]]:
    """Who connects to an address: a stranger's service, which answers nobody."""
    knocks: list[str] = []

    def take(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        knocks.append(str(writer.get_extra_info("peername")))
        writer.close()

    async with await asyncio.start_server(take, address, port):
        yield knocks


def open_destination(client: Client, url: str, kind: str = "http", **config: Any) -> Destination:
    document = ADDRESSED[kind](url)
    now = datetime.now(UTC)
    spec = DestinationSpec(uuid4(), "acme", "main", kind, document["config"] | config, None, (), now, now)
    tools = StoreTools(PartMemory(32 << 20), 1, UploadNotes(Path(os.devnull)))
    means = Means(client, DiskSettings(), FormSettings(), DiskThreads(1), tools)
    return kind_of(kind).open(means, spec, parse_config(kind, spec.config), parse_secrets(kind, document.get("secrets", {})))


async def deliver(to: Destination) -> tuple[int, dict[bytes, bytes]]:
    async with to.deliver(make_item(declared_bytes=len(CONTENT)), ScriptedBody([CONTENT], declared_bytes=len(CONTENT))) as delivery:
        await delivery.settled()
        return delivery.status, dict(delivery.headers)


@pytest.mark.parametrize("kind", ADDRESSED)
async def test_no_address_of_the_table_is_connected_to(kind: str) -> None:
    assert len(REFUSED) >= 40
    assert len({row["name"] for row in REFUSED}) == len(REFUSED)
    resolver = Resolver({row["host"].lower(): [row["resolves"]] for row in REFUSED if "resolves" in row})
    async with Upstream() as upstream, client_with(resolver, allow="allowed.example,198.18.0.77") as client:
        for row in REFUSED:
            if kind != "http" and "host" in row.get("config", {}):
                continue  # only an HTTP service is sent another Host
            url = f"{row.get('scheme', 'http')}://{row['host']}:{upstream.port}/base"
            destination = open_destination(client, url, kind, **row.get("config", {}))
            with pytest.raises(EgressDenied) as refusal:
                await deliver(destination)
            assert (refusal.value.status, refusal.value.code) == (502, "egress_denied"), row
            finding = await destination.check()
            assert (finding.ok, finding.code) == (False, "egress_denied"), row
            for told in (refusal.value.detail, finding.detail):
                assert not any(address in told for address in row.get("resolves", [row["host"]])), (
                    "what a name stands for is nobody's business"
                )
            await destination.close()
        assert upstream.connections == 0


@pytest.mark.parametrize("kind", ADDRESSED)
def test_a_url_in_which_two_readers_find_two_hosts_is_refused_when_it_is_configured(kind: str) -> None:
    for row in VECTORS["unwritable"]:
        with pytest.raises(RequestInvalid) as refusal:
            parse_config(kind, ADDRESSED[kind](row["url"])["config"])
        assert refusal.value.errors, row


async def test_a_name_that_changes_its_address_is_judged_for_each_connection() -> None:
    public, private = "127.0.0.1", "127.0.0.2"
    resolver = Resolver({"rebound.example": [[public], [private], [public]]})
    async with Upstream(Conduct(then="close")) as upstream, client_with(resolver, allow=public) as client:
        destination = open_destination(client, f"http://rebound.example:{upstream.port}")
        async with knocks_at(private, upstream.port) as knocks:
            assert (await deliver(destination))[0] == 200
            with pytest.raises(EgressDenied):
                await deliver(destination)
            assert (await deliver(destination))[0] == 200
        assert knocks == []
        assert resolver.asked == ["rebound.example"] * 3, "one answer of the name for one connection"
        assert upstream.connections == 2


async def test_of_several_addresses_those_that_are_permitted_are_tried_and_no_other() -> None:
    public, private = "127.0.0.1", "127.0.0.2"
    resolver = Resolver({"both.example": [[private, public, "10.0.0.1", "::1"]]})
    async with Upstream() as upstream, client_with(resolver, allow=public) as client:
        destination = open_destination(client, f"http://both.example:{upstream.port}")
        async with knocks_at(private, upstream.port) as knocks:
            assert (await deliver(destination))[0] == 200
            await upstream.stop()
            with pytest.raises(DestinationUnreachable):
                await deliver(destination)
        assert knocks == []


async def test_what_is_allowed_is_reached_in_its_spellings_and_nothing_beside_it() -> None:
    async with Upstream() as upstream, client_with(Resolver({"other.example": [["127.0.0.2"]]}), allow="127.0.0.1") as client:
        for host in ("127.0.0.1", "2130706433", "127.1", "0x7f.1", "[::ffff:7f00:1]"):
            assert (await deliver(open_destination(client, f"http://{host}:{upstream.port}")))[0] == 200, host
        reached = upstream.connections
        for host in ("127.0.0.2", "127.2", "[::ffff:127.0.0.2]", "[::1]", "[::127.0.0.1]", "0", "other.example"):
            for config in ({}, {"host": "127.0.0.1"}):
                with pytest.raises(EgressDenied):
                    await deliver(open_destination(client, f"http://{host}:{upstream.port}", **config))
        assert upstream.connections == reached


async def test_a_redirect_is_passed_on_and_never_followed() -> None:
    async with Upstream() as upstream, client_with(Resolver({}), allow="127.0.0.0/8") as client:
        destination = open_destination(client, upstream.url)
        async with knocks_at("127.0.0.2", upstream.port) as knocks:
            for status in REDIRECTS:
                elsewhere = f"http://127.0.0.2:{upstream.port}/latest"
                upstream.conduct = Conduct(status=status, headers=[("Location", elsewhere)])
                told, headers = await deliver(destination)
                assert (told, headers[b"location"]) == (status, elsewhere.encode())
            assert (await destination.check()).ok
        assert knocks == []
        assert len(upstream.requests) == len(REDIRECTS) + 1
