"""Each denial code, provoked from outside: the order is refused with 422 and the code, and docs/api.md names it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from fks.config.settings import Settings
from fks.model.account import Balance
from fks.model.codes import Code
from fks.model.order import OrderType, State, TimeInForce
from fks.model.ports import BalancesSeen, VenueCapabilities
from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.risk.check import CHECKS
from tests.support.gateway import running
from tests.support.order_rig import FAST, Rig, seed
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until

D = Decimal
DOCS = (Path(__file__).resolve().parents[4] / "docs" / "api.md").read_text()
#: checked, and never the answer to a request: while one of them holds, signals wait for the order manager in charge
HELD = frozenset({Code.NOT_LEADER, Code.JOURNAL_DOWN})
#: needs a week of stored bars of two symbols: tests/contract/trading/order_manager/test_limits.py provokes it
WITH_HISTORY = frozenset({Code.EXPOSURE_CORRELATED})
#: needs an account at NinjaTrader with rules of a prop firm: tests/unit/trading/prop_rules/test_gate.py provokes them
WITH_RULES = frozenset(code for code in Code if code.value.startswith("PROP_"))
#: needs a key that was stored and has got more rights since: tests/contract/trading/order_manager/test_stored_keys.py
WITH_KEYS = frozenset({Code.KEY_MAY_WITHDRAW})
#: needs a venue from a package with real money: tests/contract/trading/order_manager/test_venue_stage.py
WITH_PLUGINS = frozenset({Code.VENUE_STAGE})
#: a program's sale of too much is denied BALANCE; a person's: tests/unit/trading/risk/test_checks.py
OF_PERSONS = frozenset({Code.SHORT_FORBIDDEN})
MARKET = {"symbol": "BTCUSDT", "side": "buy", "type": "market", "quantity": "1", "venue": "ccxt"}
LIMIT = {**MARKET, "type": "limit", "price": "99"}


class Limited(ScriptedVenue):
    """A venue whose rate limit is reached."""

    def wait_s(self) -> float:
        return 30.0


class Skewed(ScriptedVenue):
    """A venue whose clock is far from ours."""

    async def skew_ms(self) -> float:
        return 5000.0


def stopless() -> ScriptedVenue:
    venue = ScriptedVenue()
    types = frozenset({OrderType.MARKET, OrderType.LIMIT})
    venue.capabilities = VenueCapabilities(types, frozenset(TimeInForce), has_oco=False)
    return venue


def away(*methods: str) -> ScriptedVenue:
    venue = ScriptedVenue()
    venue.outages.update(dict.fromkeys(methods, 1_000_000))
    return venue


@dataclass
class Outside:
    """The means of a caller: a client of the gateway; the venue and the rig are for making trouble."""

    client: httpx.AsyncClient
    rig: Rig
    number: int = 0

    async def post(self, **body: Any) -> tuple[int, dict[str, Any]]:
        self.number += 1
        answer = await self.client.post("/orders", json=MARKET | body, headers={"Idempotency-Key": f"k{self.number}"})
        return answer.status_code, answer.json()

    async def is_denied(self, code: str, **body: Any) -> None:
        status, answer = await self.post(**body)
        assert (status, answer["code"]) == (422, code), answer
        assert answer["detail"]

    async def becomes_denied(self, code: str, push: Callable[[], None] | None = None, **body: Any) -> None:
        """Ask until the order manager has noticed; `push` notifies it each time."""

        async def found() -> bool:
            if push is not None:
                push()
            status, answer = await self.post(**body)
            return (status, answer.get("code")) == (422, code)

        await until(found, every_s=0.2)

    async def signal_is_denied(self, code: str, **changes: Any) -> None:
        """Send a strategy's signal, for a denial that no person's order meets."""
        outcome = await self.rig.outcome(await self.rig.signal(**changes), deadline_s=15.0)
        assert outcome == ("denied", code)


Open = Callable[..., Any]


@pytest.fixture
def outside(database: Database, bus: Bus, database_url: str, redis_url: str, tmp_path: Path) -> Open:
    """Open the system as callers see it: settings of risk, SQL before the order manager starts, a venue."""

    @asynccontextmanager
    async def opened(
        *sql: str,
        venue: ScriptedVenue | None = None,
        is_ready: bool = True,
        sweep_s: float = 0.5,
        disk_free_min_mb: int = 1,
        rest_url: str | None = None,
        **risk: Any,
    ) -> AsyncIterator[Outside]:
        await seed(database, pyramiding=1)
        for statement in sql:
            await database.sql(statement)
        settings: Settings = FAST.model_copy(
            update={
                "risk": FAST.risk.model_copy(update=risk),
                "venue": FAST.venue.model_copy(
                    update={"sweep_s": sweep_s, "rest_url": rest_url, "api_key": SecretStr("k")}
                ),
                "monitor": FAST.monitor.model_copy(update={"disk_free_min_mb": disk_free_min_mb}),
            }
        )
        rig = Rig(database, bus, venue or ScriptedVenue(), settings=settings)
        await rig.start(wait_ready=is_ready)
        try:
            served = running(database, database_url, redis_url, tmp_path, http={"order_wait_s": 5.0})
            async with served as gateway, gateway.client("trade") as client:
                yield Outside(client, rig)
        finally:
            await rig.stop()

    return opened


async def test_the_order_itself_and_what_it_would_lead_to(outside: Open) -> None:
    limits = {"notional_max_order": D(2000), "exposure_max_instrument": D(1500), "exposure_max_account": D(2500)}
    async with outside(
        "UPDATE instruments SET qty_min = 0.01, qty_max = 50 WHERE symbol = 'BTCUSDT'", sweep_s=3600.0, **limits
    ) as callers:
        await callers.is_denied("PRICE_TICK", type="limit", price="99.999")
        await callers.is_denied("PRICE_BAND", type="limit", price="50")
        await callers.is_denied("STOP_WRONG_SIDE", stop_loss="120")
        await callers.is_denied("QTY_STEP", quantity="0.0105")
        await callers.is_denied("QTY_MIN", quantity="0.005")
        await callers.is_denied("QTY_MAX", quantity="51")
        await callers.is_denied("NOTIONAL_MIN", quantity="0.02")
        await callers.is_denied("NOTIONAL_MAX_ORDER", quantity="21")
        await callers.is_denied("BALANCE", side="sell")
        await callers.is_denied("SIGNAL_EXPIRED", type="limit", price="99", valid_until="2026-01-01T00:00:00Z")
        await callers.is_denied("EXPOSURE_INSTRUMENT", quantity="16")
        await callers.is_denied("REDUCE_ONLY", reduce_only=True)
        assert (await callers.post(quantity="14"))[1]["state"] == "FILLED"
        await callers.is_denied("EXPOSURE_ACCOUNT", symbol="ETHUSDT", quantity="120")
        assert (await callers.post(side="sell", type="limit", price="105"))[1]["state"] == "WORKING"
        await callers.is_denied("SELF_TRADE", type="limit", price="106", quantity="0.1")
        venue = callers.rig.venue
        # after a fill the balances are read again, and what was pushed before that is forgotten
        held = BalancesSeen((Balance("BTC", D(50), D(0)), Balance("USDT", D(10000), D(0))))
        await callers.becomes_denied("BALANCE", lambda: venue.push(held), side="sell", quantity="14.5")
        venue.script.append("lost")
        venue.outages["query"] = 1_000_000
        lost = asyncio.create_task(callers.post(symbol="ETHUSDT", quantity="1"))
        await until(lambda: len(venue.script) == 0)
        await callers.becomes_denied("UNKNOWN_ORDER", symbol="ETHUSDT", quantity="1")
        lost.cancel()
        callers.rig.killed = True
        await callers.becomes_denied("KILLED")


async def test_what_the_venue_offers_and_how_many_orders(outside: Open) -> None:
    async with outside(venue=stopless(), orders_open_max=1, orders_per_minute=2) as callers:
        await callers.is_denied("TYPE_UNSUPPORTED", type="stop", stop_price="105")
        await callers.is_denied("NO_PROTECTION", stop_loss="90")
        for _ in range(2):
            answer = (await callers.post(**LIMIT))[1]
            assert answer["state"] == "WORKING"
            await callers.is_denied("ORDER_COUNT", **LIMIT)
            await callers.client.delete(f"/orders/{answer['id']}")
            await callers.rig.becomes(answer["client_order_id"], State.CANCELLED)
        await callers.becomes_denied("RATE_ACCOUNT", **LIMIT)


async def test_what_is_not_known_of_market_and_money(outside: Open) -> None:
    stale = "UPDATE feeds SET last_message_at = now() - interval '2 hours' WHERE symbol = 'BTCUSDT'"
    priceless = "UPDATE feeds SET last_price = NULL WHERE symbol = 'ETHUSDT'"
    other = (
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min, "
        "is_trading, updated_at)"
        " VALUES ('binance', 'XRPUSDT', 'XRP', 'USDT', 0.01, 1, 1, 1000, 1, false, now()),"
        " ('binance', 'ADAUSDT', 'ADA', 'USDT', 0.01, 1, 1, 1000, 1, true, now() - interval '25 hours')"
    )
    async with outside(stale, priceless, other) as callers:
        await callers.is_denied("FEED_STALE")
        await callers.is_denied("PRICE_MISSING", symbol="ETHUSDT")
        await callers.is_denied("INSTRUMENT_HALTED", symbol="XRPUSDT")
        await callers.is_denied("INSTRUMENT_UNKNOWN", symbol="ADAUSDT")


async def test_strategies_alone(outside: Open) -> None:
    sql = (
        "UPDATE strategy_instances SET is_enabled = false WHERE id = 'two'",
        "INSERT INTO strategy_instances (id, strategy, exchange, symbol, timeframe, account_id, venue, size, state)"
        " VALUES ('three', 'sma_cross', 'binance', 'BTCUSDT', '1m', 1, 'ccxt', 1000, 'CRASHED')",
    )
    async with outside(*sql) as callers:
        await callers.signal_is_denied("STRATEGY_DISABLED", instance="two", source="strategy:two")
        await callers.signal_is_denied("STRATEGY_CRASHED", instance="three", source="strategy:three")
        await callers.signal_is_denied("NO_POSITION", is_add=True)
        assert (await callers.rig.outcome(await callers.rig.signal()))[0] == "ordered"
        await callers.signal_is_denied("PYRAMIDING")


async def test_order_for_an_account_without_venue_session(outside: Open) -> None:
    async with outside("UPDATE accounts SET is_enabled = false WHERE name = 'main'") as callers:
        assert (await callers.post())[1]["code"] == "ACCOUNT_UNKNOWN"  # 404: callers cannot name it
        await callers.signal_is_denied("ACCOUNT_UNKNOWN")
        await callers.is_denied("ACCOUNT_UNKNOWN", venue="paper")  # an account of a venue that is not configured


async def test_an_asset_that_does_not_add_up(outside: Open) -> None:
    drift = (
        "INSERT INTO incidents (account_id, kind, subject, detail) VALUES (1, 'drift', 'BTC', '1 BTC less than "
        "expected')"
    )
    async with outside(drift) as callers:
        await callers.becomes_denied("INCIDENT_OPEN")


async def test_watched_over_and_in_order(outside: Open) -> None:
    async with outside() as callers:
        await callers.rig.db.sql(
            "INSERT INTO actor_events (child, event, reason) VALUES ('orders', 'escalated', 'too many deaths')"
        )
        await callers.becomes_denied("ESCALATED")
        await callers.rig.db.sql("INSERT INTO actor_events (child, event) VALUES ('orders', 'cleared')")
        await callers.rig.db.sql("UPDATE leases SET updated_at = now() - interval '1 hour' WHERE name = 'guardian'")
        await callers.becomes_denied("GUARDIAN_DOWN")


async def test_the_days_loss(outside: Open) -> None:
    loss = "INSERT INTO day_losses (account_id, day_start, loss) VALUES (1, date_trunc('day', now(), 'UTC'), 10000)"
    async with outside(loss) as callers:
        await callers.is_denied("LOSS_DAY")


async def test_a_request_that_waited_too_long(outside: Open) -> None:
    async with outside(request_age_max_s=0.2) as callers:
        callers.rig.lease.is_held = False
        waiting = asyncio.create_task(callers.is_denied("STALE_DECISION"))

        async def is_old() -> Any:
            return await callers.rig.db.sql("SELECT 1 FROM signals WHERE ts_event < now() - interval '0.3 s'")

        await until(is_old)
        callers.rig.lease.is_held = True
        await waiting


async def test_a_clock_that_is_wrong(outside: Open) -> None:
    async with outside(venue=Skewed()) as callers:
        await callers.is_denied("CLOCK_SKEW")


async def test_order_while_the_venue_rate_limit_is_used_up(outside: Open) -> None:
    async with outside(venue=Limited()) as callers:
        await callers.is_denied("RATE_VENUE")


async def test_a_venue_that_answers_no_question(outside: Open) -> None:
    async with outside(venue=away("open_orders"), is_ready=False) as callers:
        await callers.becomes_denied("VENUE_NOT_RECONCILED")


async def test_a_venue_that_is_away(outside: Open) -> None:
    async with outside() as callers:
        callers.rig.venue.outages["open_orders"] = 1_000_000
        callers.rig.venue.lose_session()
        await callers.becomes_denied("VENUE_DOWN")


async def test_a_venue_that_a_person_disabled(outside: Open) -> None:
    async with outside("INSERT INTO venues (name, is_enabled, updated_by) VALUES ('ccxt', false, 'ann')") as callers:
        await callers.is_denied("VENUE_DISABLED")


async def test_a_venue_over_plain_http(outside: Open) -> None:
    async with outside(rest_url="http://gate.example") as callers:
        await callers.is_denied("VENUE_PLAINTEXT")


PORTFOLIO = (
    "INSERT INTO portfolios (id, name, base_currency) OVERRIDING SYSTEM VALUE VALUES (1, 'main', 'USDT')",
    "INSERT INTO portfolio_members (portfolio_id, account_id, instance_id) VALUES ({member})",
    "INSERT INTO portfolio_limits (portfolio_id, kind, value, age_max_s, observed, measured_at)"
    " VALUES (1, 'gross_exposure', 1000, 900, {observed}, now() - interval '{age}')",
)


@pytest.mark.parametrize(("observed", "age"), [("950", "1 second"), ("10", "901 seconds"), ("NULL", "1 second")])
async def test_a_limit_of_the_portfolio(outside: Open, observed: str, age: str) -> None:
    """It is reached with the entry, measured too long ago, or not known: entries are denied, exits are not."""
    rows = [text.format(member="1, 1, NULL", observed=observed, age=age) for text in PORTFOLIO]
    async with outside(*rows) as callers:
        await callers.is_denied("PORTFOLIO_LIMIT")
        status, answer = await callers.post(side="sell", is_reduce_only=True)
        assert answer.get("code") != "PORTFOLIO_LIMIT", (status, answer)


async def test_a_limit_of_an_instance_is_not_the_accounts(outside: Open) -> None:
    rows = [text.format(member="1, NULL, 'one'", observed="5000", age="1 second") for text in PORTFOLIO]
    async with outside(*rows) as callers:
        await callers.signal_is_denied("PORTFOLIO_LIMIT")
        status, answer = await callers.post()
        assert (status, answer.get("code")) != (422, "PORTFOLIO_LIMIT"), answer


async def test_a_disk_with_too_little_space(outside: Open) -> None:
    async with outside(disk_free_min_mb=10**9) as callers:
        await callers.becomes_denied("DISK_FULL")


async def test_a_request_waits_while_no_order_manager_is_in_charge(outside: Open) -> None:
    """NOT_LEADER denies nothing: the request keeps its place and is ordered by the one that holds the lease."""
    async with outside() as callers:
        callers.rig.lease.is_held = False
        waiting = asyncio.create_task(callers.post())

        async def is_ready() -> Any:
            return await callers.rig.db.sql("SELECT 1 FROM signals WHERE state = 'ready'")

        await until(is_ready)
        assert callers.rig.venue.received == []
        assert not waiting.done()
        callers.rig.lease.is_held = True
        status, answer = await waiting
        assert (status, answer["state"]) == (202, "FILLED"), answer


def test_every_checked_code_is_provoked_here_and_in_the_docs() -> None:
    text = Path(__file__).read_text()
    provoked = {code for code, _ in CHECKS if f'denied("{code.value}"' in text or f'("denied", "{code.value}")' in text}
    elsewhere = HELD | WITH_HISTORY | WITH_RULES | WITH_KEYS | WITH_PLUGINS | OF_PERSONS
    assert {code for code, _ in CHECKS} - provoked - elsewhere == set()
    assert not [code for code, _ in CHECKS if f"| `{code.value}` |" not in DOCS]
