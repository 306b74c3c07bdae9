"""Requests that a machine makes up from the printed interface: no 5xx, no status that is not declared.

Half of them are meant to be valid, half to be wrong; half go to objects that exist. The default run is short and
always the same; the ``full`` one is long and random.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
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
from tests.support.postgres import TemplateServer

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def document() -> dict[str, Any]:
    return describe(make_admin_app(Parts(Database("postgresql://nowhere", DatabaseSettings()))))


OPERATIONS = [
    operation["operationId"]
    for path, item in document()["paths"].items()
    if path.startswith(f"{ADMIN_PREFIX}/")
    for operation in item.values()
]


@pytest.fixture(scope="module")
def operations() -> dict[str, Any]:
    """Each operation by its id. Read here and not when tests are gathered: it takes two seconds, and every test process gathers."""
    results: Any = schemathesis.openapi.from_dict(document()).include(path_regex=f"^{ADMIN_PREFIX}/").get_all_operations()
    found = {operation.definition.raw["operationId"]: operation for operation in (result.ok() for result in results)}
    assert len(found) >= 20
    assert found.keys() == set(OPERATIONS)
    return found


class Explorer:
    """A client of one database for all operations, each with a tenant of its own in which one object of each noun exists."""

    def __init__(self, runner: asyncio.Runner, client: httpx.AsyncClient) -> None:
        self._runner = runner
        self._client = client
        self._numbers = itertools.count(1)

    def make_tenant(self) -> dict[str, str]:
        """Make a tenant; gives what its objects are called."""
        return self._runner.run(self._make_tenant(next(self._numbers)))

    async def _make_tenant(self, number: int) -> dict[str, str]:
        slug, route_id = f"acme-{number}", f"01920000-0000-7000-8000-{number:012x}"
        destination = {"name": "main", "kind": "http", "config": {"base_url": "https://files.example.com"}}
        (await self._client.post("/tenants", json={"slug": slug})).raise_for_status()
        (await self._client.post(f"/tenants/{slug}/destinations", json=destination)).raise_for_status()
        route = {"prefix": "photos", "destination": "main"}
        (await self._client.put(f"/tenants/{slug}/routes/{route_id}", json=route)).raise_for_status()
        key = (await self._client.post(f"/tenants/{slug}/keys")).json()
        return {"slug": slug, "name": "main", "route_id": route_id, "key_id": key["id"]}

    def ask(self, case: Any) -> httpx.Response:
        """Send a case."""
        return self._runner.run(self._client.send(as_httpx(case)))


@asynccontextmanager
async def open_client(postgres_server: TemplateServer) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with postgres_server.database() as url:
        database = Database(url, DatabaseSettings())
        transport = httpx.ASGITransport(make_admin_app(Parts(database)))
        async with httpx.AsyncClient(transport=transport, base_url="http://relay.test/admin/v1", headers=headers) as client:
            yield client
        await database.close()


@pytest.fixture(scope="module")
def explorer(postgres_server: TemplateServer) -> Iterator[Explorer]:
    """One for all: a database and an application cost more than the few requests of an operation."""
    with asyncio.Runner() as runner:
        opened = open_client(postgres_server)
        yield Explorer(runner, runner.run(opened.__aenter__()))
        runner.run(opened.__aexit__(None, None, None))


def as_httpx(case: Any) -> httpx.Request:
    prepared = requests.Request(**case.as_transport_kwargs(base_url="http://relay.test")).prepare()
    headers = {**prepared.headers, "Authorization": f"Bearer {TOKEN}"}
    return httpx.Request(prepared.method or "", prepared.url or "", headers=headers, content=prepared.body)  # type: ignore[arg-type]


def explore(operation: Any, explorer: Explorer, effort: settings) -> None:
    existing = explorer.make_tenant()

    @effort
    @given(case=cases(operation, existing))
    def ask(case: Any) -> None:
        case.validate_response(explorer.ask(case), checks=CHECKS)

    ask()


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


@pytest.mark.timeout(90)  # the first one waits for all that reading
@pytest.mark.parametrize("name", OPERATIONS)
def test_no_request_fails_or_is_answered_beyond_the_document(name: str, operations: dict[str, Any], explorer: Explorer) -> None:
    explore(operations[name], explorer, effort_of(max_examples=8, derandomize=True))


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", OPERATIONS)
def test_no_request_of_many_fails_or_is_answered_beyond_the_document(name: str, operations: dict[str, Any], explorer: Explorer) -> None:
    explore(operations[name], explorer, effort_of(max_examples=500))
