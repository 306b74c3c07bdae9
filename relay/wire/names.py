"""Name lookups: an executor of their own, a deadline, a bounded cache.

``getaddrinfo`` cannot be cancelled: a lookup that hangs holds its thread after its caller has given up.
So lookups of one name are shared, and one owner may hold only a part of the threads: the dead names
of one tenant never delay another's.
"""

import asyncio
import socket
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

from relay.errors import DestinationUnreachable
from relay.settings import DnsSettings

CACHE_ENTRIES = 10_000

Lookup = Callable[[str], list[str]]


def look_up(host: str) -> list[str]:
    """Ask the system for the addresses of a host, best first. Blocks.

    Raises:
        OSError: there is no such host.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(item[4][0]) for item in found))


class Names:
    """Addresses of hosts, looked up off the event loop."""

    def __init__(self, settings: DnsSettings, lookup: Lookup = look_up) -> None:
        self._lookup = lookup
        self._timeout_seconds = settings.timeout.total_seconds()
        self._cache_seconds = settings.cache_seconds.total_seconds()
        self._owner_limit = max(1, settings.threads // 4)
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="names")
        self._cache: OrderedDict[str, tuple[float, list[str]]] = OrderedDict()
        self._running: dict[str, asyncio.Future[list[str]]] = {}
        self._held: Counter[str] = Counter()

    async def addresses(self, host: str, owner: str) -> list[str]:
        """The addresses of a host, best first. ``owner`` is on whose account the lookup runs.

        Raises:
            DestinationUnreachable: there is none, the lookup took too long, or the owner has too many
                lookups hanging.
        """
        try:
            return [str(ip_address(host))]
        except ValueError:
            pass
        now = asyncio.get_running_loop().time()
        cached = self._cache.get(host)
        if cached is not None and now < cached[0]:
            return cached[1]
        running = self._running.get(host) or self._start(host, owner)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                found = await asyncio.shield(running)
        except TimeoutError:
            raise DestinationUnreachable("The name of the tenant's destination could not be looked up in time.") from None
        except (OSError, UnicodeError):
            raise DestinationUnreachable("The name of the tenant's destination has no address.") from None
        self._remember(host, now, found)
        return found

    def _start(self, host: str, owner: str) -> asyncio.Future[list[str]]:
        if self._held[owner] >= self._owner_limit:
            raise DestinationUnreachable("Too many name lookups of this tenant hang. Check the names of its destinations.")
        self._held[owner] += 1
        running = asyncio.get_running_loop().run_in_executor(self._threads, self._lookup, host)
        self._running[host] = running
        running.add_done_callback(lambda done: self._finished(host, owner, done))
        return running

    def _finished(self, host: str, owner: str, done: "asyncio.Future[list[str]]") -> None:
        del self._running[host]
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
        if not done.cancelled():
            done.exception()  # seen, also when every caller has given up

    def _remember(self, host: str, now: float, found: list[str]) -> None:
        self._cache[host] = (now + self._cache_seconds, found)
        self._cache.move_to_end(host)
        while len(self._cache) > CACHE_ENTRIES:
            self._cache.popitem(last=False)

    def close(self) -> None:
        """Let go of the threads; lookups that hang are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
