"""The ``relay`` command without its start: a process that has imported everything, and forks for each command.

Pages show dozens of commands, and importing is most of what one costs. The forked process has the arguments, the
environment, the folder and the three descriptors of the one that asked, and ends with the same exit code; what it runs is
the same code. Commands that start processes of their own are not for it.

    python -m tests.support.warm_relay SOCKET            serves, until its parent ends
    python -I -S tests/support/warm_relay.py ask SOCKET …   asks: standard library only
"""

import json
import os
import signal
import socket
import sys

PIECE_BYTES = 1 << 20


def ask(path: str, arguments: list[str]) -> int:
    """Have a command run, and return its exit code."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        told = json.dumps({"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)})  # noqa: PTH109
        socket.send_fds(connection, [b"x"], [0, 1, 2])
        connection.sendall(told.encode())
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(16)
    return int(answer or b"1")


def serve(path: str) -> None:
    """Fork for whoever asks."""
    from importlib import import_module  # noqa: PLC0415 - who asks imports nothing of this

    from relay.cli import COMMANDS, relay  # noqa: PLC0415
    from relay.cli.parents import follow_parent  # noqa: PLC0415

    follow_parent(os.getppid(), signal.SIGKILL)
    for name in COMMANDS:
        import_module(f"relay.cli.{name.replace('-', '_')}")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(16)
        while True:
            connection, _ = listening.accept()
            with connection:
                if os.fork() == 0:
                    listening.close()
                    _run(connection, relay)
            while _bury():
                pass


def _run(connection: socket.socket, relay: "object") -> None:
    code = 1
    try:
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
        told = b"".join(iter(lambda: connection.recv(PIECE_BYTES), b""))
        wanted = json.loads(told)
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.environ.clear()
        os.environ.update(wanted["environment"])
        os.chdir(wanted["folder"])
        sys.argv = ["relay", *wanted["arguments"]]
        relay(prog_name="relay")  # type: ignore[operator] # click's group
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter would
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(str(code).encode())
        os._exit(0)


def _bury() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


if __name__ == "__main__":
    if sys.argv[1] == "ask":
        sys.exit(ask(sys.argv[2], sys.argv[3:]))
    serve(sys.argv[1])
