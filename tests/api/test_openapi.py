"""The printed interface is the real one: every route, every error, nothing else."""

import base64
import hashlib
import json
import re
from typing import Any

import httpx
import jsonschema_rs
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from relay.api.openapi import ADMIN_PREFIX, DOOR_PATH, describe, problems
from relay.api.problems import MEDIA_TYPE
from relay.api.reference import POLICY, STYLE, render, tag
from relay.app import create_app
from relay.settings import load_settings


@pytest.fixture(scope="module")
def app() -> FastAPI:
    """The whole application; nothing of it is started."""
    return create_app(load_settings({}))


@pytest.fixture(scope="module")
def document(app: FastAPI) -> dict[str, Any]:
    """As it is printed once; tests only read it."""
    return describe(app)


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, verb, operation) for path, item in document["paths"].items() for verb, operation in item.items()]


def check(document: dict[str, Any], schema: dict[str, Any], value: Any, name: str) -> None:
    """Hold a value against a schema of the document."""
    whole = {**schema, "components": {"schemas": document["components"]["schemas"]}}
    wrong = list(jsonschema_rs.Draft202012Validator(whole, validate_formats=True).iter_errors(value))
    assert not wrong, (name, [error.message for error in wrong])


def check_content(document: dict[str, Any], content: dict[str, Any], name: str) -> None:
    """Hold every example of a content against its schema; there must be one."""
    examples = [each.get("value", each) for each in content.get("examples", {}).values()]
    examples += [content["example"]] if "example" in content else []
    assert examples, f"{name}: no example"
    for example in examples:
        value = document["components"]["examples"][example["$ref"].rpartition("/")[2]]["value"] if "$ref" in example else example
        check(document, content.get("schema", {}), value, name)


async def test_it_is_served_without_a_token_as_document_and_as_page(app: FastAPI, document: dict[str, Any]) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://relay.test") as client:
        answer, page = await client.get("/openapi.json"), await client.get("/docs")
    assert (answer.status_code, answer.json()) == (200, document)
    assert (page.status_code, page.text) == (200, render(document))
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")


def test_it_is_valid_openapi_and_every_schema_in_it_is_one(document: dict[str, Any]) -> None:
    OPENAPI_31_VALIDATOR.validate(document)
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def test_it_is_the_same_at_every_print(app: FastAPI, document: dict[str, Any]) -> None:
    assert json.dumps(describe(app)) == json.dumps(document)


def test_it_names_every_route_and_no_other(app: FastAPI, document: dict[str, Any]) -> None:
    routes = {(route.path or "", verb) for route in iter_route_contexts(app.routes) for verb in route.methods or ()}
    served = {(path.replace(":path}", "}"), verb.lower()) for path, verb in routes} | {(DOOR_PATH, "post"), (DOOR_PATH, "put")}
    assert {(path, verb) for path, verb, _ in operations(document)} == served
    assert {(DOOR_PATH, "post"), ("/livez", "get"), (f"{ADMIN_PREFIX}/tenants", "post")} < served


def test_every_operation_has_an_id_of_its_own_a_summary_a_description_and_a_tag(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(ids)) == len(ids)
    tags = {tag["name"]: tag["description"] for tag in document["tags"]}
    for _, _, operation in operations(document):
        name = operation["operationId"]
        assert re.fullmatch(r"[A-Z][^\n]+\.", operation["summary"]), name
        assert operation["description"].endswith("."), name
        assert len(operation["tags"]) == 1, name
        assert tags.get(operation["tags"][0]), name
        assert "security" in operation, name


def test_every_parameter_says_what_it_is_with_an_example_that_fits(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        parameters = operation.get("parameters", [])
        assert {each["name"] for each in parameters if each["in"] == "path"} == set(re.findall(r"{(\w+)}", path))
        for parameter in parameters:
            name = f"{operation['operationId']} {parameter['name']}"
            assert parameter.get("description", "").endswith("."), name
            assert parameter.get("example") is not None, name
            check(document, parameter["schema"], parameter["example"], name)


def test_every_document_that_is_sent_has_an_example_that_fits(document: dict[str, Any]) -> None:
    for _, _, operation in operations(document):
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            if content["schema"].get("format") != "binary":
                check_content(document, content, f"{operation['operationId']} {kind}")


def test_every_answer_has_an_example_that_fits_and_names_its_headers(document: dict[str, Any]) -> None:
    headers = document["components"]["headers"]
    for header, described in headers.items():
        assert described["description"].endswith("."), header
        check(document, described["schema"], described["example"], header)
    for _, _, operation in operations(document):
        for status, response in operation["responses"].items():
            name = f"{operation['operationId']} {status}"
            assert response["description"] not in {"", "Successful Response"}, name
            given = set(response["headers"])
            assert given <= set(headers), name
            assert "Relay-Request-Id" in given, name
            assert status != "401" or "WWW-Authenticate" in given, name
            assert status != "201" or operation["tags"] == ["upload"] or {"ETag", "Location"} <= given, name
            for kind, content in response.get("content", {}).items():
                check_content(document, content, f"{name} {kind}")


def test_every_problem_that_says_when_to_come_back_declares_the_header(document: dict[str, Any]) -> None:
    waits = {code for code, kind in problems().items() if kind.retry_after_seconds is not None}
    for _, _, operation in operations(document):
        for response in operation["responses"].values():
            codes = {code for content in response.get("content", {}).values() for code in content.get("examples", ())}
            assert ("Retry-After" in response["headers"]) == bool(codes & waits), operation["operationId"]


def test_what_was_made_leads_to_what_can_be_done_with_it(document: dict[str, Any]) -> None:
    known = {operation["operationId"]: path for path, _, operation in operations(document)}
    for path, _, operation in operations(document):
        made = operation["responses"].get("201", {})
        assert not path.startswith(ADMIN_PREFIX) or not made or made["links"], operation["operationId"]
        for link in made.get("links", {}).values():
            assert set(link["parameters"]) == set(re.findall(r"{(\w+)}", known[link["operationId"]]))
    links = document["paths"][f"{ADMIN_PREFIX}/tenants"]["post"]["responses"]["201"]["links"]
    assert {"get_tenant", "change_tenant", "delete_tenant", "issue_key", "create_destination", "create_route"} <= set(links)
    assert links["issue_key"]["parameters"] == {"slug": "$response.body#/slug"}
    issued = document["paths"][f"{ADMIN_PREFIX}/tenants/{{slug}}/keys"]["post"]["responses"]["201"]["links"]
    assert issued["rotate_key"]["parameters"] == {"slug": "$request.path.slug", "key_id": "$response.body#/id"}


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
    wanted = set(re.findall(r"'#/components/([a-z]+)/([A-Za-z_-]+)'", str(document)))
    assert wanted <= {(kind, name) for kind, named in document["components"].items() for name in named}
    assert {kind for kind, _ in wanted} == {"schemas", "headers", "examples"}


def test_a_patch_may_be_called_a_merge_patch(document: dict[str, Any]) -> None:
    for _, verb, operation in operations(document):
        if verb == "patch":
            assert set(operation["requestBody"]["content"]) == {"application/json", "application/merge-patch+json"}


def test_every_error_that_a_client_may_see_is_declared_somewhere(document: dict[str, Any]) -> None:
    declared = set(re.findall(r"`([a-z_]+)`", str([operation["responses"] for _, _, operation in operations(document)])))
    resumable = {"upload_not_found"}
    not_declared = {"internal_error", "disk_broke", "not_found", "method_not_allowed"}
    assert set(problems()) - declared - not_declared - resumable == {"entry_not_found"}


def test_the_page_names_everything_and_runs_nothing(document: dict[str, Any]) -> None:
    page = render(document)
    for path, verb, operation in operations(document):
        assert f"{verb.upper()} {path}" in page
        assert page.count(f'<h3 id="{operation["operationId"]}">') == 1
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(re.findall(r' id="([^"]+)"', page))
    assert not re.search(r"<script|<link|<img|<iframe|\bon\w+=|javascript:|src=|url\(|@import|https?://(?![\w.]*example\.com)", page)
    hashed = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    assert f"<style>{STYLE}</style>" in page
    assert f"'sha256-{hashed}'" in POLICY


def test_text_of_the_document_is_never_markup_of_the_page(document: dict[str, Any]) -> None:
    assert tag("p", "<b>", tag("i", "&"), title='"><script>') == '<p title="&quot;&gt;&lt;script&gt;">&lt;b&gt;<i>&amp;</i></p>'
    hostile = "`<script>alert(1)</script>` \"'><img src=x onerror=alert(1)>"

    def poison(value: Any) -> Any:
        match value:
            case dict():
                return {key: poison(member) for key, member in value.items()}
            case list():
                return [poison(item) for item in value]
            case str() if " " in value:
                return hostile
            case _:
                return value

    page = render(poison(json.loads(json.dumps(document))))
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "<img" not in page
