"""The doctor's checks of Postgres: reachable, new enough, migrated, heard from, in time; and of what is sealed in it."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
from asyncpg.exceptions import InterfaceError, PostgresError

from relay.cli.findings import Finding, fail, ok, warn
from relay.db.engine import Database, connect_listener
from relay.db.schema import HEAD, REVISIONS, find_revision
from relay.destinations.sealing import Sealer
from relay.errors import DatabaseUnavailable
from relay.settings import Settings, SettingsInvalid
from relay.tenants import certificates
from relay.tenants.resealing import UNREADABLE, Place, survey_some

OLDEST_VERSION = 150_000
HEARD_SECONDS = 5.0
EARLY_SECONDS = 1.0
WRONG_SECONDS = 60.0
SOON = timedelta(days=14)
NAMED = 5
"""Most destinations that one finding names."""

REFUSALS: dict[type[Exception], str] = {
    asyncpg.InvalidPasswordError: "it refuses the user or the password",
    asyncpg.InvalidAuthorizationSpecificationError: "it refuses the user",
    asyncpg.InvalidCatalogNameError: "it has no database of that name",
    asyncpg.TooManyConnectionsError: "it has no connection left",
    ConnectionRefusedError: "nothing listens there",
    TimeoutError: "it does not answer in time",
    OSError: "it cannot be reached",
}


async def check_database(settings: Settings, url: str) -> AsyncIterator[Finding]:
    """Make every check of the database, one by one; the first that fails for good ends them."""
    try:
        connection = await connect_listener(url, settings.database)
    except (DatabaseUnavailable, ValueError) as error:
        advice = "Check RELAY_DATABASE_URL, that Postgres runs, and that this host may connect (pg_hba.conf, firewall)."
        yield fail("postgres", f"no connection: {say_why(error)}", advice)
        return
    try:
        yield await _check_version(connection)
        yield await _check_clock(connection)
    finally:
        await connection.close()
    yield await _check_listening(settings, url)
    database = Database(url, settings.database)
    try:
        schema = await _check_schema(database)
        yield schema
        if schema.state != "fail":
            yield await _check_sealed(database, settings)
            yield await _check_certificates(database, datetime.now(UTC))
    except DatabaseUnavailable as error:
        yield fail("postgres", f"the connection was lost: {say_why(error)}", "Look at the log of Postgres.")
    finally:
        await database.close()


def say_why(error: Exception) -> str:
    """Say a reason in our own words: the library's may hold the user, the host or more."""
    cause = error.__cause__ or error
    return next((words for kind, words in REFUSALS.items() if isinstance(cause, kind)), type(cause).__name__)


async def _check_version(connection: asyncpg.Connection) -> Finding:
    number = int(await connection.fetchval("SHOW server_version_num"))
    told = f"version {number // 10_000}.{number % 10_000}"
    if number < OLDEST_VERSION:
        return fail("postgres", told, f"Relay needs {OLDEST_VERSION // 10_000} or newer.")
    return ok("postgres", told)


async def _check_clock(connection: asyncpg.Connection) -> Finding:
    before = datetime.now(UTC)
    theirs: datetime = await connection.fetchval("SELECT clock_timestamp()")
    after = datetime.now(UTC)
    # What the way there and back took is no difference.
    seconds = max((theirs - after).total_seconds(), (before - theirs).total_seconds(), 0.0)
    told = f"{seconds:.1f} s from that of Postgres"
    advice = "Let both hosts follow a time server: the ledger's times and the expiry of keys go by these clocks."
    if seconds > EARLY_SECONDS:
        return (fail if seconds > WRONG_SECONDS else warn)("clock", told, advice)
    return ok("clock", told)


async def _check_listening(settings: Settings, url: str) -> Finding:
    """See whether what one connection notifies reaches another one, as a change of a key must."""
    name, direct = "notifications", settings.database.listen_url
    channel, heard = f"relay_doctor_{uuid4().hex}", asyncio.Event()
    try:
        async with contextlib.AsyncExitStack() as stack:
            listener = await connect_listener(direct.get_secret_value() if direct else url, settings.database)
            stack.push_async_callback(listener.close)
            await listener.add_listener(channel, lambda *_: heard.set())
            speaker = await connect_listener(url, settings.database)
            stack.push_async_callback(speaker.close)
            await speaker.execute("SELECT pg_notify($1, '')", channel)
            async with asyncio.timeout(HEARD_SECONDS):
                await heard.wait()
    except DatabaseUnavailable as error:
        variable = "RELAY_DATABASE_LISTEN_URL" if direct else "RELAY_DATABASE_URL"
        return fail(name, f"no connection: {say_why(error)}", f"Check {variable}.")
    except (TimeoutError, PostgresError, InterfaceError):
        advice = "A pooler in transaction mode (PgBouncer) swallows LISTEN: set RELAY_DATABASE_LISTEN_URL to Postgres itself."
        return fail(name, "what one connection notifies does not reach another one", advice)
    return ok(name, "they arrive" if direct is None else "they arrive over RELAY_DATABASE_LISTEN_URL")


async def _check_schema(database: Database) -> Finding:
    revision = await find_revision(database)
    if revision == HEAD:
        return ok("schema", f"revision {revision}")
    if revision is None:
        return fail("schema", "the database has none yet", "Run 'relay migrate'.")
    if revision in REVISIONS:
        return fail("schema", f"revision {revision}, this release needs {HEAD}", "Run 'relay migrate'.")
    return warn("schema", f"revision {revision} is newer than this release's {HEAD}", "Bring this host to the newer release soon.")


async def _check_sealed(database: Database, settings: Settings) -> Finding:
    """See whether all credentials open here, and whether a key's rotation is finished."""
    name = "sealed credentials"
    try:
        sealer = Sealer(settings.secret.keys())
    except (SettingsInvalid, ValueError):
        return fail(name, "RELAY_SECRET_KEY cannot be read", "See the check of the sealing key.")
    sealed_by: Counter[str] = Counter()
    unopened: list[Place] = []
    last = None
    while True:
        async with database.transaction() as session:
            survey = await survey_some(session, sealer, last)
        sealed_by += survey.sealed_by
        unopened += survey.unopened
        last = survey.last
        if last is None:
            break
    told = ", ".join(f"{count} by {'an unknown key' if key == UNREADABLE else key}" for key, count in sorted(sealed_by.items())) or "none"
    if unopened:
        places = ", ".join(f"{place.tenant}/{place.destination}" for place in unopened[:NAMED])
        more = f" and {len(unopened) - NAMED} more" if len(unopened) > NAMED else ""
        advice = f"Add the key that sealed them to RELAY_SECRET_KEY, or set the credentials again: {places}{more}."
        return fail(name, f"{told}; {len(unopened)} cannot be opened", advice)
    if set(sealed_by) - {sealer.key_id}:
        advice = "A rotation is not finished: run 'relay destination reseal', then take the old key away."
        return warn(name, told, advice)
    return ok(name, told)


async def _check_certificates(database: Database, now: datetime) -> Finding:
    """See whether a certificate that a destination shows or trusts is good no longer, or not for long."""
    name = "certificates of destinations"
    terms: list[certificates.Term] = []
    last = None
    while True:
        async with database.transaction() as session:
            batch = await certificates.survey_some(session, last)
        terms += batch.terms
        last = batch.last
        if last is None:
            break
    ending = sorted((term for term in terms if term.ends_at < now + SOON), key=lambda term: term.ends_at)
    if not ending:
        return ok(name, f"{len(terms)}, good for {SOON.days} days and more" if terms else "none")
    places = ", ".join(f"{term.place.tenant}/{term.place.destination} ({term.ends_at:%Y-%m-%d %H:%M})" for term in ending[:NAMED])
    more = f" and {len(ending) - NAMED} more" if len(ending) > NAMED else ""
    expired = sum(term.ends_at <= now for term in ending)
    advice = f"Set config.tls, and secrets.tls with it, anew: {places}{more}."
    return warn(name, f"{expired} expired, {len(ending) - expired} good for less than {SOON.days} days", advice)
