"""The wire's tests run on the loop that is shipped; what must hold on both is run on both by ``tests/support/loops.py``."""

from asyncio import AbstractEventLoop
from collections.abc import Callable

import pytest

from tests.support.loops import FACTORIES, SHIPPED


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Callable[[], AbstractEventLoop]]:
    """For pytest-asyncio: what makes the loop of a test."""
    return {SHIPPED: FACTORIES[SHIPPED]}
