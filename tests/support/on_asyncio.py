"""What ``relay serve --app tests.support.on_asyncio:create_app`` runs: the same app, in workers without uvloop."""

from uvicorn import config

from relay.app import create_app

__all__ = ["create_app"]

config.LOOP_FACTORIES["auto"] = config.LOOP_FACTORIES["asyncio"]  # a worker imports this before its server makes the loop
