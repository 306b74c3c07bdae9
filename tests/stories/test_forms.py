"""A form to a store: each file becomes an object, whole or not at all; the answer and the ledger say which."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.stories.speech import client_of, head, problem_of
from tests.support.raw_client import RawClient
from tests.support.running_relay import RunningRelay

pytestmark = pytest.mark.asyncio(loop_scope="module")

BOUNDARY = "x-boundary"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
PNG = bytes(range(256)) * 4_000


def part(disposition: str, content: bytes, *lines: str) -> bytes:
    named = "\r\n".join([f"Content-Disposition: form-data; {disposition}", *lines])
    return f"--{BOUNDARY}\r\n{named}\r\n\r\n".encode() + content + b"\r\n"


def form(*parts: bytes, end: str = f"--{BOUNDARY}--\r\n") -> bytes:
    return b"".join(parts) + end.encode()


def file(name: str, content: bytes) -> bytes:
    return part(f'name="f"; filename="{name}"', content)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


async def place(relay: RunningRelay, slug: str, **config: Any) -> tuple[dict[str, str], Path]:
    tenant = await relay.tenant(slug)
    folder = await relay.disk_destination(tenant, slug, **config)
    return {**tenant.headers, "Content-Type": TYPE}, folder


async def test_every_file_of_a_form_becomes_an_object_and_fields_go_to_receipt_and_ledger(shared_relay: RunningRelay) -> None:
    headers, folder = await place(shared_relay, "forms")
    body = form(
        part('name="album"', "Frühling".encode()),
        part("name=\"photo\"; filename*=UTF-8''%F0%9F%8C%B3.png", PNG, "Content-Type: image/png"),
        part('name="note"; filename="C:\\\\docs\\\\a b.txt"', b"hello"),
        part('name="none"; filename=""', b"", "Content-Type: application/octet-stream"),
        part('name="album"', b"2026"),
    )
    async with client_of(shared_relay) as client:
        answer = await client.post("/upload/2026/may", content=body, headers=headers)
        assert answer.status_code == 201, answer.text
        upload_id = answer.headers["relay-upload-id"]
        photo = {"key": "2026/may/🌳.png", "size": len(PNG), "content_type": "image/png", "filename": "🌳.png", "field": "photo"}
        note = {"key": "2026/may/a b.txt", "size": 5, "content_type": None, "filename": "a b.txt", "field": "note"}
        objects = [
            {**stored, "sha256": hashlib.sha256(content).hexdigest(), "etag": None, "version": None}
            for stored, content in ((photo, PNG), (note, b"hello"))
        ]
        fields = [{"name": "album", "value": "Frühling"}, {"name": "album", "value": "2026"}]
        assert answer.json() == {"upload_id": upload_id, "objects": objects, "fields": fields}
        assert files_below(folder) == {"2026/may/🌳.png": PNG, "2026/may/a b.txt": b"hello"}
        entry = await shared_relay.entry(upload_id=upload_id)
        assert (entry["outcome"], entry["filenames"], entry["bytes_in"]) == ("delivered", ["🌳.png", "a b.txt"], len(body))
        assert entry["bytes_delivered"] == len(PNG) + 5
        report = (await client.get(f"/uploads/{upload_id}", headers=headers)).json()
        assert (report["objects"], report["fields"]) == (objects, fields) == (entry["objects"], entry["fields"])


@pytest.mark.parametrize("ending", ["cut off", "taken", "malformed", "same name"])
async def test_a_form_that_fails_keeps_what_had_landed_and_says_so(shared_relay: RunningRelay, ending: str) -> None:
    slug = f"half-{ending.replace(' ', '-')}"
    headers, folder = await place(shared_relay, slug)
    (folder / "d").mkdir(parents=True)
    (folder / "d/taken.txt").write_bytes(b"first")
    body, status, code = {
        "cut off": (form(file("a", b"A"), file("b", b"B"), end=""), 400, "form_invalid"),
        "taken": (form(file("a", b"A"), file("taken.txt", b"B"), file("c", b"C")), 409, "object_exists"),
        "malformed": (form(file("a", b"A"), part("filename=nameless", b"B")), 400, "form_invalid"),
        "same name": (form(file("a", b"A"), file("a", b"B")), 400, "form_invalid"),
    }[ending]
    async with client_of(shared_relay) as client:
        answer = await client.post("/upload/d", content=body, headers=headers)
        upload_id = answer.headers["relay-upload-id"]
        landed = answer.json().pop("objects", [])
        problem = {name: value for name, value in answer.json().items() if name != "objects"}
        assert (answer.status_code, problem["code"]) == (status, code)
        expected = {"taken.txt": b"first"} | {stored["filename"]: b"A" for stored in landed}
        assert {Path(name).name: content for name, content in files_below(folder).items()} == expected
        assert [stored["key"] for stored in landed] == (["d/a"] if ending != "malformed" else [])
        entry = await shared_relay.entry(upload_id=upload_id)
        assert (entry["outcome"], entry["code"], entry["bytes_delivered"]) == ("client_fault", code, 0)
        report = (await client.get(f"/uploads/{upload_id}", headers=headers)).json()
        assert [stored["key"] for stored in report["objects"] or []] == [stored["key"] for stored in landed]


async def test_a_client_that_leaves_within_the_second_file_leaves_the_first(shared_relay: RunningRelay) -> None:
    headers, folder = await place(shared_relay, "left")
    body = form(file("a", b"A"), file("b", b"B" * 100_000), end="")[:-50_000]
    lines = [f"{name}: {value}" for name, value in headers.items()]
    async with RawClient(*shared_relay.address) as client:
        await client.send(head("/upload/x", *lines, f"Content-Length: {len(body) + 9}") + body)
    entry = await shared_relay.entry(tenant="left")
    assert entry["outcome"] in {"client_gone", "client_fault"}
    assert files_below(folder) == {"x/a": b"A"}
    async with client_of(shared_relay) as client:
        report = (await client.get(f"/uploads/{entry['upload_id']}", headers=headers)).json()
    assert [stored["key"] for stored in report["objects"]] == ["x/a"]


async def test_where_a_form_may_not_go_it_is_refused_before_its_body(shared_relay: RunningRelay) -> None:
    headers, folder = await place(shared_relay, "refused")
    async with client_of(shared_relay) as client:
        for content_type in ("multipart/form-data", "multipart/form-data; boundary=", f"multipart/form-data; boundary={'x' * 71}"):
            answer = await client.post("/upload/x", content=form(file("a", b"A")), headers={**headers, "Content-Type": content_type})
            problem_of(answer, 400, "form_invalid")
        problem_of(await client.post("/upload/x", content=form(part('name="only"', b"a field")), headers=headers), 400, "form_invalid")
        problem_of(await client.post("/upload/x", content=form(file("..", b"A")), headers=headers), 400, "form_invalid")
    assert files_below(folder) == {}


async def test_metadata_that_cannot_be_kept_is_refused_before_the_body(shared_relay: RunningRelay) -> None:
    headers, folder = await place(shared_relay, "meta")
    wrong = [{"X-Object-Meta-a_b.c": "x"}, {"X-Object-Meta-a": "ü"}, {"X-Object-Meta-a": "x" * 2_048}, {"Content-Disposition": "ü"}]
    async with client_of(shared_relay) as client:
        for fields in wrong:
            encoded = [(name.encode(), value.encode()) for name, value in {**headers, **fields}.items()]
            for content_type in (b"text/plain", TYPE.encode()):
                if b"multipart" in content_type and "Content-Disposition" in fields:
                    continue
                told = [(name, content_type if name == b"Content-Type" else value) for name, value in encoded]
                problem_of(await client.post("/upload/x", content=form(file("a", b"A")), headers=told), 400, "metadata_invalid")
        kept = await client.post("/upload/x", content=b"A", headers={**headers, "Content-Type": "a/b", "X-Object-Meta-Kind": "note"})
        assert kept.status_code == 201
    assert files_below(folder) == {"x": b"A"}


async def test_a_template_names_the_files_of_a_form(shared_relay: RunningRelay) -> None:
    headers, folder = await place(shared_relay, "templated", key_template="{upload_id}/{filename}")
    async with client_of(shared_relay) as client:
        answer = await client.post("/upload/", content=form(file("a", b"A"), file("b", b"B")), headers=headers)
        assert answer.status_code == 201, answer.text
    upload_id = answer.headers["relay-upload-id"]
    assert files_below(folder) == {f"{upload_id}/a": b"A", f"{upload_id}/b": b"B"}
    assert json.loads(answer.text)["fields"] == []
