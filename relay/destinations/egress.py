"""Which addresses a destination may be reached at (SSRF).

The question is asked at connect time, for the address really used: a name proves nothing, whatever it
resolved to before. Addresses that embed another one (IPv4-mapped, NAT64, 6to4, Teredo) are judged by the
embedded one too.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import httpx

from relay.settings import EgressSettings, SettingsInvalid

Address = IPv4Address | IPv6Address
_NOT_PUBLIC = (
    IPv6Network("fec0::/10"),  # site-local: deprecated by RFC 3879, routed inside some networks all the same
    IPv4Network("168.63.129.16/32"),  # a public address in form; on every machine of one cloud, its metadata service
)
_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))


class Egress:
    """The operator's rule: public addresses, and whatever is allowed by name or network."""

    def __init__(self, settings: EgressSettings) -> None:
        self._networks: list[IPv4Network | IPv6Network] = []
        self._hosts: set[str] = set()
        for item in settings.allow:
            try:
                self._networks.append(ip_network(item, strict=False))
            except ValueError:
                if "/" in item or item.replace(".", "").isdigit():
                    raise SettingsInvalid(f"RELAY_EGRESS_ALLOW: {item!r} is neither a network nor a host name") from None
                self._hosts.add(_as_sent(item).lower().rstrip("."))

    def permit(self, host: str, address: str) -> bool:
        """True when a connection to this address, looked up for this host, is allowed."""
        if host.lower().rstrip(".") in self._hosts:
            return True
        parsed = ip_address(address.partition("%")[0])
        return all(self._is_allowed(each) for each in _readings(parsed))

    def _is_allowed(self, address: Address) -> bool:
        if any(address in network for network in self._networks):
            return True
        if any(address in network for network in _NOT_PUBLIC):
            return False
        return address.is_global and not address.is_multicast and not address.is_reserved


def _as_sent(host: str) -> str:
    """A host's name as it is asked for: an international one in its ASCII form."""
    try:
        return httpx.URL(scheme="http", host=host).raw_host.decode("ascii")
    except (httpx.InvalidURL, UnicodeError):
        return host


def _readings(address: Address) -> Iterator[Address]:
    """The address as every hop on the way might read it."""
    if isinstance(address, IPv4Address):
        yield address
        return
    embedded = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    embedded += [IPv4Address(int(address) & 0xFFFF_FFFF) for network in _NAT64 if address in network]
    inner = [each for each in embedded if each is not None]
    yield from inner
    if not inner:
        yield address
