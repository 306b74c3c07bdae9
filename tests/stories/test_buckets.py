"""A tenant's bucket behind the door: made, checked, written to, and told of like any other destination."""

from pathlib import Path

import httpx

from tests.support.running_relay import RunningRelay, TestTenant, running_relay
from tests.support.stores import ACCESS_KEY, SECRET_KEY, TestBucket


async def bucket_destination(relay: RunningRelay, tenant: TestTenant, bucket: TestBucket) -> str:
    document = {
        "name": "bucket",
        "kind": "s3",
        "config": {"bucket": bucket.name, "endpoint_url": bucket.server.url, "prefix": "in"},
        "secrets": {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY},
    }
    made = await relay.post(f"/tenants/{tenant.slug}/destinations", document)
    assert made["secret_names"] == ["access_key_id", "secret_access_key"] and SECRET_KEY not in str(made)
    return f"/tenants/{tenant.slug}/destinations/bucket"


async def test_a_bucket_takes_files_and_forms_once(database_url: str, tmp_path: Path, plain_bucket: TestBucket) -> None:
    async with running_relay(database_url, tmp_path) as relay, httpx.AsyncClient(base_url=relay.url, trust_env=False) as client:
        tenant = await relay.tenant()
        place = await bucket_destination(relay, tenant, plain_bucket)
        found = (await relay.admin.post(f"{place}/check")).json()
        assert found["ok"], found

        sent = await client.post("/upload/a/b.txt", content=b"hello", headers={**tenant.headers, "Content-Type": "text/plain"})
        assert sent.status_code == 201, sent.text
        [stored] = sent.json()["objects"]
        assert (stored["key"], stored["size"], stored["etag"]) == ("a/b.txt", 5, "5d41402abc4b2a76b9719d911017c592")
        assert plain_bucket.read("in/a/b.txt") == b"hello" and plain_bucket.head("in/a/b.txt")["ContentType"] == "text/plain"

        again = await client.post("/upload/a/b.txt", content=b"other", headers=tenant.headers)
        assert (again.status_code, again.json()["code"]) == (409, "object_exists")

        files = [("one", ("1.txt", b"first")), ("two", ("2.txt", b"second"))]
        form = await client.post("/upload/form/", files=files, headers=tenant.headers)
        assert form.status_code == 201, form.text
        assert [plain_bucket.read(f"in/form/{name}") for name in ("1.txt", "2.txt")] == [b"first", b"second"]
        assert plain_bucket.keys() == ["in/a/b.txt", "in/form/1.txt", "in/form/2.txt"]

        wrong = await relay.admin.patch(place, json={"config": {"ambient_credentials": True}})
        assert (wrong.status_code, wrong.json()["errors"][0]["code"]) == (422, "credentials_ambiguous")
