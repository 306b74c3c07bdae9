"""No tenant reaches another one's things, and nobody reaches the operators' side without their token.

Every case comes from the route table: a new route is tried by itself, and one that asks for something this file does
not know fails it.
"""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx

from relay.app import create_app
from relay.settings import load_settings
from tests.stories.speech import client_of, head, problem_of, raw_problem_of
from tests.stories.test_audit import CHANGES, CHANGES_NOTHING, Stage, rows_of, set_stage
from tests.stories.test_own_uploads import UNKNOWN, nameless
from tests.support.raw_client import RawClient
from tests.support.route_table import Operation, admin_operations, changing_operations, client_operations
from tests.support.running_relay import RunningRelay, TestTenant, running_relay
from tests.support.upstreams import Upstream

APP = create_app(load_settings({}))
ASKED_OF_CLIENTS = {"path": "route_not_found", "upload_id": "upload_not_found"}
ASKED_OF_OPERATORS = {"slug", "key_id", "name", "route_id", "upload_id"}
CHILDREN = {"key_id": "key_not_found", "name": "destination_not_found", "route_id": "route_not_found"}
TAKEN = {"set_route": "route_exists"}
"""A PUT at the id of another tenant's route makes none: ids of routes are unique, and operators may know that."""

CONFIGURED = ("tenants", "destinations", "routes", "audit")
STATE = ("api_keys", *CONFIGURED)
"""What operators may change. A key's row also tells when it was last used."""

READER = "token-of-a-reader"


async def every_identifier(relay: RunningRelay, client: httpx.AsyncClient, stage: Stage) -> dict[str, str]:
    """Whatever names something of a tenant: what it made, and what came of an upload of its own."""
    [key] = stage.secrets
    answer = await client.post("/upload/photos/their%20cat.png", content=b"hello", headers={"X-API-Key": key})
    assert answer.status_code == 200
    [entry] = await relay.every_entry(tenant=stage.identifiers["slug"])
    named = {"path": entry["path"], "upload_id": entry["upload_id"], "request_id": entry["request_id"], "trace_id": entry["trace_id"]}
    return {**stage.identifiers, **named, "address": f"destinations/{stage.identifiers['name']}"}


def test_the_routes_ask_for_nothing_that_is_not_known_here() -> None:
    asked = {name for operation in client_operations(APP) for name in operation.identifiers}
    assert asked == ASKED_OF_CLIENTS.keys(), "say below whose it is, and that another tenant's is a 404"
    assert {name for operation in admin_operations(APP) for name in operation.identifiers} == ASKED_OF_OPERATORS
    assert {operation.id for operation in client_operations(APP)} >= {"upload_post", "upload_put", "get_upload", "list_uploads"}


async def test_another_tenants_identifier_is_404_on_every_route_of_clients(database_url: str, tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        running_relay(database_url, tmp_path) as relay,
        client_of(relay) as client,
        AsyncExitStack() as stack,
    ):
        mine = await relay.tenant("mine")
        theirs = await every_identifier(relay, client, await set_stage(relay, upstream, "theirs", stack))
        before = await rows_of(relay, *CONFIGURED)
        tried = 0
        for operation in client_operations(APP):
            for asked in operation.identifiers:
                never = await client.request(operation.method, operation.target(**{asked: UNKNOWN}), headers=mine.headers)
                fitting = {kind: value for kind, value in theirs.items() if asked == "path" or "/" not in value}
                for kind, value in fitting.items():
                    answer = await client.request(operation.method, operation.target(**{asked: value}), headers=mine.headers)
                    problem_of(answer, 404, ASKED_OF_CLIENTS[asked])
                    assert nameless(answer) == nameless(never), (operation, kind)
                    check_nothing_of(theirs, answer)
                    tried += 1
        assert tried >= 2 * len(theirs) + len(ASKED_OF_OPERATORS)
        for operation in client_operations(APP):
            if not operation.identifiers:
                answer = await client.request(operation.method, operation.path, headers=mine.headers)
                assert answer.status_code == 200
                check_nothing_of(theirs, answer)
        assert len(upstream.requests) == 1
        assert await rows_of(relay, *CONFIGURED) == before
        assert {entry["outcome"] for entry in await relay.every_entry(tenant="mine")} == {"refused"}


def check_nothing_of(theirs: dict[str, str], answer: httpx.Response) -> None:
    shown = f"{answer.text}\n{answer.headers}"
    for kind, value in theirs.items():
        assert value not in shown, (kind, shown)


async def ask(client: httpx.AsyncClient, operation: Operation, identifiers: dict[str, str], token: str | None) -> httpx.Response:
    document: Any = CHANGES[operation.id].document if operation.id in CHANGES else None
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return await client.request(operation.method, operation.target(**identifiers), json=document, headers=headers)


async def test_a_child_of_one_tenant_is_not_found_below_another(database_url: str, tmp_path: Path) -> None:
    nested = [operation for operation in admin_operations(APP) if len(operation.identifiers) > 1]
    assert {operation.identifiers[1:] for operation in nested} == {(name,) for name in CHILDREN}
    async with (
        Upstream() as upstream,
        running_relay(database_url, tmp_path) as relay,
        client_of(relay) as client,
        AsyncExitStack() as stack,
    ):
        mine: TestTenant = await relay.tenant("mine")
        await relay.http_destination(mine, upstream.url)
        theirs = (await set_stage(relay, upstream, "theirs", stack)).identifiers
        token = relay.admin.headers["authorization"].partition(" ")[2]
        before = await rows_of(relay, *STATE)
        for operation in nested:
            answer = await ask(client, operation, {**theirs, "slug": "mine"}, token)
            if operation.id in TAKEN:
                problem_of(answer, 409, TAKEN[operation.id])
            else:
                asked = operation.identifiers[1]
                problem_of(answer, 404, CHILDREN[asked])
                never = await ask(client, operation, {"slug": "mine", asked: UNKNOWN}, token)
                assert nameless(answer) == nameless(never), operation
            assert await rows_of(relay, *STATE) == before, operation
        for operation in nested:
            if operation.method == "GET":
                assert (await ask(client, operation, theirs, token)).status_code == 200, "below its own it is found"
        children = {name: theirs[name] for name in CHILDREN}
        for operation in admin_operations(APP):
            if operation.method == "GET" and operation.identifiers == ("slug",):
                answer = await ask(client, operation, {"slug": "mine"}, token)
                assert answer.status_code == 200
                check_nothing_of(children, answer)


async def test_what_one_tenant_has_cannot_be_named_in_a_document_of_another(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay, AsyncExitStack() as stack:
        mine: TestTenant = await relay.tenant("mine")
        await relay.http_destination(mine, upstream.url)
        route = await relay.post("/tenants/mine/routes", {"prefix": "in", "destination": "main"})
        theirs = (await set_stage(relay, upstream, "theirs", stack)).identifiers
        before = await rows_of(relay, *STATE)
        for method, path, document in (
            ("POST", "/tenants/mine/routes", {"prefix": "out", "destination": "…"}),
            ("PUT", f"/tenants/mine/routes/{route['id']}", {"prefix": "in", "destination": "…"}),
            ("PATCH", "/tenants/mine", {"default_destination": "…"}),
        ):
            answers = []
            for name in (theirs["name"], "never-was"):
                named = {member: name if value == "…" else value for member, value in document.items()}
                answer = await relay.admin.request(method, path, json=named)
                assert answer.status_code in {404, 422}, answer.text
                answers.append(nameless(answer)[1].replace(name, ""))
            assert answers[0] == answers[1], path
        assert await rows_of(relay, *STATE) == before


async def test_every_route_of_the_operators_asks_for_their_token(database_url: str, tmp_path: Path) -> None:
    reading = running_relay(database_url, tmp_path, RELAY_ADMIN_READ_TOKEN=READER)
    async with Upstream() as upstream, reading as relay, client_of(relay) as client, AsyncExitStack() as stack:
        stage = await set_stage(relay, upstream, "acme", stack, is_uploading=True)
        token = relay.admin.headers["authorization"].partition(" ")[2]
        before = await rows_of(relay, *STATE)
        changing = {operation.id for operation in changing_operations(APP)}
        assert changing == {*CHANGES, *CHANGES_NOTHING}
        for operation in admin_operations(APP):
            for wrong in (None, "-", token[:-1], f"{token}x", READER[:-1], *stage.secrets):
                refused = await ask(client, operation, stage.identifiers, wrong)
                problem_of(refused, 401, "operator_token_invalid")
                assert refused.headers["www-authenticate"] == 'Bearer realm="relay"'
            read = await ask(client, operation, stage.identifiers, READER)
            if operation.id in changing:
                problem_of(read, 403, "operator_read_only")
                await check_body_unread(relay, operation, stage.identifiers)
            else:
                assert (operation.method, read.status_code) == ("GET", 200), (operation, read.text)
        assert await rows_of(relay, *STATE) == before


async def check_body_unread(relay: RunningRelay, operation: Operation, identifiers: dict[str, str]) -> None:
    """Without a token that may change things nothing is waited for but the head, and no body is invited."""
    for token, status, code in ((READER, 403, "operator_read_only"), ("-", 401, "operator_token_invalid")):
        lines = [f"Authorization: Bearer {token}", "Content-Type: application/json", "Content-Length: 1000", "Expect: 100-continue"]
        async with RawClient(*relay.address) as raw:
            await raw.send(head(operation.target(**identifiers), *lines, method=operation.method))
            raw_problem_of(await raw.answer(operation.method), status, code)
