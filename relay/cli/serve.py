"""``relay serve``: the supervisor, its workers and, where it was asked for, the embedded Postgres.

What ``serve`` and ``demo`` share stands here too: ports are bound before anything is started, everything
ends in one place, and only then does the process leave.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from signal import SIGKILL
from socket import socket

import click

from relay.cli import Failure
from relay.cli.data_folder import find_unsafe_file_system
from relay.cli.listening import PortBusy, bind, url_of
from relay.cli.metrics_folder import MetricsFolder
from relay.cli.parents import follow_parent
from relay.cli.processes import Child, ChildRefused, Program, StopAsked, Supervisor
from relay.db.embedded import EmbeddedPostgres, EmbeddedUnusable
from relay.settings import EMBEDDED, Settings, SettingsInvalid, load_settings
from relay.telemetry import configure_logging

POLL_SECONDS = 0.5
NO_DATABASE = (
    "RELAY_DATABASE_URL is not set. Either set it to a Postgres of yours, postgresql://user:password@host/name, "
    "or set RELAY_DATABASE_URL=embedded to have one run in the data directory. ('relay demo' does that by itself.)"
)

worker_options = click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes.")
app_option = click.option("--app", "factory", default="relay.app:create_app", hidden=True, help="What makes the app.")
follow_option = click.option("--follow-parent", is_flag=True, hidden=True, help="End when the process that started this one ends.")


@click.command()
@worker_options
@app_option
@follow_option
def serve(workers: int, factory: str, *, follow_parent: bool) -> None:
    """Run the relay: a supervisor and its workers.

    Needs RELAY_DATABASE_URL: the URL of a Postgres whose schema is current ('relay migrate'), or
    'embedded' for one in the data directory, which is migrated by itself. SIGTERM stops it: running
    uploads may go on for RELAY_SHUTDOWN_TIMEOUT seconds; a second Ctrl-C cuts them.
    """
    settings = load_settings()
    if settings.database.url is None:
        raise Failure(NO_DATABASE)
    with supervise(settings, is_following=follow_parent) as run:
        is_embedded = settings.database.url.get_secret_value() == EMBEDDED
        held = run.spawn_workers(workers, factory, ("--prepare", "serve") if is_embedded else ())
        run.release(held, {"RELAY_DATABASE_URL": run.start_postgres()} if is_embedded else {})
        click.echo(f"listening on {run.url}, {workers} worker{'s' if workers > 1 else ''}")
        run.supervisor.run()


class Run:
    """One run of the relay on this host: the sockets, the metrics folder, the supervisor."""

    def __init__(self, settings: Settings, sockets: Mapping[str, socket], metrics: MetricsFolder, supervisor: Supervisor) -> None:
        self.settings = settings
        self.supervisor = supervisor
        self._sockets = sockets
        self._metrics = metrics

    @property
    def url(self) -> str:
        """Where the main door is."""
        return url_of(self._sockets["main"], is_tls=self.settings.tls.is_on)

    @property
    def admin_url(self) -> str:
        """Where the admin side is."""
        return url_of(self._sockets.get("admin", self._sockets["main"]), is_tls=self.settings.tls.is_on)

    def spawn_workers(self, count: int, factory: str, preparation: tuple[str, ...]) -> list[Child]:
        """Start workers; they import the app and wait to be released. The first one prepares the database."""
        environment = {"PROMETHEUS_MULTIPROC_DIR": str(self._metrics.path.absolute())}
        command = ("worker", "--app", factory)
        first = Program("worker 1", command, self._sockets, environment, preparation)
        others = [Program(f"worker {number}", command, self._sockets, environment) for number in range(2, count + 1)]
        return [self.supervisor.spawn(program) for program in (first, *others)]

    def start_postgres(self) -> str:
        """Start the embedded Postgres and return its URL.

        Raises:
            EmbeddedUnusable: it cannot be started here.
        """
        postgres = EmbeddedPostgres(self.settings.data.dir, self.settings.database.embedded_bin)
        self.supervisor.watch(postgres)
        return postgres.start()

    def release(self, workers: list[Child], told: Mapping[str, str]) -> None:
        """Let the workers go on and wait until all of them serve: the first one, then the others."""
        first, *others = workers
        self.supervisor.tell(first, told)
        self.wait_until(lambda: first.is_ready)
        for worker in others:
            self.supervisor.tell(worker, told)
        self.wait_until(lambda: all(worker.is_ready for worker in workers))

    def wait_until(self, is_so: Callable[[], bool], *, every_seconds: float = POLL_SECONDS) -> None:
        """Look after everything until a condition holds."""
        while not is_so():
            self.supervisor.step(every_seconds)


@contextlib.contextmanager
def supervise(settings: Settings, *, is_following: bool) -> Iterator[Run]:
    """Bind the ports, and own every process of the run until it ends; then the command is done.

    Raises:
        SettingsInvalid: the certificate in front cannot be used, or has expired.
        Failure: a port is busy, the embedded Postgres is unusable, or a worker refused to start.
    """
    if is_following:
        follow_parent(os.getppid(), SIGKILL)  # nobody is left to wait for an orderly end, and the children follow at once
    configure_logging(settings.log)
    check_front(settings)
    warn_of_unsafe_data(settings.data.dir)
    try:
        with bind_all(settings) as sockets, _metrics_folder(settings.data.dir) as metrics:
            timeout = settings.shutdown.timeout.total_seconds()
            with Supervisor(stop_timeout=timeout, forget=metrics.forget) as supervisor:
                for bound in sockets.values():
                    supervisor.hold(bound)
                asked_at = time.monotonic()
                try:
                    yield Run(settings, sockets, metrics, supervisor)
                except StopAsked:
                    asked_at = time.monotonic()
                    click.echo(f"stopping: running uploads may go on for {timeout:.0f} s (Ctrl-C again cuts them)", err=True)
            click.echo(f"stopped after {time.monotonic() - asked_at:.1f} s", err=True)
    except (PortBusy, EmbeddedUnusable) as error:
        raise Failure(str(error)) from None
    except ChildRefused as error:
        raise Failure(f"{error} could not start; the reason stands above") from None


def check_front(settings: Settings) -> None:
    """Check the certificate in front before anything is started: a client would refuse an expired one.

    A worker does not ask the time: one that is replaced at night serves on with the certificate that there is.

    Raises:
        SettingsInvalid: it cannot be used, or is not valid now.
    """
    if settings.tls.is_on:  # what reads certificates is imported for nobody else: the supervisor stays light
        import_module("relay.wire.front").FrontCertificate.of(settings.tls).check_time()


def warn_of_unsafe_data(folder: Path) -> None:
    """Say so when what the journal keeps may be gone after a restart."""
    kind = find_unsafe_file_system(folder)
    if kind is not None:
        click.echo(f"warning: RELAY_DATA_DIR ({folder}) is on {kind}: the journal needs a local persistent disk", err=True)


@contextlib.contextmanager
def bind_all(settings: Settings) -> Iterator[dict[str, socket]]:
    """Bind the main door and, where it has an address of its own, the admin side."""
    with contextlib.ExitStack() as stack:
        sockets = {"main": stack.enter_context(bind("RELAY_LISTEN", settings.listen))}
        if settings.admin.listen not in {None, settings.listen}:
            sockets["admin"] = stack.enter_context(bind("RELAY_ADMIN_LISTEN", str(settings.admin.listen)))
        yield sockets


@contextlib.contextmanager
def _metrics_folder(data_dir: Path) -> Iterator[MetricsFolder]:
    try:
        folder = MetricsFolder(data_dir)
    except OSError as error:
        raise SettingsInvalid(f"RELAY_DATA_DIR: {data_dir} cannot be written ({error.strerror}). Choose another folder.") from None
    try:
        yield folder
    finally:
        folder.close()
