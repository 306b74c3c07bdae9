"""The stage: sinks and servers that are running, started when a row first needs them, ended together."""

import contextlib
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench import servers
from bench.certificate import make_certificate
from bench.loads import KIB, SinkName
from bench.processes import BrokenError, Child
from bench.relay_server import find_tls_variables, start_relay
from bench.servers import INSTALL_PROXIES, INSTALL_PYTHON, Place, Server

NARROW_BYTES = 64 * KIB
BACKLOG = 4_096
PYTHON_APPS = {"textbook": "bench.textbook:app", "proxy-lib": "bench.proxy_lib:app"}
PROXIES: dict[str, tuple[str, Callable[[Place, str], Server]]] = {
    "nginx-default": ("nginx", partial(servers.start_nginx, variant="")),
    "nginx-unbuffered": ("nginx", partial(servers.start_nginx, variant=servers.UNBUFFERED)),
    "nginx-256k": ("nginx", partial(servers.start_nginx, variant=servers.UNBUFFERED_256K)),
    "nginx-tls": ("nginx", partial(servers.start_nginx, variant=servers.UNBUFFERED_256K, is_tls=True)),
    "haproxy": ("haproxy", partial(servers.start_haproxy, variant="")),
    "haproxy-splice": ("haproxy", partial(servers.start_haproxy, variant="option splice-request")),
    "caddy": ("caddy", servers.start_caddy),
}


def find_obstacle(server: str) -> str | None:
    """Why a server cannot take part here, with the command that changes it; None where it can."""
    if server in PYTHON_APPS and not servers.BENCH_PYTHON.is_file():
        return f"not installed: {INSTALL_PYTHON}"
    if server in PROXIES and servers.find_program(PROXIES[server][0]) is None:
        return f"not installed: {INSTALL_PROXIES}"
    if server == "relay-tls" and find_tls_variables() is None:
        return "this Relay has no settings for a certificate of its own"
    return None


class Stage:
    """Everything that runs for a group of rows."""

    def __init__(self, database_url: str | None = None) -> None:
        self.database_url = database_url
        self._stack = contextlib.ExitStack()
        self._folder = Path(tempfile.mkdtemp(prefix="relay-bench-"))
        self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
        self._servers: dict[str, Server] = {}
        self.sinks: dict[SinkName, Child] = {}
        self._ports: dict[SinkName, int] = {}
        self._certificate = make_certificate(self._folder)

    def open(self) -> None:
        """Start the sinks."""
        names: tuple[SinkName, ...] = ("plain", "closing", "narrow")
        for name in names:
            with socket.socket() as listening:
                if name == "narrow":
                    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW_BYTES)
                listening.bind(("127.0.0.1", 0))
                listening.listen(BACKLOG)
                listening.set_inheritable(True)
                command = [sys.executable, "-m", "bench.sink", str(listening.fileno()), name]
                self.sinks[name] = Child(command, log=self._folder / f"sink-{name}", pass_fds=[listening.fileno()])
                self._ports[name] = listening.getsockname()[1]
            self._stack.callback(self.sinks[name].stop)

    def close(self) -> None:
        """End everything, the youngest first."""
        self._stack.close()

    def server(self, name: str) -> Server:
        """A running server.

        Raises:
            BrokenError: it does not start.
        """
        if name not in self._servers:
            self._servers[name] = self._start(name)
            self._stack.callback(self._servers[name].stop)
        return self._servers[name]

    def renewed(self, name: str) -> Server:
        """A server that has just been started; one of the same name that runs is ended."""
        if name in self._servers:
            self._servers.pop(name).stop()
            shutil.rmtree(self.folder_of(name))
        return self.server(name)

    def told_by(self, name: str) -> str:
        """The end of a server's log, if it runs."""
        return self._servers[name].told() if name in self._servers else ""

    def port_of(self, sink: SinkName) -> int:
        """Where a sink listens."""
        return self._ports[sink]

    def folder_of(self, name: str) -> Path:
        """Where a server keeps what it writes."""
        return self._folder / name

    def _start(self, name: str) -> Server:
        if name == "direct":
            return Server("direct", self._ports["plain"], None)
        folder = self.folder_of(name)
        folder.mkdir()
        place = Place(folder, dict(self._ports), self._certificate)
        if name in PYTHON_APPS:
            return servers.start_python(place, PYTHON_APPS[name])
        if name in PROXIES:
            program, start = PROXIES[name]
            found = servers.find_program(program)
            if found is None:
                raise BrokenError(f"{name}: {find_obstacle(name)}")
            return start(place, found)
        return start_relay(
            place,
            workers=2 if name == "relay-2" else 1,
            is_probed=name == "relay-lag",
            is_tls=name == "relay-tls",
            database_url=self.database_url,
        )


@contextlib.contextmanager
def staged(database_url: str | None = None) -> Iterator[Stage]:
    """A stage that is taken down at the end."""
    stage = Stage(database_url)
    try:
        stage.open()
        yield stage
    finally:
        stage.close()
