"""The demo's tenant in an installation that runs already, as the compose file's profile ``demo`` makes it."""

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest

from relay.cli.demo_file import DemoFile
from relay.cli.example_bucket import ExampleBucket
from relay.cli.prepare import ACTOR, make_demo
from relay.db.engine import Database
from relay.destinations.destination import DestinationSpec
from relay.destinations.registry import DestinationChange
from relay.destinations.sealing import Sealer
from relay.errors import DestinationNotFound
from relay.settings import load_settings
from relay.tenants import owned_destinations
from tests.support.processes import free_port, poll, relay
from tests.support.running_relay import SECRET_KEY
from tests.support.stores import ACCESS_KEY, StoreServer
from tests.support.stores import SECRET_KEY as SECRET_ACCESS_KEY

NAMES = ["bucket", "url", "tenant", "key", "admin-token", "upload", "forward", "ledger", "ready"]
TOKEN = "a-token-of-the-operators"

pytestmark = pytest.mark.timeout(90)


def parse(lines: list[str]) -> dict[str, str]:
    assert [line.partition(": ")[0] for line in lines] == NAMES
    return dict(line.partition(": ")[::2] for line in lines)


@pytest.fixture
def environment(database_url: str, tmp_path: Path) -> dict[str, str]:
    """The settings of a container, secrets in files."""
    files = {"DATABASE_URL": database_url, "ADMIN_TOKEN": TOKEN, "SECRET_KEY": SECRET_KEY}
    for name, value in files.items():
        (tmp_path / name).write_text(f"{value}\n", encoding="utf-8")
    return {f"RELAY_{name}_FILE": str(tmp_path / name) for name in files} | {
        "RELAY_LISTEN": f"127.0.0.1:{free_port()}",
        "RELAY_ADMIN_LISTEN": f"127.0.0.1:{free_port()}",
        "RELAY_DATA_DIR": str(tmp_path / "data"),
        "RELAY_DISK_ROOT": str(tmp_path / "data/disk"),
        "RELAY_EGRESS_ALLOW": "localhost",
    }


def test_demo_tenant_is_made_once_in_a_running_installation(
    environment: dict[str, str], tmp_path: Path, rclone_server: StoreServer
) -> None:
    upstream = f"127.0.0.1:{free_port()}"
    admin_url = f"http://{environment['RELAY_ADMIN_LISTEN']}"
    command = ["demo-tenant", f"--url=http://{environment['RELAY_LISTEN']}", f"--admin-url={admin_url}/", f"--ask-url={admin_url}"]
    command += [f"--upstream-url=http://localhost:{upstream.rpartition(':')[2]}/upload"]
    (tmp_path / "bucket-key").write_text(f"{ACCESS_KEY},{SECRET_ACCESS_KEY}\n", encoding="ascii")
    command += [f"--bucket-url=http://localhost:{rclone_server.port}", f"--bucket-key-file={tmp_path / 'bucket-key'}"]
    rclone_server.client().create_bucket(Bucket="demo")
    with (
        relay("upstream", environment={"RELAY_DEMO_UPSTREAM_LISTEN": upstream}) as standing,
        relay("serve", environment=environment) as serving,
        relay(*command, environment=environment) as first,
    ):
        assert first.wait(60) == 0, f"{first.told()}\n{serving.told()}\n{standing.told()}"
        lines = parse(first.lines)
        assert lines["admin-token"] == TOKEN
        assert lines["ledger"].endswith(f"'{admin_url}/admin/v1/ledger?tenant=demo&limit=1'")
        assert stat.S_IMODE((tmp_path / "data/demo.json").stat().st_mode) == 0o600

        content, key = os.urandom(70_000), {"Authorization": f"Bearer {lines['key']}"}
        stored = httpx.post(f"{lines['url']}/upload/disk/a.bin", content=content, headers=key).json()["objects"]
        assert [item["sha256"] for item in stored] == [hashlib.sha256(content).hexdigest()]
        assert (tmp_path / "data/disk/demo/a.bin").read_bytes() == content
        sent = httpx.post(f"{lines['url']}/upload/bucket/a.bin", content=content, headers=key)
        assert sent.status_code == 201, sent.text
        assert rclone_server.client().get_object(Bucket="demo", Key="a.bin")["Body"].read() == content
        told = httpx.post(f"{lines['url']}/upload/hello/world?q1=x", content=content, headers=key)
        assert (told.status_code, told.json()["path"], told.json()["body"]["size"]) == (200, "/upload/hello/world", len(content))

        with relay(*command, environment=environment) as second:
            assert second.wait(60) == 0, second.told()
        assert parse(second.lines) == lines
        operator = {"Authorization": f"Bearer {TOKEN}"}
        keys = json.loads(httpx.get(f"{admin_url}/admin/v1/tenants/demo/keys", headers=operator).text)["items"]
        assert len(keys) == 1
        with relay("health", environment=environment) as asking:
            assert asking.wait() == 0
            assert asking.lines[0] == "ready"
        poll(lambda: standing.process.poll() is None and serving.process.poll() is None, "one of them ended")


async def test_bucket_is_added_to_an_older_demo_follows_its_address_and_leaves_alone_what_a_user_changed(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    settings, file = load_settings({"RELAY_SECRET_KEY": SECRET_KEY}), DemoFile.of(tmp_path)

    async def prepare(bucket: ExampleBucket | None) -> None:
        await make_demo(database_url, settings, file, "http://127.0.0.1:1/upload", bucket)

    async def find() -> tuple[DestinationSpec, Any]:
        async with database.transaction() as session:
            spec = await owned_destinations.get_destination(session, "demo", "bucket")
        return spec, Sealer(settings.secret.keys()).open(spec.sealed or b"", identity=spec.id)

    await prepare(None)
    with pytest.raises(DestinationNotFound):
        await find()
    key = file.load().key
    bucket = ExampleBucket("http://127.0.0.1:2", "id,secret")
    await prepare(bucket)
    made, secrets = await find()
    assert (made.config["bucket"], made.config["overwrite"], secrets) == ("demo", "replace", bucket.secrets())
    await prepare(bucket)
    await prepare(None)
    assert (await find())[0].version == made.version

    moved = ExampleBucket("http://127.0.0.1:3", "id,another")
    await prepare(moved)
    found, secrets = await find()
    assert (found.config["endpoint_url"], secrets) == (moved.url, moved.secrets())
    async with database.transaction() as session:
        change = DestinationChange({"config": {"endpoint_url": "https://s3.example.org"}})
        mine = await owned_destinations.change_destination(session, ACTOR, Sealer(settings.secret.keys()), ("demo", "bucket"), change)
    await prepare(bucket)
    assert (await find())[0].version == mine.version
    assert file.load().key == key


@pytest.mark.parametrize("url", [{}, {"RELAY_DATABASE_URL": "embedded"}])
def test_demo_tenant_needs_a_running_installation(url: dict[str, str], tmp_path: Path) -> None:
    addresses = ["--url=http://a", "--admin-url=http://a", "--ask-url=http://127.0.0.1:1", "--upstream-url=http://a"]
    with relay("demo-tenant", *addresses, environment={"RELAY_DATA_DIR": str(tmp_path), **url}) as command:
        assert command.wait() == 1
    assert command.errors[-1].startswith("error: 'relay demo-tenant' needs the RELAY_DATABASE_URL of a running relay")
    assert list(tmp_path.iterdir()) == []
