"""Rules of venues: entries of a disabled one are denied, orders are routed, and new entries may fall back."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from fks.clock import RealClock
from fks.config.settings import Venues
from fks.interfaces.entry.order_entry import EntryAnswer, OrderEntry, OrderRequest
from fks.model.errors import InputError
from fks.model.order import State
from fks.model.signal import Kind
from fks.store.bus import WAKE
from fks.store.venues import VenueStore, change_venue
from tests.support.order_rig import Rig
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until

D = Decimal
BUY = {"symbol": "BTC/USDT", "side": "buy", "type": "market", "quantity": "1.5"}


@pytest.fixture
async def two(idle: Rig) -> Rig:
    """A rig with two venues: ccxt, and one named paper."""
    idle.venues = {"ccxt": idle.venue, "paper": ScriptedVenue("paper", account_id=2)}
    return await idle.start()


class Caller:
    """Orders of one person, each under a key of its own."""

    def __init__(self, rig: Rig) -> None:
        self.entry = OrderEntry(rig.db, rig.bus, RealClock(), rig.settings)
        self._number = 0

    async def buys(self, key: str | None = None, **changes: Any) -> EntryAnswer:
        self._number += 1
        return await self.entry.submit(OrderRequest.parse(BUY | changes), "ann", key or f"k{self._number}")

    async def venue_of(self, **changes: Any) -> str:
        return str((await self.buys(**changes)).body["venue"])


async def decide(rig: Rig, name: str, **changes: Any) -> None:
    """Change what a person decided about a venue, as the gateway does."""
    given: dict[str, Any] = {"is_enabled": None, "is_default": None, "priority": None} | changes
    versions = {rule.name: rule.version for rule in await VenueStore(rig.db).rules()}
    sets = "is_enabled" in changes
    await change_venue(rig.db, name, versions.get(name, 0), sets_enabled=sets, by="ann", **given)
    await rig.bus.publish(WAKE, {"type": "venues"})
    await rig.service.refresh()


async def route(rig: Rig, pattern: str, *venues: str) -> None:
    assert await VenueStore(rig.db).put_route(pattern, 0, venues, "ann") is not None


# ── disabled ─────────────────────────────────────────────────────────────────────────────────────
async def test_a_disabled_venue_denies_entries_and_lets_exits_go(rig: Rig) -> None:
    held = await rig.signal(stop_loss=D(90))
    assert await rig.outcome(held) == ("ordered", None)
    await until(lambda: any(one.order.stop_price for one in rig.venue.orders.values()))
    await decide(rig, "ccxt", is_enabled=False)
    assert await rig.outcome(await rig.signal(ordinal=1)) == ("denied", "VENUE_DISABLED")
    [stop] = [one for one in rig.venue.orders.values() if one.order.stop_price]
    assert stop.state is State.ACCEPTED, "the stop protects on"
    assert await rig.outcome(await rig.signal(Kind.EXIT, ordinal=2)) == ("ordered", None)
    await until(lambda: rig.position_is(D(0)))
    await decide(rig, "ccxt", is_enabled=True)
    assert await rig.outcome(await rig.signal(ordinal=3)) == ("ordered", None)


async def test_entries_that_rest_at_a_disabled_venue_are_cancelled(rig: Rig) -> None:
    answer = await Caller(rig).buys(type="limit", price="99", account="main")
    name = answer.body["client_order_id"]
    await rig.becomes(name, State.WORKING)
    await decide(rig, "ccxt", is_enabled=False)
    await rig.becomes(name, State.CANCELLED)


async def test_a_change_is_followed_without_a_restart_or_a_wake(rig: Rig) -> None:
    await change_venue(rig.db, "ccxt", 0, sets_enabled=True, is_enabled=False, is_default=None, priority=None, by="ann")
    caller = Caller(rig)

    async def is_denied() -> bool:
        return (await caller.buys()).body.get("code") == "VENUE_DISABLED"

    await until(is_denied)


async def test_the_setting_names_the_venues_that_take_entries(idle: Rig) -> None:
    idle.settings = idle.settings.model_copy(update={"venues": Venues(enabled=("paper",))})
    rig = await idle.start()
    assert await rig.outcome(await rig.signal()) == ("denied", "VENUE_DISABLED")
    await decide(rig, "ccxt", is_enabled=True)
    assert await rig.outcome(await rig.signal(ordinal=1)) == ("ordered", None)
    await decide(rig, "ccxt", is_enabled=None)
    assert await rig.outcome(await rig.signal(ordinal=2)) == ("denied", "VENUE_DISABLED")


async def test_a_venue_that_does_not_open_is_down_while_others_trade(two: Rig) -> None:
    two.venue.outages["open"] = 1_000_000
    await two.crash()
    await two.start(wait_ready=False)
    caller = Caller(two)

    async def states() -> dict[str, str]:
        rows = await two.db.sql("SELECT venue, state FROM venue_states WHERE account_id <> 0")
        return {row["venue"]: row["state"] for row in rows}

    async def is_down() -> bool:
        return await states() == {"ccxt": "DOWN", "paper": "READY"}

    await until(is_down)
    assert await caller.venue_of(venue="paper") == "paper"
    assert (await caller.buys(venue="ccxt")).body["code"] == "VENUE_DOWN"
    assert await caller.venue_of(allow_fallback=True) == "paper"
    two.venue.outages.clear()
    await until(lambda: two.service.is_ready, deadline_s=15.0)
    assert await caller.venue_of(venue="ccxt") == "ccxt"


# ── precedence ───────────────────────────────────────────────────────────────────────────────────
async def test_request_then_account_then_route_then_default_decide(two: Rig) -> None:
    caller = Caller(two)
    assert await caller.venue_of() == "ccxt", "the first account, without rows"
    await decide(two, "paper", is_default=True)
    assert await caller.venue_of() == "paper"
    await route(two, "BTC*", "ccxt")
    assert await caller.venue_of() == "ccxt"
    assert await caller.venue_of(symbol="ETH/USDT") == "paper"
    assert await caller.venue_of(account="sheet") == "paper"
    assert await caller.venue_of(venue="paper") == "paper"


async def test_a_route_moves_entries_and_not_what_reduces_a_position(two: Rig) -> None:
    caller = Caller(two)
    await caller.buys()
    await until(lambda: two.position_is(D("1.4985"), ""))
    await route(two, "BTC*", "paper")
    sold = await caller.buys(side="sell", quantity="1")
    assert (sold.status, sold.body["venue"], sold.body["state"]) == (202, "ccxt", "FILLED")
    assert await caller.venue_of() == "paper"


async def test_a_sale_on_paper_never_goes_to_an_account_of_real_money(two: Rig) -> None:
    caller = Caller(two)
    await caller.buys()
    await until(lambda: two.position_is(D("1.4985"), ""))
    await two.db.sql("UPDATE accounts SET mode = 'live' WHERE name = 'main'")
    await decide(two, "paper", is_default=True)
    assert await caller.venue_of(side="sell", quantity="1") == "paper"
    assert len(two.venue.orders) == 1


async def test_a_sale_at_a_named_exchange_is_not_of_a_position_at_another(two: Rig) -> None:
    caller = Caller(two)
    await caller.buys()
    await until(lambda: two.position_is(D("1.4985"), ""))
    await two.db.sql(
        'INSERT INTO instruments SELECT (jsonb_populate_record(i, \'{"exchange": "kraken"}\')).* FROM instruments i'
    )
    await route(two, "BTC*", "paper")
    assert await caller.venue_of(side="sell", quantity="1", exchange="kraken") == "paper"


async def test_a_route_counts_for_a_symbol_of_several_exchanges(two: Rig) -> None:
    await two.db.sql(
        'INSERT INTO instruments SELECT (jsonb_populate_record(i, \'{"exchange": "kraken"}\')).* FROM instruments i'
    )
    await decide(two, "paper", is_default=True)
    await route(two, "BTCUSDT", "ccxt")
    for symbol in ("BTCUSDT", "BTC/USDT", "btc-usdt"):
        assert await Caller(two).venue_of(symbol=symbol) == "ccxt", symbol


async def test_what_reduces_goes_to_its_holder_when_the_default_lacks_it(two: Rig) -> None:
    await two.db.sql("INSERT INTO accounts (name, venue) VALUES ('metatrader', 'mt5')")
    caller = Caller(two)
    await caller.buys()
    await until(lambda: two.position_is(D("1.4985"), ""))
    await decide(two, "mt5", is_default=True)
    assert await caller.venue_of(side="sell", quantity="1") == "ccxt"
    with pytest.raises(InputError) as error:
        await caller.buys()
    assert error.value.code == "SYMBOL_UNKNOWN"


async def test_a_program_opens_where_it_is_routed_whatever_others_hold(two: Rig) -> None:
    caller = Caller(two)
    await caller.buys()
    await until(lambda: two.position_is(D("1.4985"), ""))
    await route(two, "BTC*", "paper")
    sale = OrderRequest.parse(BUY | {"side": "sell", "quantity": "1"})
    answer = await caller.entry.submit(sale, "bot", "program", instance="key:bot")
    assert answer.body["venue"] == "paper"


async def test_a_disabled_paper_account_sends_no_order_to_real_money(two: Rig) -> None:
    await two.db.sql("UPDATE accounts SET mode = 'live' WHERE name = 'main'")
    await two.db.sql("UPDATE accounts SET is_enabled = false WHERE name = 'sheet'")
    await route(two, "BTC*", "paper", "ccxt")
    for allow_fallback in (False, True):
        with pytest.raises(InputError) as error:
            await Caller(two).buys(allow_fallback=allow_fallback)
        assert error.value.code == "ACCOUNT_UNKNOWN"
    assert two.venue.received == []


async def test_a_new_default_takes_it_from_the_venue_before(two: Rig) -> None:
    await decide(two, "paper", is_default=True)
    await decide(two, "ccxt", is_default=True)
    assert [rule.name for rule in await VenueStore(two.db).rules() if rule.is_default] == ["ccxt"]


async def test_two_changes_of_one_version_are_one_change(two: Rig) -> None:
    changes = (
        change_venue(two.db, "ccxt", 0, sets_enabled=False, is_enabled=None, is_default=None, priority=n, by="ann")
        for n in range(5)
    )
    found = await asyncio.gather(*changes, return_exceptions=True)
    assert sorted(str(getattr(one, "code", "done")) for one in found) == [*["VENUE_CHANGED"] * 4, "done"]


async def test_a_route_to_a_venue_without_an_account_refuses_the_order(two: Rig) -> None:
    await route(two, "BTC*", "ninja")
    with pytest.raises(InputError) as error:
        await Caller(two).buys()
    assert error.value.code == "ACCOUNT_UNKNOWN"


# ── fallback ─────────────────────────────────────────────────────────────────────────────────────
async def test_an_entry_that_allows_it_goes_on_to_a_venue_that_takes_entries(two: Rig) -> None:
    caller = Caller(two)
    assert await caller.venue_of(allow_fallback=True) == "ccxt"
    await decide(two, "ccxt", is_enabled=False)
    denied = await caller.buys()
    assert (denied.status, denied.body["code"]) == (422, "VENUE_DISABLED")
    assert await caller.venue_of(allow_fallback=True) == "paper"
    assert await caller.venue_of(venue="ccxt", allow_fallback=True) == "paper"
    [reason] = await two.db.sql("SELECT DISTINCT reason FROM signals WHERE venue = 'paper'")
    assert reason["reason"].endswith("fell back from ccxt to paper")


async def test_an_entry_falls_back_from_a_venue_that_is_away(two: Rig) -> None:
    two.venue.outages["open_orders"] = 1_000_000
    two.venue.lose_session()

    async def is_away() -> bool:
        return ("ccxt", 1) not in await VenueStore(two.db).ready()

    await until(is_away)
    assert await Caller(two).venue_of(allow_fallback=True) == "paper"


async def test_the_same_key_is_the_same_order_after_a_fallback(two: Rig) -> None:
    caller = Caller(two)
    await decide(two, "ccxt", is_enabled=False)
    first = await caller.buys("one", allow_fallback=True)
    keyless = await caller.entry.submit(OrderRequest.parse(BUY | {"allow_fallback": True}), "bob", None)
    await decide(two, "ccxt", is_enabled=True)
    await route(two, "BTC*", "ccxt")
    again = await caller.buys("one", allow_fallback=True)
    assert again.body["client_order_id"] == first.body["client_order_id"]
    repeated = await caller.entry.submit(OrderRequest.parse(BUY | {"allow_fallback": True}), "bob", None)
    assert (repeated.is_repeat, repeated.body["venue"]) == (True, keyless.body["venue"])
    assert two.venue.received == []


async def test_what_reduces_a_position_never_falls_back(two: Rig) -> None:
    caller = Caller(two)
    await caller.buys()
    await until(lambda: two.position_is(D("1.4985"), ""))
    await caller.buys(venue="paper")
    await decide(two, "ccxt", is_enabled=False)
    sold = await caller.buys(side="sell", quantity="1", allow_fallback=True)
    assert (sold.status, sold.body["venue"]) == (202, "ccxt"), "it reduces, so the disabled venue takes it"
    for wrong in ({"reduce_only": True}, {"account": "main"}):
        with pytest.raises(InputError) as error:
            OrderRequest.parse(BUY | {"allow_fallback": True} | wrong)
        assert error.value.code == "FALLBACK"


async def test_paper_money_never_falls_back_to_real_money(two: Rig) -> None:
    await two.db.sql("UPDATE accounts SET mode = 'live' WHERE name = 'sheet'")
    await decide(two, "ccxt", is_enabled=False)
    denied = await Caller(two).buys(allow_fallback=True)
    assert (denied.body["code"], denied.body["venue"]) == ("VENUE_DISABLED", "ccxt")
