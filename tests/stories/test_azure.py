"""An azure destination, as an operator makes it and a client uses it: one raw body becomes one blob."""

import hashlib
import os
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from azure.storage.blob import ContainerClient

from tests.support.azurite import ACCOUNT, BLOCK, names_in, read_blob, sas
from tests.support.running_relay import running_relay


async def test_an_upload_becomes_a_blob_and_the_token_stays_secret(container: ContainerClient, database_url: str, tmp_path: Path) -> None:
    data, token = os.urandom(BLOCK + 1), sas(container, "rcwd")
    endpoint = urlsplit(container.url)
    config = {
        "account": ACCOUNT,
        "container": container.container_name,
        "prefix": "in",
        "endpoint_url": f"{endpoint.scheme}://{endpoint.netloc}/{ACCOUNT}",
        "block_bytes": BLOCK,
    }
    document = {"name": "blobs", "kind": "azure", "config": config, "secrets": {"sas_token": token}}
    async with running_relay(database_url, tmp_path) as relay, httpx.AsyncClient(trust_env=False) as client:
        tenant = await relay.tenant()
        made = await relay.admin.post("/tenants/acme/destinations", json=document)
        assert (made.status_code, made.json()["secret_names"]) == (201, ["sas_token"]), made.text
        found = await relay.admin.post("/tenants/acme/destinations/blobs/check")
        assert found.json()["ok"], found.text
        without = await relay.admin.patch("/tenants/acme/destinations/blobs", json={"secrets": None})
        assert (without.status_code, without.json()["errors"][0]["code"]) == (422, "credentials_missing")

        fields = {**tenant.headers, "Content-Type": "image/png", "X-Object-Meta-Taken-By": "me"}
        answer = await client.post(f"{relay.url}/upload/fotos/k%C3%A4se.png", content=data, headers=fields)
        assert answer.status_code == 201, answer.text
        again = await client.post(f"{relay.url}/upload/fotos/k%C3%A4se.png", content=b"other", headers=fields)
        assert (again.status_code, again.json()["code"]) == (409, "object_exists")

    [stored] = answer.json()["objects"]
    properties = container.get_blob_client("in/fotos/käse.png").get_blob_properties()
    assert (stored["key"], stored["size"], stored["sha256"]) == ("fotos/käse.png", len(data), hashlib.sha256(data).hexdigest())
    assert stored["etag"] == str(properties.etag).strip('"')
    assert (properties.content_settings.content_type, properties.metadata) == ("image/png", {"taken_by": "me"})
    assert (names_in(container), read_blob(container, "in/fotos/käse.png")) == (["in/fotos/käse.png"], data)
    signature = token.rpartition("sig=")[2]
    assert not [each for each in (made, found, without, answer, again) if signature in each.text or "sig=" in each.text]
