"""Stored keys of venues in the processes that carry an account: taken, rotated, refused, lost; at the local exchange."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from fks.clock import RealClock
from fks.clock.waiting import end_task
from fks.config.credentials import Role, VenueKey, key_file, load_keys
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.model.errors import ConfigError, InputError, OutageError
from fks.model.order import Outcome
from fks.model.signal import Kind
from fks.store.accounts import AccountStore
from fks.store.credentials import CredentialStore, read_copy
from fks.store.db import Database
from fks.trading.credentials import carrier
from fks.trading.credentials.carrier import CredentialWatch, KeyCarrier, renew_encryption_key
from fks.trading.order_manager.account_identity import session_accounts
from fks.trading.venues.binance.session import BinanceVenue, OwnTransport
from fks.trading.venues.registry import Making, keyed_venue, make_venues
from tests.support.local_exchange import LocalExchange
from tests.support.order_rig import Rig, seed
from tests.support.ports import CollectingLog
from tests.support.stored_keys import assert_hidden, at, carrier_of, dumped, made, stored
from tests.support.venue_orders import order
from tests.support.waiting import until


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExchange]:
    exchange = LocalExchange(tmp_path_factory.mktemp("exchange"), ["--seed", "7"]).start()
    yield exchange
    exchange.stop()


@pytest.fixture
async def settings(running: LocalExchange, database: Database, tmp_path: Path) -> Settings:
    running.clear()
    await seed(database)
    return at(running, tmp_path)


class Process:
    """A process that carries the account, without its other parts."""

    def __init__(self, db: Database, settings: Settings, role: Role = "orders") -> None:
        self.alerts: list[tuple[str, str, str]] = []
        self.carrier: KeyCarrier = carrier_of(db, settings, role)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> Process:
        carried = await self.carrier.load()
        making = Making(
            settings=carried.settings,
            node=None,
            clock=RealClock(),
            log=CollectingLog(),
            role=self.carrier.role,
            is_key_stored=carried.held is not None,
        )
        venue = make_venues(self.carrier.role, making)["ccxt"]
        assert isinstance(venue, BinanceVenue)
        self.venue = venue
        await venue.open()
        watch = CredentialWatch(self.carrier, carried, venue, lambda given: keyed_venue(making, given))
        self._task = asyncio.create_task(watch.run(lambda *alert: self.alerts.append(alert)))
        return self

    async def stop(self) -> None:
        if self._task is not None:
            await end_task(self._task)
            await self.venue.close()

    @property
    def key(self) -> str:
        return self.venue.config.api_key


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier, "LOOK_S", 0.05)
    monkeypatch.setattr(carrier, "RIGHTS_S", 0.2)


@pytest.fixture
async def process(database: Database, settings: Settings) -> AsyncIterator[Process]:
    made = Process(database, settings)
    yield made
    await made.stop()


async def states(db: Database) -> dict[int, str]:
    return {row.version: row.state for row in await CredentialStore(db).page()}


async def test_a_stored_key_wins_over_one_of_the_settings(
    running: LocalExchange, database: Database, settings: Settings, process: Process
) -> None:
    key, plain = made(running), made(running)
    process.carrier = carrier_of(
        database, at(running, settings.home, api_key=plain.api_key, api_secret=plain.api_secret)
    )
    await stored(database, settings, key)
    await process.start()
    assert process.key == plain.plain()[0], "until the stored one was tried"
    await until(lambda: process.key == key.plain()[0])
    await until(lambda: states_are(database, {1: "active"}))
    await process.stop()
    await process.start()
    assert process.key == key.plain()[0]
    assert not process.alerts


async def states_are(db: Database, wanted: dict[int, str]) -> bool:
    return await states(db) == wanted


async def test_a_rotated_key_is_used_without_a_restart(
    running: LocalExchange, database: Database, settings: Settings, process: Process
) -> None:
    first, second = made(running), made(running)
    await stored(database, settings, first)
    await process.start()
    await until(lambda: states_are(database, {1: "active"}))
    began = asyncio.get_running_loop().time()
    await stored(database, settings, second, is_rotation=True)
    await until(lambda: process.key == second.plain()[0])
    assert asyncio.get_running_loop().time() - began < 3
    await until(lambda: states_are(database, {1: "retired", 2: "active"}))
    running.ask("POST", "/sim/keys", {"api_key": first.plain()[0], "is_revoked": True})
    answer = await process.venue.submit(order())
    assert answer.outcome is Outcome.ACK
    await process.venue.open_orders()


async def test_requests_on_their_way_keep_the_key_before(
    running: LocalExchange, database: Database, settings: Settings, process: Process
) -> None:
    first, second = made(running), made(running)
    await stored(database, settings, first)
    await process.start()
    entry = order()
    fault = running.fault("answer_after", client_order_id=entry.client_order_id, seconds=1.0)
    sent = asyncio.create_task(process.venue.submit(entry))
    await asyncio.sleep(0.1)
    await stored(database, settings, second, is_rotation=True)
    await until(lambda: process.key == second.plain()[0])
    assert (await sent).outcome is Outcome.ACK, "its connection was not cut"
    running.clear(fault)


async def test_a_session_closes_at_any_moment_of_the_change_to_another_key(
    running: LocalExchange, database: Database, settings: Settings, process: Process
) -> None:
    key = made(running)
    await stored(database, settings, key)
    await process.start()
    for turns in range(12):
        transport = OwnTransport(process.venue.config, RealClock(), CollectingLog())
        await transport.open()
        transport.use_key(process.venue.config)
        for _ in range(turns):
            await asyncio.sleep(0)
        closing = asyncio.create_task(transport.close())
        assert (await asyncio.wait({closing}, timeout=5))[0], f"a cancellation was lost after {turns} turns of the loop"


async def test_a_key_that_the_venue_refuses_leaves_the_one_in_use(
    running: LocalExchange, database: Database, settings: Settings, process: Process
) -> None:
    first, second = made(running), made(running)
    await stored(database, settings, first)
    await process.start()
    await until(lambda: states_are(database, {1: "active"}))
    # it is good when it is stored, and revoked before the order manager tries it
    await process.stop()
    await stored(database, settings, second, is_rotation=True)
    running.ask("POST", "/sim/keys", {"api_key": second.plain()[0], "is_revoked": True})
    await process.start()
    await until(lambda: states_are(database, {1: "active", 2: "refused"}))
    assert process.key == first.plain()[0]
    ((level, event, text),) = process.alerts
    assert (level, event) == ("warning", "venue.key_refused")
    row = next(row for row in await CredentialStore(database).page() if row.version == 2)
    assert row.reason
    assert_hidden(second, text, row.reason, await dumped(database))


async def test_a_key_of_another_account_is_not_taken(
    running: LocalExchange, database: Database, settings: Settings, process: Process
) -> None:
    first = made(running)
    await database.sql("UPDATE accounts SET environment = 'sim', uid = 'another', network_epoch = 'x' WHERE id = 1")
    await stored(database, settings, first)
    await process.start()
    await until(lambda: states_are(database, {1: "refused"}))
    assert "belongs to" in process.alerts[0][2]


@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_session_keeps_to_its_account_when_that_is_disabled(
    running: LocalExchange, database: Database, settings: Settings, process: Process, is_stored: bool
) -> None:
    own, others = made(running), made(running)
    process.carrier = carrier_of(database, at(running, settings.home, api_key=own.api_key, api_secret=own.api_secret))
    if is_stored:
        await stored(database, settings, own)
    await database.sql("INSERT INTO accounts (name, venue, initial_balance) VALUES ('other', 'ccxt', 1)")
    await stored(database, settings, others, account="other")
    await process.start()
    await database.sql("UPDATE accounts SET is_enabled = false WHERE id = 1")
    await asyncio.sleep(1.0)  # some twenty looks
    assert process.key == own.plain()[0], "orders of one account are asked for with its own key"
    row = next(row for row in await CredentialStore(database).page() if row.account == "other")
    assert row.state == "waiting"


async def test_a_version_that_is_replaced_while_it_is_tried_is_not_used(
    running: LocalExchange,
    database: Database,
    settings: Settings,
    process: Process,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second, third = (made(running) for _ in range(3))
    await stored(database, settings, first)
    await process.start()
    await until(lambda: states_are(database, {1: "active"}))
    rights_of = carrier.rights_of

    async def replaced_meanwhile(*args: Any, **kwargs: Any) -> Any:
        found = await rights_of(*args, **kwargs)
        monkeypatch.setattr(carrier, "rights_of", rights_of)
        await stored(database, settings, third, is_rotation=True)
        running.ask("POST", "/sim/keys", {"api_key": third.plain()[0], "is_revoked": True})
        return found

    monkeypatch.setattr(carrier, "RIGHTS_S", 60.0)
    await asyncio.sleep(0.3)
    monkeypatch.setattr(carrier, "rights_of", replaced_meanwhile)
    await stored(database, settings, second, is_rotation=True)
    await until(lambda: states_are(database, {1: "active", 2: "retired", 3: "refused"}))
    assert process.key == first.plain()[0], "the one that the next start has"


@pytest.mark.parametrize("kind", ["unknown", "wrong secret", "may withdraw"])
async def test_a_bad_key_is_refused_when_it_is_stored(
    running: LocalExchange, database: Database, settings: Settings, kind: str
) -> None:
    good = made(running)
    bad = {
        "unknown": VenueKey(SecretStr("u" * 64), SecretStr("s" * 64)),
        "wrong secret": VenueKey(good.api_key, SecretStr("s" * 64)),
        "may withdraw": made(running, may_withdraw=True),
    }[kind]
    with pytest.raises(InputError) as raised:
        await stored(database, settings, bad)
    assert raised.value.code == ("KEY_MAY_WITHDRAW" if kind == "may withdraw" else "KEY_REFUSED")
    assert await states(database) == {}
    assert_hidden(bad, str(raised.value))


async def test_a_key_without_an_address_restriction_is_warned_of(
    running: LocalExchange, database: Database, settings: Settings
) -> None:
    row = await stored(database, settings, made(running, is_address_bound=False))
    assert (row["may_withdraw"], row["is_address_bound"]) == (False, False)
    assert any("any address" in text for text in row["warnings"])


async def test_a_right_that_is_given_later_pages_and_is_a_fault(
    running: LocalExchange, database: Database, settings: Settings, process: Process
) -> None:
    key = made(running)
    await stored(database, settings, key)
    await process.start()
    await until(lambda: states_are(database, {1: "active"}))
    assert process.venue.key_fault == ""
    running.ask("POST", "/sim/keys", {"api_key": key.plain()[0], "may_withdraw": True})
    await until(lambda: process.venue.key_fault != "")
    await until(lambda: bool(process.alerts))
    ((level, event, _),) = process.alerts
    assert (level, event) == ("page", "venue.key_may_withdraw")
    running.ask("POST", "/sim/keys", {"api_key": key.plain()[0], "may_withdraw": False})
    await until(lambda: process.venue.key_fault == "")
    (row,) = await CredentialStore(database).page()
    assert row.may_withdraw is False


async def test_entries_are_denied_and_exits_go_on_with_such_a_key(rig: Rig) -> None:
    await rig.outcome(await rig.signal(stop_loss=Decimal(90)))
    await until(lambda: any(held.order.role.value == "sl" for held in rig.venue.live()))
    rig.venue.key_fault = "the API key may withdraw"  # type: ignore[attr-defined]
    assert await rig.outcome(await rig.signal(ordinal=1)) == ("denied", "KEY_MAY_WITHDRAW")
    assert await rig.outcome(await rig.signal(Kind.EXIT, ordinal=2)) == ("ordered", None)
    await until(lambda: rig.venue.totals["BTC"] == 0)


async def test_the_guardian_follows_the_order_managers_key(
    running: LocalExchange, database: Database, settings: Settings, process: Process
) -> None:
    first, second = made(running), made(running)
    await stored(database, settings, first)
    await process.start()
    guardian = await Process(database, settings, "guardian").start()
    try:
        assert guardian.key == first.plain()[0]
        await stored(database, settings, second, is_rotation=True)
        await until(lambda: process.key == guardian.key == second.plain()[0])
    finally:
        await guardian.stop()


@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_guardian_starts_with_a_known_key_until_its_own_was_tried(
    running: LocalExchange, database: Database, settings: Settings, process: Process, is_stored: bool
) -> None:
    orders, own = made(running), made(running)
    plain = settings if is_stored else at(running, settings.home, api_key=orders.api_key, api_secret=orders.api_secret)
    if is_stored:
        await stored(database, settings, orders)
        await process.start()
        await until(lambda: states_are(database, {1: "active"}))
    await stored(database, settings, own, role="guardian")
    await database.sql("UPDATE accounts SET environment = 'sim', uid = 'another', network_epoch = 'x' WHERE id = 1")
    guardian = await Process(database, plain, "guardian").start()
    try:
        assert guardian.key == orders.plain()[0], "the guardian's own may be another account's"
        await until(lambda: bool(guardian.alerts))
        assert guardian.alerts[0][1] == "venue.key_refused"
        assert guardian.key == orders.plain()[0]
    finally:
        await guardian.stop()


async def test_a_guardian_with_a_key_of_its_own_in_the_settings_keeps_it(
    running: LocalExchange, database: Database, settings: Settings, process: Process
) -> None:
    own, orders, rotated = made(running), made(running), made(running)
    await stored(database, settings, orders)
    await process.start()
    await until(lambda: states_are(database, {1: "active"}))
    plain = at(running, settings.home, guardian_api_key=own.api_key, guardian_api_secret=own.api_secret)
    guardian = await Process(database, plain, "guardian").start()
    try:
        await stored(database, settings, rotated, is_rotation=True)
        await until(lambda: states_are(database, {1: "retired", 2: "active"}))
        await asyncio.sleep(0.5)  # some ten looks
        assert guardian.key == own.plain()[0], "with one key two processes refuse each other's requests at Kraken"
    finally:
        await guardian.stop()


async def test_a_guardian_with_a_key_of_its_own_needs_no_other(
    running: LocalExchange, database: Database, settings: Settings
) -> None:
    own = made(running)
    await stored(database, settings, made(running))
    await stored(database, settings, own, role="guardian")
    await database.sql("UPDATE credentials SET sealed = '\\x00112233445566778899aabbccddeeff' WHERE role = 'orders'")
    found = (await carrier_of(database, settings, "guardian").load()).settings.venue
    assert found.guardian_api_key == own.api_key
    with pytest.raises(ConfigError, match="cannot be decrypted"):
        await carrier_of(database, settings).load()


async def test_a_guardian_without_postgresql_uses_this_nodes_copy(
    running: LocalExchange, database: Database, settings: Settings
) -> None:
    key = made(running)
    await stored(database, settings, key)
    carrier = carrier_of(database, settings, "guardian")
    await carrier.load()
    copy = Paths.of(settings.home).credentials_copy
    assert copy.stat().st_mode & 0o777 == 0o600
    assert_hidden(key, copy.read_text())

    class Away(CredentialStore):
        async def carried(self, account_id: int, exchange: str) -> list[Any]:
            raise OutageError("PostgreSQL is away")

    away = KeyCarrier("guardian", settings, carrier.paths, Away(database), RealClock(), CollectingLog())
    carried = await away.load()
    assert carried.settings.venue.api_key == key.api_key
    venue = settings.venue.model_copy(update={"exchange": "coinbase"})
    another = replace(away, settings=settings.model_copy(update={"venue": venue}))
    assert (await another.load()).held is None, "a key is of the exchange that it was stored for"
    copy.write_text("{ damaged")
    assert read_copy(copy) == []


async def test_a_lost_encryption_key_is_a_failed_start_that_says_so(
    running: LocalExchange, database: Database, settings: Settings
) -> None:
    await stored(database, settings, made(running))
    file = key_file(settings, Paths.of(settings.home))
    kept = file.read_text()
    file.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        await carrier_of(database, settings).load()
    with pytest.raises(ConfigError, match="cannot be read"):  # and no new one is made in its place
        await stored(database, settings, made(running), is_rotation=True)
    assert not file.exists()
    file.write_text(kept)
    file.chmod(0o600)
    await carrier_of(database, settings).load()


async def test_a_key_file_that_is_lost_while_running_pages(
    running: LocalExchange, database: Database, settings: Settings, process: Process
) -> None:
    await stored(database, settings, made(running))
    await process.start()
    key_file(settings, Paths.of(settings.home)).unlink()
    await until(lambda: any(event == "venue.key_file_lost" for _, event, _ in process.alerts), deadline_s=10)


async def test_the_encryption_key_is_rotated_for_all_rows(
    running: LocalExchange, database: Database, settings: Settings
) -> None:
    key, own = made(running), made(running)
    await stored(database, settings, key)
    await stored(database, settings, own, role="guardian")
    file = key_file(settings, Paths.of(settings.home))
    before = load_keys(file).id
    key_id, count = await renew_encryption_key(database, file)
    assert (count, load_keys(file).id) == (2, key_id)
    assert key_id != before
    assert {row.key_id for row in await CredentialStore(database).page()} == {key_id}
    found = (await carrier_of(database, settings, "guardian").load()).settings.venue
    assert (found.api_key, found.guardian_api_key) == (key.api_key, own.api_key)


async def test_rotations_of_the_encryption_key_at_once_lose_nothing(
    running: LocalExchange, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, own = made(running), made(running)
    await stored(database, settings, key)
    file = key_file(settings, Paths.of(settings.home))
    reseal, resealing = CredentialStore.reseal, asyncio.Event()

    async def slow(self: CredentialStore, *args: Any) -> None:
        resealing.set()
        await asyncio.sleep(0.5)
        await reseal(self, *args)

    monkeypatch.setattr(CredentialStore, "reseal", slow)
    first = asyncio.create_task(renew_encryption_key(database, file))
    await resealing.wait()
    # this one is ended as by kill -9 while it encrypts again, or before
    second = asyncio.create_task(renew_encryption_key(database, file))
    added = asyncio.create_task(stored(database, settings, own, role="guardian"))
    await first
    await asyncio.sleep(0.2)
    second.cancel()
    await asyncio.wait({second})
    await added
    found = (await carrier_of(database, settings, "guardian").load()).settings.venue
    assert found.api_key == key.api_key
    rows = await CredentialStore(database).sealed()
    assert [row.unsealed(load_keys(file)).plain() for row in rows] == [key.plain(), own.plain()]


async def test_a_rotation_of_the_encryption_key_that_fails_loses_nothing(
    running: LocalExchange, database: Database, settings: Settings
) -> None:
    key = made(running)
    await stored(database, settings, key)
    file = key_file(settings, Paths.of(settings.home))
    await database.sql(
        "INSERT INTO credentials (account_id, venue, exchange, role, version, sealed, key_id, fingerprint)"
        " VALUES (1, 'ccxt', 'binance', 'guardian', 1, '\\x00', 'lost', 'f')"
    )
    with pytest.raises(ConfigError):
        await renew_encryption_key(database, file)
    assert (await carrier_of(database, settings).load()).settings.venue.api_key == key.api_key


async def test_a_ciphertext_of_another_account_is_not_used(
    running: LocalExchange, database: Database, settings: Settings
) -> None:
    await stored(database, settings, made(running))
    await database.sql("INSERT INTO accounts (name, venue, initial_balance) VALUES ('other', 'ccxt', 1)")
    await database.sql("UPDATE accounts SET is_enabled = false WHERE id = 1")
    await database.sql("UPDATE credentials SET account_id = (SELECT id FROM accounts WHERE name = 'other')")
    with pytest.raises(ConfigError, match="cannot be decrypted"):
        await carrier_of(database, settings).load()


@pytest.mark.parametrize("is_live", [False, True])
async def test_the_carried_account_is_the_one_of_the_session(database: Database, is_live: bool) -> None:
    await seed(database)
    await database.sql("INSERT INTO accounts (name, venue, mode) VALUES ('real', 'ccxt', 'live')")
    await database.sql("INSERT INTO accounts (name, venue, mode, is_enabled) VALUES ('off', 'ccxt', 'live', false)")
    for account in await AccountStore(database).page():
        if account.venue == "ccxt":
            await CredentialStore(database).add(
                account.id, "ccxt", "binance", "orders", 1, b"x", "id", "print", None, None, "ann"
            )
    wanted = session_accounts(await AccountStore(database).page(), is_live=is_live)["ccxt"].id
    found = await CredentialStore(database).session_account("ccxt", "live" if is_live else "paper")
    assert found == wanted
    (row,) = await CredentialStore(database).carried(wanted, "binance")
    assert row.account_id == wanted


async def test_no_table_holds_a_plain_key(
    running: LocalExchange, database: Database, settings: Settings, process: Process
) -> None:
    keys = [made(running) for _ in range(3)]
    await stored(database, settings, keys[0])
    await process.start()
    await until(lambda: states_are(database, {1: "active"}))
    for number, key in enumerate(keys[1:], 2):
        await stored(database, settings, key, is_rotation=True)
        await until(lambda wanted=number: has_active(database, wanted))
    text = await dumped(database)
    for key in keys:
        assert_hidden(key, text, str(process.alerts))
    rows = await database.sql("SELECT state, sealed FROM credentials ORDER BY version")
    assert [(row["state"], row["sealed"] is None) for row in rows] == [
        ("retired", True), ("retired", True), ("active", False),
    ]  # fmt: skip


async def has_active(db: Database, version: int) -> bool:
    return (await states(db)).get(version) == "active"
