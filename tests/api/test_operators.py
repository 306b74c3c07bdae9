"""Who may use the admin side, and what is refused before anything of the request is read."""

import base64
import json
from typing import Any

import httpx
import pytest
from starlette.types import Message

from relay.api.admin.documents import BODY_LIMIT_BYTES
from relay.db.engine import Database
from relay.settings import DatabaseSettings, load_settings
from tests.support.admin_app import TOKEN, Parts, make_admin_app, open_admin

NO_DATABASE = Database("postgresql://nobody@127.0.0.1:1/nothing", DatabaseSettings())
"""Asking it fails: a request that is refused before that needs no other."""


async def post_raw(parts: Parts, headers: list[tuple[bytes, bytes]], chunks: list[bytes]) -> tuple[int, int]:
    """Post a tenant by hand; give the status and the number of body messages that were asked for."""
    asked = 0
    sent: list[Message] = []

    async def receive() -> Message:
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": chunks[asked - 1], "more_body": asked < len(chunks)}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/admin/v1/tenants",
        "raw_path": b"/admin/v1/tenants",
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await make_admin_app(parts)(scope, receive, send)
    return sent[0]["status"], asked


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer \xff"},
        {"X-API-Key": TOKEN},
        [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer other")],
    ],
)
async def test_without_the_token_every_operation_is_401(headers: Any) -> None:
    async with open_admin(Parts(NO_DATABASE), token=None) as client:
        fields = httpx.Headers(headers, encoding="latin-1")
        for answer in (await client.get("/tenants", headers=fields), await client.delete("/tenants/acme", headers=fields)):
            assert (answer.status_code, answer.json()["code"]) == (401, "operator_token_invalid")
            assert answer.headers["www-authenticate"] == 'Bearer realm="relay"'


@pytest.mark.parametrize("environ", [{}, {"RELAY_ADMIN_TOKEN": ""}])
async def test_where_no_token_is_configured_none_is_valid(environ: dict[str, str]) -> None:
    async with open_admin(Parts(NO_DATABASE, settings=load_settings(environ)), token=None) as client:
        for given in ("Bearer", "Bearer ", "Bearer None"):
            assert (await client.get("/tenants", headers={"Authorization": given})).status_code == 401


async def test_the_scheme_is_read_in_any_case(parts: Parts) -> None:
    async with open_admin(parts, token=None) as client:
        assert (await client.get("/tenants", headers={"Authorization": f"bearer {TOKEN}"})).status_code == 200


async def test_the_token_is_checked_before_the_body_is_read() -> None:
    assert await post_raw(Parts(NO_DATABASE), [(b"content-type", b"application/json")], [b"{"] * 2) == (401, 0)


async def test_a_body_declared_too_large_is_refused_unread() -> None:
    headers = [(b"authorization", b"Bearer " + TOKEN.encode()), (b"content-length", str(BODY_LIMIT_BYTES + 1).encode())]
    assert await post_raw(Parts(NO_DATABASE), headers, [b"{"] * 2) == (413, 0)


async def test_a_body_of_unknown_length_is_read_up_to_the_limit() -> None:
    headers = [(b"authorization", b"Bearer " + TOKEN.encode()), (b"content-type", b"application/json")]
    chunks = [b" " * (BODY_LIMIT_BYTES // 2)] * 10
    assert await post_raw(Parts(NO_DATABASE), headers, chunks) == (413, 3)


async def test_a_body_that_comes_in_pieces_is_one_document(parts: Parts) -> None:
    headers = [(b"authorization", b"Bearer " + TOKEN.encode()), (b"content-type", b"application/json")]
    assert await post_raw(parts, headers, [b'{"slug"', b"", b':"acme"}']) == (201, 3)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 422),
        ({"content-type": "application/json; charset=utf-8"}, 422),
        ({"content-type": "application/merge-patch+json"}, 422),
        ({"content-type": "Application/JSON"}, 422),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
    ],
)
async def test_a_document_is_json_and_nothing_else(still: httpx.AsyncClient, headers: dict[str, str], status: int) -> None:
    answer = await still.post("/tenants", content=b'{"slug":"-"}', headers=headers)
    assert answer.status_code == status
    # The slug is wrong, so what is read is refused for that and nothing is made.
    assert answer.json()["code"] == ("request_invalid" if status == 422 else "content_type_refused")


@pytest.mark.parametrize("content", [b"", b"null"])
async def test_a_missing_document_is_named(still: httpx.AsyncClient, content: bytes) -> None:
    answer = await still.post("/tenants", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["errors"][0]["location"]) == (422, ["body"])


@pytest.mark.parametrize("content", [b"[]", b'"acme"', b"7", b"true"])
async def test_a_document_that_is_no_object_is_refused(still: httpx.AsyncClient, content: bytes) -> None:
    assert (await still.post("/tenants", content=content)).status_code == 422


@pytest.mark.parametrize(
    "path",
    ["/tenants/a%00b", "/tenants/acme/keys/%00", "/tenants/acme/destinations/%00", "/tenants?cursor=%00"],
)
async def test_nul_in_the_address_is_refused_by_name(still: httpx.AsyncClient, path: str) -> None:
    answer = await still.get(path)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "text_invalid")


@pytest.mark.parametrize("path", ["/tenants/%ff", "/tenants/%ed%a0%80", "/tenants/ACME", f"/tenants/{'a' * 5_000}", "/tenants/.."])
async def test_no_other_address_fails(still: httpx.AsyncClient, path: str) -> None:
    assert (await still.get(path)).status_code == 404


async def test_a_postgres_that_is_away_is_503_with_a_time_to_come_back() -> None:
    async with open_admin(Parts(NO_DATABASE)) as client:
        answer = await client.get("/tenants")
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert answer.headers["retry-after"] == "2"


async def test_the_token_is_in_no_log_and_no_answer(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with open_admin(parts) as client:
        texts = [(await client.get("/tenants")).text, (await client.post("/tenants", json={"slug": TOKEN})).text]
    async with open_admin(parts, token=TOKEN + "x") as client:
        texts.append((await client.get("/tenants")).text)
    assert TOKEN not in caplog.text
    assert TOKEN not in texts[0] + texts[2]


FORGED: list[Any] = [
    ["0001-01-01T00:00:00+14:00", "00000000-0000-0000-0000-000000000000"],
    ["9999-12-31T23:59:59-14:00", "00000000-0000-0000-0000-000000000000"],
    ["2026-01-01T00:00:00", "00000000-0000-0000-0000-000000000000"],
    ["2026-01-01T00:00:00Z", "x"],
    ["2026-01-01T00:00:00Z", "\ud800"],
    ["2026-01-01T00:00:00Z", "\u0000"],
    ["a\u0000"],
    ["\udfff"],
    ["a", 1],
    [[]],
    {},
    "text",
]


@pytest.mark.parametrize(
    "listing", ["/tenants", "/tenants/acme/keys", "/tenants/acme/destinations", "/tenants/acme/routes", "/ledger", "/usage", "/audit"]
)
async def test_a_forged_cursor_is_422_or_names_another_place(still: httpx.AsyncClient, listing: str) -> None:
    for key in FORGED:
        cursor = base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")
        answer = await still.get(listing, params={"cursor": cursor})
        assert answer.status_code in {200, 422}, (key, answer.text)
        assert answer.status_code == 200 or answer.json()["errors"][0]["location"] == ["query", "cursor"]
