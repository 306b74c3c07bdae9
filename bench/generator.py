"""The generator: one process that sends uploads and reads their answers, with as little work as Python allows.

    python -m bench.generator     (told what to do by a line of JSON; see ``Order``)

One thread waits for all sockets at once; a small upload is one ``send``, a large one is sent from one block again and
again. It warms up with one request on each connection, says ``ready``, waits for a line, sends until the time is up and
every begun upload has its answer, and prints what it did with its own processor time. Anything but a 2xx ends it.

Not here: TLS, which blocks threads instead (``tls_generator``); uploads that stall (``stalled_generator``).
"""

import json
import random
import resource
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.loads import WARM_BYTES, Framing, request_pieces

SPIN_SECONDS: Final = 0.0015
"""Waiting is exact to a millisecond; the rest before an appointed time is spent asking."""
END_OF_HEAD: Final = b"\r\n\r\n"
SINK_SAYS: Final = "ok"
RECEIVE_BYTES: Final = 1 << 16
LONGEST_SECONDS: Final = 120.0
LONGEST_ROLL_CALL_SECONDS: Final = 3_600.0
REFUSED_SECONDS: Final = 0.1


class AnswerWrongError(Exception):
    """A server did not do what it is there for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the generator is told. ``keys`` is a file of keys, one a line, of which the first ``tenants`` are drawn from."""

    port: int
    path: str
    key: str
    size: int
    connections: int
    seconds: float
    framing: Framing = "length"
    rate: float | None = None
    keys: str | None = None
    tenants: int = 0
    is_each_once: bool = False
    is_tls: bool = False
    says: str = SINK_SAYS
    """What every good answer holds."""

    @classmethod
    def read(cls) -> "Order":
        """Read it from standard input."""
        return cls(**json.loads(sys.stdin.readline()))


class Requests:
    """What goes out next."""

    def __init__(self, order: Order) -> None:
        self._pieces = request_pieces(order.path, order.key, order.framing, order.size)
        self._warm = request_pieces(order.path, order.key, order.framing, min(order.size, WARM_BYTES))
        self._keys: list[bytes] = []
        self._order = order
        self._each = 0
        if order.keys is not None:
            self._keys = Path(order.keys).read_bytes().split()[: order.tenants]
            self._before, _, self._after = bytes(self._pieces[0]).partition(order.key.encode("ascii"))

    @property
    def is_at_end(self) -> bool:
        """Whether every key has been used, where that is what is asked for."""
        return self._order.is_each_once and self._each >= len(self._keys)

    def draw(self) -> list[memoryview]:
        """The pieces of the next request."""
        if not self._keys:
            return self._pieces
        if self._order.is_each_once:
            key = self._keys[self._each % len(self._keys)]
            self._each += 1
        else:
            key = random.choice(self._keys)
        return [memoryview(self._before + key + self._after)]

    def give_back(self, pieces: list[memoryview]) -> None:
        """Draw the key of this request once more, after all others."""
        self._keys.append(bytes(pieces[0][len(self._before) : len(pieces[0]) - len(self._after)]))

    def warm(self) -> list[memoryview]:
        """The pieces of a request of the warm-up."""
        return self._warm


@dataclass(slots=True)
class Line:
    """One connection and the request on it."""

    sock: socket.socket
    pieces: list[memoryview] = field(default_factory=list)
    index: int = 0
    offset: int = 0
    is_waiting_to_send: bool = False
    answer: bytes = b""
    began: float = 0.0
    says: bytes = SINK_SAYS.encode()

    def send(self) -> bool:
        """Send what can be sent; true when the whole request is out."""
        pieces, send = self.pieces, self.sock.send
        while self.index < len(pieces):
            piece = pieces[self.index]
            try:
                sent = send(piece[self.offset :] if self.offset else piece)
            except BlockingIOError:
                return False
            self.offset += sent
            if self.offset == len(piece):
                self.index, self.offset = self.index + 1, 0
        return True

    def receive(self) -> bool:
        """Take what came; true when the whole answer is there."""
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return False
        if not data:
            raise AnswerWrongError(f"closed after {self.answer[:200]!r}")
        self.answer += data
        return is_whole(self.answer, self.says)


def is_whole(answer: bytes, says: bytes = SINK_SAYS.encode()) -> bool:
    """Whether the answer has come to its end.

    Raises:
        AnswerWrongError: it is no success, or does not say what it should: a server may answer for itself.
    """
    end = answer.find(END_OF_HEAD)
    if end < 0:
        return False
    if answer[9:10] != b"2":
        raise AnswerWrongError(answer[:400].decode("latin-1"))
    head = answer[: end + 2].lower()
    at = head.find(b"\r\ncontent-length:")
    length = int(head[at + 17 : head.index(b"\r\n", at + 17)]) if at >= 0 else None
    has_ended = answer.endswith(b"0\r\n\r\n") if length is None else len(answer) >= end + 4 + length
    if has_ended and answer.find(says, end) < 0:
        raise AnswerWrongError(answer[:400].decode("latin-1"))
    return has_ended


class Generator:
    """All connections of one load."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._requests = Requests(order)
        self._poll = select.epoll()
        self._lines: dict[int, Line] = {}
        self.finished = 0
        self.refused = 0
        self.latencies: list[float] = []
        for _ in range(order.connections):
            self._open()

    def _open(self) -> Line:
        sock = socket.create_connection(("127.0.0.1", self._order.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        line = self._lines[sock.fileno()] = Line(sock, says=self._order.says.encode("ascii"))
        self._poll.register(sock.fileno(), select.EPOLLIN)
        return line

    def _begin(self, line: Line, pieces: list[memoryview], began: float = 0.0) -> None:
        line.pieces, line.index, line.offset, line.answer, line.began = pieces, 0, 0, b"", began
        self._send(line)

    def _send(self, line: Line) -> None:
        is_waiting = not line.send()
        if is_waiting != line.is_waiting_to_send:
            line.is_waiting_to_send = is_waiting
            self._poll.modify(line.sock.fileno(), select.EPOLLIN | select.EPOLLOUT if is_waiting else select.EPOLLIN)

    def _step(self, timeout: float, on_answer: Callable[[Line], None]) -> None:
        for number, events in self._poll.poll(timeout):
            line = self._lines[number]
            if events & select.EPOLLOUT:
                self._send(line)
            if events & ~select.EPOLLOUT and self._receive(line):
                on_answer(line)

    def _receive(self, line: Line) -> bool:
        """Take what came; where every key is to be used once, who is refused comes again, on another connection."""
        try:
            return line.receive()
        except AnswerWrongError:
            if not self._order.is_each_once:
                raise
        self.refused += 1
        del self._lines[line.sock.fileno()]
        line.sock.close()
        self._requests.give_back(line.pieces)
        time.sleep(REFUSED_SECONDS)
        self._begin(self._open(), self._requests.draw())
        return False

    def warm(self) -> None:
        """One request on each connection."""
        left = len(self._lines)

        def note(_: Line) -> None:
            nonlocal left
            left -= 1

        for line in self._lines.values():
            self._begin(line, self._requests.warm())
        deadline = time.perf_counter() + LONGEST_SECONDS
        while left:
            self._step(1.0, note)
            check_time(deadline)

    def run(self) -> None:
        """Each connection sends a request as soon as it has the answer to the one before, until the time is up."""
        order, requests = self._order, self._requests
        end = time.perf_counter() + (LONGEST_ROLL_CALL_SECONDS if order.is_each_once else order.seconds)
        left = len(self._lines)

        def go_on(line: Line) -> None:
            nonlocal left
            self.finished += 1
            if time.perf_counter() >= end or requests.is_at_end:
                left -= 1
            else:
                self._begin(line, requests.draw())

        for line in self._lines.values():
            self._begin(line, requests.draw())
        while left:
            self._step(1.0, go_on)
            check_time(end if order.is_each_once else end + LONGEST_SECONDS)

    def run_paced(self, rate: float) -> None:
        """Send at appointed times, whatever the answers do; a latency counts from the appointed time."""
        idle = deque(self._lines.values())  # in turn: servers close what rests for seconds
        total = max(1, round(self._order.seconds * rate))
        began = time.perf_counter()

        def note(line: Line) -> None:
            self.latencies.append(time.perf_counter() - line.began)
            self.finished += 1
            idle.append(line)

        sent = 0
        while self.finished < total:
            now = time.perf_counter()
            due = began + sent / rate
            if sent < total and now >= due:
                self._begin(idle.popleft() if idle else self._open(), self._requests.draw(), due)
                sent += 1
                continue
            wait = due - now if sent < total else 1.0
            self._step(max(0.0, wait - SPIN_SECONDS), note)
            check_time(began + self._order.seconds + LONGEST_SECONDS)


def check_time(deadline: float) -> None:
    """Raise when a server lets everybody wait for too long."""
    if time.perf_counter() > deadline:
        raise AnswerWrongError("no answer in time")


def percentile(values: list[float], share: float) -> float:
    """The value below which a share of the values lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def wait_for_word() -> None:
    """Say that everything is ready, and wait until it is to begin."""
    print("ready", flush=True)
    sys.stdin.readline()


def tell(finished: int, seconds: float, cpu_seconds: float, values: dict[str, float]) -> None:
    """Say what was done."""
    print(json.dumps({"requests": finished, "seconds": seconds, "cpu": cpu_seconds, "values": values}), flush=True)


def raise_file_limit() -> None:
    """Allow as many sockets as the system lets us have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    """Run it as the module's docstring says."""
    raise_file_limit()
    order = Order.read()
    generator = Generator(order)
    if not order.is_each_once:
        generator.warm()
    wait_for_word()
    began, cpu = time.perf_counter(), time.process_time()
    if order.rate is None:
        generator.run()
        values: dict[str, float] = {"refused": generator.refused}
    else:
        generator.run_paced(order.rate)
        values = {f"p{share}_ms": percentile(generator.latencies, share / 100) * 1e3 for share in (50, 99)}
    tell(generator.finished, time.perf_counter() - began, time.process_time() - cpu, values)


if __name__ == "__main__":
    main()
