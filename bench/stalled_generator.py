"""Uploads that stall: each connection sends until nothing more goes, and goes on when it is told.

python -m bench.stalled_generator     (told what to do as ``bench.generator`` is)
"""

import json
import select
import socket
import sys
import time

from bench.generator import LONGEST_SECONDS, AnswerWrongError, Line, Order, raise_file_limit
from bench.loads import KIB, request_pieces

SEND_BUFFER_BYTES = 64 * KIB
STILL_SECONDS = 1.0


def open_line(order: Order) -> Line:
    """One connection, with little room in the kernel: what is held is to be held by the server."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    sock.connect(("127.0.0.1", order.port))
    sock.setblocking(False)
    return Line(sock, pieces=request_pieces(order.path, order.key, order.framing, order.size))


def push(lines: list[Line]) -> None:
    """Send on all connections until nothing has gone for a while."""
    poll = select.epoll()
    by_number = {line.sock.fileno(): line for line in lines}
    for number in by_number:
        poll.register(number, select.EPOLLOUT)
    last = time.perf_counter()
    while time.perf_counter() - last < STILL_SECONDS:
        for number, _ in poll.poll(0.05):
            last = time.perf_counter()
            if by_number[number].send():
                poll.unregister(number)


def finish(lines: list[Line]) -> int:
    """Send the rest and read every answer; how many were a success."""
    poll = select.epoll()
    by_number = {line.sock.fileno(): line for line in lines}
    for number in by_number:
        poll.register(number, select.EPOLLIN | select.EPOLLOUT)
    left, good = len(lines), 0
    deadline = time.perf_counter() + LONGEST_SECONDS
    while left and time.perf_counter() < deadline:
        for number, events in poll.poll(0.5):
            line = by_number[number]
            try:
                if events & select.EPOLLOUT and line.send():
                    poll.modify(number, select.EPOLLIN)
                if not events & ~select.EPOLLOUT or not line.receive():
                    continue
                good += 1
            except (AnswerWrongError, OSError):
                pass
            left -= 1
            poll.unregister(number)
    return good


def main() -> None:
    """Run it as the module's docstring says."""
    raise_file_limit()
    order = Order.read()
    lines = [open_line(order) for _ in range(order.connections)]
    push(lines)
    print(sum(line.index < len(line.pieces) for line in lines), flush=True)  # so many could not send all
    sys.stdin.readline()
    print(json.dumps({"good": finish(lines)}), flush=True)


if __name__ == "__main__":
    main()
