"""What ``relay serve --app tests.support.on_uvloop:create_app`` runs: the same app, in workers whose event loop is uvloop's."""

from uvicorn import config

from relay.app import create_app

__all__ = ["create_app"]

config.LOOP_FACTORIES["asyncio"] = config.LOOP_FACTORIES["uvloop"]  # a worker imports this before its server makes the loop
