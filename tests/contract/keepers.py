"""One place of each kind of destination, empty, and its far side, looked at by other means than Relay's.

``of`` gives a test the keeper of each of some kinds. What costs little is always asked. Of the cases that need a server each test asks one
in the short run, and which one rotates from test to test by its name (``shorten``); the full run asks all.
"""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlsplit
from zlib import crc32

import pytest
from azure.storage.blob import ContainerClient

from relay.destinations.destination import Destination
from relay.destinations.disk import BATCH_BYTES, DiskStore
from relay.destinations.disk_names import TEMP_FOLDER
from relay.destinations.egress import Egress
from relay.destinations.http_config import HttpConfig
from relay.destinations.http_upstream import HttpUpstream
from relay.destinations.keys import KeyTemplate
from relay.destinations.object_store import ObjectStore
from relay.destinations.store import StoreDestination
from relay.settings import DnsSettings, EgressSettings, FormSettings
from relay.wire.client import Account, Transport, make_client
from relay.wire.names import Names
from tests.support.azurite import BLOCK, AzureStores, names_in, opened_azure, read_blob
from tests.support.buckets import PART, Stores, opened_stores
from tests.support.disks import disk_config, open_below, tree
from tests.support.store_proxy import Alter, Asked, Say, Whim, error_xml
from tests.support.stores import StoreServer, TestBucket
from tests.support.upstreams import READ_BYTES, Upstream

NOWHERE: Final = "http://127.0.0.1:9"
"""Nobody listens there."""

LONG: Final = 60.0
PREFIX: Final = "in/höhe"
"""Below this objects lie on servers; keepers speak of keys without it."""


class Keeper(Protocol):
    """One place. ``part_bytes``: what is larger is handed on in several pieces."""

    part_bytes: int

    @property
    def destination(self) -> Destination:
        """The place as a destination that replaces nothing."""
        ...

    @property
    def lost(self) -> Destination:
        """One of the kind that is not there."""
        ...

    def arrived(self) -> Sequence[str]:
        """The digests of what has arrived whole."""
        ...

    def left(self) -> Sequence[str]:
        """What else is there, or held: words for whoever reads the failure."""
        ...


class StoreKeeper(Keeper, Protocol):
    """A place that keeps objects. ``is_strict``: the store refuses by itself to replace, so of two at the same moment one is told."""

    is_strict: bool

    def open(self, overwrite: str = "refuse", *, url: str | None = None, idle_seconds: float = LONG, part_bytes: int = 0) -> ObjectStore:
        """The place as Relay opens it: at its own address or another; with parts of the keeper's size or another."""
        ...

    @property
    def held_bytes(self) -> int:
        """What parts on their way hold in memory."""
        ...

    def put(self, key: str, content: bytes) -> None:
        """Put an object there as somebody else would."""
        ...

    def objects(self) -> dict[str, bytes]:
        """What is visible."""
        ...

    @property
    def destination(self) -> StoreDestination:
        """The place as a destination that replaces nothing."""
        return as_destination(self.open())

    @property
    def lost(self) -> Destination:
        """One of the kind that is not there."""
        return as_destination(self.open(url=NOWHERE))

    def arrived(self) -> Sequence[str]:
        """The digests of the objects."""
        return [hashlib.sha256(content).hexdigest() for content in self.objects().values()]


@dataclass(frozen=True)
class Manner:
    """How servers of a kind are spoken to, and speak. ``lies``: ways to say that something else was taken than was sent."""

    is_part: Callable[[Asked], bool]
    is_publication: Callable[[Asked], bool]
    busy: Say
    denied: Say
    lies: Sequence[Whim]

    def is_content(self, asked: Asked) -> bool:
        """True for what brings bytes of an object."""
        return self.is_part(asked) or (self.is_publication(asked) and asked.method == "PUT" and "comp=" not in asked.target)


class ServerKeeper(StoreKeeper, Protocol):
    """A place on a server, so that something may stand in front of it.

    ``knows_all``: it keeps what belongs to an object, and tells digests of what parts have become.
    """

    manner: Manner
    knows_all: bool

    @property
    def port(self) -> int:
        """Where the server listens."""
        ...

    def kept(self, key: str) -> tuple[str | None, Mapping[str, str]]:
        """An object's content type and metadata."""
        ...

    def remove(self) -> None:
        """Let there be no such place any more."""
        ...


def members_of(overwrite: str, idle_seconds: float) -> dict[str, Any]:
    """What places on servers are told alike."""
    return {"prefix": PREFIX, "overwrite": overwrite, "idle_timeout_seconds": idle_seconds}


def as_destination(store: ObjectStore) -> StoreDestination:
    """The store as requests reach it."""
    return StoreDestination(store, KeyTemplate("{path}"), FormSettings())


# ── disk ─────────────────────────────────────────────────────────────────────────────────────────


class DiskKeeper(StoreKeeper):
    """A folder."""

    part_bytes = BATCH_BYTES
    is_strict = True

    def __init__(self, folder: Path, threads: ThreadPoolExecutor) -> None:
        self._folder = folder
        self._threads = threads

    def open(self, overwrite: str = "refuse", *, url: str | None = None, idle_seconds: float = LONG, part_bytes: int = 0) -> ObjectStore:
        del part_bytes  # a disk takes what comes
        root = self._folder if url is None else self._folder / "gone"
        return DiskStore(root, disk_config(is_replacing=overwrite == "replace"), self._threads, timedelta(seconds=idle_seconds))

    @property
    def held_bytes(self) -> int:
        return 0

    def put(self, key: str, content: bytes) -> None:
        path = self._folder / "acme" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def objects(self) -> dict[str, bytes]:
        return {name: content for name, content in tree(self._folder / "acme").items() if isinstance(content, bytes)}

    def left(self) -> Sequence[str]:
        files = [name for name, content in tree(self._folder).items() if content is not None and f"{TEMP_FOLDER}/" in name]
        return files + ["descriptors"] * open_below(self._folder)


# ── buckets ──────────────────────────────────────────────────────────────────────────────────────


def is_probe(asked: Asked) -> bool:
    """True for what finds out which conditions a store honours."""
    return ".relay-probe" in asked.target


def speak_s3(checksum: str) -> Manner:
    """How S3 speaks; ``checksum`` is the field in which a dialect tells one, and how a wrong one begins."""
    name, _, value = checksum.partition(": ")
    return Manner(
        is_part=lambda asked: asked.is_part and not is_probe(asked),
        is_publication=lambda asked: (asked.is_complete or (asked.method == "PUT" and "?" not in asked.target)) and not is_probe(asked),
        busy=Say(503, error_xml("SlowDown"), {"retry-after": "0"}),
        denied=Say(403, error_xml("AccessDenied")),
        lies=(Say(200, b"", {"etag": '"x"', name: value}), Say(200, b"", {"etag": f'"{"0" * 32}"'})),
    )


class BucketKeeper(ServerKeeper):
    """A bucket."""

    part_bytes = PART
    is_strict = False  # moto knows conditions, and answers requests at once in threads that know nothing of each other

    def __init__(self, bucket: TestBucket, stores: Stores, *, knows_all: bool, is_google: bool) -> None:
        self._bucket = bucket
        self._stores = stores
        self._is_google = is_google
        self._is_gone = False
        self.knows_all = knows_all
        self.manner = speak_s3("x-goog-hash: crc32c=AAAAAA==" if is_google else "x-amz-checksum-crc32c: AAAAAA==")

    def open(self, overwrite: str = "refuse", *, url: str | None = None, idle_seconds: float = LONG, part_bytes: int = 0) -> ObjectStore:
        members = members_of(overwrite, idle_seconds) | {"part_bytes": part_bytes or self.part_bytes}
        return self._stores.open(self._bucket, url=url, is_google=self._is_google, **members)

    @property
    def port(self) -> int:
        return self._bucket.server.port

    @property
    def held_bytes(self) -> int:
        return self._stores.tools.memory.held_bytes

    def put(self, key: str, content: bytes) -> None:
        self._bucket.put(f"{PREFIX}/{key}", content)

    def objects(self) -> dict[str, bytes]:
        return {} if self._is_gone else {key.removeprefix(f"{PREFIX}/"): self._bucket.read(key) for key in self._bucket.keys()}  # noqa: SIM118 - no mapping

    def kept(self, key: str) -> tuple[str | None, Mapping[str, str]]:
        found = self._bucket.head(f"{PREFIX}/{key}")
        return found["ContentType"], found["Metadata"]

    def remove(self) -> None:
        self._bucket.client.delete_bucket(Bucket=self._bucket.name)
        self._is_gone = True

    def left(self) -> Sequence[str]:
        notes = self._stores.tools.notes
        uploads = [] if self._is_gone else [f"upload of {key}" for key in self._bucket.open_uploads()]
        return [*uploads, *(["notes"] if notes.abandoned else []), *(["memory"] if self.held_bytes else [])]


# ── containers ───────────────────────────────────────────────────────────────────────────────────


def _is_block(asked: Asked) -> bool:
    return asked.method == "PUT" and "comp=block&" in asked.target


def _refusal(status: int, code: str) -> Say:
    return Say(status, b"<Error/>", {"x-ms-error-code": code, "retry-after": "0"})


AZURE: Final = Manner(
    is_part=_is_block,
    is_publication=lambda asked: asked.method == "PUT" and not _is_block(asked),
    busy=_refusal(503, "ServerBusy"),
    denied=_refusal(403, "AuthorizationPermissionMismatch"),
    # In front of what it says of a blob; of a block this server says nothing.
    lies=(Alter(b" 201 Created\r\n", b" 201 Created\r\ncontent-md5: AAAA\r\n"),),
)


class ContainerKeeper(ServerKeeper):
    """A container. What ``left`` does not tell of: blocks that are never named, which no request removes and nobody sees."""

    part_bytes = BLOCK
    is_strict = True
    knows_all = True
    manner = AZURE

    def __init__(self, container: ContainerClient, stores: AzureStores) -> None:
        self._container = container
        self._stores = stores
        self._is_gone = False

    def open(self, overwrite: str = "refuse", *, url: str | None = None, idle_seconds: float = LONG, part_bytes: int = 0) -> ObjectStore:
        members = members_of(overwrite, idle_seconds) | {"block_bytes": part_bytes or self.part_bytes}
        return self._stores.open(self._container, url=url, **members)

    @property
    def port(self) -> int:
        port = urlsplit(self._container.url).port
        assert port is not None
        return port

    @property
    def held_bytes(self) -> int:
        return self._stores.tools.memory.held_bytes

    def put(self, key: str, content: bytes) -> None:
        self._container.upload_blob(f"{PREFIX}/{key}", content, overwrite=True)

    def objects(self) -> dict[str, bytes]:
        return (
            {}
            if self._is_gone
            else {name.removeprefix(f"{PREFIX}/"): read_blob(self._container, name) for name in names_in(self._container)}
        )

    def kept(self, key: str) -> tuple[str | None, Mapping[str, str]]:
        found = self._container.get_blob_client(f"{PREFIX}/{key}").get_blob_properties()
        return found.content_settings.content_type, found.metadata

    def remove(self) -> None:
        self._container.delete_container()
        self._is_gone = True

    def left(self) -> Sequence[str]:
        return ["memory"] if self.held_bytes else []


# ── an HTTP service ──────────────────────────────────────────────────────────────────────────────


class HttpKeeper(Keeper):
    """A service that answers for itself: it keeps the promise of a destination, and none of a store."""

    part_bytes = READ_BYTES

    def __init__(self, upstream: Upstream, open_at: Callable[[str], HttpUpstream]) -> None:
        self._upstream = upstream
        self._open_at = open_at

    @property
    def destination(self) -> Destination:
        return self._open_at(f"{self._upstream.url}/base")

    @property
    def lost(self) -> Destination:
        return self._open_at(NOWHERE)

    def arrived(self) -> Sequence[str]:
        return [recorded.sha256 for recorded in self._upstream.requests if recorded.is_whole and recorded.method != "HEAD"]

    def left(self) -> Sequence[str]:
        return [f"request for {recorded.target}" for recorded in self._upstream.requests if recorded.ending == "open"]


# ── what tests take ──────────────────────────────────────────────────────────────────────────────


@contextlib.asynccontextmanager
async def keep_disk(_: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Keeper]:
    with ThreadPoolExecutor(2) as threads:
        yield DiskKeeper(folder, threads)


@contextlib.asynccontextmanager
async def keep_http(_: pytest.FixtureRequest, _folder: Path) -> AsyncIterator[Keeper]:
    names = Names(DnsSettings())
    transport = Transport(names, Egress(EgressSettings(allow=("127.0.0.1/32",))).permit)
    async with make_client(transport) as client, Upstream() as upstream:
        yield HttpKeeper(upstream, lambda url: HttpUpstream(client, Account("acme", "main"), HttpConfig(base_url=url), {}))
    names.close()


@contextlib.asynccontextmanager
async def keep_azure(request: pytest.FixtureRequest, _: Path) -> AsyncIterator[Keeper]:
    container: ContainerClient = request.getfixturevalue("container")
    async with opened_azure() as stores:
        yield ContainerKeeper(container, stores)


def keep_bucket(server: str, *, knows_all: bool = False, is_google: bool = False) -> "Keep":
    """Buckets on one of the servers that fixtures give."""

    @contextlib.asynccontextmanager
    async def keep(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Keeper]:
        running: StoreServer = request.getfixturevalue(server)
        async with opened_stores(folder) as stores:
            yield BucketKeeper(running.make_bucket(), stores, knows_all=knows_all, is_google=is_google)

    return keep


Keep = Callable[[pytest.FixtureRequest, Path], AbstractAsyncContextManager[Keeper]]
Test = TypeVar("Test", bound=Callable[..., object])

KEEPERS: Final[Mapping[str, Keep]] = {
    "http": keep_http,
    "disk": keep_disk,
    "s3": keep_bucket("moto_server", knows_all=True),
    "s3 that knows no conditions": keep_bucket("rclone_server"),
    "gcs": keep_bucket("google_server", is_google=True),
    "azure": keep_azure,
}
EVERY: Final = tuple(KEEPERS)
STORES: Final = EVERY[1:]
SERVERS: Final = EVERY[2:]
KEEPING_METADATA: Final = ("s3", "azure")


def of(kinds: Sequence[str]) -> Callable[[Test], Test]:
    """Ask each of these kinds: the fixture ``keeper`` is one of it."""

    def mark(test: Test) -> Test:
        marked: Test = pytest.mark.parametrize("keeper", kinds, indirect=True)(test)
        return marked

    return mark


def shorten(items: Sequence[pytest.Item]) -> None:
    """Leave to the full run all but one of the cases that one test asks of servers."""
    cases: dict[str, list[pytest.Function]] = {}
    for item in items:
        given = getattr(item, "callspec", None)  # it has one if it has parameters
        if given is not None and given.params.get("keeper") in SERVERS and not item.get_closest_marker("full"):
            assert isinstance(item, pytest.Function)
            cases.setdefault(item.originalname, []).append(item)
    for name, asked in cases.items():
        turn = crc32(name.encode()) % len(asked)
        for item in asked[:turn] + asked[turn + 1 :]:
            item.add_marker(pytest.mark.full)
