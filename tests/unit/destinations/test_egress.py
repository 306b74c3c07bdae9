import pytest

from relay.destinations.egress import Egress
from relay.settings import EgressSettings, SettingsInvalid

PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "169.254.169.254",
    "192.168.0.1",
    "172.16.0.1",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "fec0::1",
    "168.63.129.16",
    "::ffff:168.63.129.16",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_refused_in_every_disguise(address: str) -> None:
    assert not Egress(EgressSettings()).permit("tenant.example", address)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_permitted(address: str) -> None:
    assert Egress(EgressSettings()).permit("tenant.example", address)


def test_a_network_or_a_host_can_be_allowed() -> None:
    egress = Egress(EgressSettings(allow=("127.0.0.0/8", "upstream")))
    assert egress.permit("x", "127.0.0.1")
    assert egress.permit("x", "::ffff:127.0.0.1")
    assert egress.permit("UPSTREAM.", "10.0.0.1")
    assert not egress.permit("other", "10.0.0.1")


def test_an_international_name_is_allowed_however_it_is_written() -> None:
    for name in ("Bücher.example", "xn--bcher-kva.example"):
        assert Egress(EgressSettings(allow=(name,))).permit("xn--bcher-kva.example", "10.0.0.1")


def test_a_mistyped_network_stops_the_start() -> None:
    with pytest.raises(SettingsInvalid):
        Egress(EgressSettings(allow=("10.0.0.0/33",)))
