"""The threads that do disk work, shared out fairly among tenants.

A thread that hangs in the kernel cannot be stopped: it is lost until the disk answers. So one tenant holds at
most a quarter of the threads; what it wants beyond waits in a line of its own, not in the line of all, and is
given up by whoever waits for it (``disk.Turns``). The dead disk of one tenant never delays another.

Not here: how long a call may take, and what becomes of a call that is given up.
"""

import concurrent.futures
import threading
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any


class DiskThreads:
    """The disk threads of one process."""

    def __init__(self, threads: int) -> None:
        self._threads = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="disk")
        self._owner_limit = max(1, threads // 4)
        self._held: Counter[str] = Counter()
        self._lines: dict[str, deque[tuple[concurrent.futures.Future[Any], Callable[[], Any]]]] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    def share(self, owner: str) -> "Share":
        """The threads as one tenant may use them."""
        return Share(self, owner)

    def submit(self, owner: str, call: Callable[[], Any]) -> "concurrent.futures.Future[Any]":
        """Run a call for ``owner`` as soon as one of its threads is free. From any thread.

        Raises:
            RuntimeError: the threads are shut down.
        """
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the disk threads are shut down")
            if self._held[owner] >= self._owner_limit:
                self._lines.setdefault(owner, deque()).append((future, call))
                return future
            self._held[owner] += 1
            self._threads.submit(self._work, owner, future, call)
        return future

    def _work(self, owner: str, future: "concurrent.futures.Future[Any]", call: Callable[[], Any]) -> None:
        """Run one call, then let the owner's next one queue up behind what the others have asked for meanwhile."""
        if future.set_running_or_notify_cancel():
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the call
                future.set_exception(error)
            else:
                future.set_result(result)
        with self._lock:
            following = self._next(owner)
            if following is None:
                self._let_go(owner)
                return
            if not self._is_closed:
                self._threads.submit(self._work, owner, *following)
                return
        self._work(owner, *following)

    def _next(self, owner: str) -> "tuple[concurrent.futures.Future[Any], Callable[[], Any]] | None":
        """The owner's next call that somebody still waits for."""
        line = self._lines.get(owner)
        while line:
            future, call = line.popleft()
            if not line:
                del self._lines[owner]
            if not future.cancelled():
                return future, call
        return None

    def _let_go(self, owner: str) -> None:
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]

    def shutdown(self) -> None:
        """Take no more calls, and wait until those that were taken have ended."""
        with self._lock:
            self._is_closed = True
        self._threads.shutdown(wait=True)


class Share(concurrent.futures.Executor):
    """One tenant's share of the threads."""

    def __init__(self, threads: DiskThreads, owner: str) -> None:
        self._threads = threads
        self._owner = owner

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "concurrent.futures.Future[Any]":
        """Run a call as soon as one of the tenant's threads is free; it may be cancelled until then.

        Raises:
            RuntimeError: the threads are shut down.
        """
        return self._threads.submit(self._owner, partial(fn, *args, **kwargs))
