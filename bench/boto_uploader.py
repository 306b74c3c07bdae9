"""boto3's ``upload_fileobj``: one process that uploads a file to a bucket again and again, and tells what that took.

    python -m bench.boto_uploader     (told what to do by a line of JSON, as ``bench.generator`` is)

Parts, threads and signatures are boto3's own defaults, so over plain HTTP the SHA-256 of every part is signed unless ``is_signed`` says
otherwise; the checksum of each part is CRC-32C, as Relay's. ``is_verified``: it knows as much of the object as Relay does, by
digests taken while the file is read: the SHA-256, and the MD5, which the object's ETag is compared with, for the store tells no
other checksum.
"""

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import IO, Any

import boto3
import botocore.config

from bench.generator import tell, wait_for_word
from bench.loads import MIB
from bench.memory import forget_peak, held_bytes, peak_bytes


class DigestingFile:
    """A file whose digests are taken while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)

    def read(self, count: int = -1) -> bytes:
        """The next bytes."""
        data = self._file.read(count)
        self._sha256.update(data)
        self._md5.update(data)
        return data

    def receipt(self) -> tuple[str, str]:
        """The SHA-256 of what was read, and the ETag that this store gives to it, however many parts there were."""
        return self._sha256.hexdigest(), f'"{self._md5.hexdigest()}"'


class Uploader:
    """Uploads one file to one key."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{order['port']}",
            aws_access_key_id=order["access_key"],
            aws_secret_access_key=order["secret_key"],
            region_name="us-east-1",
            config=botocore.config.Config(s3={"addressing_style": "path", "payload_signing_enabled": order["is_signed"]}, proxies={}),
        )

    def upload(self, path: str) -> None:
        """Upload a file."""
        target = {"Bucket": self._order["bucket"], "Key": self._order["key"]}
        with Path(path).open("rb") as file:
            body = DigestingFile(file) if self._order["is_verified"] else file
            self._client.upload_fileobj(body, **target, ExtraArgs={"ChecksumAlgorithm": "CRC32C"})
            if isinstance(body, DigestingFile):
                _, expected = body.receipt()
                if (etag := self._client.head_object(**target)["ETag"]) != expected:
                    raise SystemExit(f"the store has {etag}, not {expected}")


def main() -> None:
    """Run it as the module's docstring says."""
    order = json.loads(sys.stdin.readline())
    uploader = Uploader(order)
    uploader.upload(order["warm_path"])
    wait_for_word()
    forget_peak(["self"])
    before = held_bytes(["self"])
    began, cpu, finished = time.perf_counter(), time.process_time(), 0
    while not finished or time.perf_counter() - began < order["seconds"]:
        uploader.upload(order["path"])
        finished += 1
    seconds, spent = time.perf_counter() - began, time.process_time() - cpu
    peak = peak_bytes(["self"])
    tell(finished, seconds, spent, {"peak_mib": peak / MIB, "mib_each": (peak - before) / MIB})


if __name__ == "__main__":
    main()
