"""Kills of a venue, an account or a strategy: each ends what lies in its scope, on its own, and leaves the rest alone."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import pytest

from fks.clock import RealClock
from fks.config.settings import Settings
from fks.interfaces.entry.emergency_stop import EmergencyStop
from fks.model.errors import InputError
from fks.model.order import OrderType, Role, Side
from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.guardian.journal import Asked, KillJournal, engaged_kills
from fks.trading.venues.ccxt import CcxtVenue
from tests.support.guarded_trading import ask, at_work, mark, seed_account, sells, write_positions
from tests.support.guardian_process import QUICK, GuardianProcess, guardian_with
from tests.support.local_exchange import LocalExchange
from tests.support.order_values import an_order
from tests.support.scripted_venue import ScriptedVenue
from tests.support.venue_orders import order
from tests.support.waiting import until

D = Decimal
SMA = "strategy:sma"


class Hanging(ScriptedVenue):
    """A venue that never answers what is open."""

    async def open_orders(self) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


async def seeded(database: Database) -> None:
    """Two accounts at two venues; instances of two strategies hold BTC in the first one."""
    await seed_account(database, position=None)
    await database.sql("INSERT INTO accounts (name, venue) VALUES ('other', 'alt')")
    await database.sql(
        "INSERT INTO strategy_instances (id, strategy, symbol, timeframe, account_id, venue)"
        " VALUES ('s1', 'sma', 'BTCUSDT', '1m', 1, 'ccxt'), ('s2', 'rsi', 'BTCUSDT', '1m', 1, 'ccxt')"
    )
    await database.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity) VALUES"
        " (1, 'ccxt', 'BTCUSDT', 's1', 0.5), (1, 'ccxt', 'BTCUSDT', 's2', 0.3), (2, 'alt', 'BTCUSDT', '', 0.2)"
    )


async def with_stop(database: Database, venue: ScriptedVenue, instance: str, quantity: str, account_id: int = 1) -> str:
    """Leave a stop loss at the venue and in the tables; return its id."""
    stop = an_order(
        client_order_id=(instance or "p")[-1] * 32,
        account_id=account_id,
        venue=venue.name,
        symbol="BTCUSDT",
        exchange="binance",
        instance=instance,
        role=Role.STOP_LOSS,
        side=Side.SELL,
        type=OrderType.STOP,
        quantity=D(quantity),
        stop_price=D(90),
        is_reduce_only=True,
    )
    await venue.submit(stop)
    await database.sql(
        "INSERT INTO orders (client_order_id, intent_id, account_id, venue, exchange, symbol, instance, role, side, type,"
        " quantity, stop_price, state, is_reduce_only, is_acknowledged)"
        " VALUES ($1, gen_random_uuid(), $2, $3, 'binance', 'BTCUSDT', $4, 'sl', 'sell', 'stop', $5, 90, 'WORKING', true,"
        " true)",
        stop.client_order_id,
        account_id,
        venue.name,
        instance,
        D(quantity),
    )
    return stop.client_order_id


def a_venue(name: str = "ccxt", total: str = "0.8", account_id: int = 1) -> ScriptedVenue:
    return ScriptedVenue(name=name, account_id=account_id, totals={"USDT": D(100000), "BTC": D(total)}, fee_rate=D(0))


def sold(venue: ScriptedVenue) -> list[Decimal]:
    return sorted(fill.quantity for fill in venue.trades if fill.side is Side.SELL)


def live(venue: ScriptedVenue) -> set[str]:
    return {held.order.client_order_id for held in venue.live()}


def scopes(folder: Path) -> list[str]:
    return sorted(str(kill.scope) for kill in engaged_kills(folder / "kill.jsonl"))


async def resumed(folder: Path, scope: str) -> dict[str, Any]:
    """Release a kill once its works are quiet: what they saved may have made them look once more."""

    async def released() -> dict[str, Any] | None:
        answer = await ask(folder, {"op": "resume", "scope": scope, "by": "me"})
        return answer if answer["ok"] else None

    return await until(released, deadline_s=10)


async def rows(database: Database) -> list[tuple[str, bool]]:
    found = await database.sql("SELECT scope, is_engaged FROM kill_switch ORDER BY scope")
    return [(row["scope"], row["is_engaged"]) for row in found]


async def test_kill_of_a_strategy_leaves_the_other_instance_in_the_symbol_its_stop_and_position(
    folder: Path, database: Database
) -> None:
    await seeded(database)
    venue = a_venue()
    mine, other = await with_stop(database, venue, "s1", "0.5"), await with_stop(database, venue, "s2", "0.3")
    async with at_work(guardian_with({"ccxt": venue}, folder, database)) as guardian:
        await until(lambda: guardian.detail()["positions_age_s"] is not None)
        report = await ask(folder, {"op": "kill", "scope": SMA, "reason": "test", "by": "me"})
        assert (report["scope"], report["is_quiet"]) == (SMA, True), report
        await until(lambda: guardian.report(scope=SMA)["is_done"])
        assert (venue.cancelled, live(venue), sold(venue)) == ([mine], {other}, [D("0.5")])
        assert guardian.report()["engaged"] is False
        assert guardian.detail()["scopes"] == scopes(folder) == [SMA]
        await until(lambda: guardian.report(scope=SMA)["database"] == "up")
        assert await rows(database) == [(SMA, True)]


async def test_kill_of_an_account_by_its_name_leaves_other_accounts_alone(folder: Path, database: Database) -> None:
    await seeded(database)
    venues = {"ccxt": a_venue(), "alt": a_venue("alt", "0.2", 2)}
    stop = await with_stop(database, venues["ccxt"], "s1", "0.5")
    await with_stop(database, venues["alt"], "", "0.2", 2)
    async with at_work(guardian_with(dict(venues), folder, database)) as guardian:
        await until(lambda: guardian.detail()["positions_age_s"] is not None)
        report = await guardian.kill(scope="account:other", reason="", by="me")
        assert (report["scope"], report["is_quiet"], len(report["venues"])) == ("account:2", True, 1)
        await until(lambda: guardian.report(scope="account:2")["is_done"])
        assert (live(venues["alt"]), sold(venues["alt"])) == (set(), [D("0.2")])
        assert (live(venues["ccxt"]), sold(venues["ccxt"])) == ({stop}, [])


async def test_name_that_is_another_accounts_number_is_refused(folder: Path, database: Database, bus: Bus) -> None:
    """Of two accounts, one would be closed that was not meant."""
    await seeded(database)
    await database.sql("UPDATE accounts SET name = '1' WHERE id = 2")
    stop = EmergencyStop(database, bus, RealClock(), folder / "nobody.sock", Settings())
    async with at_work(guardian_with({"ccxt": a_venue()}, folder, database)) as guardian:
        await until(lambda: guardian.detail()["positions_age_s"] is not None)
        assert (await ask(folder, {"op": "kill", "scope": "account:1", "by": "me"}))["code"] == "SCOPE_UNKNOWN"
        with pytest.raises(InputError, match="account 1"):
            await stop.engage(scope="account:1", reason="", by="me", flatten=True)
        assert scopes(folder) == []
        for name in ("demo", "2"):  # each has another name
            request = {"op": "kill", "scope": f"account:{name}", "flatten": False, "by": "me", "wait_s": 0.1}
            assert (await ask(folder, request))["ok"]
        assert scopes(folder) == ["account:1", "account:2"]
        await resumed(folder, "account:demo")


async def test_kill_of_a_venue_is_done_while_another_venue_hangs(folder: Path, database: Database) -> None:
    await seeded(database)
    venue = a_venue()
    await with_stop(database, venue, "s1", "0.5")
    hanging = Hanging(name="alt", account_id=2)
    async with at_work(guardian_with({"ccxt": venue, "alt": hanging}, folder, database)) as guardian:
        await until(lambda: guardian.detail()["positions_age_s"] is not None)
        stuck = await guardian.kill(scope="venue:alt", reason="", by="me", wait_s=0.2)
        assert not stuck["is_quiet"]
        report = await guardian.kill(scope="venue:ccxt", reason="", by="me")
        assert report["is_quiet"], report
        await until(lambda: guardian.report(scope="venue:ccxt")["is_done"])
        assert (live(venue), sold(venue)) == (set(), [D("0.3"), D("0.5")])
        await resumed(folder, "venue:ccxt")
        assert scopes(folder) == ["venue:alt"]


async def test_whole_kill_beside_one_of_a_strategy_closes_each_position_once(folder: Path, database: Database) -> None:
    """The strategy's close is refused at first: the kill that began it stays in charge of it."""
    await seeded(database)
    venue = a_venue()
    await with_stop(database, venue, "s1", "0.5")
    other = await with_stop(database, venue, "s2", "0.3")
    venue.script.extend(["refuse:-2010"] * 3)
    async with at_work(guardian_with({"ccxt": venue, "alt": a_venue("alt", "0.2", 2)}, folder, database)) as guardian:
        await until(lambda: guardian.detail()["positions_age_s"] is not None)
        narrow = await guardian.kill(scope=SMA, reason="", by="me", wait_s=0.0)
        whole = await guardian.kill(reason="all", by="me")
        assert [kill["scope"] for kill in whole["beside"]] == [SMA]
        await until(lambda: guardian.report()["is_done"] and guardian.report(scope=SMA)["is_done"])
        assert guardian.report()["is_quiet"]
        assert (live(venue), sold(venue), other in venue.cancelled) == (set(), [D("0.3"), D("0.5")], True)
        closes = [guardian.report(scope=scope)["orders"] for scope in (SMA, "system")]
        assert [{item["instance"] for item in orders} for orders in closes] == [{"s1"}, {"", "s2"}]
        assert (await resumed(folder, "system"))["beside"][0]["kill_id"] == narrow["kill_id"]
        assert scopes(folder) == [SMA]
        await until(lambda: guardian.report(scope=SMA)["database"] == "up")
        assert await rows(database) == [(SMA, True), ("system", False)]


async def test_resume_of_one_scope_leaves_the_other(folder: Path, database: Database) -> None:
    await seeded(database)
    async with at_work(guardian_with({"ccxt": a_venue()}, folder, database)) as guardian:
        await until(lambda: guardian.detail()["positions_age_s"] is not None)
        for scope in (SMA, "strategy:s2"):
            await guardian.kill(scope=scope, reason="", by="me", flatten=False)
        await guardian.kill(reason="", by="me", flatten=False, wait_s=0.1)
        answer = await resumed(folder, SMA)
        assert (answer["engaged"], [kill["scope"] for kill in answer["beside"]]) == (False, ["system", "strategy:s2"])
        assert scopes(folder) == ["strategy:s2", "system"]
        await until(lambda: guardian.report()["database"] == "up")
        assert await rows(database) == [("strategy:s2", True), (SMA, False), ("system", True)]


async def test_released_strategy_is_closed_by_the_whole_kill(folder: Path, database: Database) -> None:
    """What a kill was in charge of falls to the next one that contains it, once it is given up."""
    await seeded(database)
    venue = a_venue()
    venue.script.extend(["refuse:-2010"] * 50)
    async with at_work(guardian_with({"ccxt": venue, "alt": a_venue("alt", "0.2", 2)}, folder, database)) as guardian:
        await until(lambda: guardian.detail()["positions_age_s"] is not None)
        await guardian.kill(scope=SMA, reason="", by="me", wait_s=0.3)
        await guardian.kill(reason="", by="me", wait_s=0.3)
        await guardian.resume(by="me", scope=SMA, force=True)
        venue.script.clear()
        await until(lambda: guardian.report()["is_done"])
        assert sold(venue) == [D("0.3"), D("0.5")]


async def test_kill_through_the_database_has_its_scope_and_another_guardians_release_counts(
    folder: Path, database: Database, bus: Bus
) -> None:
    await seeded(database)
    venue = a_venue()
    stop = EmergencyStop(database, bus, RealClock(), folder / "nobody.sock", Settings())
    async with at_work(guardian_with({"ccxt": venue}, folder, database)) as guardian:
        done = await stop.engage(scope="account:demo", reason="phone", by="me", flatten=True)
        assert (done["scope"], done["through"]) == ("account:1", "database")
        await until(lambda: guardian.report(scope="account:1")["engaged"])
        await until(lambda: guardian.report(scope="account:1")["is_done"])
        assert (sold(venue), guardian.report()["engaged"]) == ([D("0.3"), D("0.5")], False)
        by_exchange = await stop.engage(scope="venue:binance", reason="", by="me", flatten=False)
        assert by_exchange["scope"] == "venue:ccxt", "venue.exchange is its exchange"
        await database.sql("UPDATE kill_switch SET is_engaged = false, released_by = 'b', released_at = now()")
        await until(lambda: not guardian.report(scope="account:1")["engaged"])
        assert scopes(folder) == []


async def test_order_younger_than_the_snapshot_is_left_until_it_is_known_whose_it_is(
    folder: Path, database: Database
) -> None:
    await seeded(database)
    venue = a_venue()
    young = an_order(
        client_order_id="aaaaaaaaaaaa5aaa8aaaaaaaaaaaaaaa",
        symbol="BTCUSDT",
        side=Side.BUY,
        type=OrderType.LIMIT,
        price=D(50),
        quantity=D("0.1"),
    )
    await venue.submit(young)
    async with at_work(guardian_with({"ccxt": venue}, folder, database)) as guardian:
        await until(lambda: guardian.detail()["positions_age_s"] is not None)
        report = await guardian.kill(scope=SMA, reason="", by="me", wait_s=1.0)
        assert [left["kind"] for left in report["remaining"]] == ["in_doubt"]
        await until(lambda: guardian.report(scope=SMA)["is_quiet"])
        assert (live(venue), sold(venue)) == ({young.client_order_id}, [D("0.5")])


async def test_unknown_scope_is_refused_and_engages_nothing(folder: Path, database: Database) -> None:
    await seeded(database)
    async with at_work(guardian_with({"ccxt": a_venue()}, folder, database)) as guardian:
        await until(lambda: guardian.detail()["positions_age_s"] is not None)
        for scope in ("strategy:typo", "account:typo", "account:9", "venue:typo", "pair:BTCUSDT"):
            answer = await ask(folder, {"op": "kill", "scope": scope, "by": "me"})
            assert (answer["ok"], answer["code"]) == (False, "SCOPE_UNKNOWN"), scope
        assert scopes(folder) == []


async def test_guardian_killed_in_the_middle_goes_on_with_the_same_scope(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path
) -> None:
    """PostgreSQL is away all the time: the file alone says what the kill is about."""
    write_positions(folder, [["ccxt", 1, "BTCUSDT", "s1", "0.4"], ["ccxt", 1, "BTCUSDT", "s2", "0.2"]])
    kept = folder / "kill-positions.json"
    known = json.loads(kept.read_text()) | {"instances": [["s1", "sma", "ccxt"], ["s2", "rsi", "ccxt"]]}
    kept.write_text(json.dumps(known))
    since = mark(exchange)
    process = GuardianProcess(exchange, folder).start()
    try:
        asking = asyncio.create_task(ask(folder, {"op": "kill", "scope": SMA, "by": "me"}))
        await until(lambda: scopes(folder) == [SMA])
        process.kill()
        await asyncio.gather(asking, return_exceptions=True)
        process.start()
        await until(lambda: len(sells(exchange, since)) == 1, deadline_s=10)

        async def is_done() -> bool:
            return bool((await ask(folder, {"op": "status", "scope": SMA})).get("is_done"))

        await until(is_done)
    finally:
        process.stop()
    (sale,) = sells(exchange, since)
    assert D(sale["params"]["quantity"]) == D("0.4")
    assert scopes(folder) == [SMA]
    assert (await trader.submit(order("0.4"))).outcome.value == "ack"  # buy it back for the tests that follow


async def test_others_that_trade_in_the_symbol_neither_hold_up_a_kill_nor_change_what_it_closes(
    folder: Path, database: Database
) -> None:
    """Their orders are not in the tables here: none of them is taken for the strategy's once the kill is under way."""
    await seeded(database)
    venue = a_venue()
    venue.script.extend(["refuse:-2010"] * 200)
    async with at_work(guardian_with({"ccxt": venue}, folder, database)) as guardian:
        await until(lambda: guardian.detail()["positions_age_s"] is not None)
        await guardian.kill(scope=SMA, reason="", by="me", wait_s=0.1)
        await asyncio.sleep(QUICK.settle_s + QUICK.attribute_s)
        venue.script.clear()
        for number in range(10, 30):  # a buy of another instance in each round
            await venue.submit(
                an_order(client_order_id=f"{number}{'b' * 10}5bbb8{'b' * 15}", symbol="BTCUSDT", quantity=D("0.1"))
            )
            await asyncio.sleep(0.05)
        await until(lambda: guardian.report(scope=SMA)["is_done"])
        assert sold(venue) == [D("0.5")]


async def test_scopes_without_any_reading_of_the_database(folder: Path) -> None:
    """A venue that the guardian has a session with, an account by number, and a strategy that nothing is known of."""
    async with at_work(guardian_with({"ccxt": a_venue()}, folder, None)) as guardian:
        for scope in ("venue:ccxt", "account:1", SMA):
            answer = await ask(folder, {"op": "kill", "scope": scope, "by": "me", "wait_s": 0.1})
            assert (answer["ok"], answer["is_quiet"]) == (True, False), "our positions are not known"
        for scope in ("venue:other", "account:demo"):
            assert (await ask(folder, {"op": "kill", "scope": scope, "by": "me"}))["code"] == "SCOPE_UNKNOWN"
        assert scopes(folder) == ["account:1", SMA, "venue:ccxt"]
        assert guardian.report()["engaged"] is False


async def test_scope_without_a_name_is_neither_a_kill_nor_a_release_of_everything(
    folder: Path, database: Database, bus: Bus
) -> None:
    await seeded(database)
    scopes_without_a_name = ("", " ", "venue:", "strategy:", "System", "system:all")
    stop = EmergencyStop(database, bus, RealClock(), folder / "nobody.sock", Settings())
    async with at_work(guardian_with({"ccxt": a_venue()}, folder, database)) as guardian:
        await until(lambda: guardian.detail()["positions_age_s"] is not None)
        for scope in scopes_without_a_name:
            assert (await ask(folder, {"op": "kill", "scope": scope, "by": "me"}))["code"] == "SCOPE_UNKNOWN", scope
            with pytest.raises(InputError, match="not known"):
                await stop.engage(scope=scope, reason="", by="me", flatten=True)
        assert scopes(folder) == []
        await guardian.kill(reason="", by="me", flatten=False, wait_s=0.0)
        for scope in scopes_without_a_name:
            assert (await ask(folder, {"op": "resume", "scope": scope, "by": "me"}))["code"] == "SCOPE_UNKNOWN", scope
        assert scopes(folder) == ["system"]


async def test_kill_is_carried_out_at_a_venue_that_the_snapshot_of_its_start_lacked(
    folder: Path, database: Database
) -> None:
    """The file is from before the strategy traded there: a kill beside the whole system's must not hide its position."""
    await seeded(database)
    write_positions(folder, [["alt", 2, "BTCUSDT", "", "0.2"]])
    kept = folder / "kill-positions.json"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"instances": [["s0", "sma", "alt"]]}))
    KillJournal(folder / "kills" / "strategy%3Asma.jsonl").engage("a" * 32, Asked(SMA, "", "me", True, 1))
    venues = {"ccxt": a_venue(), "alt": a_venue("alt", "0.2", 2)}
    async with at_work(guardian_with(dict(venues), folder, database)) as guardian:
        await until(lambda: guardian.detail()["positions_age_s"] is not None)
        await guardian.kill(reason="", by="me", wait_s=0.1)
        await until(lambda: sold(venues["ccxt"]) == [D("0.3"), D("0.5")], deadline_s=10)
        await until(lambda: guardian.report(scope=SMA)["is_done"])


async def test_whole_kill_is_not_done_before_one_that_is_in_charge_of_a_part(folder: Path, database: Database) -> None:
    await seeded(database)
    venue = a_venue()
    venue.script.extend(["refuse:-2010"] * 500)
    async with at_work(guardian_with({"ccxt": venue, "alt": a_venue("alt", "0.2", 2)}, folder, database)) as guardian:
        await until(lambda: guardian.detail()["positions_age_s"] is not None)
        await guardian.kill(scope="account:1", reason="", by="me", wait_s=0.1)
        await guardian.kill(reason="", by="me", wait_s=0.1)
        await asyncio.sleep(3 * QUICK.settle_s)
        assert (guardian.report()["is_done"], guardian.report()["is_quiet"]) == (False, False)
        venue.script.clear()
        await until(lambda: guardian.report()["is_done"])
        assert sold(venue) == [D("0.3"), D("0.5")]


async def test_last_kill_of_the_whole_file_is_whole_whatever_its_line_says(folder: Path, database: Database) -> None:
    """An earlier version took the row of a strategy's kill over as its own, and closes everything under it."""
    await seeded(database)
    KillJournal(folder / "kill.jsonl").engage("a" * 32, Asked(SMA, "", "me", False, 1))
    await database.sql("INSERT INTO kill_switch (kill_id, scope, is_engaged) VALUES ($1, $2, true)", "a" * 32, SMA)
    async with at_work(
        guardian_with({"ccxt": a_venue(), "alt": a_venue("alt", "0.2", 2)}, folder, database)
    ) as guardian:
        await until(lambda: guardian.detail()["positions_age_s"] is not None)
        await until(lambda: guardian.report()["database"] == "up")
        assert "system" in scopes(folder)
        assert await rows(database) == [("system", True)]
        await resumed(folder, "system")
        await until(lambda: scopes(folder) == [])
        assert await rows(database) == [("system", False)]


async def test_kill_with_a_reason_that_is_no_text_is_carried_out_and_written(folder: Path, database: Database) -> None:
    """As from a terminal with another encoding than UTF-8."""
    await seeded(database)
    venue = a_venue()
    async with at_work(guardian_with({"ccxt": venue, "alt": a_venue("alt", "0.2", 2)}, folder, database)) as guardian:
        await until(lambda: guardian.detail()["positions_age_s"] is not None)
        answer = await ask(folder, {"op": "kill", "reason": "caf\udce9\0", "by": "j\udcf6rg"})
        assert (answer["ok"], answer["reason"], answer["by"]) == (True, "caf?", "j?rg")
        await until(lambda: sold(venue) == [D("0.3"), D("0.5")])
        assert scopes(folder) == ["system"]
        await until(lambda: guardian.report()["database"] == "up")
        assert await rows(database) == [("system", True)]
        await resumed(folder, "system")


@pytest.mark.parametrize("name", ["ä" * 90, "a:b/../c%2F\n", "."], ids=["long", "odd", "dot"])
async def test_kill_of_a_strategy_with_an_odd_name_survives_the_guardian_in_its_file(folder: Path, name: str) -> None:
    write_positions(folder, [["ccxt", 1, "BTCUSDT", name, "0.5"]])
    venue, scope = a_venue(), f"strategy:{name}"
    venue.script.extend(["refuse:-2010"] * 500)
    async with at_work(guardian_with({"ccxt": venue}, folder, None)) as guardian:
        assert (await guardian.kill(scope=scope, reason="", by="me", wait_s=0.1))["journal"] == "ok"
    assert scopes(folder) == [scope]
    venue.script.clear()
    async with at_work(guardian_with({"ccxt": venue}, folder, None)) as guardian:
        assert guardian.detail()["scopes"] == [scope]
        await until(lambda: guardian.report(scope=scope)["is_done"])
        assert sold(venue) == [D("0.5")]
        await resumed(folder, scope)
    assert scopes(folder) == []


async def test_position_at_a_bridge_is_left_to_do_until_the_order_manager_has_closed_it(
    folder: Path, database: Database
) -> None:
    """The command's exit code says so: the order manager may hang."""
    await seeded(database)
    await database.sql("UPDATE positions SET venue = 'ninja' WHERE instance = 's1'")
    bridge = {"group": "sim", "port": 9, "secret": "s"}
    async with at_work(guardian_with({"ccxt": a_venue()}, folder, database, bridge=bridge)) as guardian:
        await until(lambda: guardian.detail()["positions_age_s"] is not None)
        report = await guardian.kill(scope=SMA, reason="", by="me")
        assert [(left["kind"], left["venue"]) for left in report["remaining"]] == [("pending", "ninja")]
        await database.sql("UPDATE positions SET quantity = 0 WHERE instance = 's1'")
        await until(lambda: guardian.report(scope=SMA)["remaining"] == [])
