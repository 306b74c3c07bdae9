"""Become another program that is told by the kernel when its parent dies. Run as a script, never imported by Relay.

A program of its own, because the alternative, ``preexec_fn``, runs Python in a forked copy of a process with threads.
The order is fixed: a change of user clears the parent-death signal, so it comes first; libc is loaded before, while
it can still be read. Whether the parent died before the kernel was told is seen afterwards.

``launch.py <parent pid> <signal> <uid or -> <gid or -> <program> [argument]…``; standard library only.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Take the steps of the module's docstring; does not return."""
    parent, signal, user, group, *command = arguments
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if user != "-":
        os.setgroups([])
        os.setgid(int(group))
        os.setuid(int(user))
    if libc is not None:
        if libc.prctl(PR_SET_PDEATHSIG, int(signal)) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
        if os.getppid() != int(parent):
            raise SystemExit(1)
    os.execv(command[0], command)  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main(sys.argv[1:])
