"""What a tenant used, by day: counted from real uploads, told over REST and on the command line alike."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.stories.speech import client_of
from tests.stories.test_operators import CommandLine
from tests.support.running_relay import running_relay
from tests.support.upstreams import Conduct, Upstream

MEMBERS = ["tenant", "day", "uploads", "delivered", "rejected", "refused", "failed", "bytes_in", "bytes_delivered"]


async def test_a_day_of_uploads_is_summed_up_by_how_they_ended(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay, client_of(relay) as client:
        tenant, other = await relay.tenant(), await relay.tenant("other")
        for each in (tenant, other):
            await relay.http_destination(each, upstream.url)
        day_before = datetime.now(UTC).date()
        for _ in range(2):
            assert (await client.post("/upload/a", content=b"x" * 10, headers=tenant.headers)).status_code == 200
        assert (await client.post("/upload/a", content=b"y" * 5, headers=other.headers)).status_code == 200
        assert (await client.post("/upload/%2e%2e", content=b"z", headers=tenant.headers)).status_code == 400
        upstream.conduct = Conduct(status=422)
        assert (await client.post("/upload/a", content=b"x" * 3, headers=tenant.headers)).status_code == 422
        upstream.conduct = Conduct(close_after=0)
        assert (await client.post("/upload/a", content=b"x" * 4, headers=tenant.headers)).status_code == 502
        assert len(await relay.every_entry()) == 6

        listing = (await relay.admin.get("/usage")).json()
        assert listing["next"] is None
        assert all(list(item) == MEMBERS for item in listing["items"])
        totals = {tenant: [0] * 7 for tenant in ("acme", "other")}
        for item in listing["items"]:  # two days for each, if midnight passed meanwhile
            assert item["day"] in {str(day_before), str(datetime.now(UTC).date())}
            totals[item["tenant"]] = [sum(pair) for pair in zip(totals[item["tenant"]], list(item.values())[2:], strict=True)]
        assert totals == {"acme": [5, 2, 1, 1, 1, totals["acme"][5], 20], "other": [1, 1, 0, 0, 0, 5, 5]}
        assert 23 <= totals["acme"][5] <= 27, "the destination that broke may have taken none of its four bytes"

        line = CommandLine(relay, database_url)
        assert await line.show("usage") == listing
        tomorrow = str(datetime.now(UTC).date() + timedelta(days=1))
        mine = await line.show("usage", "--tenant", "acme", "--since", str(day_before), "--until", tomorrow)
        assert mine["items"] == [item for item in listing["items"] if item["tenant"] == "acme"]
        assert (await line.show("usage", "--until", str(day_before)))["items"] == []
        assert (await line.run("usage", "--limit", "1")).split()[:3] == ["TENANT", "DAY", "UPLOADS"]
