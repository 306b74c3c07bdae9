"""What a worker's server is made of."""

import asyncio
import sys

import pytest
import uvloop

from relay.cli.http_server import configure_server
from relay.settings import load_settings


def test_a_worker_runs_on_uvloop_where_it_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure_server(None, load_settings({}))
    assert config.get_loop_factory() is uvloop.new_event_loop
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert config.get_loop_factory() is asyncio.SelectorEventLoop
