"""The client of the main door against servers that misbehave, in the clear and under TLS."""

import contextlib
import errno
import io
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import httpcore
import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from relay.cli import Failure, relay
from relay.cli.demo_file import DemoFile, new_state
from relay.cli.door_client import BodyChanged, BodyUnreadable, Order, send
from relay.cli.progress import Progress
from relay.cli.upload import find_door
from relay.settings import CLIENT_VARIABLES, load_settings, variables

MIB = 1 << 20
REFUSED = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
TAKEN = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok"
GO = b"HTTP/1.1 100 Continue\r\n\r\n"

Conduct = Callable[[socket.socket], None]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "relay.test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "relay.pem"
    plain = serialization.NoEncryption()
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    return path


@contextlib.contextmanager
def serving(conduct: Conduct, certificate: Path | None = None) -> Iterator[int]:
    """Serve one connection in a thread; yield the port."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(15)

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listening.accept()
            connection.settimeout(15)
            if certificate is not None:
                tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                tls.load_cert_chain(certificate)
                connection = tls.wrap_socket(connection, server_side=True)
            with connection:
                conduct(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield int(listening.getsockname()[1])
    finally:
        listening.close()
        thread.join()


def read_head(connection: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(65_536)
    return head


def answer(connection: socket.socket, said: bytes) -> None:
    """Answer a small request, and read on until the client goes: a close with something unread would cut the answer."""
    read_head(connection)
    connection.sendall(said)
    with contextlib.suppress(OSError):
        while connection.recv(65_536):
            pass


def order(port: int, size: int | None, scheme: str = "http") -> Order:
    url = httpcore.URL(scheme=scheme, host="127.0.0.1", port=port, target="/upload/x")
    return Order("PUT", url, ((b"Authorization", b"Bearer rk_x_y"),), size, 10)


def ask(what: Order, body: bytes, tls: ssl.SSLContext | None = None) -> tuple[int, bytes, int]:
    """Send a body; the status and the body of the answer, and how many bytes went out."""
    progress = Progress("x", what.body_bytes, io.StringIO())
    with send(what, io.BytesIO(body), tls or ssl.create_default_context(), progress) as (told, _):
        return told.status, b"".join(told.body), progress.sent_bytes


@pytest.mark.parametrize("is_tls", [False, True], ids=["clear", "tls"])
def test_refusal_before_the_body_is_heard_and_nothing_of_it_is_sent(certificate: Path, *, is_tls: bool) -> None:
    heads: list[bytes] = []

    def refuse(connection: socket.socket) -> None:
        heads.append(read_head(connection))
        connection.sendall(REFUSED)
        connection.recv(1)

    tls = ssl.create_default_context(cafile=certificate)
    with serving(refuse, certificate if is_tls else None) as port:
        told = ask(order(port, 50 * MIB, "https" if is_tls else "http"), bytes(50 * MIB), tls)
    assert told == (413, b"no", 0)
    assert b"expect: 100-continue\r\n" in heads[0].lower()
    assert f"host: 127.0.0.1:{port}\r\n".encode() in heads[0].lower()


@pytest.mark.parametrize("is_tls", [False, True], ids=["clear", "tls"])
@pytest.mark.parametrize("size", [50 * MIB, None], ids=["length", "chunked"])
def test_refusal_in_the_middle_of_the_body_ends_the_sending(certificate: Path, size: int | None, *, is_tls: bool) -> None:
    def refuse(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(GO)
        left = MIB
        while left > 0:
            left -= len(connection.recv(65_536))
        connection.sendall(REFUSED)
        with contextlib.suppress(OSError):
            while connection.recv(65_536):
                pass

    tls = ssl.create_default_context(cafile=certificate)
    with serving(refuse, certificate if is_tls else None) as port:
        status, said, sent = ask(order(port, size, "https" if is_tls else "http"), bytes(50 * MIB), tls)
    assert (status, said) == (413, b"no")
    assert MIB <= sent < 50 * MIB


def test_answer_of_success_before_the_body_ends_stops_nothing() -> None:
    taken = 0

    def answer_early(connection: socket.socket) -> None:
        nonlocal taken
        taken -= read_head(connection).partition(b"\r\n\r\n")[2] != b""
        connection.sendall(GO + TAKEN)
        while taken < 5 * MIB and (data := connection.recv(65_536)):
            taken += len(data)

    with serving(answer_early) as port:
        assert ask(order(port, 5 * MIB), bytes(5 * MIB)) == (201, b"ok", 5 * MIB)
    assert taken == 5 * MIB


def test_server_that_knows_no_expectation_gets_the_body_all_the_same() -> None:
    def take(connection: socket.socket) -> None:
        left = 100_000 - len(read_head(connection).partition(b"\r\n\r\n")[2])
        while left > 0:
            left -= len(connection.recv(65_536))
        connection.sendall(TAKEN)

    with serving(take) as port:
        assert ask(order(port, 100_000), bytes(100_000)) == (201, b"ok", 100_000)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 2",
        b"SSH-2.0-nope\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"\r\n\r\n",
        b"HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\nok",
    ],
)
def test_server_that_goes_or_speaks_something_else_is_an_error_and_no_answer(said: bytes) -> None:
    def leave(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(said)

    with serving(leave) as port, pytest.raises((httpcore.NetworkError, httpcore.ProtocolError)):
        ask(order(port, MIB), bytes(MIB))


def test_file_that_became_shorter_is_never_sent_as_whole() -> None:
    seen = b""

    def take(connection: socket.socket) -> None:
        nonlocal seen
        seen = read_head(connection)
        connection.sendall(GO)
        with contextlib.suppress(OSError):
            while data := connection.recv(65_536):
                seen += data

    with serving(take) as port, pytest.raises(BodyChanged):
        ask(order(port, 200_000), bytes(100_000))
    assert len(seen.partition(b"\r\n\r\n")[2]) == 100_000


class Broken(io.BytesIO):
    """A file on a disk that fails."""

    def read1(self, size: int | None = -1, /) -> bytes:
        if not (data := super().read1(size)):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return data


def test_file_that_cannot_be_read_to_its_end_is_told() -> None:
    what = Progress("x", None, io.StringIO())
    with (
        serving(lambda connection: answer(connection, GO)) as port,
        pytest.raises(BodyUnreadable, match="Input/output error"),
        send(order(port, None), Broken(b"x"), ssl.create_default_context(), what),
    ):
        pass


@pytest.mark.parametrize("size", [1, MIB], ids=["after the body", "before the body"])
@pytest.mark.parametrize("part_bytes", [len(GO) * 100, 7], ids=["whole", "in parts"])
def test_server_that_says_1xx_only_is_not_heard_for_ever(size: int, part_bytes: int) -> None:
    def say_on(connection: socket.socket) -> None:
        read_head(connection)
        with contextlib.suppress(OSError):
            while True:
                for at in range(0, len(GO) * 100, part_bytes):
                    connection.sendall((GO * 100)[at : at + part_bytes])

    with serving(say_on) as port, pytest.raises((httpcore.RemoteProtocolError, httpcore.NetworkError)):
        ask(order(port, size), bytes(size))


def test_untrusted_certificate_is_refused_before_the_key_is_sent(certificate: Path) -> None:
    heads: list[bytes] = []
    with serving(lambda connection: heads.append(connection.recv(1)), certificate) as port, pytest.raises(httpcore.ConnectError):
        ask(order(port, 1, "https"), b"x")
    assert heads == []


def test_key_of_a_demo_goes_to_this_machine_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RELAY_CLIENT_URL", raising=False)
    monkeypatch.delenv("RELAY_CLIENT_KEY", raising=False)
    monkeypatch.setenv("RELAY_LISTEN", "0.0.0.0:8123")
    state = new_state()
    DemoFile.of(tmp_path).save(type(state)(state.admin_token, state.secret_key, "rk_demo_key"))
    assert find_door(None, None, tmp_path, may_ask=False).url == httpcore.URL("http://127.0.0.1:8123/upload/")
    for url in ("http://localhost:9", "http://127.0.0.1:9", "http://[::1]:9"):
        assert find_door(url, None, tmp_path, may_ask=False).key == "rk_demo_key"
    for url in ("https://relay.example.com", "https://127.0.0.1.example.com", "https://localhost.example.com"):
        with pytest.raises(Failure, match=r"No key\."):
            find_door(url, None, tmp_path, may_ask=False)


def upload(port: int, *arguments: str, scheme: str = "http") -> Result:
    given = ["upload", "pyproject.toml", "--to", "x", "--url", f"{scheme}://127.0.0.1:{port}", *arguments]
    return CliRunner(env={"RELAY_CLIENT_KEY": "rk_x_y"}).invoke(relay, given)


def test_command_says_in_words_what_the_connection_did(certificate: Path) -> None:
    with serving(lambda _: None, certificate) as port:
        told = upload(port, scheme="https")
    assert (told.exit_code, told.stdout) == (1, "")
    assert f"The certificate of https://127.0.0.1:{port} is not trusted: " in told.stderr
    assert "--ca" in told.stderr

    with serving(lambda connection: answer(connection, TAKEN), certificate) as port:
        told = upload(port, "--ca", str(certificate), "--json", scheme="https")
    assert (told.exit_code, told.stdout, told.stderr) == (0, "ok", "")

    heads: list[bytes] = []
    with serving(lambda connection: heads.append(read_head(connection))) as port:
        told = upload(port)
    assert told.exit_code == 1
    assert told.stderr.startswith("error: The connection broke after ")
    assert "Whether it arrived is not known" in told.stderr


def test_receipt_of_something_else_is_not_believed() -> None:
    receipt = b'{"upload_id": "x", "objects": [{"key": "k", "size": 1, "sha256": "' + b"0" * 64 + b'"}]}'
    head = b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(receipt)
    with serving(lambda connection: answer(connection, head + receipt)) as port:
        told = upload(port)
    assert told.exit_code == 1
    assert "The receipt's sha256 is not that of what was sent" in told.stderr


@pytest.mark.parametrize("told", [b'"size": 1, "sha256": ["a"]', b'"size": ' + b"9" * 400, b'"size": -1'])
def test_what_is_no_receipt_is_shown_as_it_came(told: bytes) -> None:
    receipt = b'{"upload_id": "x", "objects": [{"key": "k", ' + told + b"}]}"
    head = b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(receipt)
    with serving(lambda connection: answer(connection, head + receipt)) as port:
        result = upload(port)
    assert (result.exit_code, result.stdout) == (0, f"status:  201\n{receipt.decode()}\n")


def test_refusal_without_a_request_id_is_the_destinations() -> None:
    said = b'{"code": "teapot", "title": "No", "detail": "tea"}'
    head = b"HTTP/1.1 418 Teapot\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(said)
    with serving(lambda connection: answer(connection, head + said)) as port:
        told = upload(port)
    assert told.stderr.startswith("error: The destination answered 418. {")


def test_server_does_not_mind_the_variables_of_a_client() -> None:
    assert load_settings(dict.fromkeys(CLIENT_VARIABLES, "x")) == load_settings({})
    assert not {name for name, _ in variables()} & set(CLIENT_VARIABLES)
