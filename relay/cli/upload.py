"""``relay upload``: send one file through the main door, as any client of a tenant would.

The key never stands on the command line, where every process of the machine could read it.
"""

import json
import mimetypes
import os
import re
import ssl
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import click
import httpcore

from relay.cli import FAILED, NOT_FOUND_OR_CONFLICT, Failure
from relay.cli.demo_file import DemoFile
from relay.cli.door_client import Answer, BodyChanged, BodyUnreadable, Order, SentBody, Source, send
from relay.cli.progress import Progress, printable, size_text
from relay.settings import load_settings, parse_listen

STDIN = "-"
QUERY_SAFE = "!$&'()*+,;=:@/?%"
PATH_SAFE = "!$&'()*+,;=:@/%"
SHOWN_BYTES = 64 * 1024
RECEIPT_BYTES = 4 << 20
CONFLICTS = {404, 409, 412}
HOST = re.compile(rb"[!-~]+")
LOOPBACK = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1")
UNKNOWN = "Whether it arrived is not known: look at the destination, or ask the operator for the ledger, before you send it again."


@dataclass(frozen=True, slots=True)
class Door:
    """Where the relay is, and who asks."""

    url: httpcore.URL
    """Ends where the path of an upload begins."""

    key: str


@click.command()
@click.argument("file", type=click.Path(allow_dash=True))
@click.option("--to", "path", required=True, help="Where to, below /upload/. With a / at its end: that folder, under the file's own name.")
@click.option("--query", metavar="TEXT", help="The query, for a destination that reads one, such as 'q1=x'.")
@click.option("--url", metavar="URL", help="Where the relay is; default: RELAY_CLIENT_URL, else the demo of the data directory.")
@click.option(
    "--key-file",
    type=click.Path(),
    metavar="FILE",
    help="File with the tenant's key; default: RELAY_CLIENT_KEY, else the demo's, else asked for.",
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Data directory of a demo on this machine.")
@click.option("--method", type=click.Choice(["PUT", "POST"]), default="PUT", show_default=True, help="Method of the request.")
@click.option("--content-type", metavar="TYPE", help="Media type; default: guessed from the file's name.")
@click.option("--ca", type=click.Path(), metavar="FILE", help="Trust these certificate authorities (PEM) and no others.")
@click.option("--timeout", type=click.FloatRange(0.1, 86_400), default=300, show_default=True, help="Longest standstill (seconds).")
@click.option("--json", "as_json", is_flag=True, help="Print the body of the answer as it comes, and nothing else.")
def upload(file: str, path: str, *, as_json: bool, **told: Any) -> None:
    """Send FILE to a tenant's destination; '-' sends standard input.

    Nothing is sent again by itself: an upload that was cut may have reached an HTTP destination. A store
    shows nothing of an unfinished upload. Exit code 3 is the answer's 404, 409 or 412.
    """
    target = _target(file, path, told["query"])
    door = find_door(told["url"], told["key_file"], told["data_dir"], may_ask=file != STDIN)
    tls = _trust(told["ca"])
    with _opened(file) as (source, size):
        order = Order(told["method"], _url(door.url, target), _fields(door.key, file, told["content_type"]), size, told["timeout"])
        progress = Progress("standard input" if file == STDIN else Path(file).name, size, sys.stderr)
        try:
            with _explained(order, progress), send(order, source, tls, progress) as (answer, body):
                Reception(answer, body, progress, as_json=as_json).run()
        except KeyboardInterrupt:
            raise Failure(f"Stopped after {size_text(progress.sent_bytes)}. A store shows nothing of it.") from None


# ── what is sent ─────────────────────────────────────────────────────────────────────────────────


def _target(file: str, path: str, query: str | None) -> str:
    if path.endswith("/"):
        if file == STDIN:
            raise click.UsageError("--to ends with / and standard input has no name. Write the whole path.")
        path += Path(file).name
    path = path.lstrip("/")
    if not path:
        raise click.UsageError("--to is empty. Write where the file goes, such as reports/january.pdf.")
    target = quote(os.fsencode(path), safe="/")
    return target if query is None else f"{target}?{quote(query, safe=QUERY_SAFE)}"


@contextmanager
def _opened(file: str) -> Iterator[tuple[Source, int | None]]:
    """The body and its length; ``None`` where only its end will tell."""
    if file == STDIN:
        standard: Any = sys.stdin.buffer
        yield standard, None
        return
    try:
        source = Path(file).open("rb")  # noqa: SIM115 - closed below; only what opening raises is explained here
    except OSError as error:
        raise Failure(f"{printable(file)} cannot be read: {error.strerror}. Check the name and who may read it.") from None
    with source:
        yield source, _size_of(source, file)


def _size_of(source: BufferedReader, file: str) -> int | None:
    status = os.fstat(source.fileno())
    if not stat.S_ISREG(status.st_mode):
        return None
    try:
        # A file of /proc has size 0, whatever can be read from it.
        return None if not status.st_size and source.peek(1) else status.st_size
    except OSError as error:
        raise Failure(f"{printable(file)} cannot be read: {error.strerror}. Nothing was sent. Check the file and its disk.") from None


def _fields(key: str, file: str, content_type: str | None) -> tuple[tuple[bytes, bytes], ...]:
    kind = content_type or mimetypes.guess_type(file)[0] or "application/octet-stream"
    if not kind.isascii() or not kind.isprintable():
        raise click.UsageError("--content-type is no media type. Write one such as application/pdf.")
    return (
        (b"Authorization", b"Bearer " + key.encode()),
        (b"Content-Type", kind.encode()),
        (b"Accept", b"*/*"),
        (b"User-Agent", b"relay-upload"),
    )


def _url(base: httpcore.URL, target: str) -> httpcore.URL:
    return httpcore.URL(scheme=base.scheme, host=base.host, port=base.port, target=base.target + target.encode())


def _trust(ca: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        why = error.strerror or "it holds no certificate"
        raise Failure(f"--ca {printable(ca or '')} cannot be used: {why}. Give a file of PEM certificates.") from None


# ── who sends, and where to ──────────────────────────────────────────────────────────────────────


def find_door(url: str | None, key_file: str | None, data_dir: Path | None, *, may_ask: bool) -> Door:
    """Find the relay and the key: what was told, else the environment, else the demo of the data directory.

    The demo's key goes to this machine and nowhere else.

    Raises:
        Failure: neither a URL nor a key can be found, or one of them is none.
    """
    url = url or (os.environ.get("RELAY_CLIENT_URL") if data_dir is None else None)
    key = _read_key(key_file) if key_file else (_key_of_environment() if data_dir is None else None)
    where = _checked_url(url) if url else None
    if where is None or (key is None and _is_loopback(where)):
        demo_url, demo_key = _find_demo(data_dir)
        where, key = where or (_checked_url(demo_url) if demo_url else None), key or demo_key
    if where is None:
        raise Failure("Which relay? Give --url or RELAY_CLIENT_URL; or start 'relay demo' and name its data directory by --data-dir.")
    if key is None and may_ask and sys.stdin.isatty():
        key = click.prompt("Key", hide_input=True, err=True).strip()
    if key is None:
        raise Failure("No key. Give --key-file, or set RELAY_CLIENT_KEY or RELAY_CLIENT_KEY_FILE. 'relay key issue' makes one.")
    if where.scheme == b"http" and not _is_loopback(where):
        shown = printable(url or where.host.decode())
        click.echo(f"warning: {shown} is not encrypted: the key and the file can be read on the way", err=True)
    return Door(where, _checked_key(key))


def _find_demo(data_dir: Path | None) -> tuple[str | None, str | None]:
    environment = dict(os.environ) | ({"RELAY_DATA_DIR": str(data_dir)} if data_dir is not None else {})
    settings = load_settings(environment)
    state = DemoFile.of(settings.data.dir).find()
    if state is None:
        return None, None
    if state.url is not None:
        return state.url, state.key
    host, port = parse_listen(settings.listen)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - every interface includes the loopback
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}", state.key


def _key_of_environment() -> str | None:
    file = os.environ.get("RELAY_CLIENT_KEY_FILE")
    return os.environ.get("RELAY_CLIENT_KEY") or (_read_key(file) if file else None)


def _read_key(file: str) -> str:
    try:
        return Path(file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise Failure(f"The key file {printable(file)} cannot be read: {why}. Check the name and who may read it.") from None


def _checked_key(key: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]{1,200}", key):
        raise Failure("What was given as key is none: a key is one word, rk_<id>_<secret>.")
    return key


def _checked_url(url: str) -> httpcore.URL:
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")
        is_usable = parts.scheme in {"http", "https"} and HOST.fullmatch(host) and parts.port != 0
        if is_usable and parts.username is None and not parts.query and not parts.fragment:
            path = quote(parts.path.rstrip("/"), safe=PATH_SAFE)
            return httpcore.URL(scheme=parts.scheme, host=host, port=parts.port, target=f"{path}/upload/")
    except ValueError:  # a port that is no number, an address that is none, a name that no host can have
        pass
    shown = printable(url.rpartition("@")[2])  # what stands before an @ may be a password
    raise Failure(f"{shown} is no URL of a relay. Write one such as https://relay.example.com.")


def _is_loopback(url: httpcore.URL) -> bool:
    return LOOPBACK.fullmatch(url.host.decode()) is not None


# ── what comes back ──────────────────────────────────────────────────────────────────────────────


class Reception:
    """Takes the answer, tells it, and fails where it tells of a failure."""

    def __init__(self, answer: Answer, body: SentBody, progress: Progress, *, as_json: bool) -> None:
        self._answer = answer
        self._body = body
        self._progress = progress
        self._as_json = as_json

    def run(self) -> None:
        """Read the answer to its end: only then is the upload done."""
        is_done = 200 <= self._answer.status < 300
        kept = bytearray()
        for chunk in self._answer.body:
            if is_done and self._as_json:
                sys.stdout.buffer.write(chunk)
            kept += chunk[: max(0, RECEIPT_BYTES - len(kept))]
        self._progress.close()
        document = _parse(bytes(kept), self._answer.find("Content-Type"))
        if not is_done:
            raise Failure(self._reason(bytes(kept), document), NOT_FOUND_OR_CONFLICT if self._answer.status in CONFLICTS else FAILED)
        if self._as_json:
            sys.stdout.buffer.flush()
        else:
            self._tell(bytes(kept), document)
        self._check_digest(document)

    def _reason(self, kept: bytes, document: Any) -> str:
        """Say whose refusal it is: the relay's problem, or the destination's own words."""
        request_id = self._answer.find("Relay-Request-Id")
        if isinstance(document, dict) and "code" in document and request_id is not None and document.get("request_id") == request_id:
            said = f"{document.get('title')}: {document.get('detail')} ({document['code']})"
        else:
            said = f"The destination answered {self._answer.status}. {_text(kept[:500])}".rstrip()
        sent = f"{size_text(self._progress.sent_bytes)} had been sent" if self._progress.sent_bytes else "nothing of the file had been sent"
        return f"{printable(said)}\nstatus {self._answer.status}, request {printable(request_id or 'unknown')}; {sent}"

    def _tell(self, kept: bytes, document: Any) -> None:
        lines = [("status", str(self._answer.status))]
        lines += [
            (name, value)
            for name, value in (("upload", self._answer.find("Relay-Upload-Id")), ("request", self._answer.find("Relay-Request-Id")))
            if value
        ]
        objects = _objects(document)
        lines += [("object", f"{each.get('key')}  {size_text(each.get('size', 0))}  sha256 {each.get('sha256')}") for each in objects]
        for name, value in lines:
            click.echo(f"{name + ':':<9}{printable(value)}")
        if not objects and kept:
            click.echo(_text(kept[:SHOWN_BYTES]))

    def _check_digest(self, document: Any) -> None:
        """Compare the receipt of a single object with what went out."""
        objects = _objects(document)
        if len(objects) == 1 and objects[0].get("sha256") not in {None, self._body.sha256}:
            raise Failure(f"The receipt's sha256 is not that of what was sent ({self._body.sha256}). Do not trust the stored object.")


def _objects(document: Any) -> list[dict[str, Any]]:
    objects = document.get("objects") if isinstance(document, dict) and "upload_id" in document else None
    return objects if isinstance(objects, list) and all(_is_object(each) for each in objects) else []


def _is_object(each: Any) -> bool:
    if not isinstance(each, dict) or not isinstance(each.get("sha256"), str | None):
        return False
    size = each.get("size")
    return isinstance(size, int) and 0 <= size < 1 << 63


def _parse(kept: bytes, content_type: str | None) -> Any:
    if "json" not in (content_type or ""):
        return None
    try:
        return json.loads(kept)
    except (ValueError, RecursionError):
        return None


def _text(data: bytes) -> str:
    return printable(data.decode("utf-8", "replace").strip(), keep="\n\t")


@contextmanager
def _explained(order: Order, progress: Progress) -> Iterator[None]:
    """Say in words what the connection did."""
    where = f"{order.url.scheme.decode()}://{order.url.host.decode()}" + (f":{order.url.port}" if order.url.port else "")
    try:
        yield
    except httpcore.ConnectError as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise Failure(f"The certificate of {where} is not trusted: {cause.verify_message}. Give its authority by --ca.") from None
        raise Failure(f"{where} cannot be reached: {printable(str(error))}. Check --url, and that the relay runs.") from None
    except httpcore.ConnectTimeout:
        raise Failure(f"{where} does not answer. Check --url, and that the relay runs.") from None
    except httpcore.TimeoutException:
        raise Failure(f"Nothing moved for {order.timeout_seconds:g} s. {UNKNOWN} A longer --timeout waits longer.") from None
    except (httpcore.NetworkError, httpcore.ProtocolError):
        sent = size_text(progress.sent_bytes)
        raise Failure(f"The connection broke after {sent}, before the answer's end. {UNKNOWN}") from None
    except BodyChanged:
        raise Failure("The file became shorter while it was sent; the upload was cut. Send it again when nobody writes to it.") from None
    except BodyUnreadable as error:
        raise Failure(f"The file cannot be read to its end: {error}. The upload was cut. Check the file and its disk.") from None
    finally:
        progress.close()
