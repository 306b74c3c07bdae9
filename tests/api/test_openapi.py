"""The printed interface is the real one: every route, every error, nothing else."""

import re
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from relay import errors
from relay.api.openapi import ADMIN_PREFIX, DOOR_PATH, describe
from relay.api.problems import MEDIA_TYPE
from relay.app import create_app
from relay.errors import RelayError
from relay.settings import load_settings


@pytest.fixture
def app() -> FastAPI:
    """The whole application; nothing of it is started."""
    return create_app(load_settings({}))


@pytest.fixture
def document(app: FastAPI) -> dict[str, Any]:
    return describe(app)


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, verb, operation) for path, item in document["paths"].items() for verb, operation in item.items()]


async def test_it_is_served_without_a_token(app: FastAPI, document: dict[str, Any]) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://relay.test") as client:
        answer = await client.get("/openapi.json")
    assert (answer.status_code, answer.json()) == (200, document)


def test_it_names_every_route_and_no_other(app: FastAPI, document: dict[str, Any]) -> None:
    routes = {(route.path or "", verb) for route in iter_route_contexts(app.routes) for verb in route.methods or {"POST", "PUT"}}
    served = {(path.replace(":path}", "}"), verb.lower()) for path, verb in routes if path != "/openapi.json"}
    assert {(path, verb) for path, verb, _ in operations(document)} == served
    assert {(DOOR_PATH, "post"), ("/livez", "get"), (f"{ADMIN_PREFIX}/tenants", "post")} < served


def test_every_operation_has_an_id_of_its_own_and_a_summary(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(ids)) == len(ids)
    assert all(operation["summary"].rstrip().endswith(".") for _, _, operation in operations(document))


def test_every_error_is_declared_as_a_problem(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        for status, response in operation["responses"].items():
            if status.startswith(("4", "5")) and path != "/readyz":
                assert response["content"][MEDIA_TYPE]["schema"] == {"$ref": "#/components/schemas/Problem"}


def test_every_admin_operation_needs_the_operators_token(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        if path.startswith(ADMIN_PREFIX):
            assert operation["security"] == [{"operator": []}]
            assert {"401", "422", "503"} <= set(operation["responses"])


def test_the_door_takes_anything_under_either_credential(document: dict[str, Any]) -> None:
    for verb in ("post", "put"):
        operation = document["paths"][DOOR_PATH][verb]
        assert operation["requestBody"]["content"] == {"*/*": {"schema": {"type": "string", "format": "binary"}}}
        assert operation["security"] == [{"bearerKey": []}, {"apiKey": []}]
        assert {"201", "400", "401", "403", "404", "413", "415", "502", "503", "504"} <= set(operation["responses"])


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    wanted = set(re.findall(r"#/components/schemas/([A-Za-z_]+)", str(document)))
    assert wanted <= set(document["components"]["schemas"])
    assert wanted


def test_a_patch_may_be_called_a_merge_patch(document: dict[str, Any]) -> None:
    for _, verb, operation in operations(document):
        if verb == "patch":
            assert set(operation["requestBody"]["content"]) == {"application/json", "application/merge-patch+json"}


def test_every_error_that_a_client_may_see_is_declared_somewhere(document: dict[str, Any]) -> None:
    declared = set(re.findall(r"`([a-z_]+)`", str([operation["responses"] for _, _, operation in operations(document)])))
    leaves = {
        kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RelayError) and hasattr(kind, "code")
    }
    resumable = {"upload_not_found"}
    not_declared = {"client_gone", "internal_error", "disk_broke", "not_found", "method_not_allowed"}
    assert leaves - declared - not_declared - resumable == {"entry_not_found"}
