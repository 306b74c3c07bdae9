"""``/livez``, ``/readyz`` and ``/metrics``: what an orchestrator and Prometheus ask.

Readiness answers 503 only for what another process would do better: the directory was never loaded, the
journal is full, the process is shutting down. Postgres away is none of these: uploads of known tenants go on.
"""

import asyncio
import os
from http import HTTPStatus
from typing import Any, Literal, Protocol

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from pydantic import BaseModel, ConfigDict

from relay.telemetry import REGISTRY, tell_metrics

FAILING = ("never_loaded", "full", "yes")


class LivePayload(BaseModel):
    """The process answers."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok"}]})

    status: Literal["ok"]


class ChecksPayload(BaseModel):
    """What readiness looks at."""

    directory: Literal["ok", "stale", "never_loaded"]
    database: Literal["ok", "away"]
    journal: Literal["ok", "lagging", "full"]
    shutdown: Literal["no", "yes"]

    @property
    def is_ready(self) -> bool:
        """False when the load balancer should send uploads elsewhere."""
        return not {self.directory, self.journal, self.shutdown}.intersection(FAILING)


READY: dict[str, Any] = {"status": "ready", "checks": {"directory": "ok", "database": "away", "journal": "lagging", "shutdown": "no"}}
NOT_READY: dict[str, Any] = {"status": "not_ready", "checks": {"directory": "ok", "database": "ok", "journal": "ok", "shutdown": "yes"}}
METRICS = '# TYPE relay_requests_total counter\nrelay_requests_total{outcome="delivered"} 41.0\n'


class ReadyPayload(BaseModel):
    """Whether this process should be sent uploads."""

    model_config = ConfigDict(json_schema_extra={"examples": [READY, NOT_READY]})

    status: Literal["ready", "not_ready"]
    checks: ChecksPayload


class _Directory(Protocol):
    @property
    def state(self) -> Literal["ok", "stale", "never_loaded"]: ...


class _Shipper(Protocol):
    @property
    def database_state(self) -> Literal["ok", "away"]: ...


class _Journal(Protocol):
    @property
    def state(self) -> Literal["ok", "lagging", "full"]: ...


class Vitals(Protocol):
    """The parts of a running process that health is told from."""

    @property
    def directory(self) -> _Directory: ...
    @property
    def shipper(self) -> _Shipper: ...
    @property
    def journal(self) -> _Journal: ...
    @property
    def shutting_down(self) -> bool: ...


router = APIRouter(tags=["health"])
SENT_ELSEWHERE: dict[str, Any] = {
    "model": ReadyPayload,
    "description": "Send uploads elsewhere.",
    "content": {"application/json": {"example": NOT_READY}},
}


@router.get("/livez", operation_id="livez")
async def show_live() -> LivePayload:
    """Say that the process answers."""
    return LivePayload(status="ok")


@router.get("/readyz", operation_id="readyz", responses={503: SENT_ELSEWHERE})
async def show_ready(request: Request, response: Response) -> ReadyPayload:
    """Say whether this process should be sent uploads."""
    vitals: Vitals = request.app.state.services
    checks = ChecksPayload(
        directory=vitals.directory.state,
        database=vitals.shipper.database_state,
        journal=vitals.journal.state,
        shutdown="yes" if vitals.shutting_down else "no",
    )
    if not checks.is_ready:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return ReadyPayload(status="ready" if checks.is_ready else "not_ready", checks=checks)


@router.get(
    "/metrics",
    operation_id="metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}, "example": METRICS}}, "description": "Prometheus text format."}
    },
)
async def show_metrics() -> Response:
    """Give every metric in Prometheus's text format, joined over all workers of this host."""
    tell_metrics()
    text = await asyncio.to_thread(_joined_metrics) if "PROMETHEUS_MULTIPROC_DIR" in os.environ else generate_latest(REGISTRY)
    return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})


def _joined_metrics() -> bytes:
    joined = CollectorRegistry()
    MultiProcessCollector(joined)  # type: ignore[no-untyped-call] # the library has no types here
    return generate_latest(joined)
