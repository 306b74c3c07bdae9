"""Real stores for tests: servers that speak S3, started when the first test asks, each test with a bucket of its own.

``moto`` knows what S3 promises: conditions, checksums, lists of open uploads. ``rclone`` keeps objects on disk and ignores what it
does not know, as many a store does.
"""

import contextlib
import functools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI-bPxRfiCYEXAMPLEKEY"
REGION = "us-east-1"
START_SECONDS = 25.0


@dataclass(frozen=True)
class StoreServer:
    """A running server."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @functools.cache  # noqa: B019 - one for each server, and it takes a while to make
    def client(self) -> Any:
        """What reads back what was written: a client that we did not write."""
        import boto3  # noqa: PLC0415 - it takes half a second, and few tests read from buckets
        import botocore.config  # noqa: PLC0415

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name=REGION,
            config=botocore.config.Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0}),
        )

    def make_bucket(self) -> "TestBucket":
        name = f"bucket-{secrets.token_hex(6)}"
        client = self.client()
        client.create_bucket(Bucket=name)
        return TestBucket(self, name, client)


@dataclass(frozen=True)
class TestBucket:
    """A bucket of one test."""

    __test__ = False

    server: StoreServer
    name: str
    client: Any

    def read(self, key: str) -> bytes:
        body: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return body

    def head(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.head_object(Bucket=self.name, Key=key)
        return found

    def put(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=body)

    def keys(self) -> list[str]:
        return sorted(item["Key"] for item in self.client.list_objects_v2(Bucket=self.name).get("Contents", []))

    def open_uploads(self) -> list[str]:
        try:
            return [item["Key"] for item in self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])]
        except self.client.exceptions.NoSuchUpload:  # what rclone says of a bucket that has never had one
            return []


@contextlib.contextmanager
def moto() -> Iterator[StoreServer]:
    """Start a moto server; it takes parts of any size, so that tests need not send megabytes."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, port, S3_UPLOAD_PART_MIN_SIZE="1"):
        yield StoreServer(port)


@contextlib.contextmanager
def rclone(*, is_signed: bool = True) -> Iterator[StoreServer]:
    """Start rclone on a folder of its own. Where it asks for no signatures, it takes Google's requests, too."""
    port = free_port()
    program = Path(sys.executable).with_name("rclone")
    with tempfile.TemporaryDirectory(prefix="relay-rclone-") as folder:
        options = ["serve", "s3", folder, "--addr", f"127.0.0.1:{port}", "--config", os.devnull]
        options += ["--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"] if is_signed else []
        with _running([str(program), *options], port):
            yield StoreServer(port)
        shutil.rmtree(folder, ignore_errors=True)
        Path(folder).mkdir(exist_ok=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _running(command: list[str], port: int, **variables: str) -> Iterator[None]:
    process = subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "the store did not start"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise AssertionError("the store does not listen")
