"""Where a path leads: as it was sent, by the longest route, below the base, and never anywhere else."""

from pathlib import Path

from tests.stories.speech import head, raw_problem_of, say
from tests.support.raw_client import Answer
from tests.support.running_relay import RunningRelay, TestTenant, running_relay
from tests.support.upstreams import Upstream
from tests.support.waiting import until

AS_SENT = [
    "a",
    "a/b/c.txt",
    "a%20b",
    "a+b",
    "%C3%BC/%c3%bc",
    "%ff%fe",
    "%41%62",
    "a%3Fb%23c",
    "a%25b%2525",
    "...",
    "..a/.b/c..",
    "a;v=1,2/(x)/!$&'*=:@~",
    "a//b",
    "/a",
    "a/",
    "",
    "a/b?",
    "a?x=1&x=2&y=%20+%C3%BC&z",
    "a?../../b?c/d",
    "a?q=%00%ff%2e%2e",
]
INVALID = [
    "..",
    "../a",
    "a/..",
    "a/../b",
    "a/./b",
    ".",
    "%2e%2e/a",
    "a/%2E%2e/b",
    ".%2E",
    "a%2Fb",
    "a%2fb",
    "..%2f..%2fetc",
    "a%5Cb",
    "a%5cb",
    "a\\b",
    "%00",
    "a%00b",
    "a%0d%0ab",
    "a%09",
    "a%7F",
    "a%C2%85b",
    "a%zzb",
    "a%",
    "a%4",
]


async def send(relay: RunningRelay, tenant: TestTenant, rest: str) -> Answer:
    return await say(relay, head(f"/upload/{rest}", f"X-API-Key: {tenant.key}", "Content-Length: 1") + b"x")


async def test_a_path_arrives_as_it_was_sent_or_not_at_all(database_url: str, tmp_path: Path) -> None:
    one_by_one = {"RELAY_LEDGER_REFUSALS_PER_SECOND": "1000"}
    async with Upstream() as upstream, running_relay(database_url, tmp_path, **one_by_one) as relay:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, f"{upstream.url}/base/%7Ex/")
        for index, rest in enumerate(AS_SENT):
            answer = await send(relay, tenant, rest)
            assert answer.status == 200, (rest, answer.body)
            assert (await upstream.ended(index)).target == f"/base/%7Ex/{rest}".removesuffix("?")
        answers = [await send(relay, tenant, rest) for rest in INVALID]
        for refused in answers:
            raw_problem_of(refused, 400, "path_invalid")
        await relay.entry(upload_id=answers[-1].value("relay-upload-id") or "")
        told = {entry["path"] for entry in await relay.entries() if entry["code"] == "path_invalid" and entry["outcome"] == "refused"}
        assert told == set(INVALID)
        assert len(upstream.requests) == len(AS_SENT)
        await relay.http_destination(tenant, upstream.url, name="rootless")
        assert (await relay.admin.patch("/tenants/acme", json={"default_destination": "rootless"})).status_code == 200
        await check_eventually_at(relay, tenant, upstream, "x/y", "/x/y")


async def test_the_longest_route_wins_compared_by_whole_decoded_segments(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay:
        tenant = await relay.tenant()
        nowhere = await send(relay, tenant, "a")
        raw_problem_of(nowhere, 404, "route_not_found")
        entry = await relay.entry(upload_id=nowhere.value("relay-upload-id") or "")
        assert (entry["outcome"], entry["destination"], entry["upstream_status"]) == ("refused", None, None)

        for name in ("main", "photos", "raw", "street"):
            await relay.http_destination(tenant, f"{upstream.url}/{name}", name=name)
        routes = f"/tenants/{tenant.slug}/routes"
        await relay.post(routes, {"prefix": "photos", "destination": "photos", "strip_prefix": False})
        await relay.post(routes, {"prefix": "photos/raw", "destination": "raw", "strip_prefix": True})
        made = await relay.post(routes, {"prefix": "straße", "destination": "street", "strip_prefix": True})
        assert made == {"id": made["id"], "prefix": "straße", "destination": "street", "strip_prefix": True}

        await check_eventually_at(relay, tenant, upstream, "stra%C3%9Fe/a", "/street/a")
        for rest, target in (
            ("photos", "/photos/photos"),
            ("photos/", "/photos/photos/"),
            ("photos/a%20b?q=1", "/photos/photos/a%20b?q=1"),
            ("%70hotos/a", "/photos/%70hotos/a"),
            ("photos/rawhide", "/photos/photos/rawhide"),
            ("photos/raw/a", "/raw/a"),
            ("photos/%72aw/a%2Eb", "/raw/a%2Eb"),
            ("photos/raw", "/raw/"),
            ("photos/raw/", "/raw/"),
            ("photos/raw//a", "/raw//a"),
            ("photos//raw/a", "/photos/photos//raw/a"),
            ("photosynthesis/a", "/main/photosynthesis/a"),
            ("Photos/a", "/main/Photos/a"),
            ("/photos/a", "/main//photos/a"),
            ("a/photos", "/main/a/photos"),
        ):
            assert await target_of(relay, tenant, upstream, rest) == target, rest
        assert (await relay.entry(path_prefix="photos/raw/a"))["destination"] == "raw"

        # Without a default, what no route takes goes nowhere.
        assert (await relay.admin.patch(f"/tenants/{tenant.slug}", json={"default_destination": None})).status_code == 200
        raw_problem_of(await send(relay, tenant, "elsewhere"), 404, "route_not_found")
        assert await target_of(relay, tenant, upstream, "photos/a") == "/photos/photos/a"


async def target_of(relay: RunningRelay, tenant: TestTenant, upstream: Upstream, rest: str) -> str:
    index = len(upstream.requests)
    answer = await send(relay, tenant, rest)
    assert answer.status == 200, (rest, answer.body)
    return (await upstream.ended(index)).target


async def check_eventually_at(relay: RunningRelay, tenant: TestTenant, upstream: Upstream, rest: str, target: str) -> None:
    """A change is seen within a second."""

    async def is_there() -> bool:
        return await target_of(relay, tenant, upstream, rest) == target

    await until(is_there, seconds=1)
