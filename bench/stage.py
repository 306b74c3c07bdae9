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
from bench.loads import BUCKETS, GIB, KIB, SinkName, body_pieces
from bench.processes import BrokenError, Child, cpu_seconds
from bench.relay_server import find_tls_variables, start_relay
from bench.servers import INSTALL_PROXIES, INSTALL_PYTHON, Place, Server

NARROW_BYTES = 64 * KIB
BACKLOG = 4_096
ROOM_BYTES = 4 * GIB
PYTHON_APPS = {"textbook": "bench.textbook:app", "proxy-lib": "bench.proxy_lib:app", "upload-file": "bench.upload_file:app"}
COPIES = ("copy", "copy-openssl", "copy-unsynced")
BOTOS = ("boto3", "boto3-verified", "boto3-verified-unsigned")
PROGRAMS: dict[str, tuple[str, Callable[[Place, str], Server]]] = {
    "nginx-default": ("nginx", partial(servers.start_nginx, variant="")),
    "nginx-unbuffered": ("nginx", partial(servers.start_nginx, variant=servers.UNBUFFERED)),
    "nginx-256k": ("nginx", partial(servers.start_nginx, variant=servers.UNBUFFERED_256K)),
    "nginx-tls": ("nginx", partial(servers.start_nginx, variant=servers.UNBUFFERED_256K, is_tls=True)),
    "haproxy": ("haproxy", partial(servers.start_haproxy, variant="")),
    "haproxy-splice": ("haproxy", partial(servers.start_haproxy, variant="option splice-request")),
    "caddy": ("caddy", servers.start_caddy),
    "rclone": ("rclone", servers.start_rclone),
    "bucket": ("rclone", servers.start_bucket),
}


def find_obstacle(server: str) -> str | None:
    """Why a server cannot take part here, with the command that changes it; None where it can."""
    is_python = server in {*PYTHON_APPS, *BOTOS, "relay-bucket", "rclone"}  # rclone comes as a package of Python
    if is_python and (not servers.BENCH_PYTHON.is_file() or (server not in PYTHON_APPS and servers.find_program("rclone") is None)):
        return f"not installed: {INSTALL_PYTHON}"
    if server in {*COPIES, "upload-file", "relay-disk"} and shutil.disk_usage(tempfile.gettempdir()).free < ROOM_BYTES:
        return f"no {ROOM_BYTES // GIB} GiB free in {tempfile.gettempdir()}: TMPDIR=<a folder on a disk> make bench-full"
    if server in PROGRAMS and servers.find_program(PROGRAMS[server][0]) is None:
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
        self._ports: dict[SinkName, int] = {"disk": 0}
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

    def spent_by_sink(self, sink: SinkName) -> float:
        """The processor time of who takes what is sent there; a disk has none."""
        if sink in BUCKETS:
            return self.bucket().spent()[0]
        return cpu_seconds(self.sinks[sink].pid) if sink in self.sinks else 0.0

    def bucket(self) -> Server:
        """A store that speaks S3."""
        return self.server("bucket")

    def port_of(self, sink: SinkName) -> int:
        """Where a sink listens."""
        return self._ports[sink]

    def folder_of(self, name: str) -> Path:
        """Where a server keeps what it writes."""
        return self._folder / name

    def kept_by(self, name: str) -> Path:
        """Where a server keeps the files that it is there to keep."""
        kept = self._folder / "kept" / name
        kept.mkdir(parents=True, exist_ok=True)
        return kept

    def file_of(self, size: int) -> Path:
        """A file as large as that, of the bytes that the generator sends."""
        path = self._folder / f"file-{size}"
        if not path.exists():
            with path.open("wb") as file:
                for piece in body_pieces(size):
                    file.write(piece)
        return path

    def _start(self, name: str) -> Server:
        if name == "direct":
            return Server("direct", self._ports["plain"], None)
        folder = self.folder_of(name)
        folder.mkdir()
        if name in {"relay-bucket", "rclone"}:
            self._ports |= dict.fromkeys(BUCKETS, self.bucket().port)
        place = Place(folder, dict(self._ports), self._certificate, self.kept_by(name))
        if name in PYTHON_APPS:
            return servers.start_python(place, PYTHON_APPS[name])
        if name in PROGRAMS:
            program, start = PROGRAMS[name]
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
