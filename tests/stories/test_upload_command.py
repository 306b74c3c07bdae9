"""``relay upload``: a file goes through a real relay, and whoever refuses it is heard, however early."""

import asyncio
import contextlib
import hashlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from relay.cli import relay as command_line
from tests.support.processes import ROOT, free_port
from tests.support.running_relay import RunningRelay, TestTenant, running_relay
from tests.support.upstreams import Conduct, Upstream

MIB = 1 << 20


@dataclass(frozen=True)
class Told:
    code: int
    out: bytes
    error: str


def run(arguments: Sequence[str], environment: Mapping[str, str], body: bytes = b"") -> Told:
    """Run the command with these settings and no others."""
    others = {name: None for name in os.environ if name.startswith("RELAY_")}
    result = CliRunner(env={**others, **environment}).invoke(command_line, ["upload", *arguments], input=body)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Told(result.exit_code, result.stdout_bytes, result.stderr)


async def upload(arguments: Sequence[str], environment: Mapping[str, str], body: bytes = b"") -> Told:
    """The same beside a relay that runs in this loop."""
    return await asyncio.to_thread(run, arguments, environment, body)


def client_of(relay: RunningRelay, tenant: TestTenant) -> dict[str, str]:
    return {"RELAY_CLIENT_URL": relay.url, "RELAY_CLIENT_KEY": tenant.key}


async def test_a_file_arrives_and_its_receipt_is_told(database_url: str, tmp_path: Path) -> None:
    content = os.urandom(3 * MIB)
    report = tmp_path / "räport 1%.pdf"
    report.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    async with running_relay(database_url, tmp_path) as relay:
        tenant = await relay.tenant()
        folder = await relay.disk_destination(tenant)
        client = client_of(relay, tenant)

        told = await upload([str(report), "--to", "a/"], client)
        assert (told.code, told.error) == (0, "")
        assert f"object:  a/{report.name}  3.0 MiB  sha256 {digest}" in told.out.decode()
        assert (folder / "a" / report.name).read_bytes() == content

        # The same again: a conflict, told as the relay tells it, before the file was sent.
        told = await upload([str(report), "--to", f"a/{report.name}"], client)
        assert (told.code, told.out) == (3, b"")
        assert "(object_exists)" in told.error

        told = await upload(["-", "--to", "from/stdin.txt", "--json", "--content-type", "text/x-notes"], client, content)
        receipt = json.loads(told.out)["objects"][0]
        assert (receipt["key"], receipt["size"], receipt["sha256"]) == ("from/stdin.txt", len(content), digest)
        assert receipt["content_type"] == "text/x-notes"
        entry = await relay.entry(tenant="acme", path_prefix="a/", outcome="delivered")
        assert (entry["content_type"], entry["user_agent"], entry["bytes_in"]) == ("application/pdf", "relay-upload", len(content))


async def test_a_file_without_a_size_is_sent_to_its_end(database_url: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    async with running_relay(database_url, tmp_path) as relay:
        tenant = await relay.tenant()
        folder = await relay.disk_destination(tenant)
        client = client_of(relay, tenant)
        assert (await upload(["/proc/version", "--to", "a/version"], client)).code == 0
        assert (folder / "a" / "version").read_bytes() == Path("/proc/version").read_bytes()
        assert (await upload([str(empty), "--to", "a/empty.txt"], client)).code == 0
        assert (folder / "a" / "empty.txt").read_bytes() == b""
        told = await upload(["/proc/self/mem", "--to", "a/mem"], client)
        assert (told.code, told.error.startswith("error: /proc/self/mem cannot be read: ")) == (1, True)


def test_a_full_standard_output_of_an_export_is_told(database_url: str) -> None:
    environment = {**os.environ, "RELAY_DATABASE_URL": database_url}
    command = (sys.executable, "-m", "relay", "ledger", "export", "--format", "csv")
    with Path("/dev/full").open("wb") as full:
        told = subprocess.run(command, cwd=ROOT, env=environment, stdout=full, stderr=subprocess.PIPE, check=False)
    said = b"error: Standard output cannot be written (No space left on device). The export is cut.\n"
    assert (told.returncode, told.stderr) == (1, said)


async def test_refusals_are_told_as_the_relay_tells_them(database_url: str, tmp_path: Path) -> None:
    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        file.truncate(200 * MIB)
    key_file = tmp_path / "key"
    async with running_relay(database_url, tmp_path) as relay:
        tenant = await relay.tenant(limits={"max_upload_bytes": 20 * MIB})
        await relay.disk_destination(tenant)
        client = client_of(relay, tenant)

        told = await upload([str(big), "--to", "big"], client)
        assert told.code == 1
        assert "(upload_too_large)\nstatus 413, request 0" in told.error
        assert "nothing of the file had been sent" in told.error

        # Its length is not known: the refusal comes while the body is going, and is heard all the same.
        told = await upload(["-", "--to", "big"], client, bytes(60 * MIB))
        assert told.code == 1
        assert "(upload_too_large)\nstatus 413, request 0" in told.error
        assert "MiB had been sent" in told.error

        key_file.write_text("rk_aaaaaaaaaaaaaaaa_" + "A" * 43 + "\n")
        told = await upload([str(big), "--to", "big", "--key-file", str(key_file)], client)
        assert (told.code, "(key_invalid)" in told.error) == (1, True)
        assert "rk_" not in told.error


async def test_what_the_destination_says_is_told_as_its_words(tmp_path: Path, database_url: str) -> None:
    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        file.truncate(200 * MIB)
    small = tmp_path / "small.txt"
    small.write_text("hello")
    async with running_relay(database_url, tmp_path) as relay, Upstream(Conduct(answer=b"done\x1b[31m\n")) as upstream:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        client = client_of(relay, tenant)

        told = await upload([str(small), "--to", "/x y/z", "--query", "q=1 2", "--method", "POST"], client)
        assert told.code == 0
        assert told.out.decode().splitlines()[-1] == "done\N{REPLACEMENT CHARACTER}[31m"
        request = await upstream.request()
        assert (request.method, request.target, request.first_bytes) == ("POST", "/x%20y/z?q=1%202", b"hello")
        assert request.values("expect") == []

        told = await upload([str(small), "--to", "x", "--json"], client)
        assert (told.code, told.out) == (0, b"done\x1b[31m\n")

        upstream.conduct = Conduct(status=403, answer=b"no room", answer_after=MIB, then="close")
        told = await upload([str(big), "--to", "x"], client)
        assert (told.code, told.out) == (1, b"")
        assert told.error.startswith("error: The destination answered 403. no room\nstatus 403, request 0")

        upstream.conduct = Conduct(status=404, answer=b"")
        assert (await upload([str(small), "--to", "x"], client)).code == 3
        # A redirect is not followed: it would take the key elsewhere.
        upstream.conduct = Conduct(status=302, headers=[("Location", f"{upstream.url}/elsewhere")], answer=b"")
        before = len(upstream.requests)
        assert (await upload([str(small), "--to", "x"], client)).code == 1
        assert len(upstream.requests) == before + 1

        upstream.conduct = Conduct(is_answering=False)
        told = await upload([str(small), "--to", "x", "--timeout", "0.5"], client)
        assert (told.code, "Nothing moved for 0.5 s. Whether it arrived is not known" in told.error) == (1, True)


def test_a_terminal_sees_how_far_it_is(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with _uploading(tmp_path, stderr=theirs) as (process, accepted):
        os.close(theirs)
        with accepted:
            seen = ""
            deadline = time.monotonic() + 20
            while "B/s" not in seen and time.monotonic() < deadline:
                if select.select([ours], [], [], 0.2)[0]:
                    seen += os.read(ours, 65_536).decode(errors="replace")
            assert "\r\x1b[Kbig.bin  " in seen
            assert " left" in seen
        assert process.poll() is None or process.returncode == 1
    os.close(ours)


def test_ctrl_c_stops_it_in_one_line(tmp_path: Path) -> None:
    with _uploading(tmp_path, stderr=subprocess.PIPE) as (process, accepted), accepted:
        accepted.recv(1)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=20)
        assert process.returncode == 1
        assert error.decode().startswith("error: Stopped after ")
        assert len(error.decode().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--url", "http://127.0.0.1:{port}"], 1, "cannot be reached"),
        (["--url", "ftp://example.com"], 1, "is no URL of a relay"),
        (["--url", "http://[::1"], 1, "is no URL of a relay"),
        (["--url", "http://\N{LATIN SMALL LETTER U WITH DIAERESIS}..x"], 1, "is no URL of a relay"),
        (["--url", "http://a..x"], 1, "is no URL of a relay"),
        (["--url", "https://user:hush@example.com"], 1, "is no URL of a relay"),
        (["--url", "http://127.0.0.1:{port}", "--key-file", "nowhere"], 1, "The key file nowhere cannot be read"),
        (["--ca", "pyproject.toml", "--url", "http://127.0.0.1:{port}"], 1, "--ca pyproject.toml cannot be used"),
        (["--content-type", "a\nb", "--url", "http://127.0.0.1:{port}"], 2, "--content-type is no media type"),
        ([], 1, "Which relay?"),
    ],
)
def test_what_cannot_begin_says_why_and_what_to_do(tmp_path: Path, arguments: list[str], code: int, told: str) -> None:
    given = [each.format(port=free_port()) for each in arguments]
    environment = {"RELAY_CLIENT_KEY": "rk_x_y", "RELAY_DATA_DIR": str(tmp_path)}
    result = run(["README.md", "--to", "x", *given], environment)
    assert (result.code, result.out) == (code, b"")
    assert told in result.error
    assert "hush" not in result.error


@contextlib.contextmanager
def _uploading(folder: Path, stderr: int) -> Iterator[tuple["subprocess.Popen[bytes]", socket.socket]]:
    """A command that sends to a server which says yes and then reads no more than the kernel does."""
    big = folder / "big.bin"
    with big.open("wb") as file:
        file.truncate(100 * MIB)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
        process = subprocess.Popen(
            [sys.executable, "-m", "relay", "upload", str(big), "--to", "x", "--url", url],
            cwd=ROOT,
            env={**inherited, "RELAY_CLIENT_KEY": "rk_x_y", "COLUMNS": "100"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
        try:
            accepted, _ = listening.accept()
            accepted.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            yield process, accepted
        finally:
            process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()
