"""The rule of egress as a function. What comes of it on sockets: tests/stories/test_egress.py."""

import tomllib
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis.strategies import integers

from relay.destinations.egress import Egress, is_own
from relay.settings import EgressSettings, SettingsInvalid, load_settings

ALLOWANCES = tomllib.loads((Path(__file__).parents[2] / "vectors" / "egress.toml").read_text(encoding="utf-8"))["allowance"]


def nobody(_address: str) -> bool:
    return False


PUBLIC_ONLY = Egress(EgressSettings(), nobody)


def permits(egress: Egress, what: str) -> bool:
    host, _, address = what.rpartition(" ")
    return egress.permit(host or address, address)


@pytest.mark.parametrize("row", ALLOWANCES, ids=lambda row: row["allow"] or "nothing")
def test_what_is_allowed_is_exactly_what_was_said(row: dict[str, Any]) -> None:
    egress = Egress(load_settings({"RELAY_EGRESS_ALLOW": row["allow"]}).egress, nobody)
    assert [what for what in row["yes"] if not permits(egress, what)] == []
    assert [what for what in row["no"] if permits(egress, what)] == []


@given(number=integers(0, 2**32 - 1))
def test_an_address_inside_of_another_is_judged_as_what_it_is(number: int) -> None:
    is_public = PUBLIC_ONLY.permit("tenant.example", str(IPv4Address(number)))
    for prefix in ("::ffff:0:0", "64:ff9b::", "2606:4700::5efe:0:0", "2606:4700::200:5efe:0:0"):
        carrier = IPv6Address(int(IPv6Address(prefix)) | number)
        assert PUBLIC_ONLY.permit("tenant.example", str(carrier)) == is_public, carrier
    for prefix, shift in (("::", 0), ("::ffff:0:0:0", 0), ("64:ff9b:1::", 0), ("2002::", 80), ("2001::", 0), ("2001::", 64)):
        carrier = IPv6Address(int(IPv6Address(prefix)) | number << shift)
        assert not PUBLIC_ONLY.permit("tenant.example", str(carrier)), carrier


@given(number=integers(0, 2**128 - 1))
def test_ipv6_that_was_never_given_out_is_not_public(number: int) -> None:
    address = IPv6Address(number)
    if PUBLIC_ONLY.permit("tenant.example", str(address)) and number >> 125 != 1:
        assert address.ipv4_mapped is not None or number >> 32 == int(IPv6Address("64:ff9b::")) >> 32, address


def test_a_public_address_of_this_machine_is_refused_until_it_is_allowed() -> None:
    def is_ours(address: str) -> bool:
        return address in {"8.8.8.8", "2606:4700::1111"}

    for address in ("8.8.8.8", "::ffff:8.8.8.8", "2606:4700::1111"):
        assert not Egress(EgressSettings(), is_ours).permit("tenant.example", address)
        assert Egress(EgressSettings(allow=("8.8.8.0/24", "2606:4700::/32")), is_ours).permit("tenant.example", address)
    assert Egress(EgressSettings(), is_ours).permit("tenant.example", "8.8.4.4")


def test_this_machine_knows_its_own_addresses() -> None:
    assert is_own("127.0.0.1")
    assert not is_own("8.8.8.8")
    assert not is_own("2606:4700::1111")


@pytest.mark.parametrize(
    "item", ["10.0.0.0/33", "127.1", "2130706433", "[::1]", "upstream:80", "http://upstream", "*.upstream", "user@upstream", "up stream"]
)
def test_what_would_allow_nothing_stops_the_start(item: str) -> None:
    with pytest.raises(SettingsInvalid, match="RELAY_EGRESS_ALLOW"):
        Egress(EgressSettings(allow=(item,)))
