"""TLS as an operator meets it: over REST, by command line, in the doctor's findings; the key is shown by none of them."""

import asyncio
import json
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from click.testing import CliRunner, Result

from relay.cli import relay as command
from relay.cli.health import NoAnswer, ask_readiness
from tests.stories.speech import problem_of, wrong_members_of
from tests.support.certificates import Certificate, make_authority
from tests.support.processes import free_port
from tests.support.running_relay import SECRET_KEY, running_relay
from tests.support.serving import serve_relay
from tests.support.upstreams import Upstream
from tests.support.waiting import until

PATH = "/tenants/acme/destinations/main"
SOON = datetime.now(UTC) + timedelta(days=3)
YESTERDAY = datetime.now(UTC) - timedelta(days=1)

Run = Callable[..., Result]


@pytest.fixture
def authority(tmp_path: Path) -> Certificate:
    return make_authority(tmp_path)


def runner(database_url: str, folder: Path) -> Run:
    """Run a command as a user would, off the loop."""
    usual = {
        "RELAY_DATABASE_URL": database_url,
        "RELAY_DATA_DIR": str(folder),
        "RELAY_SECRET_KEY": SECRET_KEY,
        "RELAY_EGRESS_ALLOW": "127.0.0.0/8",
        "RELAY_LISTEN": f"127.0.0.1:{free_port()}",
    }

    def run(*arguments: str, **settings: str) -> Result:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(CliRunner(env={**usual, **settings}).invoke, command, list(arguments)).result()

    return run


def wrong(answer: httpx.Response) -> dict[tuple[Any, ...], str]:
    """Each wrong member and its code."""
    assert answer.status_code == 422, answer.text
    return {tuple(error["location"][1:]): error["code"] for error in answer.json()["errors"]}


async def test_a_destination_is_given_its_terms_over_rest(database_url: str, tmp_path: Path, authority: Certificate) -> None:
    first, second = authority.issue("client.test"), authority.issue("client.test")
    secret = first.key_pem.splitlines()[2]
    context = authority.issue("127.0.0.1").server_context(clients_of=authority)
    async with Upstream(tls=context) as upstream, running_relay(database_url, tmp_path) as relay:
        tenant, admin = await relay.tenant(), relay.admin
        config = {
            "base_url": upstream.url,
            "host": "files.test",
            "tls": {"ca": f"# ours\n{authority.pem}", "client_certificate": first.pem},
        }
        document = {
            "name": "main",
            "kind": "http",
            "config": config,
            "secrets": {"headers": {"X-A": "b"}, "tls": {"client_key": first.key_pem}},
        }
        made = await admin.post("/tenants/acme/destinations", json=document)
        assert made.status_code == 201, made.text
        shown = made.json()
        assert shown["config"]["tls"] == {"ca": authority.pem, "client_certificate": first.pem}
        assert (list(shown["config"])[:3], shown["secret_names"]) == (["base_url", "host", "tls"], ["X-A", "tls.client_key"])
        assert (await admin.post(f"{PATH}/check")).json()["ok"]

        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.post(f"{relay.url}/upload/a", content=b"abc", headers=tenant.headers)).status_code == 200
            sent = upstream.requests[-1]
            assert (sent.values("host"), sent.values("x-a"), sent.body_bytes) == ([b"files.test"], [b"b"], 3)

            # A merge patch changes what it names; certificate and key go together.
            half = await admin.patch(PATH, json={"config": {"tls": {"client_certificate": second.pem}}})
            assert wrong(half) == {("secrets", "tls", "client_key"): "client_key_mismatch"}
            both = {"config": {"tls": {"client_certificate": second.pem}}, "secrets": {"tls": {"client_key": second.key_pem}}}
            stale = await admin.patch(PATH, json=both, headers={"If-Match": '"1"'})
            problem_of(stale, 412, "etag_mismatch")
            changed = await admin.patch(PATH, json=both, headers={"If-Match": made.headers["etag"]})
            assert changed.json()["config"]["tls"] == {"ca": authority.pem, "client_certificate": second.pem}
            assert changed.headers["etag"] != made.headers["etag"]
            connections = upstream.connections
            assert (await client.post(f"{relay.url}/upload/a", content=b"abc", headers=tenant.headers)).status_code == 200
            assert upstream.connections == connections + 1, "what was shown before is not shown again"

            # Without its authority the destination is not trusted, whatever was kept open.
            gone = await admin.patch(PATH, json={"config": {"tls": {"ca": None}}})
            assert gone.json()["config"]["tls"] == {"client_certificate": second.pem}
            refused = await client.post(f"{relay.url}/upload/a", content=b"abc", headers=tenant.headers)
            problem_of(refused, 502, "destination_refused_tls")

        found = (await admin.post(f"{PATH}/check")).json()
        assert (found["ok"], found["code"]) == (False, "destination_refused_tls")
        assert "config.tls.ca" in found["detail"]
        removed = await admin.patch(PATH, json={"config": {"tls": None, "host": None}, "secrets": {"tls": None}})
        assert "tls" not in removed.json()["config"] and "host" not in removed.json()["config"]
        assert removed.json()["secret_names"] == ["X-A"]
        everything = [
            each.text
            for each in (made, half, changed, gone, removed, await admin.get("/audit"), await admin.get("/tenants/acme/destinations"))
        ]
        assert not [text for text in everything if secret in text or second.key_pem.splitlines()[2] in text or "PRIVATE KEY" in text]
    connection = await asyncpg.connect(database_url)
    rows = await connection.fetch(
        "SELECT (SELECT json_agg(audit)::text FROM audit) || (SELECT json_agg(d)::text FROM destinations d) AS kept"
    )
    await connection.close()
    assert secret not in rows[0]["kept"] and "PRIVATE KEY" not in rows[0]["kept"]


async def test_terms_that_cannot_be_are_refused_by_member(database_url: str, tmp_path: Path, authority: Certificate) -> None:
    client = authority.issue("client.test")
    url = "https://files.test/in"
    both = authority.pem + authority.key_pem
    async with running_relay(database_url, tmp_path) as relay:
        await relay.tenant()

        async def post(config: dict[str, Any], secrets: dict[str, Any] | None = None) -> httpx.Response:
            document = {"name": "main", "kind": "http", "config": {"base_url": url, **config}, **({"secrets": secrets} if secrets else {})}
            answer = await relay.admin.post("/tenants/acme/destinations", json=document)
            assert authority.key_pem.splitlines()[2] not in answer.text
            assert client.key_pem.splitlines()[2] not in answer.text
            return answer

        for name in ("ca", "client_certificate"):
            for text in ("", "nothing", both, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "x" * 200_000):
                assert ("config", "tls", name) in wrong(await post({"tls": {name: text}})), text[:40]
        for name in ("a\r\nX: y", "a b", "é.test", "https://a", ".a", "a..b", "", "a" * 64, "a:443"):
            assert ("config", "tls", "server_name") in wrong(await post({"tls": {"server_name": name}})), name
        for host in ("a\r\nX: y", "a b", "é.test", "a:0", "a:99999", "a:", "[::1", "a@b", "a/b", "", "a\n", "[::1]:٣"):
            assert ("config", "host") in wrong(await post({"host": host})), host
        assert wrong(await post({"base_url": "http://files.test", "tls": {"server_name": "a"}})) == {("config",): "value_error"}
        assert ("config", "tls", "verify") in wrong(await post({"tls": {"verify": False}}))
        assert wrong(await post({}, {"tls": {"client_key": client.key_pem}})) == {
            ("secrets", "tls", "client_key"): "client_certificate_missing"
        }
        alone = {"tls": {"client_certificate": client.pem}}
        assert wrong(await post(alone)) == {("config", "tls", "client_certificate"): "client_key_missing"}
        for key in ("", "nothing", client.pem, client.key_pem_with(b"x"), authority.key_pem.replace("A", "B")):
            assert ("secrets", "tls", "client_key") in wrong(await post(alone, {"tls": {"client_key": key}}))
        assert wrong(await post(alone, {"tls": {"client_key": authority.key_pem}})) == {
            ("secrets", "tls", "client_key"): "client_key_mismatch"
        }
        assert ("secrets", "headers") in wrong(await post(alone, {"headers": {"TLS.Client_Key": "x"}}))
        taken = await post({"host": "[::1]:8443", "tls": {"server_name": "Files.Test."}})
        assert (taken.status_code, taken.json()["config"]["tls"]) == (201, {"server_name": "files.test"})
        wrong_members_of(await relay.admin.patch(PATH, json={"config": {"base_url": "http://files.test"}}))


async def test_commands_and_doctor(database_url: str, tmp_path: Path, authority: Certificate) -> None:
    client, late = authority.issue("client.test"), authority.issue("client.test", until=SOON)
    files = {"ca": authority.pem, "certificate": client.pem, "key": client.key_pem, "late": late.pem, "late-key": late.key_pem}
    for name, pem in files.items():
        (tmp_path / name).write_text(pem, encoding="ascii")
    run = runner(database_url, tmp_path)
    context = authority.issue("127.0.0.1").server_context(clients_of=authority)
    terms = [
        "--tls-ca",
        str(tmp_path / "ca"),
        "--tls-client-certificate",
        str(tmp_path / "certificate"),
        "--tls-client-key",
        str(tmp_path / "key"),
    ]
    async with Upstream(tls=context) as upstream:

        async def say(*arguments: str, code: int = 0) -> str:
            ended = await asyncio.to_thread(run, *arguments)
            assert ended.exit_code == code, ended.output
            assert "PRIVATE KEY" not in ended.output and client.key_pem.splitlines()[2] not in ended.output
            return ended.output

        await say("tenant", "create", "acme")
        set_main = ["destination", "set", "acme", "main", "--http", upstream.url]
        made = json.loads(await say(*set_main, "--header", "X-A: b", "--host", "files.test", *terms, "--json"))
        assert (made["config"]["host"], made["secret_names"]) == ("files.test", ["X-A", "tls.client_key"])
        assert "ok:" in await say("destination", "check", "acme", "main")
        assert "-----BEGIN CERTIFICATE----- …" in (listed := await say("destination", "list", "acme"))
        assert len(listed.splitlines()) == 2
        # Other headers leave the key where it is.
        changed = json.loads(await say(*set_main, "--header", "X-C: d", "--host", "", "--json"))
        assert (changed["config"]["tls"], changed["secret_names"]) == (made["config"]["tls"], ["X-C", "tls.client_key"])
        assert "host" not in changed["config"]
        assert "client_key" in await say(*set_main, "--tls-client-certificate", str(tmp_path / "late"), code=2)
        await say(*set_main, "--tls-client-certificate", str(tmp_path / "late"), "--tls-client-key", str(tmp_path / "late-key"))
        finding = {each["check"]: each for each in json.loads((await asyncio.to_thread(run, "doctor", "--json")).stdout)["checks"]}
        found = finding["certificates of destinations"]
        assert (found["state"], found["detail"]) == ("warn", "0 expired, 1 good for less than 14 days")
        assert f"acme/main ({SOON:%Y-%m-%d %H:%M})" in found["advice"]
        assert "forgets" in await say(*set_main, "--no-tls", *terms, code=2)
        assert "do not belong to --disk" in await say("destination", "set", "acme", "disk", "--disk", "a", "--no-tls", code=2)
        plain = json.loads(await say(*set_main, "--no-tls", "--json"))
        assert ("tls" in plain["config"], plain["secret_names"]) == (False, ["X-C"])
        assert "destination_refused_tls" in await say("destination", "check", "acme", "main", code=1)


@pytest.mark.parametrize(("until", "state"), [(None, "warn"), (YESTERDAY, "warn"), (datetime.now(UTC) + timedelta(days=90), "ok")])
def test_doctor_looks_at_the_certificate_in_front(until: datetime | None, state: str, tmp_path: Path, authority: Certificate) -> None:
    shown = authority.issue("127.0.0.1", until=until)
    told = _front(tmp_path, RELAY_TLS_CERTIFICATE=str(shown.path), RELAY_TLS_KEY=str(shown.path))
    assert told["state"] == state
    assert ("expired at" in told["detail"]) == (until == YESTERDAY)
    other = authority.issue("127.0.0.1")
    told = _front(tmp_path, RELAY_TLS_CERTIFICATE=str(shown.path), RELAY_TLS_KEY=str(other.path))
    assert (told["state"], "not that of the first certificate" in told["detail"]) == ("fail", True)
    assert _front(tmp_path)["state"] == "ok"


def _front(folder: Path, **settings: str) -> dict[str, Any]:
    run = runner("postgresql://relay@127.0.0.1:1/nowhere", folder)
    return next(each for each in json.loads(run("doctor", "--json", **settings).stdout)["checks"] if each["check"] == "TLS in front")


@pytest.mark.full
async def test_a_whole_relay_speaks_tls_with_all_its_workers(tmp_path: Path, authority: Certificate) -> None:
    first, second = authority.issue("127.0.0.1"), authority.issue("127.0.0.1")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_text(first.pem, encoding="ascii")
    key.write_text(first.key_pem, encoding="ascii")
    named = {"RELAY_TLS_CERTIFICATE": str(certificate), "RELAY_TLS_KEY": str(key)}
    async with serve_relay(tmp_path, workers=2, **named) as relay:
        url = relay.url.replace("http:", "https:")
        await relay.wait_for_workers(2)
        await until(lambda: ask_readiness(url, is_own=True).is_ready)
        with pytest.raises(NoAnswer, match="not trusted"):
            await asyncio.to_thread(ask_readiness, url)
        run = runner("postgresql://relay@127.0.0.1:1/nowhere", tmp_path)
        listen = {"RELAY_LISTEN": relay.url.removeprefix("http://"), **named}
        assert (await asyncio.to_thread(run, "health", **listen)).exit_code == 0
        certificate.write_text(second.pem, encoding="ascii")
        key.write_text(second.key_pem, encoding="ascii")
        async with asyncio.timeout(20):
            for _ in range(20):  # each time, whichever worker answers
                while await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", int(url.rpartition(":")[2]))) != second.pem:
                    await asyncio.sleep(0.1)
        told = {each["check"]: each for each in json.loads(run("doctor", "--json", **listen).stdout)["checks"]}
        assert "a relay answers at https://" in told["RELAY_LISTEN"]["detail"]
    expired = authority.issue("127.0.0.1", until=YESTERDAY)
    ended = await asyncio.to_thread(run, "serve", RELAY_TLS_CERTIFICATE=str(expired.path), RELAY_TLS_KEY=str(expired.path))
    assert (ended.exit_code, "expired at" in ended.output) == (1, True)
