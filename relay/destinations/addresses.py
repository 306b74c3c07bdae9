"""Addresses as owners write them: base URLs, hosts, names for TLS. Judged when they are configured, by the rules of what will use them."""

import contextlib
import ipaddress
import re
from typing import Annotated
from urllib.parse import urlsplit

import httpx
from pydantic import AfterValidator, Field

_URL_CHARACTERS = re.compile(r"[\x21-\x7e]+")
_HOST_WITH_PORT = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?", re.ASCII)
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def _checked_base_url(value: str) -> str:
    if not _URL_CHARACTERS.fullmatch(value) or "\\" in value or _BROKEN_ESCAPE.search(value):
        raise ValueError("use a URL of printable ASCII, everything else percent-encoded")
    if "?" in value or "#" in value:
        raise ValueError("leave out query and fragment: the client's query is passed on")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError("use a valid host and a port from 1 to 65535") from None
    try:
        httpx.URL(value)  # what will send to it judges IPv4 addresses, international names and ports by rules of its own
    except (httpx.InvalidURL, UnicodeError):
        raise ValueError("use a valid host and a port from 1 to 65535") from None
    if parts.scheme not in {"http", "https"}:
        raise ValueError("use http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("leave out user and password: send them by secrets.headers, as Authorization")
    if port == 0 or parts.netloc.endswith(":") or not is_host(parts.hostname or "", is_bracketed="[" in parts.netloc):
        raise ValueError("use a valid host and a port from 1 to 65535")
    if any(segment in {".", ".."} for segment in parts.path.replace("%2e", ".").replace("%2E", ".").split("/")):
        raise ValueError("leave out dot segments")
    return value


def is_host(host: str, *, is_bracketed: bool = False) -> bool:
    """True for a name that can be asked for, an IPv4 address among them; ``is_bracketed`` for an IPv6 address without its brackets."""
    if is_bracketed:
        try:
            return ipaddress.IPv6Address(host).scope_id is None
        except ValueError:
            return False
    return 0 < len(host) <= 253 and all(_HOST_LABEL.fullmatch(label) for label in host.removesuffix(".").split("."))


def is_address(host: str) -> bool:
    """True for an IP address, without brackets."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _checked_host(value: str) -> str:
    name, port = value, ""
    if found := _HOST_WITH_PORT.fullmatch(value):
        name, port = found[1], found[2] or ""
    is_bracketed = name.startswith("[") and name.endswith("]")
    if not is_host(name[1:-1] if is_bracketed else name, is_bracketed=is_bracketed) or not (not port or 0 < int(port) <= 65_535):
        raise ValueError("use host or host:port: letters, digits, dots and hyphens, an international name as xn--…")
    return value


def _checked_server_name(value: str) -> str:
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(value))
    if not is_host(value):
        raise ValueError("use a host name or an address: letters, digits, dots and hyphens, an international name as xn--…")
    return value.removesuffix(".").lower()


BaseUrl = Annotated[str, Field(max_length=2_048), AfterValidator(_checked_base_url)]
Host = Annotated[str, Field(max_length=261), AfterValidator(_checked_host)]
ServerName = Annotated[str, Field(max_length=255), AfterValidator(_checked_server_name)]
