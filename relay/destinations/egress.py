"""Which addresses a destination may be reached at (SSRF).

The question is asked at connect time, for the address really used: a name proves nothing, whatever it resolved to before.

The table of what is public is our own: that of the standard library is another one in every release, and older ones take
the metadata service of a cloud for public. An IPv6 address that carries an IPv4 one is judged by both: who translates it
reaches the other. What this machine itself answers at is refused even if it is public, for no firewall stands in between.
"""

import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

import httpx

from relay.destinations.addresses import is_host
from relay.settings import EgressSettings, SettingsInvalid

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_V6_PUBLIC: Final = IPv6Network("2000::/3")
"""All of IPv6 that is given out; the rest is local, reserved, or a group."""

_NOT_PUBLIC: Final[tuple[Network, ...]] = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8",  # this network: Linux takes 0.0.0.0 for itself
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by customers of one provider; one cloud's metadata service
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local: most clouds' metadata services
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; one cloud's metadata service
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4, withdrawn
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "168.63.129.16/32",  # a public address in form; on every machine of one cloud, its metadata service
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: a tunnel to the IPv4 address within
        "3fff::/20",  # documentation
    )
)
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
"""The well-known prefix, which every IPv6-only network uses for the public IPv4. The local one, 64:ff9b:1::/48, is not public."""

_ISATAP: Final = frozenset({0x0000_5EFE, 0x0200_5EFE})
_LOW_32_BITS: Final = 0xFFFF_FFFF
_DISCARD_PORT: Final = 9


def is_own(address: str) -> bool:
    """True when this machine itself answers at an address. Sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, _DISCARD_PORT))  # chooses the way there, no more: whoever speaks to itself does so from there
            return ip_address(probe.getsockname()[0]) == ip_address(address)
    except OSError:
        return False  # no way there, or no such family


class Egress:
    """The operator's rule: public addresses, and whatever is allowed by name or network."""

    def __init__(self, settings: EgressSettings, is_own: Callable[[str], bool] = is_own) -> None:
        self._is_own = is_own
        self._networks: list[Network] = []
        self._hosts: set[str] = set()
        for item in settings.allow:
            try:
                self._networks.append(_unmapped_network(ip_network(item, strict=False)))
            except ValueError:
                self._hosts.add(_checked_host(item))

    def permit(self, host: str, address: str) -> bool:
        """True when a connection to this address, looked up for this host, is allowed."""
        if host.lower().rstrip(".") in self._hosts:
            return True
        found = ip_address(address.partition("%")[0])
        if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped  # the same address to every socket, and so to whoever allowed it
        if _is_within(found, self._networks):
            return True
        return _is_public(found) and not self._is_own(str(found))


def _is_public(address: Address) -> bool:
    if _is_within(address, _NOT_PUBLIC):
        return False
    if isinstance(address, IPv4Address):
        return True
    inner = IPv4Address(int(address) & _LOW_32_BITS)
    if address in _NAT64:
        return _is_public(inner)
    if int(address) >> 32 & _LOW_32_BITS in _ISATAP and not _is_public(inner):
        return False
    return address in _V6_PUBLIC


def _is_within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def _unmapped_network(network: Network) -> Network:
    """A network of IPv4-mapped addresses as the IPv4 network that it is."""
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & _LOW_32_BITS, network.prefixlen - 96))
    return network


def _checked_host(item: str) -> str:
    """A host's name as it is asked for: an international one in its ASCII form.

    Raises:
        SettingsInvalid: it is none, and would allow nothing.
    """
    try:
        name = httpx.URL(scheme="http", host=item).raw_host.decode("ascii").lower().rstrip(".")
    except (httpx.InvalidURL, UnicodeError):
        name = ""
    if not is_host(name) or name.replace(".", "").isdigit():
        raise SettingsInvalid(f"RELAY_EGRESS_ALLOW: {item!r} is neither a network nor a host name") from None
    return name
