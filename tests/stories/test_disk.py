"""A disk destination: one raw body becomes one file below the tenant's folder, or nothing does."""

import hashlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

from tests.stories.speech import client_of, head, problem_of, raw_problem_of, say
from tests.support.raw_client import RawClient
from tests.support.running_relay import running_relay
from tests.support.waiting import until

OUTSIDE = [
    "../x",
    "%2e%2e/x",
    "..%2fx",
    "a/%2e%2e/%2e%2e/x",
    "%2Fetc%2Fpasswd",
    "a%5c..%5cx",
    "link/x",
    "link/sub/x",
    "dangling/x",
]
NO_NAMES = [
    "",
    "a/",
    "a//b",
    "/a",
    "%00",
    "a%0ab",
    "%ff",
    "a/%ff%fe/b",
    "%C3",
    "%ED%A0%80",
    "x" * 300,
    "ü" * 128,
    ".relay-tmp/x",
    ".RELAY-TMP/x",
]
NAMES = [
    "plain.txt",
    "with space.txt",
    "grüße/東京 ☂.bin",
    "combining/e\u0301",
    "combining/\u00e9",
    "percent%20.txt",
    "question?hash#.txt",
    "...",
    ".hidden/..b",
    "-rf",
    "'quoted\" $(x) `y`",
    "n" * 255,
    "deep/" * 30 + "file",
]


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


async def test_a_raw_body_becomes_a_file_and_the_answer_is_its_receipt(database_url: str, tmp_path: Path) -> None:
    async with running_relay(database_url, tmp_path) as relay, client_of(relay) as client:
        tenant = await relay.tenant()
        folder = await relay.disk_destination(tenant, "acme/in")
        await relay.disk_destination(tenant, "acme/in", name="replacing", overwrite="replace")
        await relay.post(f"/tenants/{tenant.slug}/routes", {"prefix": "r", "destination": "replacing", "strip_prefix": True})
        headers = tenant.headers
        expected: dict[str, bytes] = {}
        for name in NAMES:
            content = os.urandom(1000) + name.encode()
            expected[name] = content
            answer = await client.put(f"/upload/{quote(name)}", content=content, headers={**headers, "Content-Type": "text/x-thing; a=b"})
            assert answer.status_code == 201, (name, answer.text)
            assert answer.headers["content-type"] == "application/json"
            stored = {
                "key": name,
                "size": len(content),
                "content_type": "text/x-thing; a=b",
                "filename": None,
                "field": None,
                "sha256": hashlib.sha256(content).hexdigest(),
                "etag": None,
                "version": None,
            }
            assert json.dumps(answer.json()) == json.dumps({"upload_id": answer.headers["relay-upload-id"], "objects": [stored]})
        assert files_below(folder) == expected

        large = os.urandom(3_000_000)
        entry = await relay.entry(upload_id=(await client.post("/upload/large", content=large, headers=headers)).headers["relay-upload-id"])
        assert (entry["outcome"], entry["status"], entry["upstream_status"], entry["destination"]) == ("delivered", 201, 201, "disk")
        assert (
            entry["digests"]["sha256"] == hashlib.sha256(large).hexdigest() == hashlib.sha256((folder / "large").read_bytes()).hexdigest()
        )

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(large), 100_000):
                yield large[start : start + 100_000]

        chunked = await client.post("/upload/chunked", content=chunks(), headers=headers)
        assert (chunked.status_code, chunked.json()["objects"][0]["size"], chunked.json()["objects"][0]["content_type"]) == (
            201,
            3_000_000,
            None,
        )
        empty = await client.put("/upload/empty", headers=headers)
        assert empty.json()["objects"][0]["sha256"] == hashlib.sha256(b"").hexdigest()

        taken = await client.post("/upload/large", content=b"other", headers=headers)
        problem_of(taken, 409, "object_exists")
        refused = await relay.entry(upload_id=taken.headers["relay-upload-id"])
        assert (refused["outcome"], refused["code"], refused["bytes_delivered"], refused["digests"]) == (
            "refused",
            "object_exists",
            0,
            None,
        )
        problem_of(await client.post("/upload/plain.txt/below", content=b"x", headers=headers), 409, "object_exists")
        problem_of(await client.post("/upload/grüße", content=b"x", headers=headers), 409, "object_exists")
        assert (folder / "large").read_bytes() == large
        replaced = await client.post("/upload/r/large", content=b"other", headers=headers)
        assert (replaced.status_code, replaced.json()["objects"][0]["key"]) == (201, "large")
        assert (folder / "large").read_bytes() == b"other"


async def test_a_file_is_seen_whole_or_not_at_all_and_of_two_of_one_name_one_wins(database_url: str, tmp_path: Path) -> None:
    async with running_relay(database_url, tmp_path) as relay:
        tenant = await relay.tenant()
        folder = await relay.disk_destination(tenant)
        content = os.urandom(2_000_000)
        async with RawClient(*relay.address) as first, RawClient(*relay.address) as second:
            for client in (first, second):
                await client.send(head("/upload/a/b", f"X-API-Key: {tenant.key}", f"Content-Length: {len(content)}") + content[:-1])
            assert not (folder / "a" / "b").exists()
            for client in (first, second):
                await client.send(content[-1:])
            answers = [await client.answer() for client in (first, second)]
        assert sorted(answer.status for answer in answers) == [201, 409]
        assert files_below(folder) == {"a/b": content}
        (loser,) = [answer for answer in answers if answer.status == 409]
        raw_problem_of(loser, 409, "object_exists")
        entry = await relay.entry(upload_id=loser.value("relay-upload-id") or "")
        assert (entry["outcome"], entry["bytes_in"], entry["bytes_delivered"]) == ("client_fault", len(content), 0)


async def test_what_is_not_one_whole_file_below_the_folder_is_refused_and_leaves_nothing(database_url: str, tmp_path: Path) -> None:
    async with running_relay(database_url, tmp_path) as relay, client_of(relay) as client:
        tenant = await relay.tenant(limits={"max_upload_bytes": 1_000_000})
        folder = await relay.disk_destination(tenant, "acme")
        outside = tmp_path / "outside"
        (outside / "sub").mkdir(parents=True)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "link").symlink_to(outside)
        (folder / "dangling").symlink_to(outside / "absent")

        for rest in OUTSIDE + [quote(name, safe="/%") for name in NO_NAMES]:
            request = head(f"/upload/{rest}", f"X-API-Key: {tenant.key}", "Content-Length: 1") + b"x"
            answer = await say(relay, request)
            assert 400 <= answer.status < 500, (rest, answer.status, answer.body)
            if rest not in OUTSIDE[-3:]:
                raw_problem_of(answer, 400, "path_invalid")

        part = await client.put("/upload/part", content=b"x" * 10, headers={**tenant.headers, "Content-Range": "bytes 0-9/100"})
        assert part.status_code == 400
        assert part.headers["content-type"] == "application/problem+json"

        # A body that ends too soon, and one that grows too long, after its first bytes are on the disk.
        async with RawClient(*relay.address) as raw:
            await raw.send(head("/upload/cut", f"X-API-Key: {tenant.key}", "Content-Length: 900000") + b"x" * 600_000)
            raw.close()
        chunk = b"%x\r\n" % 600_000 + b"x" * 600_000 + b"\r\n"
        grown = await say(
            relay, head("/upload/grown", f"X-API-Key: {tenant.key}", "Transfer-Encoding: chunked") + chunk + chunk + b"0\r\n\r\n"
        )
        raw_problem_of(grown, 413, "upload_too_large")

        async def are_both_told() -> bool:
            told = {entry["path"]: entry["outcome"] for entry in await relay.entries()}
            return told.get("cut") == "client_gone" and told.get("grown") == "client_fault"

        await until(are_both_told)
        assert not files_below(folder)
        assert not files_below(outside)
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and "outside" in path.parts]
        root = relay.settings.disk.root
        assert root is not None
        assert not files_below(root), "no temporary file stays"
        after = await client.post("/upload/cut", content=b"whole", headers=tenant.headers)
        assert after.status_code == 201
