"""A key shows when it was last used, whichever worker took the request, and nothing waits for it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.stories.speech import client_of
from tests.support.running_relay import RunningRelay, TestTenant, running_relay
from tests.support.waiting import until


async def shown(relay: RunningRelay, tenant: TestTenant) -> tuple[dict[str, Any], str]:
    """The tenant's key as the admin side shows it, and its tag."""
    answer = await relay.admin.get(f"/tenants/{tenant.slug}/keys/{tenant.key.split('_')[1]}")
    assert answer.status_code == 200
    return answer.json(), answer.headers["etag"]


async def test_use_of_a_key_is_seen_within_seconds_from_every_worker(database_url: str, tmp_path: Path) -> None:
    async with (
        running_relay(database_url, tmp_path / "one") as one,
        running_relay(database_url, tmp_path / "two") as two,
    ):
        for number, relay in enumerate((one, two)):
            tenant = await one.tenant(f"tenant-{number}")
            await one.disk_destination(tenant, directory=tenant.slug)
            before, tag = await shown(one, tenant)
            assert before["last_used_at"] is None
            began = datetime.now(UTC)
            async with client_of(relay) as client:
                answer = await client.put("/upload/a", content=b"some content", headers=tenant.headers)
                assert answer.status_code == 201, answer.text

            async def is_shown(tenant: TestTenant = tenant) -> bool:
                return (await shown(one, tenant))[0]["last_used_at"] is not None

            await until(is_shown)
            after, tag_after = await shown(two, tenant)
            used_at = datetime.fromisoformat(after["last_used_at"])
            assert began - timedelta(seconds=1) <= used_at <= datetime.now(UTC)
            assert tag_after == tag, "use is no change that an operator could overwrite"
            key = f"/tenants/{tenant.slug}/keys/{after['id']}"
            assert (await one.admin.delete(key, headers={"If-Match": tag})).status_code == 204


async def test_a_key_that_was_only_refused_was_used_and_one_with_a_wrong_secret_was_not(database_url: str, tmp_path: Path) -> None:
    async with running_relay(database_url, tmp_path) as relay, client_of(relay) as client:
        refused, wrong = await relay.tenant("refused"), await relay.tenant("wrong")
        assert (await client.put("/upload/a", content=b"x", headers=refused.headers)).status_code == 404
        guessed = {"X-API-Key": wrong.key[:-1] + ("a" if wrong.key[-1] != "a" else "b")}
        assert (await client.put("/upload/a", content=b"x", headers=guessed)).status_code == 401
        await relay.every_entry()
        assert (await shown(relay, refused))[0]["last_used_at"] is not None
        assert (await shown(relay, wrong))[0]["last_used_at"] is None
