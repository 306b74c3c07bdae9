"""The compose project of one run: its services, and what a user of it sees."""

import contextlib
import hashlib
import json
import os
import re
import secrets
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from verification.telling import LONG_SECONDS, SHORT_SECONDS, Failed, expect, note, run, substitute

ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.25
LINES = ["bucket", "url", "tenant", "key", "admin-token", "upload", "forward", "ledger", "ready"]
READ_BACK = """
IFS=, read -r RCLONE_S3_ACCESS_KEY_ID RCLONE_S3_SECRET_ACCESS_KEY < /etc/relay/secrets/bucket-key
export RCLONE_S3_ACCESS_KEY_ID RCLONE_S3_SECRET_ACCESS_KEY RCLONE_S3_PROVIDER=Rclone RCLONE_S3_ENDPOINT=http://127.0.0.1:8002
rclone cat :s3:demo/README.md | sha256sum
"""
SECRETS = ("postgres-password", "database-url", "secret-key", "admin-token", "bucket-key")
ONE_SHOTS = ("secrets", "migrate")
SERVICES = ("postgres", "relay", "example-upstream", "example-bucket")


class Stack:
    """The compose project of this run."""

    def __init__(self, compose: list[str], environment: dict[str, str]) -> None:
        self._command = [
            *compose,
            "-p",
            f"relay-verify-{secrets.token_hex(3)}",
            "-f",
            str(ROOT / "docker-compose.yml"),
            "--profile",
            "demo",
        ]
        self._environment = environment

    def compose(self, *arguments: str, seconds: float = LONG_SECONDS) -> str:
        """Run the compose program on the project."""
        return run(*self._command, *arguments, seconds=seconds, environment=self._environment, folder=ROOT)

    def container(self, service: str) -> str:
        """The container of a service, finished ones included."""
        found = run(
            "docker",
            "ps",
            "-aq",
            "--filter",
            f"label=com.docker.compose.project={self._command[self._command.index('-p') + 1]}",
            "--filter",
            f"label=com.docker.compose.service={service}",
        ).split()
        expect(len(found) == 1, f"{len(found)} containers of {service}")
        return found[0]

    def inspect(self, service: str) -> dict[str, Any]:
        """What the daemon knows of a service's container."""
        described: dict[str, Any] = json.loads(run("docker", "inspect", self.container(service)))[0]
        return described

    def execute(self, service: str, *command: str) -> str:
        """Run a command in a service's container."""
        return run("docker", "exec", self.container(service), *command)

    def wait_for_health(self, service: str, seconds: float = 120.0) -> None:
        """Wait until the daemon calls a service healthy."""
        until(lambda: self.inspect(service)["State"].get("Health", {}).get("Status") == "healthy", f"{service} is not healthy", seconds)

    def demo_lines(self) -> dict[str, str]:
        """The lines that the service ``demo`` printed last."""
        until(lambda: self.inspect("demo")["State"]["Status"] == "exited", "the service demo does not end", 120)
        told = run("docker", "logs", self.container("demo")).splitlines()
        expect(self.inspect("demo")["State"]["ExitCode"] == 0, f"the service demo failed: {told}")
        last = [line.partition(": ") for line in told[-len(LINES) :]]
        expect([name for name, _, _ in last] == LINES, f"the service demo printed other lines: {told}")
        return {name: value for name, _, value in last}


def until(is_so: Callable[[], object], otherwise: str, seconds: float = SHORT_SECONDS) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not is_so():
        expect(time.monotonic() < deadline, f"not within {seconds:.0f} s: {otherwise}")
        time.sleep(POLL_SECONDS)


def show(lines: dict[str, str]) -> None:
    """Print what the service ``demo`` printed, without its secrets."""
    for name, value in lines.items():
        masked = value.replace(lines["key"], "rk_***").replace(lines["admin-token"], "***")
        note(f"{name}: {masked}".rstrip(": "))


def paste(line: str, folder: Path) -> Any:
    """Run a printed line in a shell, as a user would, and read the JSON that it prints."""
    told = run("sh", "-c", f"{line} --max-time 30 --fail-with-body", folder=folder)
    return json.loads(told)


def fetch(url: str, token: str | None = None) -> str:
    """GET."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the stack's own address
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=20) as answer:
        return str(answer.read().decode())


# ── what runs ────────────────────────────────────────────────────────────────────────────────────


def check_stack(stack: Stack) -> None:
    """Look at what runs: the one-shots are done, the rest is healthy, no secret is told."""
    for service in SERVICES:
        stack.wait_for_health(service)
    for service in ONE_SHOTS:
        expect(stack.inspect(service)["State"]["ExitCode"] == 0, f"{service} failed")
    health = stack.execute("relay", "relay", "health").split("\n")
    expect(health[0] == "ready", f"relay health: {health}")
    note(f"relay health in the container: {', '.join(health).strip(', ')}")
    processes = run("docker", "top", stack.container("relay"), "-eo", "uid,pid,args")
    workers = [line for line in processes.splitlines() if " relay worker " in line]
    expect(len(workers) == 2 and all(line.split()[0] == "10001" for line in workers), f"two workers as user 10001:\n{processes}")
    log = run("sh", "-c", f"docker logs {stack.container('relay')} 2>&1")
    expect("warning: RELAY_DATA_DIR" not in log, f"the data directory is not safe:\n{log[:2000]}")
    networks = {name: set(stack.inspect(name)["NetworkSettings"]["Networks"]) for name in ("postgres", "example-bucket")}
    expect(len(networks["example-bucket"]) == 1 and networks["postgres"].isdisjoint(networks["example-bucket"]), f"networks: {networks}")
    mounts = {mount["Destination"]: mount["Type"] for mount in stack.inspect("relay")["Mounts"]}
    expect(mounts == {"/var/lib/relay": "volume", "/etc/relay/secrets": "volume"}, f"mounts: {mounts}")


def check_secrets(stack: Stack) -> None:
    """No secret stands in a container's environment, command line or log; the demo's own lines excepted."""
    held = {stack.execute("relay", "cat", f"/etc/relay/secrets/{name}").strip() for name in SECRETS}
    expect(len(held) == len(SECRETS) and all(len(secret) > 20 for secret in held), "secrets are missing")
    for service in (*ONE_SHOTS, *SERVICES, "demo"):
        told = json.dumps(stack.inspect(service))
        if service != "demo":
            told += run("sh", "-c", f"docker logs {stack.container(service)} 2>&1")
        expect(not any(part in told for secret in held for part in secret.split(",")), f"{service} tells a secret")
    uid = run(
        "docker",
        "exec",
        "-u",
        "postgres",
        stack.container("postgres"),
        "sh",
        "-c",
        "cat /etc/relay/secrets/secret-key /etc/relay/secrets/admin-token 2>/dev/null | wc -c",
    ).strip()
    expect(uid == "0", "Postgres' user can read the relay's secrets")


def check_upload(lines: dict[str, str], folder: Path) -> None:
    """Send a file of random bytes by the printed line, and read its ledger entry back."""
    content = secrets.token_bytes(300_000)
    (folder / "README.md").write_bytes(content)
    receipt = paste(lines["upload"], folder)
    expect([item["size"] for item in receipt["objects"]] == [len(content)], f"the receipt is {receipt}")
    entry = find_entry(lines, lambda entry: entry.get("upload_id") == receipt["upload_id"])
    expect(entry["outcome"] == "delivered" and entry["path"] == "disk/README.md", f"the entry is {entry}")
    sha256 = receipt["objects"][0]["sha256"]
    note(f"uploaded {len(content)} bytes, sha256 {sha256[:12]}…; {entry['outcome']} in the ledger, upload {entry['upload_id']}")


def check_forward(lines: dict[str, str], folder: Path) -> None:
    """Send the form by the printed line; the example upstream tells what it got."""
    told = paste(lines["forward"], folder)
    expect((told["path"], told["query"]) == ("/upload/hello/world", {"q1": "x"}), f"the upstream was sent {told}")
    size = (folder / "README.md").stat().st_size
    expect([part["size"] for part in told["parts"]] == [size], f"the upstream was sent {told['parts']}")
    expect(len(paste(lines["ledger"], folder)["items"]) == 1, "the printed line of the ledger")
    note(f"the example upstream got POST {told['path']}?q1=x with a part of {size} bytes")


def check_bucket(stack: Stack, lines: dict[str, str], folder: Path) -> None:
    """Send a file into the bucket by the printed line, and read it back as a client of the bucket."""
    content = secrets.token_bytes(9_000_000)  # more than a part
    (folder / "README.md").write_bytes(content)
    receipt = paste(lines["bucket"], folder)
    expect([item["size"] for item in receipt["objects"]] == [len(content)], f"the receipt is {receipt}")
    entry = find_entry(lines, lambda entry: entry.get("upload_id") == receipt["upload_id"])
    expect(entry["outcome"] == "delivered" and entry["path"] == "bucket/README.md", f"the entry is {entry}")
    sha256 = stack.execute("example-bucket", "sh", "-euc", READ_BACK).split()[0]
    expect(sha256 == hashlib.sha256(content).hexdigest() == receipt["objects"][0]["sha256"], "the bucket holds something else")
    note(f"the bucket holds {len(content)} bytes, sha256 {sha256[:12]}…, as sent and as the receipt says; upload {entry['upload_id']}")


def check_backup(stack: Stack) -> None:
    """The commands of docs/deployment.md that copy database and secrets work."""
    dump = stack.execute("postgres", "pg_dump", "-U", "relay", "-Fc", "relay")
    expect(dump.startswith("PGDMP"), "pg_dump in Postgres' container")
    listed = run("sh", "-c", f"docker exec {stack.container('relay')} tar -C /etc/relay -cf - secrets | tar -tf -").split()
    expect({f"secrets/{name}" for name in SECRETS} <= set(listed), f"the secrets' copy holds {listed}")


def find_entry(lines: dict[str, str], is_wanted: Callable[[dict[str, Any]], bool], seconds: float = 30.0) -> dict[str, Any]:
    """Wait for an entry of the ledger."""
    found: list[dict[str, Any]] = []
    address = lines["ledger"].split("'")[-2].replace("limit=1", "limit=100")

    def look() -> bool:
        with contextlib.suppress(OSError, urllib.error.HTTPError):
            found[:] = [entry for entry in json.loads(fetch(address, lines["admin-token"]))["items"] if is_wanted(entry)]
        return bool(found)

    until(look, "the entry is not in the ledger", seconds)
    return found[0]


def check_kill(stack: Stack, lines: dict[str, str], metrics_url: str) -> None:
    """Kill the relay in the middle of an upload; it comes back by itself, and the upload is accounted for."""
    path = f"cut/{secrets.token_hex(4)}"
    before = stack.inspect("relay")
    with begin_upload(lines, path):
        until(
            lambda: re.search(r"^relay_uploads_running [1-9]", re.sub(r"\{[^}]*\}", "", fetch(metrics_url)), re.MULTILINE), "no upload runs"
        )
        kill(stack, before["State"]["Pid"])
        until(lambda: stack.inspect("relay")["State"]["StartedAt"] != before["State"]["StartedAt"], "the relay is not started again")
    stack.wait_for_health("relay")
    after = stack.inspect("relay")
    expect(after["Id"] == before["Id"], "another container came back")
    entry = find_entry(lines, lambda entry: entry["path"] == path)
    expect(entry["outcome"] == "interrupted", f"the upload that was cut by the kill is in the ledger as {entry}")
    note(f"it came back (restarts: {after['RestartCount']}); the upload that ran when it was killed is in the ledger as interrupted")


@contextlib.contextmanager
def begin_upload(lines: dict[str, str], path: str) -> Iterator[None]:
    """Begin an upload and send a part of it; the rest never comes."""
    host, _, port = lines["url"].removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 20) as connection:
        head = f"POST /upload/{path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {lines['key']}\r\nContent-Length: 1000000\r\n\r\n"
        connection.sendall(head.encode() + b"x" * 100_000)
        yield


def kill(stack: Stack, pid: int) -> None:
    """Kill -9 the container's first process, as the kernel would; where it is out of reach, have the daemon do it."""
    command = Path(f"/proc/{pid}/cmdline")
    try:
        expect(b"relay" in command.read_bytes(), "")
        os.kill(pid, signal.SIGKILL)
        note(f"kill -9 {pid}")
    except (OSError, Failed):
        substitute(
            "kill -9 of the container's process",
            "docker kill and docker start: the process is out of reach, and the daemon restarts none that it was asked to kill",
        )
        run("docker", "kill", "-s", "KILL", stack.container("relay"))
        run("docker", "start", stack.container("relay"))
