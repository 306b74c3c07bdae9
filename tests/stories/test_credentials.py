"""Who may come in: every row of the credentials' contract, each over a socket."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from tests.stories.speech import client_of, head, problem_of, raw_problem_of, say
from tests.support.running_relay import RunningRelay, TestTenant, running_relay
from tests.support.upstreams import Upstream
from tests.support.waiting import until

CHALLENGE = 'Bearer realm="relay"'


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def altered(key: str) -> str:
    """The same key with another secret."""
    return key[:-1] + ("A" if key[-1] != "A" else "B")


async def issue(relay: RunningRelay, tenant: TestTenant, **members: Any) -> tuple[str, str]:
    """Issue a key; its id and its text."""
    issued = await relay.post(f"/tenants/{tenant.slug}/keys", members)
    return issued["id"], issued["key"]


async def send(client: httpx.AsyncClient, headers: dict[str, str]) -> httpx.Response:
    return await client.post("/upload/a", content=b"hello", headers=headers)


def nameless(answer: httpx.Response) -> tuple[dict[str, Any], dict[str, str]]:
    """An answer without what differs from request to request."""
    problem = {name: value for name, value in answer.json().items() if name != "request_id"}
    return problem, {name: value for name, value in answer.headers.items() if name not in {"relay-request-id", "date"}}


async def test_a_caller_who_proves_no_secret_learns_nothing_not_even_that_the_key_exists(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay, client_of(relay) as client:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        disabled = await relay.tenant("disabled")
        assert (await relay.admin.patch("/tenants/disabled", json={"status": "disabled"})).status_code == 200
        revoked_id, revoked = await issue(relay, tenant)
        assert (await relay.admin.delete(f"/tenants/{tenant.slug}/keys/{revoked_id}")).status_code == 204
        _, reader = await issue(relay, tenant, scopes=["read"])

        answers = {
            "unknown id": await send(client, bearer(f"rk_{'0' * 16}_{'x' * 43}")),
            "wrong secret": await send(client, bearer(altered(tenant.key))),
            "wrong secret, X-API-Key": await send(client, {"X-API-Key": altered(tenant.key)}),
            "wrong secret of a revoked key": await send(client, bearer(altered(revoked))),
            "wrong secret of a disabled tenant": await send(client, bearer(altered(disabled.key))),
            "wrong secret of a key that may only read": await send(client, bearer(altered(reader))),
            "malformed": await send(client, bearer("rk_short_key")),
            "too long": await send(client, bearer(tenant.key + "x")),
            "upper case": await send(client, bearer(tenant.key.upper())),
            "not ASCII": await client.post("/upload/a", headers=[(b"X-API-Key", "schlüssel".encode())]),
            "empty": await send(client, {"X-API-Key": ""}),
        }
        told = {case: nameless(problem_and_answer(answer)) for case, answer in answers.items()}
        assert all(each == told["unknown id"] for each in told.values()), json.dumps(told, indent=1)

        missing = [
            await client.post("/upload/a", content=b"x"),
            await send(client, {"Authorization": "Basic dXNlcjpwYXNzd29yZA=="}),
            await client.post(f"/upload/a?key={tenant.key}&api_key={tenant.key}", content=b"x"),
        ]
        for answer in missing:
            problem_of(answer, 401, "key_missing")
            assert answer.headers["www-authenticate"] == CHALLENGE
            assert "relay-upload-id" not in answer.headers
        assert not upstream.requests
        assert not await relay.every_entry(), "nobody was known, so nothing is in anybody's ledger"


def problem_and_answer(answer: httpx.Response) -> httpx.Response:
    problem_of(answer, 401, "key_invalid")
    assert answer.headers["www-authenticate"] == CHALLENGE
    assert "relay-upload-id" not in answer.headers
    return answer


async def test_a_proved_key_is_told_why_it_is_refused(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay, client_of(relay) as client:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        expires_at = datetime.now(UTC) + timedelta(seconds=1.5)
        _, expiring = await issue(relay, tenant, expires_at=expires_at.isoformat())
        revoked_id, revoked = await issue(relay, tenant)
        _, reader = await issue(relay, tenant, scopes=["read"])
        _, uploader = await issue(relay, tenant, scopes=["upload"])
        disabled = await relay.tenant("disabled")

        for key in (revoked, uploader, tenant.key):
            assert (await send(client, bearer(key))).status_code == 200
        assert (await relay.admin.delete(f"/tenants/{tenant.slug}/keys/{revoked_id}")).status_code == 204
        assert (await relay.admin.patch("/tenants/disabled", json={"status": "disabled"})).status_code == 200
        await until(lambda: datetime.now(UTC) > expires_at)

        for key, status, code in (
            (expiring, 401, "key_expired"),
            (revoked, 401, "key_revoked"),
            (disabled.key, 403, "tenant_disabled"),
            (reader, 403, "scope_missing"),
        ):

            async def is_refused(key: str = key, status: int = status) -> bool:
                return (await send(client, bearer(key))).status_code == status

            await until(is_refused, seconds=1)  # "refused within one second" of the change
            answer = await send(client, bearer(key))
            problem_of(answer, status, code)
            assert answer.headers.get("www-authenticate") == (CHALLENGE if status == 401 else None)
            entry = await relay.entry(upload_id=answer.headers["relay-upload-id"])
            assert (entry["outcome"], entry["status"], entry["code"], entry["key_id"]) == ("refused", status, code, key.split("_")[1])

        assert (await relay.admin.patch("/tenants/disabled", json={"status": "active"})).status_code == 200

        async def is_known_again() -> bool:
            return (await send(client, bearer(disabled.key))).status_code == 404

        await until(is_known_again, seconds=1)


async def test_either_way_of_sending_one_key_works_and_neither_is_forwarded(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay, client_of(relay) as client:
        tenant, other = await relay.tenant(), await relay.tenant("other")
        await relay.http_destination(tenant, upstream.url)
        ways = [
            bearer(tenant.key),
            {"Authorization": f"bearer   {tenant.key}"},
            {"X-API-Key": tenant.key},
            {**bearer(tenant.key), "X-API-Key": tenant.key},
            {"Authorization": "Basic dXNlcjpwYXNz", "X-API-Key": tenant.key},
        ]
        for index, way in enumerate(ways):
            assert (await send(client, way)).status_code == 200
            request = await upstream.ended(index)
            assert not request.values("authorization")
            assert not request.values("x-api-key")
            assert tenant.key.encode() not in b"\n".join(value for _, value in request.headers)

        for key in (other.key, altered(tenant.key)):
            ambiguous = await send(client, {**bearer(tenant.key), "X-API-Key": key})
            problem_of(ambiguous, 400, "credentials_ambiguous")
            assert "relay-upload-id" not in ambiguous.headers
        twice = head("/upload/a", "Content-Length: 0", f"X-API-Key: {tenant.key}", f"X-API-Key: {other.key}")
        raw_problem_of(await say(relay, twice), 400, "credentials_ambiguous")
        assert len(upstream.requests) == len(ways)
