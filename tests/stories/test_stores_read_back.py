"""What Relay wrote over sockets is read back by clients that others wrote; and what is garbled on the way to a store never shows."""

import asyncio
import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from azure.storage.blob import ContainerClient
from crc32c import crc32c

from tests.support.azurite import ACCOUNT, KEY, names_in
from tests.support.running_relay import RunningRelay, running_relay
from tests.support.store_proxy import Asked, Flip, StoreProxy, Whim
from tests.support.stores import ACCESS_KEY, SECRET_KEY, StoreServer, TestBucket, rclone

MIB = 1 << 20
PART = 5 * MIB
OWN_KEY = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
FIELDS = {"Content-Type": "image/png", "Cache-Control": "no-store", "X-Object-Meta-Taken-By": "me"}


@dataclass
class Door:
    """A relay with a destination, and a client that has a key."""

    relay: RunningRelay
    client: httpx.AsyncClient

    async def upload(self, path: str, content: bytes) -> httpx.Response:
        return await self.client.post(f"/upload/{path}", content=content, headers=FIELDS)


@asynccontextmanager
async def door(database_url: str, folder: Path, kind: str, config: dict[str, Any], secrets: dict[str, str]) -> AsyncIterator[Door]:
    async with running_relay(database_url, folder) as relay:
        tenant = await relay.tenant()
        document = {"name": "store", "kind": kind, "config": config, "secrets": secrets}
        await relay.post(f"/tenants/{tenant.slug}/destinations", document)
        async with httpx.AsyncClient(base_url=relay.url, headers=tenant.headers, trust_env=False, timeout=60) as client:
            yield Door(relay, client)


def bucket_config(bucket: TestBucket, url: str | None = None) -> dict[str, Any]:
    return {"bucket": bucket.name, "endpoint_url": url or bucket.server.url, "part_bytes": PART}


def encoded_crc(content: bytes) -> str:
    return base64.b64encode(crc32c(content).to_bytes(4, "big")).decode()


async def test_what_is_in_a_bucket_is_read_back_by_amazons_own_client(database_url: str, tmp_path: Path, moto_server: StoreServer) -> None:
    bucket = moto_server.make_bucket()
    whole, parts = os.urandom(1_000), os.urandom(PART + 1)
    async with door(database_url, tmp_path, "s3", bucket_config(bucket), OWN_KEY) as opened:
        for name, content in (("höhe/whole.png", whole), ("höhe/parts.png", parts)):
            answer = await opened.upload(name, content)
            assert answer.status_code == 201, answer.text
            [stored] = answer.json()["objects"]
            found = await asyncio.to_thread(bucket.client.get_object, Bucket=bucket.name, Key=name, ChecksumMode="ENABLED")
            assert found["Body"].read() == content, "the client compares it with the checksum itself, too"
            assert (found["ContentType"], found["CacheControl"], found["Metadata"]) == ("image/png", "no-store", {"taken-by": "me"})
            assert (found["ETag"].strip('"'), found["ContentLength"]) == (stored["etag"], stored["size"])
            assert stored["sha256"] == hashlib.sha256(content).hexdigest()
        told = await asyncio.to_thread(bucket.client.head_object, Bucket=bucket.name, Key="höhe/parts.png", ChecksumMode="ENABLED")
    pieces = b"".join(crc32c(piece).to_bytes(4, "big") for piece in (parts[:PART], parts[PART:]))
    assert told["ChecksumCRC32C"].removesuffix("-2") == encoded_crc(pieces)


async def test_what_is_in_a_bucket_of_googles_is_read_back_by_rclone(database_url: str, tmp_path: Path) -> None:
    contents = {"höhe/whole.png": os.urandom(1_000), "höhe/parts.png": os.urandom(PART + 1)}
    with rclone(is_signed=False) as server:
        bucket = server.make_bucket()
        async with door(database_url, tmp_path, "gcs", bucket_config(bucket), OWN_KEY) as opened:
            for name, content in contents.items():
                answer = await opened.upload(name, content)
                assert answer.status_code == 201, answer.text
        remote = f":s3,provider=GCS,env_auth=false,endpoint='{server.url}':{bucket.name}"
        program = Path(sys.executable).with_name("rclone")
        options = ["--config", os.devnull, "--retries", "1"]

        def ask(*command: str) -> bytes:
            return subprocess.run([program, *command, *options], check=True, capture_output=True).stdout

        listed = json.loads(await asyncio.to_thread(ask, "lsjson", "--recursive", "--files-only", remote))
        assert {each["Path"]: each["Size"] for each in listed} == {name: len(content) for name, content in contents.items()}
        for name, content in contents.items():
            assert await asyncio.to_thread(ask, "cat", f"{remote}/{name}") == content


def flipping(is_content: Callable[[Asked], bool]) -> Callable[[Asked], Whim]:
    return lambda asked: Flip() if is_content(asked) else None


def is_put(asked: Asked) -> bool:
    return asked.method == "PUT" and "comp=blocklist" not in asked.target and ".relay-probe" not in asked.target


async def is_told(opened: Door, content: bytes) -> None:
    """The client is told 502 and the ledger has a failure of the destination."""
    answer = await opened.upload("a.png", content)
    assert (answer.status_code, answer.headers["content-type"]) == (502, "application/problem+json"), answer.text
    assert answer.json()["code"] == "destination_broke"
    entry = await opened.relay.entry(upload_id=answer.headers["relay-upload-id"])
    assert (entry["outcome"], entry["code"], entry["bytes_delivered"]) == ("destination_failed", "destination_broke", 0)


@pytest.mark.parametrize(
    "size", [1_000, pytest.param(PART + 1, marks=[pytest.mark.full, pytest.mark.timeout(120)])], ids=["whole", "parts"]
)
async def test_bits_that_flip_between_relay_and_bucket_are_told_and_never_show(
    database_url: str, tmp_path: Path, plain_bucket: TestBucket, size: int
) -> None:
    async with (
        StoreProxy(plain_bucket.server.port, flipping(is_put)) as proxy,
        door(database_url, tmp_path, "s3", bucket_config(plain_bucket, proxy.url), OWN_KEY) as opened,
    ):
        await is_told(opened, os.urandom(size))
    assert plain_bucket.keys() == [] and plain_bucket.open_uploads() == []


@pytest.mark.parametrize(
    "size", [1_000, pytest.param(MIB + 1, marks=[pytest.mark.full, pytest.mark.timeout(120)])], ids=["whole", "blocks"]
)
async def test_bits_that_flip_between_relay_and_container_are_told_and_never_show(
    database_url: str, tmp_path: Path, container: ContainerClient, size: int
) -> None:
    port = urlsplit(container.url).port
    assert port is not None
    async with StoreProxy(port, flipping(is_put)) as proxy:
        config = {"account": ACCOUNT, "container": container.container_name, "endpoint_url": f"{proxy.url}/{ACCOUNT}", "block_bytes": MIB}
        async with door(database_url, tmp_path, "azure", config, {"account_key": KEY}) as opened:
            await is_told(opened, os.urandom(size))
    assert names_in(container) == []
