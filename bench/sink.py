"""The sink: a destination that lets bodies vanish in the kernel and says ``ok``.

    python -m bench.sink <file descriptor of a listening socket> [closing]

One thread, all connections. A body with a length is dropped unread (``MSG_TRUNC``: nothing is copied); a chunked one is
read and ends where ``0`` and an empty line come last, which the generator's bodies never contain before. ``closing`` ends
each connection after its answer.
"""

import re
import resource
import select
import socket
import sys
from dataclasses import dataclass

END_OF_HEAD = b"\r\n\r\n"
END_OF_CHUNKS = b"0\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CONTINUE = re.compile(rb"\r\nexpect: *100-continue", re.IGNORECASE)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nok"
OK_AND_CLOSE = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
HEAD_BYTES = 1 << 16
BODY_BYTES = 1 << 20

scratch = bytearray(BODY_BYTES)


@dataclass(slots=True)
class Connection:
    """One connection. ``rest`` is what is left of a body: None between requests, -1 while chunks come."""

    sock: socket.socket
    is_closing: bool
    held: bytes = b""
    rest: int | None = None

    def take(self) -> bool:
        """Take what came; false when the connection is over."""
        if self.rest is None:
            data = self.sock.recv(HEAD_BYTES)
            self.held += data
            return bool(data) and self._look()
        if self.rest < 0:
            count = self.sock.recv_into(scratch, BODY_BYTES)
            self.held = (self.held + bytes(scratch[max(0, count - 5) : count]))[-5:]
            return bool(count) and self._end_if_whole()
        count = self.sock.recv_into(scratch, min(self.rest, BODY_BYTES), socket.MSG_TRUNC)
        self.rest -= count
        return bool(count) and (self.rest > 0 or self._answer())

    def _look(self) -> bool:
        end = self.held.find(END_OF_HEAD)
        if end < 0:
            return True
        head, body = self.held[: end + 2], self.held[end + 4 :]
        if CONTINUE.search(head):
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = LENGTH.search(head)
        self.held = b""
        if length is None:
            self.rest, self.held = -1, body[-5:]
            return self._end_if_whole()
        self.rest = int(length[1]) - len(body)
        return self.rest > 0 or self._answer()

    def _end_if_whole(self) -> bool:
        return self._answer() if self.held.endswith(END_OF_CHUNKS) else True

    def _answer(self) -> bool:
        self.rest, self.held = None, b""
        self.sock.send(OK_AND_CLOSE if self.is_closing else OK)
        return not self.is_closing


def serve(listening: socket.socket, *, is_closing: bool) -> None:
    """Serve for ever."""
    poll = select.epoll()
    listening.setblocking(False)
    poll.register(listening.fileno(), select.EPOLLIN)
    connections: dict[int, Connection] = {}
    while True:
        for number, _ in poll.poll():
            if number == listening.fileno():
                accept_all(listening, poll, connections, is_closing=is_closing)
                continue
            connection = connections[number]
            try:
                goes_on = connection.take()
            except BlockingIOError:
                continue
            except OSError:
                goes_on = False
            if not goes_on:
                connection.sock.close()  # leaves the poll by itself
                del connections[number]


def accept_all(listening: socket.socket, poll: select.epoll, connections: dict[int, Connection], *, is_closing: bool) -> None:
    """Accept whoever waits."""
    while True:
        try:
            sock, _ = listening.accept()
        except BlockingIOError:
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connections[sock.fileno()] = Connection(sock, is_closing)
        poll.register(sock.fileno(), select.EPOLLIN)


def main() -> None:
    """Run it as the module's docstring says."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    serve(socket.socket(fileno=int(sys.argv[1])), is_closing="closing" in sys.argv[2:])


if __name__ == "__main__":
    main()
