"""TLS in front: the certificate at the door, and the handshake of a connection before the server's protocol gets it.

Theory of operation
-------------------
A connection comes in plain. ``Handshake`` takes its socket from the loop before that has read anything, agrees on TLS within
a limit, and gives the connection (``secured.py``) to what the server would have made of it without TLS, which neither knows
nor cares. So one server, with TLS or without, is the same code, on any loop.

Nor do those who never finish one keep out those who do: beyond ``HANDSHAKES_MOST`` at once the oldest is dropped, if it has
had ``LEAST_SECONDS``. Where even that one is younger, the new one is: what so many are at work on is worth more than it.

The certificate's files are looked at again every few seconds. Once both have rested for one look, what is in them is judged
as at the start, and taken if it is good: by the handshakes from then on, while connections that are open go on as they are.
What is not good is told once and left where it is, and the certificate of before serves on. No signal is needed, so it
works alike under a supervisor, in a container whose volume is swapped by a link, and with one worker restarted and others not.

A handshake that fails leaves nothing but a count, and a line of the level debug: whoever can reach the port can cause it.
"""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

from relay.protocols.certificates import Certificates, check_pair, describe_time, parse_certificates
from relay.settings import SettingsInvalid, TlsSettings
from relay.telemetry import TLS_HANDSHAKES
from relay.wire.secured import SecuredTransport, shake_hands
from relay.wire.tls import make_server_context

LOOK_SECONDS: Final = 2
LARGEST_FILE: Final = 1 << 20
HANDSHAKES_MOST: Final = 1_000
"""At once, in a process."""

LEAST_SECONDS: Final = 1.0

logger = logging.getLogger(__name__)

State = tuple[tuple[int, int, int], ...]


class FrontCertificate:
    """The certificate at the door, as its files have it."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Read it.

        Raises:
            SettingsInvalid: a file cannot be read, or the two are no pair.
        """
        self._paths = (certificate, key)
        self._seen = self._taken = self._states()
        self._looking: asyncio.Task[None] | None = None
        self.context, self.certificates = self._read()

    @classmethod
    def of(cls, settings: TlsSettings) -> "FrontCertificate | None":
        """The one that the settings name; ``None`` where they name none.

        Raises:
            SettingsInvalid: it cannot be used.
        """
        if settings.certificate is None or settings.key is None:
            return None
        return cls(settings.certificate, settings.key)

    def check_time(self, now: datetime | None = None) -> None:
        """Check that it is valid now.

        Raises:
            SettingsInvalid: not yet, or no longer.
        """
        problem = describe_time(self.certificates, now or datetime.now(UTC))
        if problem is not None:
            raise SettingsInvalid(f"RELAY_TLS_CERTIFICATE: {self._paths[0]} {problem}. Put a valid certificate there.")

    async def look(self) -> None:
        """Have the files looked at, in a thread that is not waited for: a disk that hangs stops nothing else."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_once(), name="certificate")

    async def _look_once(self) -> None:
        try:
            await asyncio.to_thread(self.look_now)
        except SettingsInvalid as error:
            logger.warning("the new certificate is not taken up, the one of before serves on: %s", error)

    def look_now(self) -> None:
        """Look whether the files have changed; take up what is in them if it is good. Blocks.

        Raises:
            SettingsInvalid: it is not good, and this is the first look that found it.
        """
        states = self._states()
        has_rested, self._seen = states == self._seen, states
        if states == self._taken or not has_rested:
            return
        self._taken = states  # whatever comes of it: what is bad is told once
        context, certificates = self._read()
        problem = describe_time(certificates, datetime.now(UTC))
        if problem is not None:
            raise SettingsInvalid(f"{self._paths[0]} {problem}")
        self.context, self.certificates = context, certificates
        logger.info("a new certificate is taken up", extra={"fields": {"expires_at": certificates.chain_ends_at.isoformat()}})

    def _states(self) -> State:
        """What tells that a file is another one; files that are not there are told when they are read."""
        states = []
        for path in self._paths:
            with contextlib.suppress(OSError):
                found = path.stat()
                states.append((found.st_ino, found.st_size, found.st_mtime_ns))
        return tuple(states)

    def _read(self) -> tuple[ssl.SSLContext, Certificates]:
        certificate = _read_file("RELAY_TLS_CERTIFICATE", self._paths[0])
        key = _read_file("RELAY_TLS_KEY", self._paths[1])
        try:
            certificates = parse_certificates(certificate.decode("utf-8", "replace"), may_hold_key=True)
        except ValueError as error:
            raise SettingsInvalid(f"RELAY_TLS_CERTIFICATE: {self._paths[0]}: {error}") from None
        try:
            check_pair(certificates, key.decode("utf-8", "replace"))
            return make_server_context(certificates.pem.encode(), key), certificates
        except ssl.SSLError as error:
            why = (error.reason or "no reason").replace("_", " ").lower()
            raise SettingsInvalid(f"RELAY_TLS_CERTIFICATE, RELAY_TLS_KEY: OpenSSL does not take them ({why})") from None
        except ValueError as error:
            raise SettingsInvalid(f"RELAY_TLS_KEY: {self._paths[1]}: {error}") from None


def _read_file(variable: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise SettingsInvalid(f"{variable}: {path} cannot be read ({os.strerror(error.errno or 0)})") from None
    if len(data) > LARGEST_FILE:
        raise SettingsInvalid(f"{variable}: {path} is too large to be one")
    return data


class Handshakes:
    """All that run in a process. The server calls it for each connection; ``make`` makes what takes it over."""

    def __init__(self, front: FrontCertificate, seconds: float, make: Callable[..., Any]) -> None:
        self.front = front
        self.seconds = seconds
        self.make = make
        self._running: dict[Handshake, float] = {}
        """When each began; the oldest stands first."""

    def __call__(self, **given: Any) -> "Handshake":
        """Take what the server gives to each of its connections."""
        return Handshake(self, given)

    def admit(self, new: "Handshake", now: float) -> bool:
        """Whether one may begin; where there are too many, one of them is dropped."""
        if len(self._running) >= HANDSHAKES_MOST:
            TLS_HANDSHAKES.labels("dropped").inc()
            oldest, began = next(iter(self._running.items()))
            if now - began < LEAST_SECONDS:
                return False
            self.leave(oldest)
            oldest.shutdown()
        self._running[new] = now
        return True

    @property
    def running(self) -> int:
        """How many have begun and not ended."""
        return len(self._running)

    def leave(self, one: "Handshake") -> None:
        """It has ended, or will."""
        self._running.pop(one, None)


class Handshake(asyncio.Protocol):
    """A connection on which TLS is due."""

    def __init__(self, shared: Handshakes, given: dict[str, Any]) -> None:
        self._shared = shared
        self._given = given
        self._connections: set[Any] = given["server_state"].connections
        self._loop: asyncio.AbstractEventLoop = given.get("_loop") or asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection's socket: the loop lets go of its own hold on it, of which the client sees nothing."""
        if self._shared.admit(self, self._loop.time()):
            try:
                plain = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
            except OSError:  # no descriptor is left
                self._shared.leave(self)
                TLS_HANDSHAKES.labels("failed").inc()
            else:
                self._connections.add(self)
                self._task = self._loop.create_task(self._run(plain), name="handshake")
                self._task.add_done_callback(lambda _: self._leave(plain))  # even of one that never began
        cast("asyncio.Transport", transport).abort()

    def tick(self, now: float) -> None:
        """Nothing: the handshake has a timer of its own."""

    def shutdown(self) -> None:
        """Give up, as the server tells a connection when it stops: no request has come."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self, plain: socket.socket) -> None:
        with contextlib.ExitStack() as unless_completed:
            try:
                plain.setblocking(False)
                secured = self._shared.front.context.wrap_socket(plain, True, do_handshake_on_connect=False, suppress_ragged_eofs=False)
                unless_completed.callback(secured.close)
                async with asyncio.timeout(self._shared.seconds):
                    await shake_hands(self._loop, secured)
                SecuredTransport(self._loop, secured, self._shared.make(**self._given))
            except OSError as error:  # of which ssl.SSLError and TimeoutError are two
                logger.debug("a TLS handshake failed: %s", type(error).__name__)
                TLS_HANDSHAKES.labels("too_slow" if isinstance(error, TimeoutError) else "failed").inc()
            else:
                TLS_HANDSHAKES.labels("completed").inc()
                unless_completed.pop_all()

    def _leave(self, plain: socket.socket) -> None:
        plain.close()  # nothing, once TLS has taken it over
        self._shared.leave(self)
        self._connections.discard(self)
