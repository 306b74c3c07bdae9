"""An app of three lines in place of the relay, for tests of the processes around it."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from relay.errors import DatabaseUnavailable
from relay.settings import Settings


async def _show_pid(_: Request) -> JSONResponse:
    return JSONResponse({"pid": os.getpid(), "parent": os.getppid()})


async def _dawdle(request: Request) -> JSONResponse:
    print("dawdling", flush=True)
    await asyncio.sleep(float(request.query_params["seconds"]))
    return JSONResponse({"pid": os.getpid()})


def create_app(_: Settings) -> Starlette:
    return Starlette(routes=[Route("/pid", _show_pid), Route("/readyz", _show_pid), Route("/dawdle", _dawdle)])


def create_refusing_app(_: Settings) -> Starlette:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        raise DatabaseUnavailable
        yield

    return Starlette(lifespan=lifespan)


def create_app_with_bug(_: Settings) -> Starlette:
    raise LookupError("a bug")


def create_app_whose_work_fails(_: Settings) -> Starlette:
    """An app whose background work breaks once ``/break`` was asked for."""
    broken = asyncio.Event()

    async def break_work(_: Request) -> JSONResponse:
        broken.set()
        return JSONResponse({"pid": os.getpid()})

    async def work() -> None:
        await broken.wait()
        raise RuntimeError("background work broke")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work())
            yield
            task.cancel()

    return Starlette(routes=[Route("/break", break_work), Route("/pid", _show_pid)], lifespan=lifespan)
