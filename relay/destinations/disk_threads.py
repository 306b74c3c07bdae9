"""The threads that do disk work, shared out fairly among tenants.

A thread that hangs in the kernel cannot be stopped: it is lost until the disk answers. So one tenant holds at
most a quarter of the threads; what it wants beyond waits in a line of its own, not in the line of all, and is
given up by whoever waits for it (``disk.Turns``). The dead disk of one tenant never delays another.

Not here: how long a call may take, and what becomes of a call that is given up.
"""

import concurrent.futures
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

Future = concurrent.futures.Future[Any]
Call = Callable[[], Any]


class DiskThreads:
    """The disk threads of one process. Every method may be called from any thread."""

    def __init__(self, threads: int) -> None:
        self._threads = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="disk")
        self._owner_limit = max(1, threads // 4)
        self._held: Counter[str] = Counter()
        self._lines: dict[str, OrderedDict[Future, Call]] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    def share(self, owner: str) -> "Share":
        """The threads as one tenant may use them."""
        return Share(self, owner)

    def submit(self, owner: str, call: Call) -> Future:
        """Run a call as soon as one of its owner's threads is free; it may be cancelled until then.

        Raises:
            RuntimeError: the threads are shut down.
        """
        future = Future()
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the disk threads are shut down")
            if self._held[owner] < self._owner_limit:
                self._held[owner] += 1
                self._threads.submit(self._work, owner, future, call)
                return future
            self._lines.setdefault(owner, OrderedDict())[future] = call
        future.add_done_callback(partial(self._forget_cancelled, owner))
        return future

    def shutdown(self) -> None:
        """Take no more calls, and wait until those that were taken have ended."""
        with self._lock:
            self._is_closed = True
        self._threads.shutdown(wait=True)

    def _work(self, owner: str, future: Future, call: Call) -> None:
        _run(future, call)
        while (following := self._pass_on(owner)) is not None:
            _run(*following)

    def _pass_on(self, owner: str) -> tuple[Future, Call] | None:
        """Send the owner's next call to the end of the common line; give it back when there is none any more."""
        with self._lock:
            following = self._take_next(owner)
            if following is None:
                self._held[owner] -= 1
                if not self._held[owner]:
                    del self._held[owner]
            elif not self._is_closed:
                self._threads.submit(self._work, owner, *following)
                following = None
        return following

    def _take_next(self, owner: str) -> tuple[Future, Call] | None:
        line = self._lines.get(owner)
        if line is None:
            return None
        following = line.popitem(last=False)
        if not line:
            del self._lines[owner]
        return following

    def _forget_cancelled(self, owner: str, future: Future) -> None:
        """A call that nobody waits for any more leaves the line: a dead disk must not make it grow for ever."""
        with self._lock:
            line = self._lines.get(owner)
            if line is not None and line.pop(future, None) is not None and not line:
                del self._lines[owner]


class Share(concurrent.futures.Executor):
    """One tenant's share of the threads."""

    def __init__(self, threads: DiskThreads, owner: str) -> None:
        self._threads = threads
        self._owner = owner

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Run a call as soon as one of the tenant's threads is free; it may be cancelled until then.

        Raises:
            RuntimeError: the threads are shut down.
        """
        return self._threads.submit(self._owner, partial(fn, *args, **kwargs))


def _run(future: Future, call: Call) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the call
        future.set_exception(error)
    else:
        future.set_result(result)
