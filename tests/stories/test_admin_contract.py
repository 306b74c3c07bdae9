"""What holds for every operation of the operators, whichever noun: preconditions, documents taken literally, methods.

The operations are those of the route table and their parameters those of the printed interface, so a new one is held to
the same by itself.
"""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx

from relay.api.openapi import describe
from relay.app import create_app
from relay.settings import load_settings
from tests.stories.speech import client_of, problem_of, wrong_members_of
from tests.stories.test_audit import CHANGES, rows_of, set_stage
from tests.support.route_table import Operation, admin_operations
from tests.support.running_relay import RunningRelay, running_relay
from tests.support.upstreams import Upstream

APP = create_app(load_settings({}))
DOCUMENT = describe(APP)
STATE = ("tenants", "api_keys", "destinations", "routes", "audit")


def printed(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][operation.path][operation.method.lower()]
    assert found["operationId"] == operation.id
    return found


def takes(operation: Operation, parameter: str) -> bool:
    return any(each["name"].lower() == parameter for each in printed(operation).get("parameters", ()))


CONDITIONAL = [operation for operation in admin_operations(APP) if takes(operation, "if-match")]
WITH_DOCUMENT = [operation for operation in admin_operations(APP) if "requestBody" in printed(operation)]


def invalid(answer: httpx.Response, location: list[str]) -> None:
    """It is a 422 that names this member first."""
    assert wrong_members_of(answer)[0] == tuple(location)


async def ask(relay: RunningRelay, operation: Operation, identifiers: dict[str, str], **more: Any) -> httpx.Response:
    path = operation.target(**identifiers).removeprefix("/admin/v1")
    return await relay.admin.request(operation.method, path, **more)


async def test_every_operation_holds_to_if_match_and_takes_documents_literally(database_url: str, tmp_path: Path) -> None:
    assert len(CONDITIONAL) >= 7
    assert len(WITH_DOCUMENT) >= 8
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay, AsyncExitStack() as stack:
        identifiers = (await set_stage(relay, upstream, "acme", stack)).identifiers
        before = await rows_of(relay, *STATE)
        for operation in CONDITIONAL:
            document = CHANGES[operation.id].document
            for stale in ('"00000000000000000000000000000000"', 'W/"x"', '"a", "b"'):
                answer = await ask(relay, operation, identifiers, json=document, headers={"If-Match": stale})
                problem_of(answer, 412, "etag_mismatch")
        for operation in WITH_DOCUMENT:
            known = CHANGES[operation.id].document or {}
            invalid(await ask(relay, operation, identifiers, json={**known, "colour": "red"}), ["body", "colour"])
            twice = b'{"colour":1,"colour":2}'
            answer = await ask(relay, operation, identifiers, content=twice, headers={"Content-Type": "application/json"})
            invalid(answer, ["body", "colour"])
            answer = await ask(relay, operation, identifiers, content=b"colour=red", headers={"Content-Type": "text/plain"})
            problem_of(answer, 415, "content_type_refused")
        assert await rows_of(relay, *STATE) == before


async def test_a_method_that_a_path_does_not_have_is_405(database_url: str, tmp_path: Path) -> None:
    paths = {operation.path: set[str]() for operation in admin_operations(APP)}
    for operation in admin_operations(APP):
        paths[operation.path].add(operation.method)
    async with running_relay(database_url, tmp_path) as relay, client_of(relay) as client:
        for path, methods in paths.items():
            for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - methods:
                target = Operation("", method, path).target(slug="a", key_id="b", name="c", route_id="d", upload_id="e")
                answer = await client.request(method, target)
                problem_of(answer, 405, "method_not_allowed")
                assert answer.headers["allow"] == ", ".join(sorted(methods))
