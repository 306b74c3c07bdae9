"""What goes wrong on the way: the table of hazards, each on real sockets against a real upstream and ledger."""

import asyncio
import json
import tomllib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.certificates import Certificate
from tests.support.postgres import TemplateServer
from tests.support.raw_client import Answer, ConnectionEnded, RawClient
from tests.support.running_relay import RunningRelay, TestTenant, running_relay
from tests.support.upstreams import Conduct, Upstream
from tests.support.waiting import until

HAZARDS = tomllib.loads((Path(__file__).parent.parent / "vectors" / "hazards.toml").read_text(encoding="utf-8"))["hazard"]
PIECE = 65536


@dataclass
class Conversation:
    """One client's steps, and what it saw."""

    client: RawClient
    upstream: Upstream
    tenant: TestTenant
    answers: list[Answer]
    sending: asyncio.Task[bool] | None = None
    is_left: bool = False

    async def take(self, step: str) -> None:  # noqa: C901, PLR0912 - one line a word of the table
        verb, _, rest = step.partition(" ")
        match verb:
            case "head" | "head10":
                await self._send(self._head(rest.split(), "1.0" if verb == "head10" else "1.1"))
            case "bighead":
                await self._send(b"POST /upload/a HTTP/1.1\r\nHost: relay\r\nX-Big: " + b"x" * int(rest) + b"\r\n\r\n")
            case "raw":
                await self._send(rest.encode())
            case "body":
                await self._send(b"x" * int(rest))
            case "chunk":
                await self._send(b"%x\r\n" % int(rest) + b"x" * int(rest) + b"\r\n")
            case "last":
                await self._send(b"0\r\n\r\n")
            case "upstream":
                await self._sent()
                await self.upstream.received(int(rest))
            case "continue":
                assert (await self.client.answer()).status == 100
            case "answer":
                await self._answer()
            case "silence":
                assert await self.client.is_kept(seconds=float(rest))
            case "leave":
                self.is_left = True
                self.client.reset()
            case "half_close" | "close" | "reset":
                await self._sent()
                self.is_left = True
                {"half_close": self.client.half_close, "close": self.client.close, "reset": self.client.reset}[verb]()
            case _:
                pytest.fail(f"unknown step {step!r}")

    def _head(self, words: list[str], version: str) -> bytes:
        lines = [f"POST /upload/a HTTP/{version}", "Host: relay", f"Authorization: Bearer {self.tenant.key}"]
        for word in words:
            if word.startswith("length="):
                lines.append(f"Content-Length: {word.removeprefix('length=')}")
            elif word == "chunked":
                lines.append("Transfer-Encoding: chunked")
            else:
                lines.append(word.replace("_", " "))
        return "\r\n".join([*lines, "", ""]).encode()

    async def _send(self, data: bytes) -> None:
        """Send in the background, as a client does that looks for an early answer meanwhile."""
        before = self.sending

        async def send() -> bool:
            if before is not None and not await before:
                return False
            return await self.client.try_to_send(data)

        self.sending = asyncio.create_task(send())

    async def _sent(self) -> None:
        if self.sending is not None:
            await self.sending

    async def _answer(self) -> None:
        try:
            self.answers.append(await self.client.final_answer())
        except ConnectionEnded:
            self.answers.append(Answer(0, "", [], b"", is_whole=False))

    async def end(self) -> str:
        """``kept`` when a further request is answered on this connection, else ``closed``."""
        if self.sending is not None:
            self.sending.cancel()
            await asyncio.gather(self.sending, return_exceptions=True)
        if self.is_left:  # after a half-close the relay's own end is still to come
            return "closed" if not await self.client.is_kept(seconds=5) else "kept"
        try:
            await self.client.send(b"GET /livez HTTP/1.1\r\nHost: relay\r\n\r\n")
            answer = await self.client.answer("GET")
        except (OSError, ConnectionEnded):
            return "closed"
        return "kept" if answer.status == 200 else "closed"


def conduct_of(members: dict[str, Any]) -> Conduct:
    """An upstream's behaviour as the table says it."""
    for name in ("answer", "raw_answer"):
        if name in members:
            members = {**members, name: members[name].encode()}
    if "pieces" in members:
        members = {**members, "pieces": [piece.encode() for piece in members["pieces"]]}
    return Conduct(**members)


def status_seen(answer: Answer) -> int:
    """The status of an answer, 0 for one that was cut."""
    return answer.status if answer.is_whole else 0


class Relays:
    """One running relay for each set of settings that the table uses."""

    def __init__(self, server: TemplateServer, folder: Path, stack: AsyncExitStack, **ways: str) -> None:
        self._server = server
        self._folder = folder
        self._stack = stack
        self._ways = ways
        self._running: dict[str, RunningRelay] = {}

    async def of(self, settings: dict[str, str]) -> RunningRelay:
        """The relay that runs with these settings."""
        name = json.dumps(settings, sort_keys=True)
        if name not in self._running:
            folder = self._folder / str(len(self._running))
            url = await self._stack.enter_async_context(self._server.database())
            self._running[name] = await self._stack.enter_async_context(running_relay(url, folder, **self._ways, **settings))
        return self._running[name]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def relays(postgres_server: TemplateServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Relays]:
    """Every relay of this module; a start costs more than most hazards."""
    async with AsyncExitStack() as stack:
        yield Relays(postgres_server, tmp_path_factory.mktemp("hazards"), stack)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("hazard", HAZARDS, ids=[hazard["name"] for hazard in HAZARDS])
async def test_hazard(hazard: dict[str, Any], relays: Relays) -> None:
    await check_hazard(hazard, await relays.of(hazard.get("settings", {})))


async def check_hazard(hazard: dict[str, Any], relay: RunningRelay, certificate: Certificate | None = None) -> None:
    """Do as the row says, and see that what it expects has come of it."""
    expected = hazard["expect"]
    context = certificate.server_context() if certificate is not None else None
    trusting = certificate.client_context() if certificate is not None else None
    tenant = await relay.tenant(hazard["name"].replace("_", "-"))
    async with Upstream(conduct_of(hazard.get("upstream", {})), tls=context) as upstream:
        await relay.http_destination(tenant, upstream.url, **hazard.get("destination", {}))
        async with RawClient(*relay.address, tls=trusting) as client:
            conversation = Conversation(client, upstream, tenant, [])
            for step in hazard["client"]:
                await conversation.take(step)
            assert [status_seen(answer) for answer in conversation.answers] == expected["status"]
            check_problem(conversation.answers, expected)
            if expected["connection"] != "any":
                assert await conversation.end() == expected["connection"]
        await check_entries(relay, tenant, expected)
        await check_upstream(upstream, expected)


def check_problem(answers: list[Answer], expected: dict[str, Any]) -> None:
    """A refusal that is ours is a problem with the expected code."""
    code = expected.get("refusal", expected.get("code"))
    if answers and answers[-1].status >= 400 and code:
        assert answers[-1].value("content-type") == "application/problem+json"
        problem = json.loads(answers[-1].body)
        assert (problem["code"], problem["status"]) == (code, answers[-1].status)


async def check_entries(relay: RunningRelay, tenant: TestTenant, expected: dict[str, Any]) -> None:
    """The ledger tells of each request once."""
    if expected["outcome"] == "any":
        return
    if not expected["outcome"]:
        assert not await relay.every_entry(tenant=tenant.slug)
        return
    count = expected.get("requests", 1)
    found: list[dict[str, Any]] = []

    async def is_told() -> bool:
        found[:] = await relay.entries(tenant=tenant.slug)
        return len(found) >= int(count)

    await until(is_told)
    assert len(found) == count
    assert {entry["outcome"] for entry in found} == {expected["outcome"]}
    told = {name: found[0][name] for name in ("code", "early", "client_left") if name in expected}
    assert told == {name: expected[name] for name in told}


async def check_upstream(upstream: Upstream, expected: dict[str, Any]) -> None:
    """The body ended at the upstream as the table says."""
    if expected["upstream"] == "none":
        assert not upstream.requests
    elif expected["upstream"] != "any":
        count = expected.get("requests", 1)
        for index in range(count):
            assert (await upstream.ended(index)).ending == expected["upstream"]
        assert len(upstream.requests) == count


PLAIN = ("plain_upload_with_length", "plain_upload_chunked", "client_gone_midway", "continue_refused", "early_refusal_that_closes")


@pytest.mark.parametrize("hazard", [hazard for hazard in HAZARDS if hazard["name"] in PLAIN], ids=PLAIN)
async def test_the_app_needs_no_server_of_its_own(hazard: dict[str, Any], database_url: str, tmp_path: Path) -> None:
    async with running_relay(database_url, tmp_path, http="h11", **hazard.get("settings", {})) as relay:
        await check_hazard(hazard, relay)
