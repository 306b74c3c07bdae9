from collections.abc import Awaitable, Callable

import pytest
from starlette.applications import Starlette
from starlette.types import Message, Receive, Scope, Send

from relay.api.middleware import ListenerGate
from relay.settings import SettingsInvalid


async def answered(path: str, port: int, *, admin_listen: str | None) -> int:
    """The status of a request that came in at this port."""
    statuses: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    receive: Callable[[], Awaitable[Message]] = pytest.fail  # nothing is read
    scope = {"type": "http", "path": path, "server": ("127.0.0.1", port), "state": {}, "method": "GET", "headers": []}
    await ListenerGate(app, "127.0.0.1:8000", admin_listen)(scope, receive, send)
    return statuses[0]


@pytest.mark.parametrize(
    ("path", "at_main", "at_admin"),
    [
        ("/admin/v1/tenants", 404, 200),
        ("/metrics", 404, 200),
        ("/openapi.json", 404, 200),
        ("/docs", 404, 200),
        ("/upload/a", 200, 404),
        ("/uploads", 200, 404),
        ("/uploads/01920000-0000-7000-8000-000000000000", 200, 404),
        ("/livez", 200, 200),
        ("/readyz", 200, 200),
    ],
)
async def test_the_admin_side_is_found_only_at_its_own_address(path: str, at_main: int, at_admin: int) -> None:
    assert await answered(path, 8000, admin_listen="127.0.0.1:9000") == at_main
    assert await answered(path, 9000, admin_listen="127.0.0.1:9000") == at_admin


@pytest.mark.parametrize("admin_listen", [None, "127.0.0.1:8000"])
async def test_one_address_serves_both_sides(admin_listen: str | None) -> None:
    assert await answered("/admin/v1/tenants", 8000, admin_listen=admin_listen) == 200
    assert await answered("/upload/a", 8000, admin_listen=admin_listen) == 200


def test_one_port_cannot_tell_two_sides_apart() -> None:
    with pytest.raises(SettingsInvalid):
        ListenerGate(Starlette(), "127.0.0.1:8000", "127.0.0.2:8000")
