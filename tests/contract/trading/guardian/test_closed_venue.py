"""A venue that cannot be made keeps no guardian from starting, and no kill is done while it cannot look there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from fks.clock import RealClock
from fks.config.settings import Settings
from fks.interfaces.entry.emergency_stop import EmergencyStop
from fks.model.errors import ConfigError, InputError, OutageError
from fks.model.ports import Venue
from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.guardian.self_checks import guardian_problems
from fks.trading.venues.ccxt import CcxtVenue
from fks.trading.venues.closed import ClosedVenue
from tests.support.guarded_trading import at_work, mark, rest_one, seed_account, sells, write_positions
from tests.support.guardian_process import QUICK, guardian_with, venue_on
from tests.support.local_exchange import LocalExchange
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until

NO_KEY = ConfigError("venue.api_key and venue.api_secret are not set", remedy="run 'fks secrets set'")


def closed(again: Callable[[], Awaitable[Venue]]) -> ClosedVenue:
    return ClosedVenue("ccxt", CcxtVenue.capabilities, again, NO_KEY)


async def test_a_kill_is_not_done_until_a_closed_venue_is_flat(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path
) -> None:
    write_positions(folder, [["ccxt", 1, "BTCUSDT", "s1", "0.5"]])
    await rest_one(trader)
    since, is_fixed = mark(exchange), False

    async def again() -> Venue:
        if not is_fixed:
            raise NO_KEY
        return venue_on(exchange.info)

    async with at_work(guardian_with({"ccxt": closed(again)}, folder, None, replace(QUICK, skew_s=0.2))) as guardian:
        (problem,) = [check for check in guardian_problems(guardian.detail()) if check.name == "venue"]
        assert "fks secrets set" in problem.detail
        report = await guardian.kill(reason="test", by="me", wait_s=1.0)
        assert report["engaged"]
        assert not report["is_quiet"]
        (place,) = report["venues"]
        assert place["state"] == "unreachable"
        assert NO_KEY.message in place["detail"]
        assert not guardian.report()["is_done"]
        assert len(await trader.open_orders()) == 1
        is_fixed = True
        await until(lambda: guardian.report()["is_done"])
        assert not [check for check in guardian_problems(guardian.detail()) if check.name == "venue"]
    assert await trader.open_orders() == []
    assert [row["params"]["quantity"] for row in sells(exchange, since)] == ["0.5"]


async def test_a_kill_covers_other_venues_while_one_is_closed(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path
) -> None:
    write_positions(folder, [["ccxt", 1, "BTCUSDT", "s1", "0.5"], ["other", 1, "BTCUSDT", "s1", "0.5"]])

    async def again() -> Venue:
        raise NO_KEY

    other = ClosedVenue("other", CcxtVenue.capabilities, again, NO_KEY)
    venues: dict[str, Venue] = {"ccxt": venue_on(exchange.info), "other": other}
    since = mark(exchange)
    async with at_work(guardian_with(venues, folder, None)) as guardian:
        assert guardian.is_ready
        await guardian.kill(reason="test", by="me", wait_s=1.0)
        await until(lambda: sells(exchange, since))
        await until(
            lambda: (
                {at["name"]: at["state"] for at in guardian.report()["venues"]}
                == {"ccxt": "flat", "other": "unreachable"}
            )
        )
        assert not guardian.report()["is_done"]
        with pytest.raises(InputError, match="still at work"):
            await guardian.resume(by="me")


@pytest.mark.parametrize(
    ("used", "is_done"),
    [
        ("", True),
        ("UPDATE accounts SET environment = 'sim', uid = '1' WHERE name = 'there'", True),  # of a local exchange
        ("UPDATE accounts SET environment = 'live', uid = '1' WHERE name = 'there'", False),
        ("INSERT INTO positions (account_id, venue, symbol, quantity) VALUES (2, 'kraken', 'BTC/USD', 1)", False),
    ],
)
async def test_a_venue_that_never_had_a_session_holds_up_no_kill(
    folder: Path, database: Database, used: str, is_done: bool
) -> None:
    """Kraken is listed, and no key was ever stored: nothing of ours can be there."""
    await seed_account(database, position=None)
    await database.sql("INSERT INTO accounts (name, venue) VALUES ('there', 'kraken')")
    if used:
        await database.sql(used)

    async def again() -> Venue:
        raise NO_KEY

    venues: dict[str, Venue] = {
        "ccxt": ScriptedVenue(),
        "kraken": ClosedVenue("kraken", CcxtVenue.capabilities, again, NO_KEY),
    }
    async with at_work(guardian_with(venues, folder, database)) as guardian:
        await guardian.kill(reason="test", by="me", wait_s=0.1)
        states = {"ccxt": "flat", "kraken": "unused" if is_done else "unreachable"}
        await until(lambda: {at["name"]: at["state"] for at in guardian.report()["venues"]} == states)
        if is_done:
            await until(lambda: guardian.report()["is_done"])
        else:
            with pytest.raises(InputError, match="still at work"):
                await guardian.resume(by="me")


async def test_a_kill_is_not_done_while_a_venue_without_settings_holds_something(
    exchange: LocalExchange, folder: Path
) -> None:
    """The exchange left venues.exchanges before its position was closed: no session can look there."""
    write_positions(folder, [["kraken", 1, "BTCUSDT", "s1", "0.5"], ["paper", 1, "BTCUSDT", "s1", "0.5"]])
    async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, None)) as guardian:
        (problem,) = [check for check in guardian_problems(guardian.detail()) if check.name == "venue"]
        assert "no setting names the venue kraken" in problem.detail
        report = await guardian.kill(reason="test", by="me", wait_s=1.0)
        assert {at["name"]: at["state"] for at in report["venues"]} == {"ccxt": "flat", "kraken": "unreachable"}
        assert not report["is_quiet"]
        with pytest.raises(InputError, match="still at work"):
            await guardian.resume(by="me")


async def test_a_position_at_a_local_exchange_that_is_gone_holds_up_no_kill(folder: Path) -> None:
    """The demo's, in a home whose settings have no local exchange any more."""
    write_positions(folder, [["ccxt", 1, "BTCUSDT", "s1", "0.5"]], identities=[[1, "sim", "1", "first"]])
    async with at_work(guardian_with({"alt": ScriptedVenue("alt")}, folder, None)) as guardian:
        assert set(guardian.detail()["venues"]) == {"alt"}
        report = await guardian.kill(reason="test", by="me")
        assert (report["is_quiet"], report["remaining"]) == (True, [])


async def test_a_kill_that_was_asked_for_while_no_guardian_ran_is_carried_out(
    folder: Path, database: Database, bus: Bus
) -> None:
    """None runs, since the order manager trades at one venue that is closed here; the other one can be reached."""
    await seed_account(database, position="0.5")

    async def again() -> Venue:
        raise NO_KEY

    await database.sql("INSERT INTO leases (name, epoch) VALUES ('orders', 1)")
    await database.sql("INSERT INTO venue_states (venue, account_id, state) VALUES ('other', 1, 'READY')")
    open_one = ScriptedVenue(totals={"USDT": Decimal(1_000), "BTC": Decimal("0.5")}, fee_rate=Decimal(0))
    venues: dict[str, Venue] = {
        "ccxt": open_one,
        "other": ClosedVenue("other", CcxtVenue.capabilities, again, NO_KEY),
    }
    first = guardian_with(venues, folder, database)
    with pytest.raises(OutageError, match="trades at other"):
        await first.start()
    await first.stop()
    stop = EmergencyStop(database, bus, RealClock(), folder / "nobody.sock", Settings())
    assert (await stop.engage(scope="system", reason="", by="me", flatten=True))["through"] == "database"
    async with at_work(guardian_with(venues, folder, database)):
        await until(lambda: [fill.quantity for fill in open_one.trades] == [Decimal("0.5")])


async def test_no_guardian_runs_while_others_trade_where_it_is_closed(folder: Path, database: Database) -> None:
    """Without one entries are denied: no kill could reach what they would open."""
    is_fixed = False

    async def again() -> Venue:
        if not is_fixed:
            raise NO_KEY
        return ScriptedVenue()

    async def traded(state: str) -> None:
        await database.sql("DELETE FROM venue_states")
        await database.sql("INSERT INTO venue_states (venue, account_id, state) VALUES ('ccxt', 1, $1)", state)

    await database.sql("INSERT INTO leases (name, epoch) VALUES ('orders', 1)")
    await traded("DOWN")
    guardian = guardian_with({"ccxt": closed(again)}, folder, database)
    await guardian.start()
    running = asyncio.create_task(guardian.run())
    await until(lambda: guardian.detail()["database"] == "up")
    await traded("READY")
    with pytest.raises(OutageError, match=r"trades at ccxt.*not set"):
        await asyncio.wait_for(running, 10)
    await guardian.stop()
    second = guardian_with({"ccxt": closed(again)}, folder, database)
    with pytest.raises(OutageError, match="trades at ccxt"):
        await second.start()
    await second.stop()
    is_fixed = True
    async with at_work(guardian_with({"ccxt": closed(again)}, folder, database)) as third:
        assert third.is_ready


async def test_a_guardian_without_a_venue_that_others_trade_at_ends(folder: Path, database: Database) -> None:
    """It left the venue out, since that had no key; the key was stored, and the order manager alone started again."""
    await database.sql("INSERT INTO leases (name, epoch) VALUES ('orders', 1)")
    exchanges = {"ccxt": "binance", "other": "kraken"}
    guardian = guardian_with({"other": ScriptedVenue()}, folder, database, exchanges=exchanges)
    await guardian.start()
    running = asyncio.create_task(guardian.run())
    await until(lambda: guardian.detail()["database"] == "up")
    assert guardian.is_ready
    await database.sql("INSERT INTO venue_states (venue, account_id, state) VALUES ('ccxt', 1, 'READY')")
    with pytest.raises(OutageError, match="trades at ccxt"):
        await asyncio.wait_for(running, 10)
    await guardian.stop()


async def test_a_guardian_with_an_engaged_kill_goes_on_where_it_is_closed(folder: Path, database: Database) -> None:
    async def again() -> Venue:
        raise NO_KEY

    await database.sql("INSERT INTO leases (name, epoch) VALUES ('orders', 1)")
    async with at_work(guardian_with({"ccxt": closed(again)}, folder, database)) as guardian:
        await guardian.kill(reason="test", by="me", wait_s=0.1)
        await database.sql("INSERT INTO venue_states (venue, account_id, state) VALUES ('ccxt', 1, 'READY')")
        beat = guardian.beat
        await until(lambda: guardian.beat > beat + 5 * QUICK.refresh_s)
    async with at_work(guardian_with({"ccxt": closed(again)}, folder, database)) as other:
        assert other.report()["engaged"]
