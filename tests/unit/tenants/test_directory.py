"""The directory's own rules, told with a reader by hand and sessions that the test opens and closes."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from relay.db.engine import Database
from relay.errors import DatabaseUnavailable, DirectoryUnavailable
from relay.settings import DatabaseSettings, DirectorySettings
from relay.tenants import directory as directory_module
from relay.tenants.changes import PROOF_LASTS, Changes, Session
from relay.tenants.directory import Directory
from relay.tenants.tenant import Grant
from tests.support.grants import make_grant

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
TENANT = uuid4()
KEY = "k" * 16
REVOKED = datetime(2026, 1, 2, tzinfo=UTC)


class Stored:
    """Stands for Postgres: what is stored, how it answers, and how often it was asked."""

    def __init__(self, *grants: Grant) -> None:
        self.grants = {grant.key.id: grant for grant in grants}
        self.asked: list[str] = []
        self.is_away = False
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.has_read = asyncio.Event()

    async def read(self, key_id: str) -> Grant | None:
        """Read first and answer later: so a change may come in between."""
        self.asked.append(key_id)
        if self.is_away:
            raise DatabaseUnavailable
        found = self.grants.get(key_id)
        self.has_read.set()
        await self.is_open.wait()
        return found


class Scene:
    """A directory over ``Stored``, in a session that is proven."""

    def __init__(self, *grants: Grant, **settings: object) -> None:
        self.stored = Stored(*grants)
        self.changes = Changes(NOWHERE, DatabaseSettings())
        database = Database(NOWHERE, DatabaseSettings())
        self.directory = Directory(database, DirectorySettings.model_validate(settings), self.changes, read=self.stored.read)
        self.open_session()

    def open_session(self) -> None:
        if self.changes.session is not None:
            self.changes.session.is_open = False
        self.changes.session = Session(time.monotonic() + 3600)  # proven for as long as a test may take
        self.changes.has_listened = True

    def lose_session(self) -> None:
        assert self.changes.session is not None
        self.changes.session.is_open = False
        self.changes.session.proven_at = time.monotonic()

    def let_proof_lapse(self) -> None:
        assert self.changes.session is not None
        self.changes.session.proven_at = time.monotonic() - PROOF_LASTS.total_seconds()


async def test_proven_grant_is_found_without_asking_again() -> None:
    grant = make_grant(KEY)
    scene = Scene(grant)
    assert scene.directory.cached_grant(KEY) is None
    assert await scene.directory.find_grant(KEY) is grant
    assert scene.directory.cached_grant(KEY) is grant
    assert await scene.directory.find_grant(KEY) is grant
    assert scene.stored.asked == [KEY]


async def test_revocation_between_read_and_store_is_not_lost() -> None:
    scene = Scene(make_grant(KEY, tenant_id=TENANT))
    scene.stored.is_open.clear()
    finding = asyncio.create_task(scene.directory.find_grant(KEY))
    await scene.stored.has_read.wait()
    revoked = make_grant(KEY, tenant_id=TENANT, revoked_at=REVOKED)
    scene.stored.grants[KEY] = revoked
    scene.directory.forget(TENANT)
    scene.stored.is_open.set()
    assert await finding is revoked
    assert scene.directory.cached_grant(KEY) is revoked
    assert scene.stored.asked == [KEY, KEY]


async def test_reading_that_changes_keep_overtaking_is_used_once_and_not_stored() -> None:
    scene = Scene(make_grant(KEY, tenant_id=TENANT))

    async def read(key_id: str) -> Grant | None:
        found = await scene.stored.read(key_id)
        scene.directory.forget(uuid4())
        return found

    scene.directory._read = read
    assert await scene.directory.find_grant(KEY) is scene.stored.grants[KEY]
    assert len(scene.stored.asked) == directory_module.ATTEMPTS
    assert scene.directory.cached_grant(KEY) is None


async def test_nobody_gets_a_reading_older_than_an_invalidation_before_the_question() -> None:
    scene = Scene(make_grant(KEY, tenant_id=TENANT))
    gates = [asyncio.Event() for _ in range(directory_module.ATTEMPTS + 1)]
    begun = [asyncio.Event() for _ in gates]

    async def read(key_id: str) -> Grant | None:
        number = len(scene.stored.asked)
        found = await scene.stored.read(key_id)
        begun[number].set()
        await gates[number].wait()
        return found

    scene.directory._read = read
    early = asyncio.create_task(scene.directory.find_grant(KEY))
    for number in range(directory_module.ATTEMPTS - 1):
        await begun[number].wait()
        scene.directory.forget(uuid4())
        gates[number].set()
    await begun[directory_module.ATTEMPTS - 1].wait()  # the last try of the reading under way has read the old row
    revoked = make_grant(KEY, tenant_id=TENANT, revoked_at=REVOKED)
    scene.stored.grants[KEY] = revoked
    scene.directory.forget(TENANT)
    late = asyncio.create_task(scene.directory.find_grant(KEY))
    await asyncio.sleep(0)
    for gate in gates:
        gate.set()
    assert (await early) is not revoked
    assert (await late) is revoked


async def test_fifty_questions_at_once_cost_one_query() -> None:
    grant = make_grant(KEY)
    scene = Scene(grant)
    scene.stored.is_open.clear()
    findings = [asyncio.create_task(scene.directory.find_grant(KEY)) for _ in range(50)]
    await scene.stored.has_read.wait()
    scene.stored.is_open.set()
    assert await asyncio.gather(*findings) == [grant] * 50
    assert scene.stored.asked == [KEY]


async def test_waiter_that_leaves_does_not_take_the_reading_along() -> None:
    grant = make_grant(KEY)
    scene = Scene(grant)
    scene.stored.is_open.clear()
    first = asyncio.create_task(scene.directory.find_grant(KEY))
    second = asyncio.create_task(scene.directory.find_grant(KEY))
    await scene.stored.has_read.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    scene.stored.is_open.set()
    assert await second is grant
    assert first.cancelled()
    assert scene.stored.asked == [KEY]


async def test_change_of_one_tenant_leaves_the_others_in_memory() -> None:
    other = "o" * 16
    scene = Scene(make_grant(KEY, tenant_id=TENANT), make_grant(other))
    await scene.directory.find_grant(KEY)
    await scene.directory.find_grant(other)
    scene.directory.forget(TENANT)
    assert scene.directory.cached_grant(KEY) is None
    assert scene.directory.cached_grant(other) is not None
    scene.directory.forget(None)
    assert scene.directory.cached_grant(other) is None


async def test_unknown_key_is_remembered_until_any_notification() -> None:
    scene = Scene()
    assert await scene.directory.find_grant(KEY) is None
    assert await scene.directory.find_grant(KEY) is None
    assert scene.stored.asked == [KEY]
    grant = make_grant(KEY)
    scene.stored.grants[KEY] = grant
    scene.directory.forget(grant.tenant.id)
    assert await scene.directory.find_grant(KEY) is grant


async def test_unknown_key_is_forgotten_after_its_time() -> None:
    scene = Scene(unknown_seconds=timedelta(0))
    assert await scene.directory.find_grant(KEY) is None
    assert await scene.directory.find_grant(KEY) is None
    assert scene.stored.asked == [KEY, KEY]


async def test_table_of_unknown_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "UNKNOWN_MOST", 10)
    scene = Scene()
    keys = [f"{number:016}" for number in range(30)]
    for key_id in keys:
        assert await scene.directory.find_grant(key_id) is None
    assert list(scene.directory._unknown) == keys[-10:]


async def test_entries_are_bounded_and_the_least_used_one_goes() -> None:
    keys = [f"{number:016}" for number in range(4)]
    scene = Scene(*(make_grant(key_id, tenant_id=TENANT) for key_id in keys), entries=3)
    for key_id in keys[:3]:
        await scene.directory.find_grant(key_id)
    scene.directory.cached_grant(keys[0])
    await scene.directory.find_grant(keys[3])
    assert [scene.directory.cached_grant(key_id) is not None for key_id in keys] == [True, False, True, True]
    scene.directory.forget(TENANT)
    assert not scene.directory._entries
    assert not scene.directory._keys_of


async def test_unproven_entry_is_read_again_before_use() -> None:
    scene = Scene(make_grant(KEY, tenant_id=TENANT))
    await scene.directory.find_grant(KEY)
    revoked = make_grant(KEY, tenant_id=TENANT, revoked_at=REVOKED)
    scene.stored.grants[KEY] = revoked
    scene.let_proof_lapse()
    assert scene.directory.cached_grant(KEY) is None
    assert await scene.directory.find_grant(KEY) is revoked


async def test_entry_of_an_earlier_session_is_unproven_in_the_next() -> None:
    scene = Scene(make_grant(KEY))
    await scene.directory.find_grant(KEY)
    scene.open_session()
    assert scene.directory.cached_grant(KEY) is None
    await scene.directory.find_grant(KEY)
    assert scene.directory.cached_grant(KEY) is not None


async def test_postgres_away_serves_the_known_and_refuses_the_unknown() -> None:
    grant = make_grant(KEY)
    scene = Scene(grant)
    await scene.directory.find_grant(KEY)
    scene.lose_session()
    scene.stored.is_away = True
    assert await scene.directory.find_grant(KEY) is grant
    with pytest.raises(DirectoryUnavailable):
        await scene.directory.find_grant("u" * 16)
    asked = len(scene.stored.asked)
    for _ in range(100):
        assert await scene.directory.find_grant(KEY) is grant
    assert len(scene.stored.asked) == asked  # for a second nobody asks again


async def test_beyond_the_stale_time_nothing_is_served() -> None:
    scene = Scene(make_grant(KEY), stale_seconds=timedelta(0))
    await scene.directory.find_grant(KEY)
    scene.lose_session()
    scene.stored.is_away = True
    with pytest.raises(DirectoryUnavailable):
        await scene.directory.find_grant(KEY)


async def test_what_was_told_to_change_is_not_served_while_postgres_is_away() -> None:
    scene = Scene(make_grant(KEY, tenant_id=TENANT))
    await scene.directory.find_grant(KEY)
    scene.directory.forget(TENANT)
    scene.lose_session()
    scene.stored.is_away = True
    with pytest.raises(DirectoryUnavailable):
        await scene.directory.find_grant(KEY)


async def test_frozen_postgres_costs_one_question_a_bounded_wait_and_the_others_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "READING_DEADLINE", timedelta(milliseconds=50))
    scene = Scene(make_grant(KEY))
    grant = await scene.directory.find_grant(KEY)
    scene.lose_session()
    scene.stored.is_open.clear()
    assert await scene.directory.find_grant(KEY) is grant
    began = time.monotonic()
    for _ in range(100):
        assert await scene.directory.find_grant(KEY) is grant
    assert time.monotonic() - began < 1.0
    assert len(scene.stored.asked) == 2
    await scene.directory.close()


async def test_after_a_second_of_suspicion_one_probe_asks_and_nobody_waits_who_has_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "SUSPICION_LASTS", timedelta(0))
    keys = [f"{number:016}" for number in range(10)]
    newcomer = "newcomer00000000"
    scene = Scene(*(make_grant(key_id) for key_id in (*keys, newcomer)))
    for key_id in keys:
        await scene.directory.find_grant(key_id)
    scene.lose_session()
    scene.stored.is_away = True
    await scene.directory.find_grant(keys[0])
    scene.stored.is_away = False
    scene.stored.is_open.clear()
    scene.stored.has_read.clear()
    scene.stored.asked.clear()
    probing = asyncio.create_task(scene.directory.find_grant(keys[0]))
    await scene.stored.has_read.wait()
    waiting = asyncio.create_task(scene.directory.find_grant(newcomer))
    for key_id in keys[1:]:
        assert await scene.directory.find_grant(key_id) is scene.stored.grants[key_id]
    assert not waiting.done()
    assert scene.stored.asked == keys[:1]
    scene.stored.is_open.set()
    assert await probing is scene.stored.grants[keys[0]]
    assert await waiting is scene.stored.grants[newcomer]
    assert scene.stored.asked == [keys[0], newcomer]


async def test_new_session_ends_the_suspicion() -> None:
    scene = Scene(make_grant(KEY, tenant_id=TENANT))
    await scene.directory.find_grant(KEY)
    scene.lose_session()
    scene.stored.is_away = True
    await scene.directory.find_grant(KEY)
    scene.stored.is_away = False
    revoked = make_grant(KEY, tenant_id=TENANT, revoked_at=REVOKED)
    scene.stored.grants[KEY] = revoked
    scene.open_session()
    scene.changes._on_session()
    assert await scene.directory.find_grant(KEY) is revoked


async def test_crowd_of_made_up_keys_waits_its_turn() -> None:
    scene = Scene()
    scene.stored.is_open.clear()
    findings = [asyncio.create_task(scene.directory.find_grant(f"{number:016}")) for number in range(50)]
    await scene.stored.has_read.wait()
    await asyncio.sleep(0)
    assert len(scene.stored.asked) <= directory_module.READINGS_AT_ONCE
    scene.stored.is_open.set()
    assert await asyncio.gather(*findings) == [None] * 50


async def test_failure_that_is_not_postgres_being_away_is_not_hidden() -> None:
    scene = Scene()

    async def read(_: str) -> Grant | None:
        raise LookupError("a bug")

    scene.directory._read = read
    with pytest.raises(LookupError):
        await scene.directory.find_grant(KEY)


async def test_state_follows_the_listener() -> None:
    scene = Scene()
    states: list[str] = [scene.directory.state]
    scene.let_proof_lapse()
    states.append(scene.directory.state)
    scene.changes.has_listened = False
    states.append(scene.directory.state)
    assert states == ["ok", "stale", "never_loaded"]


async def test_close_ends_what_is_under_way() -> None:
    scene = Scene()
    scene.stored.is_open.clear()
    finding = asyncio.create_task(scene.directory.find_grant(KEY))
    await scene.stored.has_read.wait()
    await scene.directory.close()
    with pytest.raises(asyncio.CancelledError):
        await finding


async def test_what_this_process_changed_is_read_again_at_once() -> None:
    scene = Scene(make_grant(KEY, tenant_id=TENANT))
    grant = await scene.directory.find_grant(KEY)
    assert grant is not None
    scene.directory.forget_changed("another")
    assert scene.directory.cached_grant(KEY) is grant
    scene.directory.forget_changed(grant.tenant.slug)
    assert scene.directory.cached_grant(KEY) is None
