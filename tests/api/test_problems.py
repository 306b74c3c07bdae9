"""How failures look to the client, whatever raised them."""

import json
import logging
from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

import httpx
import pytest
from fastapi import Body, FastAPI
from pydantic import BaseModel, ConfigDict, SecretStr
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from relay.api import problems
from relay.api.middleware import RequestMiddleware
from relay.errors import (
    ClientFault,
    DatabaseUnavailable,
    DependencyFault,
    FieldError,
    JournalFull,
    KeyInvalid,
    MethodNotAllowed,
    RelayError,
    RelayFault,
    RequestInvalid,
    TenantNotFound,
)
from relay.settings import TrustedSettings


class Login(BaseModel):
    model_config = ConfigDict(extra="forbid")
    password: Annotated[SecretStr, Body(min_length=20)]


def make_app() -> FastAPI:
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    problems.install(app)
    app.add_middleware(RequestMiddleware, trusted=TrustedSettings())

    @app.get("/away")
    async def away() -> None:
        raise DatabaseUnavailable

    @app.post("/away")
    async def also_away() -> None: ...

    @app.post("/login")
    async def login(credentials: Login) -> None: ...

    @app.get("/bug")
    async def bug() -> None:
        raise ValueError("the password is hunter2")

    @app.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418)

    @app.get("/cut")
    async def cut() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"half"
            raise ValueError("broken")

        return StreamingResponse(chunks())

    return app


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(RequestMiddleware(make_app(), TrustedSettings())), base_url="http://relay.test"
    ) as made:
        yield made


def leaves(kind: type[RelayError]) -> list[type[RelayError]]:
    found = [leaf for child in kind.__subclasses__() for leaf in leaves(child)]
    return found if "code" not in vars(kind) else [kind, *found]


@pytest.mark.parametrize("kind", [kind for tree in (ClientFault, DependencyFault, RelayFault) for kind in leaves(tree)])
def test_every_error_has_the_members_of_a_problem(kind: type[RelayError]) -> None:
    error = kind(["GET"]) if issubclass(kind, MethodNotAllowed) else kind()
    rendered = problems.problem(error, request_id="r1")
    document = json.loads(rendered.body)
    assert {name: document[name] for name in ("type", "title", "status", "detail", "code", "request_id")} == {
        "type": "about:blank",
        "title": kind.title,
        "status": rendered.status,
        "detail": kind.advice,
        "code": kind.code,
        "request_id": "r1",
    }
    assert (b"content-type", b"application/problem+json") in rendered.headers


def test_every_401_names_the_challenge() -> None:
    assert (b"www-authenticate", b'Bearer realm="relay"') in problems.problem(KeyInvalid(), request_id="r").headers
    assert b"www-authenticate" not in dict(problems.problem(TenantNotFound(), request_id="r").headers)


def test_an_error_that_passes_says_when_to_come_back() -> None:
    assert dict(problems.problem(JournalFull(), request_id="r").headers)[b"retry-after"] == b"10"
    assert b"retry-after" not in dict(problems.problem(TenantNotFound(), request_id="r").headers)


def test_a_wrong_member_is_named_by_its_location() -> None:
    error = RequestInvalid(errors=[FieldError(("body", "limits", 3), "int_type", "Send a number.")])
    document = json.loads(problems.problem(error, request_id="r").body)
    assert document["errors"] == [{"location": ["body", "limits", 3], "code": "int_type", "message": "Send a number."}]


def test_a_member_named_by_a_lone_surrogate_can_be_reported() -> None:
    error = RequestInvalid(errors=[FieldError(("body", "\ud800" * 5000), "extra", "Unknown.")])
    [found] = json.loads(problems.problem(error, request_id="r").body)["errors"]
    assert len(found["location"][1]) <= problems.NAME_LIMIT


async def test_a_relay_error_is_answered_with_its_status_and_a_request_id(client: httpx.AsyncClient) -> None:
    answer = await client.get("/away")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert answer.headers["content-type"] == "application/problem+json"
    assert UUID(answer.json()["request_id"]).version == 7


async def test_an_unknown_path_is_not_found(client: httpx.AsyncClient) -> None:
    answer = await client.get("/nowhere")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_allow_names_the_methods_of_every_route_with_this_path(client: httpx.AsyncClient) -> None:
    answer = await client.delete("/away")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, POST"


async def test_a_refused_member_is_named_and_its_value_is_not_repeated(client: httpx.AsyncClient) -> None:
    answer = await client.post("/login", json={"password": "hunter2", "extra": "hunter3"})
    assert answer.status_code == 422
    assert [error["location"] for error in answer.json()["errors"]] == [["body", "password"], ["body", "extra"]]
    assert "hunter" not in answer.text


async def test_broken_json_is_request_invalid(client: httpx.AsyncClient) -> None:
    answer = await client.post("/login", content=b'{"password": "hunter2"', headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert "hunter" not in answer.text


async def test_a_bug_is_internal_error_and_is_told_to_the_log_only(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    answer = await client.get("/bug")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "hunter" not in answer.text
    [record] = [record for record in caplog.records if record.name == "relay.api.problems"]
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.__dict__["fields"] == {"request_id": answer.json()["request_id"]}


async def test_any_other_refusal_of_the_framework_is_request_invalid(client: httpx.AsyncClient) -> None:
    assert (await client.get("/teapot")).json()["code"] == "request_invalid"


async def test_an_answer_that_has_begun_is_cut_and_not_replaced(client: httpx.AsyncClient) -> None:
    with pytest.raises(ValueError, match="broken"):
        await client.get("/cut")
