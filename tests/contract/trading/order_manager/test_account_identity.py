"""An account is one account at one venue: another session is refused, and ids of its fills never meet another's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fks.model import ids
from fks.model.account import Environment, VenueIdentity
from fks.model.order import Role, Side, State
from fks.model.signal import Kind
from fks.store.accounts import AccountStore
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.incidents import IncidentStore
from fks.store.kill import KillStore
from fks.trading.guardian.positions import DatabaseSnapshot
from tests.support.order_rig import FAST, Rig, seed
from tests.support.scripted_venue import D, ScriptedVenue
from tests.support.waiting import until

REAL = FAST.model_copy(update={"venue": FAST.venue.model_copy(update={"live": True})})
LIVE = VenueIdentity(Environment.LIVE, "9")


async def rig_of(database: Database, bus: Bus, **changes: Any) -> Rig:
    await seed(database)
    return Rig(database, bus, ScriptedVenue(**changes))


async def pages(rig: Rig, event: str) -> list[Any]:
    return await rig.db.sql("SELECT * FROM alerts WHERE event = $1 AND severity = 'page'", event)


async def test_a_real_fill_with_the_number_of_a_local_one_is_booked(database: Database, bus: Bus) -> None:
    """Both count trades from one: under one id the second order was FILLED with position 0 and without a stop."""
    rig = await (await rig_of(database, bus)).start()
    first = await rig.signal()
    assert await rig.outcome(first) == ("ordered", None)
    await rig.becomes((await rig.entry(first)).client_order_id, State.FILLED)
    await database.sql("UPDATE accounts SET is_enabled = false WHERE id = 1")
    real = await AccountStore(database).create("real", venue="ccxt", mode="live")
    await rig.restart(venue=ScriptedVenue(who=LIVE), settings=REAL)
    await database.sql("UPDATE strategy_instances SET account_id = $1 WHERE id = 'two'", real.id)
    second = await rig.signal(
        Kind.ENTER, account_id=real.id, instance="two", source="strategy:two", stop_loss=D(90), timeframe=None
    )
    assert await rig.outcome(second) == ("ordered", None)
    entry = await rig.becomes((await rig.entry(second)).client_order_id, State.FILLED)
    await until(lambda: [held.order.quantity for held in rig.venue.by_role("sl")] == [D("9.99")])
    rows = await database.sql(
        "SELECT venue_trade_id, fill_id, quantity FROM trades WHERE client_order_id = $1", entry.client_order_id
    )
    assert [(row["venue_trade_id"], row["quantity"]) for row in rows] == [("1", D(10))]
    assert rows[0]["fill_id"] == ids.fill_id_v2("9", "live", "", "BTCUSDT", "1")
    assert await rig.position("two") == D("9.99")
    await rig.stop()


async def test_the_first_session_says_whose_account_it_is(database: Database, bus: Bus) -> None:
    rig = await (await rig_of(database, bus)).start()
    accounts = await AccountStore(database).page()
    assert [account.identity for account in accounts] == [VenueIdentity(Environment.SIM, "1", "first"), None]
    await rig.stop()


async def test_a_session_of_another_account_is_refused_and_other_venues_trade_on(database: Database, bus: Bus) -> None:
    rig = await rig_of(database, bus)
    other = ScriptedVenue(name="paper", who=VenueIdentity(Environment.PAPER, "paper"), account_id=2)
    rig.venues = {"ccxt": rig.venue, "paper": other}
    await rig.start()
    await rig.crash()
    rig.venue.who = replace(rig.venue.who, uid="2")
    await rig.start(wait_ready=False)
    await until(lambda: rig.service.cache.venues["ccxt"].state == "REFUSED")
    status = rig.service.cache.venues["ccxt"]
    assert "account 1 on sim" in status.detail
    assert "account 2 on sim" in status.detail
    sent = len(rig.venue.received)
    refused = await rig.signal()
    assert await rig.outcome(refused) == ("denied", "ACCOUNT_UNKNOWN")
    await until(lambda: rig.service.cache.venues["paper"].state == "READY")
    await database.sql("UPDATE strategy_instances SET account_id = 2, venue = 'paper' WHERE id = 'two'")
    signal = await rig.signal(account_id=2, venue="paper", instance="two", source="strategy:two")
    assert await rig.outcome(signal) == ("ordered", None)
    assert len(rig.venue.received) == sent
    assert len(await until(lambda: pages(rig, "account.identity_refused"))) == 1
    (incident,) = await IncidentStore(database).page(is_open=True)
    assert (incident.kind, incident.account_id, incident.payload["uid"]) == ("identity", 1, "2")
    await rig.crash()
    rig.venue.who = replace(rig.venue.who, uid="1")
    await rig.start()
    assert await IncidentStore(database).page(is_open=True) == []
    await rig.stop()


async def test_an_unknown_order_is_not_queried_at_another_account(database: Database, bus: Bus) -> None:
    """Another account does not know it: three such answers would have called an order ABSENT that lives."""
    rig = await (await rig_of(database, bus)).start()
    rig.venue.script.append("unheard")
    signal = await rig.signal()
    order = await rig.entry(signal) if await rig.outcome(signal) else None
    assert order is not None
    other = ScriptedVenue(who=replace(rig.venue.who, network_epoch="second"))
    await rig.crash()
    await database.sql(
        "UPDATE orders SET state = 'UNKNOWN', filled = 0 WHERE client_order_id = $1", order.client_order_id
    )
    rig.venue = other
    await rig.start(wait_ready=False)
    await until(lambda: rig.service.cache.venues["ccxt"].state == "REFUSED")
    assert "reset" in rig.service.cache.venues["ccxt"].detail
    assert other.queried == []
    assert await rig.state(order.client_order_id) is State.UNKNOWN
    await rig.stop()


async def test_paper_accounts_and_live_venues_refuse_each_other(database: Database, bus: Bus) -> None:
    rig = await rig_of(database, bus, who=LIVE)
    await rig.start(wait_ready=False)
    await until(lambda: "venue.live is false" in rig.service.cache.venues["ccxt"].detail)
    await rig.crash()
    rig.settings = REAL
    await rig.start(wait_ready=False)
    await until(lambda: rig.service.cache.venues["ccxt"].state == "REFUSED")
    assert "mode paper" in rig.service.cache.venues["ccxt"].detail
    assert await rig.outcome(await rig.signal()) == ("denied", "ACCOUNT_UNKNOWN")
    await rig.crash()
    await database.sql("UPDATE accounts SET mode = 'live' WHERE id = 1")
    rig.venue, rig.settings = ScriptedVenue(), FAST
    await rig.start(wait_ready=False)
    await until(lambda: "mode live" in rig.service.cache.venues["ccxt"].detail)
    assert await rig.outcome(await rig.signal()) == ("denied", "ACCOUNT_UNKNOWN")
    assert rig.venue.received == []
    await rig.stop()


async def test_an_upgrade_books_no_execution_of_the_reread_history_twice(database: Database, bus: Bus) -> None:
    rig = await (await rig_of(database, bus)).start()
    signal = await rig.signal(stop_loss=D(90))
    assert await rig.outcome(signal) == ("ordered", None)
    await until(lambda: rig.venue.by_role("sl"))
    await rig.crash()
    # as an earlier version left it: ids of version 1, no identity
    for row in await database.sql("SELECT id, symbol, venue_trade_id FROM trades"):
        old = ids.fill_id("ccxt", "0", row["symbol"], row["venue_trade_id"])
        await database.sql("UPDATE trades SET fill_id = $2 WHERE id = $1", row["id"], old)
    await database.sql("UPDATE accounts SET environment = NULL, uid = NULL, network_epoch = NULL")
    booked = await database.sql("SELECT fill_id FROM trades ORDER BY id")
    await rig.start()
    rig.venue.push(rig.venue.trades[0])
    held = rig.venue.by_role("sl")[0]
    rig.venue.fill(held.order.client_order_id, D("4"))
    await until(lambda: rig.position_is(D("5.99")))
    rows = await database.sql("SELECT fill_id FROM trades ORDER BY id")
    assert [row["fill_id"] for row in rows][:1] == [row["fill_id"] for row in booked]
    assert len(rows) == 2
    assert rows[1]["fill_id"] == ids.fill_id_v2("1", "sim", "first", "BTCUSDT", "2")
    assert (await AccountStore(database).page())[0].identity == rig.venue.who
    await rig.stop()


async def test_a_home_that_traded_before_is_the_local_exchanges(database: Database, bus: Bus) -> None:
    rig = await (await rig_of(database, bus)).start()
    assert await rig.outcome(await rig.signal()) == ("ordered", None)
    await rig.crash()
    await database.sql("UPDATE accounts SET environment = NULL, uid = NULL, network_epoch = NULL")
    rig.venue = ScriptedVenue(who=VenueIdentity(Environment.TEST, "5"))
    await rig.start(wait_ready=False)
    await until(lambda: rig.service.cache.venues["ccxt"].state == "REFUSED")
    assert "on sim" in rig.service.cache.venues["ccxt"].detail
    await rig.stop()


async def test_a_test_network_that_was_reset_is_noticed(database: Database, bus: Bus) -> None:
    rig = await (await rig_of(database, bus, who=VenueIdentity(Environment.TEST, "5"))).start()
    assert await rig.outcome(await rig.signal()) == ("ordered", None)
    await rig.restart()
    await rig.crash()
    rig.venue = ScriptedVenue(who=VenueIdentity(Environment.TEST, "5"))
    await rig.start(wait_ready=False)
    await until(lambda: rig.service.cache.venues["ccxt"].state == "REFUSED")
    assert "was reset" in rig.service.cache.venues["ccxt"].detail
    await rig.stop()


async def test_an_upgrade_in_the_middle_of_a_kill_counts_no_execution_twice(database: Database, bus: Bus) -> None:
    rig = await (await rig_of(database, bus)).start()
    assert await rig.outcome(await rig.signal()) == ("ordered", None)
    await until(lambda: rig.position_is(D("9.99")))
    rig.killed = True
    await database.sql(
        "INSERT INTO kill_switch (kill_id, is_engaged, report) VALUES ('k', true, '{\"flatten\": false}')"
    )
    await rig.crash()
    bought = rig.venue.by_role("entry")[0].order
    intent = ids.kill_id("k", "BTCUSDT")
    closing = replace(
        bought,
        client_order_id=ids.client_order_id(intent, "kill"),
        intent_id=intent,
        signal_id=None,
        role=Role.KILL,
        side=Side.SELL,
        quantity=D(4),
        state=State.SENDING,
        is_reduce_only=True,
    )
    await database.sql(
        "INSERT INTO orders (client_order_id, intent_id, account_id, venue, symbol, instance, role, side, type, "
        "quantity, state,"
        " is_reduce_only) VALUES ($1, $2, 1, 'ccxt', 'BTCUSDT', 'one', 'kill', 'sell', 'market', 4, 'SENDING', true)",
        closing.client_order_id,
        intent,
    )
    rig.venue.refusal = ""
    await rig.venue.submit(closing)
    await rig.start(wait_ready=False)
    await until(lambda: rig.position_is(D("5.99")))
    await rig.crash()
    for row in await database.sql("SELECT id, symbol, venue_trade_id FROM trades"):
        old = ids.fill_id("ccxt", "0", row["symbol"], row["venue_trade_id"])
        await database.sql("UPDATE trades SET fill_id = $2 WHERE id = $1", row["id"], old)
    await database.sql("UPDATE accounts SET environment = NULL, uid = NULL, network_epoch = NULL")
    await rig.start(wait_ready=False)
    await until(lambda: rig.service.cache.venues["ccxt"].state == "READY")
    for fill in rig.venue.trades:
        rig.venue.push(replace(fill, source="stream"))
    done = rig.service.cache.venues["ccxt"].compares_done
    await until(lambda: rig.service.cache.venues["ccxt"].compares_done > done + 1)
    assert await rig.position() == D("5.99")
    assert len(await database.sql("SELECT FROM trades")) == 2
    row = await KillStore(database).snapshot(3600.0)
    snapshot = DatabaseSnapshot.of(row)
    assert snapshot.identities == {1: rig.venue.who}
    counted = snapshot.with_fills(rig.venue.trades, frozenset())
    assert {holder.instance: quantity for holder, quantity in counted.items()} == {"one": D("5.99")}
    await rig.stop()


async def test_a_venue_without_an_account_waits_for_one_and_stops_no_other(database: Database, bus: Bus) -> None:
    await seed(database)
    empty = ScriptedVenue(name="ninja", account_id=0, totals={"USD": D(50)})
    rig = Rig(database, bus, ScriptedVenue())
    rig.venues = {"ccxt": rig.venue, "ninja": empty}
    limits = rig.settings.supervision.model_copy(update={"sessions_wait_max_s": 0.0})
    rig.settings = rig.settings.model_copy(update={"supervision": limits})
    await rig.start(wait_ready=False)
    statuses = rig.service.cache.venues
    await until(lambda: statuses["ccxt"].state == "READY" and "fks accounts create" in statuses["ninja"].detail)
    assert rig.service.is_ready
    assert rig.service.problems() == []
    assert await rig.outcome(await rig.signal()) == ("ordered", None)
    made = await AccountStore(database).create("nt", venue="ninja", mode="paper")
    await rig.read_slow()
    await until(lambda: statuses["ninja"].state == "READY")
    assert statuses["ninja"].account_id == made.id
    rows = await database.sql("SELECT account_id FROM balances WHERE currency = 'USD'")
    assert {row["account_id"] for row in rows} == {made.id}
    await rig.stop()
