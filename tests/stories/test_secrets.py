"""Where secrets are not: no log, no answer but the one that issues them, no file, no table, except hashed or sealed."""

import hashlib
import io
import logging
import re
from pathlib import Path

import httpx
from sqlalchemy import text

from relay.settings import LogSettings
from relay.telemetry import JsonFormatter, TextFormatter
from tests.stories.speech import client_of
from tests.support.running_relay import ADMIN_TOKEN, SECRET_KEY, RunningRelay, running_relay
from tests.support.upstreams import Conduct, Upstream
from tests.support.waiting import until

SEALED = "sealed-value-of-the-tenants-own-service"
CLIENTS_OWN = "cookie-of-the-client"


class Listener(logging.Handler):
    """Everything that is logged, formatted both ways, and raw."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.text = io.StringIO()
        self._formatters = (JsonFormatter(), TextFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        for formatter in self._formatters:
            self.text.write(formatter.format(record) + "\n")
        self.text.write(f"{record.__dict__!r}\n")


async def dump(relay: RunningRelay) -> str:
    """Every row of every table, as text."""
    lines: list[str] = []
    async with relay.services.database.transaction() as session:
        tables = (await session.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))).scalars().all()
        for table in tables:
            lines += (await session.execute(text(f'SELECT CAST(t AS text) FROM "{table}" AS t'))).scalars().all()
    assert {"tenants", "api_keys", "destinations", "audit", "ledger"} <= set(tables)
    return "\n".join(lines)


async def live(relay: RunningRelay, upstream: Upstream, answers: list[httpx.Response]) -> str:
    """A tenant's whole life, with its failures; gives its key."""

    async def note(request: httpx.Response) -> httpx.Response:
        answers.append(request)
        return request

    admin = relay.admin
    await note(await admin.post("/tenants", json={"slug": "acme"}))
    key: str = (await admin.post("/tenants/acme/keys", json={"name": "first"})).json()["key"]
    destination = {"name": "main", "kind": "http", "config": {"base_url": upstream.url}, "secrets": {"headers": {"Authorization": SEALED}}}
    await note(await admin.post("/tenants/acme/destinations", json=destination))
    await note(await admin.post("/tenants/acme/destinations", json=destination))
    await note(await admin.post("/tenants/acme/destinations", json={**destination, "secrets": {"headers": {"Host": SEALED}}}))
    await note(await admin.post("/tenants/acme/destinations", json={**destination, "secrets": {"headers": {"X": f"{SEALED}\n"}}}))
    await note(await admin.post("/tenants/acme/destinations", json={**destination, "secrets": [SEALED]}))
    await note(await admin.post("/tenants/acme/destinations", json={**destination, "secrets": {"headers": {f"{SEALED} bad": "x"}}}))
    await note(await admin.patch("/tenants/acme/destinations/main", json={"secrets": {"headers": {"X-Other": SEALED}}}))
    await note(await admin.post("/tenants/acme/destinations/main/check"))
    async with client_of(relay) as client:
        for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-Key": key}, {"X-API-Key": key[:-1]}, {"X-API-Key": key + "x"}):
            await note(await client.post("/upload/a", content=b"x", headers={**headers, "Cookie": CLIENTS_OWN}))
        await note(await client.post("/upload/a", headers={"Authorization": f"Bearer {key}", "X-API-Key": key[:-1] + "!"}))
        await note(await client.post("/upload/%00", content=b"x", headers={"X-API-Key": key}))
        for conduct in (Conduct(status=500), Conduct(reset_after=0), Conduct(raw_answer=b"nonsense\r\n\r\n", then="close")):
            upstream.conduct = conduct
            await note(await client.post("/upload/b?token=" + key, content=b"x", headers={"X-API-Key": key}))
        await note(await client.get("/admin/v1/tenants", headers={"Authorization": f"Bearer {ADMIN_TOKEN}x"}))
        for path in ("/livez", "/readyz", "/metrics", "/openapi.json"):
            await note(await client.get(path))
    key_id = key.split("_")[1]
    for path in ("", "/keys", f"/keys/{key_id}", "/destinations", "/destinations/main", "/routes"):
        await note(await admin.get(f"/tenants/acme{path}"))

    async def is_shipped() -> bool:
        return len(await relay.entries()) >= 6

    await until(is_shipped)
    await note(await admin.get("/ledger"))
    return key


async def test_secrets_are_nowhere_but_where_they_belong(database_url: str, tmp_path: Path) -> None:
    listener = Listener()
    root = logging.getLogger()
    levels = {logger: logger.level for logger in (root, *(logging.getLogger(name) for name in ("relay", "sqlalchemy", "uvicorn")))}
    root.addHandler(listener)
    answers: list[httpx.Response] = []
    try:
        for logger in levels:
            logger.setLevel(logging.DEBUG)
        # Libraries that would log URLs or credentials are silenced by the configuration of logs; here they are left out.
        for name in ("httpx", "httpcore", "asyncio"):
            logging.getLogger(name).setLevel(logging.WARNING)
        async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay:
            key = await live(relay, upstream, answers)
            secret = key.split("_")[2]
            rows = await dump(relay)
            files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
            assert upstream.requests[0].headers, "it was used"
            assert any(request.values("authorization") == [SEALED.encode()] for request in upstream.requests)
    finally:
        root.removeHandler(listener)
        for logger, level in levels.items():
            logger.setLevel(level)

    log = listener.text.getvalue()
    assert "relay.access" in log
    answered = "\n".join(f"{answer.headers}\n{answer.text}" for answer in answers)
    values = [key, secret, SEALED, ADMIN_TOKEN, SECRET_KEY, SECRET_KEY.partition(":")[2], CLIENTS_OWN]
    database_password = re.search(r"://[^:]*:([^@]*)@", database_url)
    assert database_password is not None
    values.append(database_password[1])
    for value in values:
        for place, content in {"logs": log, "answers": answered, "tables": rows, "files": files.decode("latin-1")}.items():
            position = content.find(value)
            assert position < 0, f"in the {place}: …{content[max(0, position - 200) : position]}"
    assert hashlib.sha256(secret.encode()).hexdigest() in rows, "the dump shows what it should"
    assert "acme" in answered
    assert LogSettings().level == "info"
