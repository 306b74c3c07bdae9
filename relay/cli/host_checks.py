"""The doctor's checks of this host: settings, folders, limits, ports. Each leaves nothing behind."""

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from relay.cli.data_folder import find_unsafe_file_system
from relay.cli.findings import Finding, fail, ok, warn
from relay.cli.health import NoAnswer, ask_readiness
from relay.cli.listening import PortBusy, bind, url_at
from relay.cli.progress import size_text
from relay.destinations.egress import Egress
from relay.destinations.sealing import Sealer
from relay.protocols.certificates import describe_time
from relay.settings import Settings, SettingsInvalid, TlsSettings, parse_listen
from relay.wire.front import FrontCertificate

LITTLE_BYTES = 1 << 30
NOTHING_BYTES = 100 << 20
FEW_FILES = 4_096
TOO_FEW_FILES = 512
SOON = timedelta(days=14)
METADATA = ("169.254.169.254", "fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192", "168.63.129.16")
"""Where clouds hand out credentials to their machines."""


def check_host(settings: Settings) -> Iterator[Finding]:
    """Make every check that needs no database, one by one."""
    yield check_data_directory(settings)
    yield check_disk_root(settings.disk.root)
    yield check_sealing_key(settings)
    yield check_egress(settings)
    yield check_operators(settings)
    yield check_open_files()
    yield check_front(settings.tls, datetime.now(UTC))
    yield check_listen("RELAY_LISTEN", settings.listen, is_tls=settings.tls.is_on)
    if settings.admin.listen not in {None, settings.listen}:
        yield check_listen("RELAY_ADMIN_LISTEN", str(settings.admin.listen), is_tls=settings.tls.is_on)


def check_data_directory(settings: Settings) -> Finding:
    """See whether the data directory is on a local persistent disk, can be written, and has room for the journal."""
    name, folder = "data directory", settings.data.dir
    kind = find_unsafe_file_system(folder)
    if kind is not None:
        advice = "The journal needs a local persistent disk: what it holds is lost otherwise. Set RELAY_DATA_DIR to a folder on one."
        return fail(name, f"{folder} is on {kind}", advice)
    try:
        # One that is not there is made at the start; the doctor makes nothing that stays.
        existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
        _write_and_sync(existing)
        room = shutil.disk_usage(existing).free
    except OSError as error:
        return fail(name, f"{folder} cannot be written: {error.strerror}", "Set RELAY_DATA_DIR to a folder that this user may write.")
    wanted = max(LITTLE_BYTES, int(settings.journal.max_bytes))
    told = f"{folder.resolve()} can be {'written' if existing == folder.absolute() else 'made'}; {size_text(room)} are free"
    if room < NOTHING_BYTES:
        return fail(name, told, "Make room: without it new uploads get 503 journal_full.")
    if room < wanted:
        return warn(name, told, f"The journal may grow to {size_text(wanted)} while Postgres is away: make room, or lower its limit.")
    return ok(name, told)


def check_disk_root(root: Path | None) -> Finding:
    """See whether disk destinations can write, and publish by hard links."""
    name = "disk root"
    if root is None:
        return ok(name, "RELAY_DISK_ROOT is not set: there are no disk destinations")
    if not root.is_dir():
        return fail(name, f"{root} is no folder", "Make it, or set RELAY_DISK_ROOT to one that exists.")
    try:
        with tempfile.TemporaryDirectory(prefix=".relay-doctor-", dir=root) as folder:
            file = Path(folder) / "first"
            file.write_bytes(b"x")
            try:
                os.link(file, Path(folder) / "second")
            except OSError as error:
                advice = "Disk destinations publish a finished file by a link. Use a file system that has them."
                return fail(name, f"{root} takes no hard links: {error.strerror}", advice)
    except OSError as error:
        return fail(name, f"{root} cannot be written: {error.strerror}", "Let the user that runs Relay write there.")
    return ok(name, f"{root.resolve()} can be written and takes hard links")


def check_sealing_key(settings: Settings) -> Finding:
    """See whether there is a key for credentials at rest."""
    name = "sealing key"
    try:
        key_id = Sealer(settings.secret.keys()).key_id
    except (SettingsInvalid, ValueError) as error:
        return fail(name, str(error), "Write RELAY_SECRET_KEY as <id>:<base64 of 32 bytes>, several separated by commas.")
    if key_id is None:
        return warn(name, "RELAY_SECRET_KEY is not set", "No destination can have credentials. Make one: openssl rand -base64 32")
    return ok(name, f"{key_id} seals; {len(settings.secret.keys())} in all can open")


def check_egress(settings: Settings) -> Finding:
    """See whether the list of permitted networks can be read and keeps the most dangerous addresses out."""
    name = "egress"
    try:
        egress = Egress(settings.egress)
    except SettingsInvalid as error:
        return fail(name, str(error), "Write networks (10.0.0.0/8) and host names, separated by commas.")
    allowed = ", ".join(settings.egress.allow)
    reached = [address for address in METADATA if egress.permit("", address)]
    if reached:
        advice = "Narrow RELAY_EGRESS_ALLOW: a cloud's credentials are read there."
        return warn(name, f"{allowed} lets destinations reach {', '.join(reached)}", advice)
    return ok(name, f"beside public addresses: {allowed}" if allowed else "public addresses only")


def check_operators(settings: Settings) -> Finding:
    """See whether anybody can use the admin side."""
    tokens = len(settings.admin.operators())
    if tokens:
        return ok("operator token", f"{tokens} set")
    return warn(
        "operator token", "RELAY_ADMIN_TOKEN is not set", "The admin side answers 401 to everybody. Make one: openssl rand -base64 32"
    )


def check_open_files() -> Finding:
    """See how many files a worker may open; an upload takes two."""
    name = "open files"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= FEW_FILES:
        return ok(name, "no limit" if hard == resource.RLIM_INFINITY else f"at most {hard} a process")
    advice = f"An upload takes two. Raise the hard limit to {FEW_FILES} or more (ulimit -Hn, LimitNOFILE=, --ulimit nofile=)."
    return (fail if hard < TOO_FEW_FILES else warn)(name, f"at most {hard} a process", advice)


def check_front(settings: TlsSettings, now: datetime) -> Finding:
    """See whether the certificate in front can be used, and for how long."""
    name = "TLS in front"
    try:
        front = FrontCertificate.of(settings)
    except SettingsInvalid as error:
        return fail(name, str(error), "Relay does not start with it. Name a certificate with its chain, and its key, both in PEM.")
    if front is None:
        return ok(name, "RELAY_TLS_CERTIFICATE is not set: both listeners speak plain HTTP")
    told = f"{settings.certificate} is good until {front.certificates.chain_ends_at:%Y-%m-%d %H:%M} UTC"
    problem = describe_time(front.certificates, now)
    if problem is not None:
        return warn(
            name, f"{settings.certificate} {problem}", "Clients refuse it, and Relay does not start with it. Put a valid one there."
        )
    if front.certificates.chain_ends_at - now < SOON:
        return warn(name, told, "Put a new one there: it is taken up without a restart.")
    return ok(name, told)


def check_listen(variable: str, listen: str, *, is_tls: bool = False) -> Finding:
    """See whether the port is free, or a relay answers there already."""
    try:
        with bind(variable, listen):
            return ok(variable, f"{listen} is free")
    except PortBusy as error:
        busy = str(error)
    url = url_at(*parse_listen(listen), is_tls=is_tls)
    try:
        ready = ask_readiness(url, is_own=True).is_ready
    except NoAnswer:
        what, _, advice = busy.partition(". ")
        return fail(variable, what, advice)
    return ok(variable, f"a relay answers at {url}, {'ready' if ready else 'not ready'}")


def _write_and_sync(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
