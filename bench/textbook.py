"""The textbook: what most people write first. FastAPI on uvicorn, the body from ``request.stream()`` to a shared httpx client.

Nothing is authenticated, limited or accounted for. Hop-by-hop fields are left out by hand, as the examples do.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

SINK_URL = os.environ.get("BENCH_SINK_URL", "http://127.0.0.1:9/")
HOP_BY_HOP = {"host", "connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One client for all requests."""
    async with httpx.AsyncClient(base_url=SINK_URL, timeout=None, trust_env=False) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/{path:path}")
async def relay(path: str, request: Request) -> StreamingResponse:
    """Pass an upload on and its answer back."""
    client: httpx.AsyncClient = request.app.state.client
    headers = [(name, value) for name, value in request.headers.items() if name not in HOP_BY_HOP]
    outgoing = client.build_request("POST", path, headers=headers, content=request.stream())
    answer = await client.send(outgoing, stream=True)
    passed = {name: value for name, value in answer.headers.items() if name not in HOP_BY_HOP}
    return StreamingResponse(answer.aiter_raw(), answer.status_code, passed, background=BackgroundTask(answer.aclose))
