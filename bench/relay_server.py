"""Relay as shipped: ``relay serve`` with Postgres, journal and ledger, tenants made over ``/admin/v1``, uploads with a real key."""

import base64
import json
import os
import secrets
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.lag_probe import VARIABLE
from bench.loads import BUCKETS, SinkName
from bench.processes import BrokenError, Child, free_port
from bench.servers import ACCESS_KEY, BUCKET, SECRET_KEY, Place, Server
from relay.settings import EMBEDDED, variables

MOST_CONNECTIONS = 10_000
LAG_APP = "bench.lag_probe:create_app"
LAG_FILE = "lag"
DISK_DIRECTORY = "in"


class Desk:
    """The admin side of one running relay."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._token = token

    def post(self, path: str, document: object) -> Any:
        """Make something.

        Raises:
            BrokenError: the answer is no success.
        """
        request = urllib.request.Request(f"{self._url}/admin/v1{path}", data=json.dumps(document).encode(), method="POST")
        request.add_header("Authorization", f"Bearer {self._token}")
        request.add_header("Content-Type", "application/json")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=_no_checks()))
        try:
            with opener.open(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise BrokenError(f"{path}: {error.code} {error.read(500)!r}") from None

    def make_tenant(self, slug: str, destination: Mapping[str, Any]) -> str:
        """Make a tenant whose uploads go to one destination; return its key."""
        self.post("/tenants", {"slug": slug})
        self.post(f"/tenants/{slug}/destinations", {"name": "sink", **destination})
        return str(self.post(f"/tenants/{slug}/keys", {})["key"])


def _destination(place: Place, name: SinkName) -> dict[str, Any]:
    """Where the uploads of a sink's tenant go."""
    if name == "disk":
        return {"kind": "disk", "config": {"directory": DISK_DIRECTORY, "overwrite": "replace"}}
    url = f"http://127.0.0.1:{place.sinks[name]}"
    if name in BUCKETS:
        config: dict[str, Any] = {"bucket": BUCKET, "prefix": name, "endpoint_url": url, "key_template": "{upload_id}"}
        config |= {"sign_bodies": False} if name == "bucket-unsigned" else {}
        return {"kind": "s3", "config": config, "secrets": {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}}
    return {"kind": "http", "config": {"base_url": f"{url}/u", "max_connections": MOST_CONNECTIONS}}


def _no_checks() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # a certificate of our own, on the loopback
    return context


def find_tls_variables() -> dict[str, str] | None:
    """The settings that name a certificate and its key; None where this Relay has none."""
    names = [name for name, _ in variables() if name.startswith("RELAY_TLS_")]
    certificate = next((name for name in names if "CERT" in name), None)
    key = next((name for name in names if "KEY" in name), None)
    return {"certificate": certificate, "key": key} if certificate and key else None


def start_relay(
    place: Place, *, workers: int = 1, is_probed: bool = False, is_tls: bool = False, database_url: str | None = None
) -> Server:
    """Start ``relay serve``, with an embedded Postgres unless there is one to use, and make a tenant for each place that uploads go to."""
    port, token = free_port(), secrets.token_urlsafe()
    env = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    env |= {
        "RELAY_LISTEN": f"127.0.0.1:{port}",
        "RELAY_DATABASE_URL": database_url or EMBEDDED,
        "RELAY_DATA_DIR": str(place.folder / "data"),
        "RELAY_ADMIN_TOKEN": token,
        "RELAY_SECRET_KEY": "bench:" + base64.b64encode(secrets.token_bytes(32)).decode(),
        "RELAY_EGRESS_ALLOW": "127.0.0.0/8",
        "RELAY_DISK_ROOT": str(place.kept),
    }
    command = [sys.executable, "-m", "relay", "serve", "--workers", str(workers)]
    if is_tls:
        names = find_tls_variables() or {}
        env |= dict.fromkeys(names.values(), str(place.certificate))
    if is_probed:
        (place.folder / LAG_FILE).touch()
        env[VARIABLE] = str(place.folder / LAG_FILE)
        command += ["--app", LAG_APP]
    log = place.folder / "log"
    child = Child(command, log=log, env=env)
    try:
        child.wait_until(lambda: b"listening on" in _beginning(log))
        desk = Desk(f"{'https' if is_tls else 'http'}://127.0.0.1:{port}", token)
        mark = secrets.token_hex(4)
        keys = {name: desk.make_tenant(f"bench-{mark}-{name}", _destination(place, name)) for name in place.sinks}
    except BaseException:
        child.stop()
        raise
    return Server("relay", port, child, keys)


def _beginning(log: Path) -> bytes:
    with log.open("rb") as file:
        return file.read(1 << 16)
