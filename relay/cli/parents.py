"""The supervisor as its child sees it: followed into death, heard once, told once.

Linux sends a signal of our choice when the parent's thread ends, so that kill -9 of the supervisor leaves
no orphan. Elsewhere a thread looks twice a second. The other end of the channel is in ``processes``.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time

PR_SET_PDEATHSIG = 1
LOOK_EVERY_SECONDS = 0.5


class Parent:
    """The supervisor that started this process."""

    def __init__(self, pid: int) -> None:
        """Follow process ``pid`` and take standard input for the channel to it."""
        follow_parent(pid, signal.SIGKILL)
        self._channel = socket.socket(fileno=os.dup(0))

    def wait_for_settings(self) -> None:
        """Wait for the word to go on; the settings that come with it become part of the environment."""
        told = b""
        while data := self._channel.recv(65_536):
            told += data
        if not told:
            sys.exit(0)  # the supervisor ended before it had anything for us
        os.environ.update(json.loads(told))

    def say_ready(self) -> None:
        """Tell the supervisor that this process does its work from now on."""
        self._channel.sendall(b"ready\n")


def follow_parent(parent: int, number: signal.Signals) -> None:
    """Have ``number`` sent to this process when process ``parent`` dies, and at once if it is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    else:
        threading.Thread(target=_look, args=(parent, number), name="parent", daemon=True).start()
    # The parent may have died before the request above: nobody would tell.
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def _look(parent: int, number: signal.Signals) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_SECONDS)
    os.kill(os.getpid(), number)
