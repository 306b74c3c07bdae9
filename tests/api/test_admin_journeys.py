"""Journeys that a machine makes up from the links of the printed interface: make, read, change, remove, in any order.

Every answer is held against the document; what was just made must be there, what was removed must be gone. The
test counts how often a link was followed: without that it would be a heap of unrelated requests.
"""

import asyncio
import itertools
from collections import Counter
from typing import Any

import asyncpg
import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ensure_resource_availability,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    use_after_free,
)

from relay.api.openapi import ADMIN_PREFIX, describe
from relay.db.engine import Database
from relay.settings import DatabaseSettings
from tests.api.test_admin_schema import as_httpx
from tests.support.admin_app import Parts, make_admin_app

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    ensure_resource_availability,
    use_after_free,
]
LEFT_BEHIND = "/keys/"
"""A revoked key stays to be seen."""


class Journeys:
    """Runs state machines over one database, which is emptied before each journey."""

    def __init__(self, database_url: str) -> None:
        self.followed: Counter[str] = Counter()
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.longest = 0
        self._url = database_url
        self._runner = asyncio.Runner()
        self._database = Database(database_url, DatabaseSettings())
        self._app = make_admin_app(Parts(self._database))

    def run(self, effort: settings) -> None:
        transport = httpx.ASGITransport(self._app)
        client = httpx.AsyncClient(transport=transport, base_url="http://relay.test")
        try:
            run_state_machine_as_test(self._machine(client), settings=effort)
        finally:
            self._runner.run(client.aclose())
            self._runner.run(self._database.close())
            self._runner.close()

    def _machine(self, client: httpx.AsyncClient) -> Any:
        journeys = self
        schema = schemathesis.openapi.from_dict(describe(self._app)).include(path_regex=f"^{ADMIN_PREFIX}/tenants")
        schema.config.generation.update(modes=[GenerationMode.POSITIVE])
        made: Any = schema.as_state_machine()

        class Machine(made):  # type: ignore[misc] # made at run time
            def setup(self) -> None:
                journeys._runner.run(journeys._empty())
                self.depths: dict[str, int] = {}
                self.numbers = itertools.count(1)

            def before_call(self, case: Any) -> None:
                # What a machine makes up is seldom taken: three of four requests are as the document's own examples say.
                number = next(self.numbers)
                if number % 4 == 0:
                    return
                case.query, case.headers = {}, {}
                content = case.operation.definition.raw.get("requestBody", {}).get("content", {}).get("application/json", {})
                if content.get("examples"):
                    example = next(iter(content["examples"].values()))["value"]
                    case.body = {**example, **({"slug": f"acme-{number}"} if "slug" in example else {})}
                    case.media_type = "application/json"

            def step(self, input: Any) -> Any:  # noqa: A002 - the library's name
                is_link = input.transition is not None and input.is_applied
                if not is_link and "{slug}" in input.case.operation.path:
                    return None  # it would ask for what nobody made: the other tests do that
                output = super().step(input)
                if is_link:
                    name = input.case.operation.definition.raw["operationId"]
                    journeys.followed[name] += output.response.status_code < 300
                    self.depths[input.case.id] = self.depths.get(input.transition.parent_id, 1) + 1
                    journeys.longest = max(journeys.longest, self.depths[input.case.id])
                return output

            def call(self, case: Any, **_: Any) -> Any:
                request = as_httpx(case)
                answer = journeys._runner.run(client.send(request))
                journeys.statuses[case.operation.definition.raw["operationId"], answer.status_code] += 1
                return Response.from_any(answer)

            def validate_response(self, response: Any, case: Any, **_: Any) -> None:
                checks = [check for check in CHECKS if check is not use_after_free or LEFT_BEHIND not in case.path]
                case.validate_response(response, checks=checks, recorder=self.recorder)

        return Machine

    async def _empty(self) -> None:
        connection = await asyncpg.connect(self._url)
        try:
            await connection.execute("TRUNCATE tenants CASCADE")
        finally:
            await connection.close()


def effort_of(**bounds: Any) -> settings:
    return settings(database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), **bounds)


def test_journeys_along_the_links_end_as_the_document_says(database_url: str) -> None:
    journeys = Journeys(database_url)
    journeys.run(effort_of(max_examples=3, stateful_step_count=30, derandomize=True))
    told = (journeys.followed, journeys.statuses)
    assert journeys.followed.total() >= 6, told
    assert len(+journeys.followed) >= 3, told
    assert journeys.longest >= 3, told


@pytest.mark.full
@pytest.mark.timeout(600)
def test_many_journeys_along_the_links_end_as_the_document_says(database_url: str) -> None:
    journeys = Journeys(database_url)
    journeys.run(effort_of(max_examples=100, stateful_step_count=60))
    assert {"get_tenant", "get_key", "get_destination", "get_route", "rotate_key", "create_route"} <= {*+journeys.followed}
    assert journeys.longest >= 4
