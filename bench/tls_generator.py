"""The generator over TLS: a thread for each connection, which blocks; the encryption runs outside the interpreter's lock.

python -m bench.tls_generator     (told what to do as ``bench.generator`` is)
"""

import socket
import ssl
import threading
import time

from bench.generator import AnswerWrongError, Order, is_whole, tell, wait_for_word
from bench.loads import WARM_BYTES, request_pieces

ANSWER_SECONDS = 120.0


class Sender:
    """One connection."""

    def __init__(self, order: Order, context: ssl.SSLContext) -> None:
        raw = socket.create_connection(("127.0.0.1", order.port), timeout=ANSWER_SECONDS)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = context.wrap_socket(raw, server_hostname="127.0.0.1")
        self._order = order
        self.finished = 0
        self.failure: Exception | None = None

    def send_one(self, size: int) -> None:
        """One upload and its answer."""
        for piece in request_pieces(self._order.path, self._order.key, self._order.framing, size):
            self._sock.sendall(piece)
        answer = b""
        while not is_whole(answer):
            data = self._sock.recv(1 << 16)
            if not data:
                raise AnswerWrongError(f"closed after {answer[:200]!r}")
            answer += data

    def run(self, end: float) -> None:
        """Upload after upload until the time is up."""
        try:
            while time.perf_counter() < end or not self.finished:
                self.send_one(self._order.size)
                self.finished += 1
        except Exception as error:  # noqa: BLE001 - told by the main thread
            self.failure = error


def main() -> None:
    """Run it as the module's docstring says."""
    order = Order.read()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # a certificate of our own, on the loopback
    senders = [Sender(order, context) for _ in range(order.connections)]
    for sender in senders:
        sender.send_one(min(order.size, WARM_BYTES))
    wait_for_word()
    began, cpu = time.perf_counter(), time.process_time()
    threads = [threading.Thread(target=sender.run, args=(began + order.seconds,)) for sender in senders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for sender in senders:
        if sender.failure is not None:
            raise sender.failure
    tell(sum(sender.finished for sender in senders), time.perf_counter() - began, time.process_time() - cpu, {})


if __name__ == "__main__":
    main()
