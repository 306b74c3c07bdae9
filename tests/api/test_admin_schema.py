"""Requests that a machine makes up from the printed interface: no 5xx, no status that is not declared.

Half of them are meant to be valid, half to be wrong; half go to objects that exist. The default run is short and
always the same; the ``full`` one is long and random.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from relay.api.openapi import ADMIN_PREFIX, describe
from relay.db.engine import Database
from relay.settings import DatabaseSettings
from tests.support.admin_app import TOKEN, Parts, make_admin_app

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ROUTE_ID = "01920000-0000-7000-8000-000000000000"
EXISTING = {"slug": "acme", "name": "main", "route_id": ROUTE_ID}


def operations() -> list[Any]:
    schema = schemathesis.openapi.from_dict(describe(make_admin_app(Parts(Database("postgresql://nowhere", DatabaseSettings())))))
    results: Any = schema.include(path_regex=f"^{ADMIN_PREFIX}/").get_all_operations()
    found = [result.ok() for result in results]
    assert len(found) >= 20
    return found


OPERATIONS = [pytest.param(operation, id=operation.definition.raw["operationId"]) for operation in operations()]


@asynccontextmanager
async def open_acme(database_url: str) -> AsyncIterator[tuple[httpx.AsyncClient, dict[str, str]]]:
    """A client of a database in which one object of each noun exists, and what they are called."""
    database = Database(database_url, DatabaseSettings())
    headers = {"Authorization": f"Bearer {TOKEN}"}
    transport = httpx.ASGITransport(make_admin_app(Parts(database)))
    async with httpx.AsyncClient(transport=transport, base_url="http://relay.test/admin/v1", headers=headers) as client:
        await client.post("/tenants", json={"slug": "acme"})
        destination = {"name": "main", "kind": "http", "config": {"base_url": "https://files.example.com"}}
        await client.post("/tenants/acme/destinations", json=destination)
        await client.put(f"/tenants/acme/routes/{ROUTE_ID}", json={"prefix": "photos", "destination": "main"})
        key = (await client.post("/tenants/acme/keys")).json()
        yield client, {**EXISTING, "key_id": key["id"]}
    await database.close()


def as_httpx(case: Any) -> httpx.Request:
    prepared = requests.Request(**case.as_transport_kwargs(base_url="http://relay.test")).prepare()
    headers = {**prepared.headers, "Authorization": f"Bearer {TOKEN}"}
    return httpx.Request(prepared.method or "", prepared.url or "", headers=headers, content=prepared.body)  # type: ignore[arg-type]


def explore(operation: Any, database_url: str, effort: settings) -> None:
    with asyncio.Runner() as runner:
        opened = open_acme(database_url)
        client, existing = runner.run(opened.__aenter__())

        @effort
        @given(case=cases(operation, existing))
        def ask(case: Any) -> None:
            case.validate_response(runner.run(client.send(as_httpx(case))), checks=CHECKS)

        try:
            ask()
        finally:
            runner.run(opened.__aexit__(None, None, None))


@st.composite
def cases(draw: st.DrawFn, operation: Any, existing: dict[str, str]) -> Any:
    mode = draw(st.sampled_from([GenerationMode.POSITIVE, GenerationMode.NEGATIVE]))
    case = draw(operation.as_strategy(generation_mode=mode))
    if draw(st.booleans()) and case.path_parameters:
        is_deletion = operation.definition.raw["operationId"] == "delete_tenant"
        case.path_parameters.update({name: existing[name] for name in case.path_parameters if name in existing and not is_deletion})
    return case


def effort_of(**bounds: Any) -> settings:
    return settings(database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), **bounds)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_request_fails_or_is_answered_beyond_the_document(operation: Any, database_url: str) -> None:
    explore(operation, database_url, effort_of(max_examples=8, derandomize=True))


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_request_of_many_fails_or_is_answered_beyond_the_document(operation: Any, database_url: str) -> None:
    explore(operation, database_url, effort_of(max_examples=500))
