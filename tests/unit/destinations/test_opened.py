"""Destinations are opened once, anew when their configuration has changed, and no more than so many stay open."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from relay.destinations.destination import DestinationSpec
from relay.destinations.means import Means
from relay.destinations.opened import OpenDestinations
from relay.destinations.sealing import Sealer
from relay.errors import DestinationMisconfigured
from relay.settings import DnsSettings, load_settings
from relay.wire.client import Transport, make_client
from relay.wire.names import Names

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEPT = 3


def make_spec(number: int) -> DestinationSpec:
    config = {"base_url": f"http://127.0.0.1:80/{number}"}
    return DestinationSpec(UUID(int=number), "acme", f"d{number}", "http", config, None, (), NOW, NOW)


@pytest.fixture
def destinations(tmp_path: Path) -> Iterator[OpenDestinations]:
    settings = load_settings({"RELAY_DATABASE_URL": "postgresql://nobody@localhost/none", "RELAY_DATA_DIR": str(tmp_path)})
    means = Means.of(make_client(Transport(Names(DnsSettings()), lambda _host, _address: True)), settings)
    yield OpenDestinations(Sealer({}), means, kept=KEPT)
    means.disk_threads.shutdown()
    means.stores.close()


def test_one_stays_open_and_is_opened_anew_when_it_has_changed(destinations: OpenDestinations) -> None:
    spec = make_spec(1)
    first = destinations.open(spec)
    assert destinations.open(replace(spec)) is first, "read again from Postgres, and the same"
    changed = replace(spec, config={"base_url": "http://127.0.0.1:80/elsewhere"})
    assert (second := destinations.open(changed)) is not first
    assert destinations.open(changed) is second


def test_those_used_last_stay_open_and_no_more_than_so_many(destinations: OpenDestinations) -> None:
    opened = {number: destinations.open(make_spec(number)) for number in range(KEPT)}
    assert destinations.open(make_spec(0)) is opened[0]
    destinations.open(make_spec(KEPT))
    assert [destinations.open(make_spec(number)) is opened[number] for number in (0, 2)] == [True, True]
    assert destinations.open(make_spec(1)) is not opened[1]


def test_one_that_cannot_be_opened_is_tried_again(destinations: OpenDestinations) -> None:
    unknown = replace(make_spec(1), kind="pigeon")
    for _ in range(2):
        with pytest.raises(DestinationMisconfigured):
            destinations.open(unknown)
    assert destinations.open(make_spec(1)) is destinations.open(make_spec(1))
