"""What the journeys say to a relay: exact requests, and what is true of every answer that refuses one."""

import json
import ssl
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import httpx

from tests.support.raw_client import Answer, RawClient
from tests.support.running_relay import RunningRelay

PROBLEM_MEMBERS = ["type", "title", "status", "detail", "code", "request_id"]
TIMEOUT_SECONDS = 20.0
NO_AUTHORITY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For plain HTTP: to read the public authorities costs more than an upload."""


def client_of(relay: RunningRelay) -> httpx.AsyncClient:
    """An honest client of the main door, without any credentials of its own."""
    return httpx.AsyncClient(base_url=relay.url, trust_env=False, verify=NO_AUTHORITY, timeout=TIMEOUT_SECONDS)


def head(target: str, *lines: str, method: str = "POST", version: str = "1.1") -> bytes:
    """A request's head, with a Host and these lines and nothing else."""
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: relay", *lines, "", ""]).encode("latin-1")


def chunked(chunks: Iterable[bytes]) -> bytes:
    """A body in just these chunks, with their end."""
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


async def say(relay: RunningRelay, request: bytes, method: str = "POST") -> Answer:
    """Send exactly these bytes on a connection of their own and read the answer."""
    async with RawClient(*relay.address) as client:
        await client.try_to_send(request)
        return await client.final_answer(method)


def problem_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem that an answer is, all its members checked."""
    assert answer.status_code == status, answer.text
    return _checked(answer.json(), status, code, answer.headers.get("content-type"), answer.headers.get("relay-request-id"))


def raw_problem_of(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """The same of a raw client's answer."""
    assert answer.status == status, answer.body
    return _checked(json.loads(answer.body), status, code, answer.value("content-type"), answer.value("relay-request-id"))


def _checked(problem: dict[str, Any], status: int, code: str, media_type: str | None, request_id: str | None) -> dict[str, Any]:
    assert media_type == "application/problem+json"
    assert list(problem) == PROBLEM_MEMBERS
    assert (problem["type"], problem["status"], problem["code"]) == ("about:blank", status, code)
    assert isinstance(problem["title"], str)
    assert isinstance(problem["detail"], str)
    assert request_id is not None
    assert problem["request_id"] == request_id
    assert UUID(request_id).version == 7
    return problem


def wrong_members_of(answer: httpx.Response) -> list[tuple[str | int, ...]]:
    """Where the members lie that a 422 names, in its order; the members of the problem and of each error are checked."""
    problem = answer.json()
    assert answer.status_code == 422, answer.text
    assert list(problem) == [*PROBLEM_MEMBERS, "errors"]
    errors = problem.pop("errors")
    assert errors, "a 422 says which member is wrong"
    assert all(list(error) == ["location", "code", "message"] for error in errors), errors
    assert all(error["message"] for error in errors), errors
    _checked(problem, 422, "request_invalid", answer.headers.get("content-type"), answer.headers.get("relay-request-id"))
    return [tuple(error["location"]) for error in errors]
