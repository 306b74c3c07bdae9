"""The contract of destinations, word by word, over a socket: made, shown, changed, checked, used, and given up."""

import json
import socket
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from tests.stories.speech import client_of, problem_of, wrong_members_of
from tests.support.disks import tree
from tests.support.running_relay import RunningRelay
from tests.support.upstreams import Conduct, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

MEMBERS = ["name", "kind", "config", "secret_names", "created_at", "updated_at"]
FINDING = ["ok", "code", "detail", "checked_at"]
SECRET = "value-that-only-the-tenants-service-sees"
BASE_URL = "https://files.example.com/in"
HTTP_CONFIG = {
    "base_url": BASE_URL,
    "connect_timeout_seconds": 5,
    "idle_timeout_seconds": 60,
    "total_timeout_seconds": None,
    "max_connections": 100,
}
DISK_CONFIG = {"directory": "acme/in", "overwrite": "refuse", "key_template": "{path}"}
BUCKET = {"bucket": "b00", "prefix": "p", "region": "eu-1", "endpoint_url": "https://s3.example.com", "path_style": True}
CONTAINER = {"account": "acme", "container": "inbox"}
KEY_PAIR = {"access_key_id": SECRET, "secret_access_key": SECRET}
STORES: list[tuple[str, dict[str, Any], dict[str, str] | None, list[str]]] = [
    ("s3", BUCKET, KEY_PAIR, ["access_key_id", "secret_access_key"]),
    ("s3", {"bucket": "b00", "ambient_credentials": True}, None, []),
    ("gcs", {"bucket": "b00"}, KEY_PAIR, ["access_key_id", "secret_access_key"]),
    ("azure", CONTAINER, {"sas_token": f"sv=2024-11-04&sig={SECRET}"}, ["sas_token"]),
]
NO_STORES = [
    ("s3", BUCKET, None, ("body", "secrets")),
    ("s3", {**BUCKET, "ambient_credentials": True}, KEY_PAIR, ("body", "secrets")),
    ("gcs", {"bucket": "b00"}, {"access_key_id": SECRET}, ("body", "secrets")),
    ("s3", {**BUCKET, "endpoint_url": "ftp://s3.example.com"}, KEY_PAIR, ("body", "config", "endpoint_url")),
    ("s3", {**BUCKET, "endpoint_url": "http://[2001:4860::1]:9000", "path_style": False}, KEY_PAIR, ("body", "config")),
    ("s3", {**BUCKET, "part_bytes": 1}, KEY_PAIR, ("body", "config", "part_bytes")),
    ("s3", {**BUCKET, "key_template": "../{path}"}, KEY_PAIR, ("body", "config", "key_template")),
    ("s3", {**BUCKET, "prefix": "a/../b"}, KEY_PAIR, ("body", "config", "prefix")),
    ("azure", CONTAINER, None, ("body", "secrets")),
]
NOT_THE_OWNERS = ["Connection", "Proxy-Connection", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length", "host"]


def http(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "http", "config": {"base_url": BASE_URL}, **more}


async def default_of(relay: RunningRelay, slug: str) -> Any:
    return (await relay.admin.get(f"/tenants/{slug}")).json()["default_destination"]


async def finding_of(relay: RunningRelay, path: str) -> dict[str, Any]:
    """What a check finds, its members checked."""
    answer = await relay.admin.post(f"{path}/check")
    assert answer.status_code == 200, answer.text
    finding: dict[str, Any] = answer.json()
    assert list(finding) == FINDING
    assert finding["detail"]
    assert finding["checked_at"].endswith("Z")
    return finding


async def test_each_kind_is_shown_with_its_defaults_and_without_secrets(shared_relay: RunningRelay) -> None:
    admin, path = shared_relay.admin, "/tenants/shown/destinations"
    await shared_relay.post("/tenants", {"slug": "shown"})
    secrets = {"headers": {"Authorization": f"Bearer {SECRET}", "X-Second": SECRET}}
    made = await admin.post(path, json=http("main", secrets=secrets))
    assert made.status_code == 201, made.text
    assert list(made.json()) == MEMBERS
    assert json.dumps(made.json()["config"]) == json.dumps(HTTP_CONFIG)
    assert (made.json()["kind"], made.json()["secret_names"]) == ("http", ["Authorization", "X-Second"])
    assert made.headers["location"] == "/admin/v1/tenants/shown/destinations/main"
    assert made.headers["etag"].startswith('"')
    assert await default_of(shared_relay, "shown") == "main", "the first becomes the default"

    disk = await admin.post(path, json={"name": "ein Ordner", "kind": "disk", "config": {"directory": "acme/in"}})
    assert disk.status_code == 201, disk.text
    assert (list(disk.json()), disk.json()["secret_names"]) == (MEMBERS, [])
    assert json.dumps(disk.json()["config"]) == json.dumps(DISK_CONFIG)
    assert disk.headers["location"] == "/admin/v1/tenants/shown/destinations/ein%20Ordner"
    assert await default_of(shared_relay, "shown") == "main", "the second does not"
    problem_of(await admin.post(path, json=http("main")), 409, "destination_exists")

    shown = [await admin.get(each.headers["location"].removeprefix("/admin/v1")) for each in (made, disk)]
    assert [(each.json(), each.headers["etag"]) for each in shown] == [(each.json(), each.headers["etag"]) for each in (made, disk)]
    listed = await admin.get(path)
    assert listed.json() == {"items": [disk.json(), made.json()], "next": None}
    audit = await admin.get("/audit?tenant=shown")
    assert SECRET not in "".join(each.text for each in (made, disk, *shown, listed, audit))
    problem_of(await admin.get(f"{path}/none"), 404, "destination_not_found")


async def test_a_store_is_shown_with_the_names_of_its_credentials(shared_relay: RunningRelay) -> None:
    await shared_relay.post("/tenants", {"slug": "stores"})
    for number, (kind, config, secrets, names) in enumerate(STORES):
        document = {"name": f"store {number}", "kind": kind, "config": config, **({"secrets": secrets} if secrets is not None else {})}
        made = await shared_relay.admin.post("/tenants/stores/destinations", json=document)
        assert made.status_code == 201, made.text
        assert (made.json()["kind"], made.json()["secret_names"]) == (kind, names)
        assert made.json()["config"].items() >= config.items()
        assert SECRET not in made.text


async def test_what_a_destination_cannot_be_is_422_by_its_member(shared_relay: RunningRelay) -> None:
    admin, path = shared_relay.admin, "/tenants/refused/destinations"
    await shared_relay.post("/tenants", {"slug": "refused"})
    for kind, config, secrets, location in NO_STORES:
        answer = await admin.post(path, json={"name": "store", "kind": kind, "config": config, "secrets": secrets})
        assert wrong_members_of(answer) == [location], (kind, config)
        assert SECRET not in answer.text
    unknown = await admin.post(path, json={"name": "later", "kind": "ftp", "config": {}})
    assert wrong_members_of(unknown) == [("body", "kind")]
    for name in NOT_THE_OWNERS:
        answer = await admin.post(path, json=http("main", secrets={"headers": {name: SECRET}}))
        assert wrong_members_of(answer) == [("body", "secrets", "headers")], name
        assert name in answer.json()["errors"][0]["message"]
        assert SECRET not in answer.text
    disk = {"name": "disk", "kind": "disk"}
    for document, location in (
        (http("main", colour="red"), ("body", "colour")),
        (http("main", secrets={"token": SECRET}), ("body", "secrets", "token")),
        (http("a/b"), ("body", "name")),
        (http("main", config={"base_url": BASE_URL, "colour": "red"}), ("body", "config", "colour")),
        (http("main", config={}), ("body", "config", "base_url")),
        (http("main", config={"base_url": BASE_URL, "max_connections": 0}), ("body", "config", "max_connections")),
        ({**disk, "config": {"directory": "../out"}}, ("body", "config", "directory")),
        ({**disk, "config": {"directory": "a", "overwrite": "maybe"}}, ("body", "config", "overwrite")),
        ({**disk, "config": {"directory": "a", "key_template": "{name}"}}, ("body", "config", "key_template")),
        ({**disk, "config": {"directory": "a"}, "secrets": {"headers": {"a": SECRET}}}, ("body", "secrets", "headers")),
        ({"name": "main", "kind": "ftp", "config": {}}, ("body", "kind")),
    ):
        answer = await admin.post(path, json=document)
        assert wrong_members_of(answer) == [location]
        assert SECRET not in answer.text
    assert (await admin.get(path)).json() == {"items": [], "next": None}
    problem_of(await admin.post("/tenants/nobody/destinations", json=http("main")), 404, "tenant_not_found")


async def test_a_merge_patch_reaches_into_config_and_secrets(shared_relay: RunningRelay) -> None:
    admin, path = shared_relay.admin, "/tenants/merged/destinations/main"
    await shared_relay.post("/tenants", {"slug": "merged"})
    made = await admin.post("/tenants/merged/destinations", json=http("main", secrets={"headers": {"X-A": SECRET, "X-B": SECRET}}))
    config, etags = dict(HTTP_CONFIG), [made.headers["etag"]]
    for patch, changed, names in (
        (
            {"config": {"idle_timeout_seconds": 30, "max_connections": 7}},
            {"idle_timeout_seconds": 30, "max_connections": 7},
            ["X-A", "X-B"],
        ),
        ({"config": {"idle_timeout_seconds": None}}, {"idle_timeout_seconds": 60}, ["X-A", "X-B"]),
        ({"config": {"total_timeout_seconds": 9}}, {"total_timeout_seconds": 9}, ["X-A", "X-B"]),
        ({"config": {"total_timeout_seconds": None}, "secrets": {"headers": {"X-A": None}}}, {"total_timeout_seconds": None}, ["X-B"]),
        ({"secrets": {"headers": {"X-C": SECRET}}}, {}, ["X-B", "X-C"]),
        ({"secrets": {}}, {}, ["X-B", "X-C"]),
        ({"secrets": None}, {}, []),
        ({"secrets": {"headers": {"X-D": SECRET}}}, {}, ["X-D"]),
    ):
        answer = await admin.patch(path, json=patch, headers={"If-Match": etags[-1]})
        assert answer.status_code == 200, answer.text
        config = {**config, **changed}
        assert (list(answer.json()), answer.json()["config"]) == (MEMBERS, config)
        assert sorted(answer.json()["secret_names"]) == names, patch
        assert SECRET not in answer.text
        etags.append(answer.headers["etag"])
    assert len(set(etags)) == len(etags)
    problem_of(await admin.patch(path, json={}, headers={"If-Match": etags[0]}), 412, "etag_mismatch")
    problem_of(await admin.delete(path, headers={"If-Match": etags[0]}), 412, "etag_mismatch")
    for wrong, location in (
        ({"kind": "disk"}, ("body", "kind")),
        ({"name": "other"}, ("body", "name")),
        ({"config": {"base_url": None}}, ("body", "config", "base_url")),
        ({"config": {"colour": "red"}}, ("body", "config", "colour")),
        ({"secrets": {"headers": {"Host": SECRET}}}, ("body", "secrets", "headers")),
    ):
        assert wrong_members_of(await admin.patch(path, json=wrong)) == [location]
    shown = await admin.get(path)
    assert (shown.json()["config"], shown.json()["secret_names"], shown.headers["etag"]) == (config, ["X-D"], etags[-1])


async def test_a_check_says_what_it_found_and_leaves_nothing(shared_relay: RunningRelay) -> None:
    tenant = await shared_relay.tenant("checked")
    path = "/tenants/checked/destinations"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and never listening: a connection is refused
        async with Upstream() as upstream:
            await shared_relay.http_destination(tenant, upstream.url, name="up")
            await shared_relay.http_destination(tenant, f"http://127.0.0.1:{taken.getsockname()[1]}", name="closed")
            await shared_relay.http_destination(tenant, "http://169.254.169.254/latest", name="inside")
            ok = await finding_of(shared_relay, f"{path}/up")
            assert (ok["ok"], ok["code"]) == (True, None)
            assert (upstream.requests[0].method, upstream.requests[0].target) == ("HEAD", "/")
            upstream.conduct = Conduct(status=503)
            for name, code in (("up", "destination_broke"), ("closed", "destination_unreachable"), ("inside", "egress_denied")):
                finding = await finding_of(shared_relay, f"{path}/{name}")
                assert (finding["ok"], finding["code"]) == (False, code)
    folder = await shared_relay.disk_destination(tenant, "checked/in", name="disk")
    root = folder.parent.parent
    before = tree(root)
    ok = await finding_of(shared_relay, f"{path}/disk")
    assert (ok["ok"], ok["code"]) == (True, None)
    kept = {name for name, content in tree(root).items() if content is not None}
    assert kept == {name for name, content in before.items() if content is not None}, "no file stays"
    (root / "plain-file").write_bytes(b"in the way")
    await shared_relay.disk_destination(tenant, "plain-file/in", name="blocked")
    blocked = await finding_of(shared_relay, f"{path}/blocked")
    assert (blocked["ok"], blocked["code"]) == (False, "destination_misconfigured")
    problem_of(await shared_relay.admin.post(f"{path}/none/check"), 404, "destination_not_found")


async def test_what_a_route_needs_stays_and_a_default_that_goes_leaves_none(shared_relay: RunningRelay) -> None:
    admin, path = shared_relay.admin, "/tenants/used/destinations"
    await shared_relay.post("/tenants", {"slug": "used"})
    await shared_relay.post(path, http("main"))
    route = await shared_relay.post("/tenants/used/routes", {"prefix": "in", "destination": "main"})
    problem_of(await admin.delete(f"{path}/main"), 409, "destination_in_use")
    assert (await admin.get(f"{path}/main")).status_code == 200
    assert (await admin.delete(f"/tenants/used/routes/{route['id']}")).status_code == 204
    deleted = await admin.delete(f"{path}/main", headers={"If-Match": (await admin.get(f"{path}/main")).headers["etag"]})
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert await default_of(shared_relay, "used") is None
    for method, place in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/check")):
        answer = await admin.request(method, f"{path}/main{place}", json={} if method == "PATCH" else None)
        problem_of(answer, 404, "destination_not_found")
    await shared_relay.post(path, http("next"))
    assert await default_of(shared_relay, "used") == "next", "the first of those that there are"


async def test_credentials_that_cannot_be_opened_are_told_and_can_be_set_again(shared_relay: RunningRelay) -> None:
    async with Upstream() as upstream, client_of(shared_relay) as client:
        tenant = await shared_relay.tenant("damaged")
        path = "/tenants/damaged/destinations"
        main = {"name": "main", "kind": "http", "config": {"base_url": upstream.url}, "secrets": {"headers": {"X-A": SECRET}}}
        await shared_relay.post(path, main)
        async with shared_relay.services.database.transaction() as session:
            await session.execute(
                text("UPDATE destinations SET sealed = set_byte(sealed, length(sealed) - 1, 0) WHERE secret_names = '{X-A}'")
            )
            await session.execute(
                text("UPDATE destinations SET sealed = set_byte(sealed, length(sealed) - 2, 0) WHERE secret_names = '{X-A}'")
            )
        finding = await finding_of(shared_relay, f"{path}/main")
        assert (finding["ok"], finding["code"]) == (False, "destination_misconfigured")
        patch: dict[str, Any] = {"secrets": {"headers": {"X-B": SECRET}}}
        problem_of(await shared_relay.admin.patch(f"{path}/main", json=patch), 502, "destination_misconfigured")
        answer: httpx.Response = await client.put("/upload/a", content=b"x", headers=tenant.headers)
        problem_of(answer, 502, "destination_misconfigured")
        assert not upstream.requests
        assert (await shared_relay.admin.patch(f"{path}/main", json={"secrets": None})).status_code == 200
        assert (await finding_of(shared_relay, f"{path}/main"))["ok"]
