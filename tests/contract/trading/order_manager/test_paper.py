"""Paper: fed sealed bars in order, filled by the written rule, rebuilt from the journal (G6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from fks.clock import RealClock
from fks.config.settings import Paper, Settings, Sim
from fks.model import ids
from fks.model.bar import Bars
from fks.model.margin import Margin
from fks.model.order import OrderType, Outcome, Side, State
from fks.model.signal import Kind
from fks.model.timeframe import NS, iso, to_datetime
from fks.research.backtest import Setup
from fks.research.backtest.limits import AccountHolding, DecidedEntry, TapeChecks
from fks.research.jobs.schedule import write_journal
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.signals import SignalStore
from fks.trading.matching import CostModel
from fks.trading.venues.paper import PaperVenue
from tests.support.backtests import run
from tests.support.given import Given
from tests.support.order_rig import FAST, Rig, seed, signal_of
from tests.support.order_values import an_instrument, an_order
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until

D = Decimal
START = 1_767_225_600 * NS
MINUTE = 60 * NS
STRICT = FAST.model_copy(update={"sim": Sim(fills="tape")})
BARS_LIVE = FAST.model_copy(update={"paper": Paper(fills="bars")})
#: open, high, low, close of minutes 0 to 9
BARS = [
    (100, 101, 99, 100),
    (100, 102, 99, 101),
    (101, 103, 100, 102),
    (102, 104, 101, 103),
    (103, 105, 102, 104),
    (104, 106, 103, 105),
    (105, 107, 104, 106),
    (106, 108, 105, 107),
    (107, 109, 80, 90),
    (90, 95, 85, 92),
]


def a_paper(mode: str = "bar") -> PaperVenue:
    return PaperVenue((), CostModel(D("0.001"), "received"), {}, RealClock(), mode=mode)  # type: ignore[arg-type]


async def on_paper(
    database: Database,
    bus: Bus,
    settings: Settings,
    venue: PaperVenue,
    *,
    sizing: str = "notional",
    size: object = 1000,
) -> Rig:
    """Return a rig on paper with one instance on 1m bars."""
    await seed(database, instances=())
    await database.sql(
        "INSERT INTO strategy_instances (id, strategy, exchange, symbol, timeframe, account_id, venue, sizing, size)"
        " VALUES ('one', 'sma_cross', 'binance', 'BTCUSDT', '1m', 2, 'paper', $1, $2::text::numeric)",
        sizing,
        str(size),
    )
    return Rig(database, bus, ScriptedVenue(), settings=settings, venues={"paper": venue})


@pytest.fixture
async def paper(database: Database, bus: Bus) -> AsyncIterator[Rig]:
    """A rig on paper in the strict order of a tape, one instance on 1m bars."""
    rig = await on_paper(database, bus, STRICT, a_paper())
    yield rig
    if rig.task is not None:
        await rig.stop()


async def seal(rig: Rig, count: int) -> None:
    """Have the first `count` bars sealed."""
    for number, (open_, high, low, close) in enumerate(BARS[:count]):
        await rig.db.sql(
            "INSERT INTO ohlcv_data (time, symbol, timeframe, open, high, low, close, volume) VALUES"
            " ($1, 'BTCUSDT', '1m', $2, $3, $4, $5, 1) ON CONFLICT DO NOTHING",
            to_datetime(START + number * MINUTE),
            *(float(value) for value in (open_, high, low, close)),
        )
    await rig.db.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, sealed_through) VALUES ('binance', 'BTCUSDT', '1m', $1)"
        " ON CONFLICT (exchange, symbol, timeframe) DO UPDATE SET sealed_through = excluded.sealed_through",
        to_datetime(START + (count - 1) * MINUTE),
    )
    await rig.bus.publish("fks.bars", {"type": "bar"})


async def decide(rig: Rig, bar: int, kind: Kind | None = None, **changes: Any) -> Any:
    """Let the strategy have decided on a bar: perhaps a signal, and its cursor."""
    signal = None
    if kind is not None:
        signal = await rig.signal(
            kind,
            account_id=2,
            venue="paper",
            ts_event_ns=START + bar * MINUTE,
            reference_price=D(BARS[bar][3]),
            **changes,
        )
    await rig.db.sql("UPDATE strategy_instances SET cursor_time = $1", to_datetime(START + bar * MINUTE))
    return signal


async def fills(rig: Rig) -> Sequence[tuple[int, str, Decimal]]:
    rows = await rig.db.sql("SELECT time, trade_type, price FROM trades ORDER BY id")
    return [(int((row["time"].timestamp() * NS - START) // MINUTE), row["trade_type"], row["price"]) for row in rows]


async def filled(rig: Rig, count: int) -> Sequence[tuple[int, str, Decimal]]:
    async def enough() -> Sequence[tuple[int, str, Decimal]] | None:
        found = await fills(rig)
        return found if len(found) >= count else None

    return await until(enough)  # type: ignore[return-value]


async def test_decisions_fill_at_the_next_open_of_a_complete_tape(paper: Rig) -> None:
    await seal(paper, 10)
    await decide(paper, 2, Kind.ENTER)
    await paper.start()
    assert await filled(paper, 1) == [(3, "BUY", D(102))]
    await decide(paper, 4)
    await decide(paper, 5, Kind.EXIT)
    assert await filled(paper, 2) == [(3, "BUY", D(102)), (6, "SELL", D(105))]
    assert await paper.position() < D("0.001")


@pytest.mark.parametrize(
    ("sizing", "size", "changes", "bought"),
    [
        ("equity_pct", 2, {}, "19.607"),  # 2 % of 100,000 at 102
        ("equity_pct", 150, {}, "980.392"),  # all of 100,000 at 102
        ("risk_pct", 1, {"stop_loss": D(52)}, "20"),  # 1 % of 100,000 over a distance of 50
        ("atr_pct:3", 1, {"volatility": D(80)}, "12.5"),
        ("risk_pct", 1, {}, "NO_PROTECTION"),
        ("atr_pct:3", 1, {}, "PRICE_MISSING"),
    ],
)
async def test_the_equity_of_the_account_sizes_an_entry(
    paper: Rig, sizing: str, size: int, changes: dict[str, Any], bought: str
) -> None:
    await paper.db.sql("UPDATE strategy_instances SET sizing = $1, size = $2", sizing, size)
    await seal(paper, 10)
    await paper.start()
    signal = await decide(paper, 2, Kind.ENTER, **changes)
    state, code = await paper.outcome(signal)
    if bought in ("NO_PROTECTION", "PRICE_MISSING"):
        assert (state, code) == ("denied", bought)
        return
    (row,) = await paper.db.sql("SELECT quantity FROM orders WHERE role = 'entry'")
    assert row["quantity"] == D(bought)


@pytest.mark.parametrize(("slippage", "ended"), [("none", ("FILLED", None)), ("0.5 range", ("EXPIRED", "BALANCE"))])
async def test_an_entry_of_all_the_equity_leaves_its_fee(
    database: Database, bus: Bus, slippage: str, ended: tuple[str, str | None]
) -> None:
    """979.412 is 100,000 / 102.102. Slippage by the range of the next bar is not known when that is decided."""
    costs = STRICT.costs.model_copy(update={"fee_in": "quote", "slippage": slippage})
    risk = STRICT.risk.model_copy(update={"notional_max_order": D(200_000)})
    settings = STRICT.model_copy(update={"costs": costs, "risk": risk})
    venue = PaperVenue((), CostModel.of(settings.costs), {}, RealClock(), mode="bar")
    rig = await on_paper(database, bus, settings, venue, sizing="equity_pct", size=100)
    await seal(rig, 10)
    await decide(rig, 2, Kind.ENTER)
    await rig.start()
    try:

        async def over() -> Any:
            return await rig.db.sql("SELECT quantity, state, code FROM orders WHERE state IN ('FILLED', 'EXPIRED')")

        (row,) = await until(over)
    finally:
        await rig.stop()
    times = START + np.arange(10, dtype=np.int64) * MINUTE
    bars = Bars("BTCUSDT", "1m", times, *np.array(BARS, dtype=float).T, np.ones(10))
    setup = Setup(an_instrument(), CostModel.of(costs), "equity_pct", D(100), D(100_000), limits=risk)
    tested = run(Given(target=(0.0, 0.0, *(1.0,) * 8)), bars, setup)
    assert (row["quantity"], row["state"], row["code"]) == (D("979.412"), *ended)
    assert [fill.quantity for fill in tested.fills] == [row["quantity"]] * (ended[0] == "FILLED")
    assert [denied.code for denied in tested.denied] == [ended[1]] * (ended[0] == "EXPIRED")


async def test_a_reversal_is_sized_by_the_equity_before_its_exit(database: Database, bus: Bus) -> None:
    """The exit of a short is slipped by half of the range of a bar that the decision did not know."""
    costs = STRICT.costs.model_copy(update={"fee_in": "quote", "slippage": "0.5 range"})
    settings = STRICT.model_copy(
        update={"costs": costs, "risk": STRICT.risk.model_copy(update={"exposure_max_instrument": D(10**6)})}
    )
    venue = PaperVenue((), CostModel.of(costs), {}, RealClock(), mode="bar", margin=Margin(), can_short=True)
    rig = await on_paper(database, bus, settings, venue, sizing="equity_pct", size=40)
    await seal(rig, 10)
    await rig.start()
    try:
        await decide(rig, 2, Kind.ENTER, side=Side.SELL)
        await filled(rig, 1)
        bar = {"account_id": 2, "venue": "paper", "ts_event_ns": START + 5 * MINUTE, "reference_price": D(105)}
        trace_id = ids.trace_id("BTCUSDT", "1m", START + 5 * MINUTE)
        turned = [
            signal_of(Kind.EXIT, **bar),
            signal_of(Kind.ENTER, side=Side.BUY, ordinal=1, trace_id=trace_id, **bar),
        ]
        await SignalStore(rig.db).insert(turned)  # at once, as a strategy's worker commits the signals of a bar
        await decide(rig, 5)
        await filled(rig, 3)
        rows = await rig.db.sql("SELECT trade_type, quantity, price FROM trades ORDER BY id")
    finally:
        await rig.stop()
    times = START + np.arange(10, dtype=np.int64) * MINUTE
    bars = Bars("BTCUSDT", "1m", times, *np.array(BARS, dtype=float).T, np.ones(10))
    setup = Setup(an_instrument(), CostModel.of(costs), "equity_pct", D(40), D(100_000), can_short=True)
    tested = run(Given(target=(0.0, 0.0, -1.0, -1.0, -1.0, *(1.0,) * 5)), bars, setup)
    traded = [(row["trade_type"].lower(), row["quantity"], row["price"]) for row in rows]
    assert traded == [(fill.side.value, fill.quantity, fill.price) for fill in tested.fills]
    # 40 % of 98,195.88 at 105: the exit and its fee took 630 more
    assert [quantity for _, quantity, _ in traded] == [D("392.156"), D("392.156"), D("374.079")]


@pytest.mark.parametrize("fee_in", ["received", "quote"])
async def test_a_stop_is_checked_without_the_fee_as_in_a_backtest(database: Database, bus: Bus, fee_in: str) -> None:
    """0.05 at a stop of 101 is 5.05; a fee in base leaves 0.049, and 4.949 is below the least notional."""
    settings = STRICT.model_copy(update={"costs": STRICT.costs.model_copy(update={"fee_in": fee_in})})
    venue = PaperVenue((), CostModel.of(settings.costs), {}, RealClock(), mode="bar")
    rig = await on_paper(database, bus, settings, venue, sizing="quantity", size="0.05")
    await seal(rig, 10)
    await rig.start()
    try:
        outcome = await rig.outcome(await decide(rig, 2, Kind.ENTER, stop_loss=D(101)))
    finally:
        await rig.stop()
    times = START + np.arange(10, dtype=np.int64) * MINUTE
    bars = Bars("BTCUSDT", "1m", times, *np.array(BARS, dtype=float).T, np.ones(10))
    checks = TapeChecks(bars, Setup(an_instrument(), CostModel.of(settings.costs)))
    entry = DecidedEntry(2, Side.BUY, D("0.05"), D(102), (D(101), None))
    refused = checks.refusal(entry, AccountHolding(D(0), D(1000), (), ()))
    assert (refused and refused.code) == outcome[1]
    assert outcome == (("denied", "NO_PROTECTION") if fee_in == "received" else ("ordered", None))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"type": OrderType.LIMIT, "limit_price": D(93)}, [(8, "BUY", D(93))]),
        ({"type": OrderType.STOP, "stop_price": D("104.5")}, [(4, "BUY", D("104.5"))]),
        (
            {"type": OrderType.LIMIT, "limit_price": D(93), "stop_loss": D("92.5")},
            [(8, "BUY", D(93)), (8, "SELL", D("92.5"))],
        ),
        (
            {"type": OrderType.LIMIT, "limit_price": D(93), "take_profit": D(94)},
            [(8, "BUY", D(93)), (9, "SELL", D(94))],
        ),
    ],
)
async def test_an_entry_rests_for_longer_than_its_decision_may_wait(
    paper: Rig, changes: dict[str, Any], expected: list[tuple[int, str, Decimal]]
) -> None:
    await seal(paper, 10)
    await decide(paper, 2, Kind.ENTER, valid_until_ns=paper.clock.now_ns() + 60 * NS, **changes)
    await paper.start()
    for bar in range(3, 10):
        await decide(paper, bar)
    assert await filled(paper, len(expected)) == expected
    (order,) = await paper.db.sql("SELECT valid_until FROM orders WHERE role = 'entry'")
    assert order["valid_until"] is None


async def test_an_entry_ends_by_itself_when_its_bars_are_over(paper: Rig) -> None:
    """No worker decides: the end of the order's bars is in the signal."""
    await seal(paper, 10)
    await paper.start()
    ends_ns = paper.clock.now_ns() + 3 * NS
    entry = await decide(paper, 2, Kind.ENTER, type=OrderType.LIMIT, limit_price=D(93), rests_until_ns=ends_ns)
    assert await paper.outcome(entry) == ("ordered", None)

    async def ended() -> bool:
        rows = await paper.db.sql("SELECT state FROM orders WHERE role = 'entry'")
        return [row["state"] for row in rows] == ["CANCELLED"]

    await until(ended, deadline_s=20)


async def test_an_exit_ends_an_entry_that_rests(paper: Rig) -> None:
    await seal(paper, 10)
    entry = await decide(paper, 2, Kind.ENTER, type=OrderType.LIMIT, limit_price=D(93))
    await paper.start()
    assert (await paper.outcome(entry))[0] == "ordered"
    out = await decide(paper, 4, Kind.EXIT)
    assert (await paper.outcome(out))[0] in ("nothing", "ordered")
    for bar in range(5, 10):
        await decide(paper, bar)

    async def ended() -> bool:
        rows = await paper.db.sql("SELECT state FROM orders WHERE role = 'entry'")
        return [row["state"] for row in rows] == ["CANCELLED"]

    await until(ended)
    assert await fills(paper) == []


async def test_a_stop_is_matched_from_its_entrys_bar_on(paper: Rig) -> None:
    await seal(paper, 10)
    await decide(paper, 7, Kind.ENTER, stop_loss=D(95))
    await paper.start()
    assert await filled(paper, 2) == [(8, "BUY", D(107)), (8, "SELL", D(95))]
    out = await decide(paper, 8, Kind.EXIT)
    assert await paper.outcome(out) == ("nothing", None)


async def test_a_resting_protection_survives_a_restart_and_fills_after_it(paper: Rig) -> None:
    await seal(paper, 4)
    await decide(paper, 2, Kind.ENTER, stop_loss=D(95), take_profit=D("200"))
    await paper.start()
    await filled(paper, 1)
    await until(
        lambda: paper.service.cache.counts()["ACCEPTED"] == paper.service.cache.counts()["WORKING"] == 1
    )  # both legs
    await paper.restart(venues={"paper": a_paper()})
    await decide(paper, 9)
    await seal(paper, 10)
    assert (await filled(paper, 2))[1] == (8, "SELL", D(95))
    assert await paper.position() < D("0.001")
    rows = await paper.db.sql("SELECT state FROM orders WHERE role = 'tp'")
    assert rows[0]["state"] in ("EXPIRED", "CANCELLED")


async def test_order_on_its_way_at_a_restart_never_arrived_and_a_stop_is_placed_again(paper: Rig) -> None:
    """Its book died with the process, so that the one answer "not found" proves it, at an exchange's usual waits."""
    paper.settings = STRICT.model_copy(update={"venue": Settings().venue})
    await seal(paper, 4)
    await decide(paper, 2, Kind.ENTER, stop_loss=D(95))
    await paper.start()
    await filled(paper, 1)
    await until(lambda: paper.service.cache.counts()["ACCEPTED"] == 1)
    await paper.crash()
    await paper.db.sql(
        "UPDATE orders SET state = 'SENDING', venue_order_id = NULL, is_acknowledged = false WHERE role = 'sl'"
    )
    paper.venues = {"paper": a_paper()}
    await paper.start()

    async def states() -> bool:
        rows = await paper.db.sql("SELECT state FROM orders WHERE role = 'sl' ORDER BY created_at")
        return [row["state"] for row in rows] == ["ABSENT", "ACCEPTED"]

    await until(states, deadline_s=Settings().venue.absent_age_s / 2)


async def test_a_stop_placed_again_after_a_kill_meets_the_bar_of_the_close(paper: Rig) -> None:
    """A part was closed in bar 8, which came down to 80; the process was killed between the cancel of the stop and its
    successor at 95, and the strategy has read bar 9 before it is back."""
    await seal(paper, 9)
    await decide(paper, 2, Kind.ENTER, stop_loss=D(70))
    await paper.start()
    await filled(paper, 1)
    await decide(paper, 7, Kind.EXIT, size_share=D("0.5"))
    assert (await filled(paper, 2))[1] == (8, "SELL", D(107))

    async def states() -> bool:
        rows = await paper.db.sql("SELECT state FROM orders WHERE role = 'sl' ORDER BY attempt")
        return [row["state"] for row in rows] == ["CANCELLED", "ACCEPTED"]

    await until(states)
    await paper.crash()
    await paper.db.sql("UPDATE orders SET state = 'CANCELLED' WHERE role = 'sl'")
    await paper.db.sql("UPDATE orders SET stop_loss = 95 WHERE role = 'entry'")
    await seal(paper, 10)
    await decide(paper, 9)
    paper.venues = {"paper": a_paper()}
    await paper.start()
    assert (await filled(paper, 3))[2] == (8, "SELL", D(95))


async def test_balances_are_those_of_the_journal_after_a_restart(paper: Rig) -> None:
    await seal(paper, 4)
    await decide(paper, 2, Kind.ENTER)
    await paper.start()
    await filled(paper, 1)
    before = await paper.venues["paper"].balances()  # type: ignore[index]
    await paper.restart(venues={"paper": a_paper()})
    assert await paper.venues["paper"].balances() == before  # type: ignore[index]
    assert before["USDT"].total == D(100000) - D("9.803") * 102
    assert await paper.position("external") == 0


async def test_in_live_mode_a_market_order_fills_at_once_at_the_last_price(database: Database, bus: Bus) -> None:
    rig = await on_paper(database, bus, BARS_LIVE, a_paper("last"))
    await seal(rig, 4)
    try:
        await rig.start()
        signal = await rig.signal(account_id=2, venue="paper")
        assert await rig.outcome(signal) == ("ordered", None)
        done = await rig.becomes((await rig.entry(signal)).client_order_id, State.FILLED)
        assert done.average_price == D(103)
    finally:
        await rig.stop()


async def test_first_order_without_bars_of_its_own_fills_on_a_fresh_system(database: Database, bus: Bus) -> None:
    """A person's or a portfolio's, in a symbol that no instance trades and whose instrument came after the start."""
    await seed(database, instances=())
    await database.sql("CREATE TABLE instruments_later AS SELECT * FROM instruments")
    await database.sql("DELETE FROM instruments")
    minutes = BARS_LIVE.model_copy(update={"data": BARS_LIVE.data.model_copy(update={"timeframes": ("1m",)})})
    rig = Rig(database, bus, ScriptedVenue(), settings=minutes, venues={"paper": a_paper("last")})
    await seal(rig, 4)
    try:
        await rig.start()
        await database.sql("INSERT INTO instruments SELECT * FROM instruments_later")
        signal = await buy(rig)
        assert await rig.outcome(signal) == ("ordered", None)
        done = await rig.becomes((await rig.entry(signal)).client_order_id, State.FILLED)
        assert done.average_price == D(103)
    finally:
        await rig.stop()
        await database.sql("DROP TABLE instruments_later")


async def test_a_position_without_orders_or_an_instance_is_closed_by_force(database: Database, bus: Bus) -> None:
    """A person's, on sealed bars: it meets them, also after a restart."""
    await seed(database, instances=())
    await database.sql("UPDATE accounts SET initial_balance = 30 WHERE id = 2")
    minutes = BARS_LIVE.model_copy(update={"data": BARS_LIVE.data.model_copy(update={"timeframes": ("1m",)})})

    def margin() -> PaperVenue:
        costs, rule = CostModel(D(0), "quote"), Margin.parse("0.1/0.05")
        return PaperVenue((), costs, {}, RealClock(), mode="last", margin=rule)

    rig = Rig(database, bus, ScriptedVenue(), settings=minutes, venues={"paper": margin()})
    await seal(rig, 4)
    try:
        await rig.start()
        signal = await buy(rig)
        assert await rig.outcome(signal) == ("ordered", None)
        await rig.becomes((await rig.entry(signal)).client_order_id, State.FILLED)
        await rig.restart(venues={"paper": margin()})
        await seal(rig, 9)
        assert [row["price"] for row in await until_filled(rig, 2)] == [103, 90]
    finally:
        await rig.stop()


async def test_an_order_that_its_answer_filled_shows_in_the_balances(database: Database, bus: Bus) -> None:
    """Within seconds, not at the next sweep: who plans with the account's cash would spend it twice."""
    rare = BARS_LIVE.model_copy(update={"venue": BARS_LIVE.venue.model_copy(update={"sweep_s": 3600.0})})
    rig = await on_paper(database, bus, rare, a_paper("last"))
    await seal(rig, 4)

    async def cash() -> Decimal:
        rows = await database.sql("SELECT free FROM balances WHERE account_id = 2 AND currency = 'USDT'")
        return rows[0]["free"] if rows else D(0)

    async def is_spent() -> bool:
        return D(0) < await cash() < D(99100)

    try:
        await rig.start()
        signal = await rig.signal(account_id=2, venue="paper")
        await rig.outcome(signal)
        await rig.becomes((await rig.entry(signal)).client_order_id, State.FILLED)
        await until(is_spent, deadline_s=10)
    finally:
        await rig.stop()


@pytest.mark.parametrize("wants_flat", [True, False])
async def test_a_kill_closes_on_paper_too_when_it_flattens(database: Database, bus: Bus, wants_flat: bool) -> None:
    rig = await on_paper(database, bus, BARS_LIVE, a_paper("last"))
    await seal(rig, 4)
    try:
        await rig.start()
        await rig.signal(account_id=2, venue="paper", reference_price=D(103), stop_loss=D(95), take_profit=D(120))
        await until(
            lambda: rig.service.cache.counts()["ACCEPTED"] == rig.service.cache.counts()["WORKING"] == 1
        )  # both legs
        if wants_flat:  # the guardian's file is ahead of the tables: the kill's id comes after its effect
            rig.killed = True
            await rig.bus.publish("fks.kill", {"type": "kill"})
            await until(lambda: not rig.service.cache.orders)
        await database.sql(
            "INSERT INTO kill_switch (kill_id, report) VALUES ('k', jsonb_build_object('flatten', $1::boolean))",
            wants_flat,
        )
        await rig.bus.publish("fks.kill", {"type": "kill"})
        await until(lambda: rig.service.cache.is_killed)
        if wants_flat:

            async def is_flat() -> bool:  # for a moment between the legs' end and the sale there is no order either
                return not rig.service.cache.orders and await rig.position() < D("0.001")

            await until(is_flat, deadline_s=8)
            await rig.restart(venues={"paper": a_paper("last")})
        rows = await database.sql("SELECT role, state FROM orders WHERE role <> 'entry' ORDER BY role")
        ended = [("kill", "FILLED"), ("sl", "CANCELLED"), ("tp", "CANCELLED")]
        assert [(row["role"], row["state"]) for row in rows] == (
            ended if wants_flat else [("sl", "ACCEPTED"), ("tp", "WORKING")]
        )
    finally:
        await rig.stop()


async def test_a_kill_of_a_venue_with_a_bridge_is_carried_out_here_and_a_whole_one_by_the_bridge(
    database: Database, bus: Bus
) -> None:
    """A bridge flattens all accounts of its group: of a kill of one of its venues it is not told."""
    await seed(database)
    await database.sql("UPDATE accounts SET venue = 'ninja' WHERE id = 1")
    venue = ScriptedVenue(name="ninja")
    rig = Rig(database, bus, venue)
    try:
        await rig.start()
        await rig.signal(venue="ninja", stop_loss=D(90))
        await until(lambda: rig.service.cache.counts()["ACCEPTED"] == 1)
        engage = "INSERT INTO kill_switch (kill_id, scope, report) VALUES ($1, $2, jsonb_build_object('flatten', true))"
        await database.sql(engage, "w", "system")
        await rig.bus.publish("fks.kill", {"type": "kill"})
        await until(lambda: rig.service.cache.is_killed)
        await asyncio.sleep(0.3)
        assert venue.cancelled == []
        await database.sql("UPDATE kill_switch SET is_engaged = false")
        await database.sql(engage, "v", "venue:ninja")
        await rig.bus.publish("fks.kill", {"type": "kill"})

        async def is_flat() -> bool:
            return await rig.position() < D("0.001")

        await until(is_flat, deadline_s=8)
        rows = await database.sql("SELECT role, state FROM orders WHERE role <> 'entry' ORDER BY role")
        assert [tuple(row) for row in rows] == [("kill", "FILLED"), ("sl", "CANCELLED")]
    finally:
        await rig.stop()


async def test_a_kill_of_a_strategy_on_paper_leaves_the_other_instance_its_position_and_stop(
    database: Database, bus: Bus
) -> None:
    await seed(database, instances=())
    await database.sql(
        "INSERT INTO strategy_instances (id, strategy, exchange, symbol, timeframe, account_id, venue, size)"
        " SELECT id, strategy, 'binance', 'BTCUSDT', '1m', 2, 'paper', 1000"
        "   FROM (VALUES ('one', 'sma_cross'), ('two', 'rsi')) AS made (id, strategy)"
    )
    rig = Rig(database, bus, ScriptedVenue(), settings=BARS_LIVE, venues={"paper": a_paper("last")})
    await seal(rig, 4)
    try:
        await rig.start()
        entry = {"account_id": 2, "venue": "paper", "reference_price": D(103), "stop_loss": D(95)}
        for instance in ("one", "two"):
            await rig.signal(instance=instance, source=f"strategy:{instance}", **entry)
        await until(lambda: rig.service.cache.counts()["ACCEPTED"] == 2)  # both stops
        two = await rig.position("two")
        await database.sql(
            """INSERT INTO kill_switch (kill_id, scope, report) VALUES ('k', 'strategy:sma_cross', '{"flatten": true}')"""
        )
        await rig.bus.publish("fks.kill", {"type": "kill"})

        async def is_flat() -> bool:
            return await rig.position("one") < D("0.001")

        await until(is_flat, deadline_s=8)
        denied = await rig.signal(instance="one", source="strategy:one", ordinal=1, **entry)
        assert await rig.outcome(denied) == ("denied", "KILLED")
        assert await rig.position("two") == two
        rows = await database.sql("SELECT instance, role, state FROM orders WHERE role <> 'entry' ORDER BY 1, 2")
        assert [tuple(row) for row in rows] == [
            ("one", "kill", "FILLED"),
            ("one", "sl", "CANCELLED"),
            ("two", "sl", "ACCEPTED"),
        ]
    finally:
        await rig.stop()


# ── trades and quotes ────────────────────────────────────────────────────────────────────────────
def a_live_paper(price_age_max_s: float = 15.0) -> PaperVenue:
    return PaperVenue(
        (), CostModel(D("0.001"), "received"), {}, RealClock(), mode="last", price_age_max_s=price_age_max_s
    )


@pytest.fixture
async def live(database: Database, bus: Bus) -> AsyncIterator[Rig]:
    """A rig on paper that meets trades as they come; no strategy instance."""
    await seed(database, instances=())
    rig = Rig(database, bus, ScriptedVenue(), venues={"paper": a_live_paper()})
    yield rig
    if rig.task is not None:
        await rig.stop()


async def buy(rig: Rig, **changes: Any) -> Any:
    """Let a person buy two on paper at the market."""
    values = {
        "account_id": 2,
        "venue": "paper",
        "source": "principal:me",
        "instance": "",
        "timeframe": None,
        "size": D(2),
    }
    return await rig.signal(Kind.ORDER, **(values | changes))


async def trade(rig: Rig, number: int, price: str, *, seconds: float = 0.0) -> None:
    """Let a public trade be stored, some seconds from now."""
    await rig.db.sql(
        "INSERT INTO market_trades (time, exchange, symbol, trade_id, price, quantity, is_buyer_maker) VALUES"
        " (now() + $3 * interval '1 second', 'binance', 'BTCUSDT', $1, $2::text::numeric, 1, false)",
        number,
        price,
        seconds,
    )


async def test_a_symbol_without_an_instance_is_filled_at_the_last_trade(live: Rig) -> None:
    await live.start()
    signal = await buy(live)
    assert await live.outcome(signal) == ("ordered", None)
    done = await live.becomes((await live.entry(signal)).client_order_id, State.FILLED)
    assert done.average_price == D(100)


async def test_a_stop_meets_every_stored_trade_in_its_order_and_each_once(live: Rig) -> None:
    await live.start()
    signal = await buy(live, stop_loss=D(95), take_profit=D(120))
    await live.outcome(signal)
    await until(
        lambda: live.service.cache.counts()["ACCEPTED"] == live.service.cache.counts()["WORKING"] == 1
    )  # both legs
    for number, price in enumerate(("99", "94.5", "121"), 1):
        await trade(live, number, price, seconds=number / 100)
    rows = await until_filled(live, 2)
    assert [(row["trade_type"], row["price"]) for row in rows] == [("BUY", D(100)), ("SELL", D("94.5"))]
    states = await live.db.sql("SELECT role, state FROM orders WHERE parent_id IS NOT NULL ORDER BY role")
    assert next((row["role"], row["state"]) for row in states) == ("sl", "FILLED")


async def until_filled(rig: Rig, count: int) -> Sequence[Any]:
    async def enough() -> Sequence[Any] | None:
        rows = await rig.db.sql("SELECT trade_type, price FROM trades ORDER BY id")
        return rows if len(rows) >= count else None

    return await until(enough)  # type: ignore[return-value]


async def test_a_kill_on_paper_puts_the_stop_back_while_no_price_is_young_enough(live: Rig) -> None:
    """A market order meets no price: the position has its stop until one is traded, and is then closed."""
    live.venues = {"paper": a_live_paper(price_age_max_s=1.5)}
    await live.start()
    await live.outcome(await buy(live, stop_loss=D(95)))
    await until(lambda: live.service.cache.counts()["ACCEPTED"] == 1)
    await asyncio.sleep(2.0)
    await live.db.sql("""INSERT INTO kill_switch (kill_id, report) VALUES ('k', '{"flatten": true}')""")
    await live.bus.publish("fks.kill", {"type": "kill"})

    async def orders() -> list[tuple[str, str, str | None]]:
        rows = await live.db.sql(
            "SELECT role, state, code FROM orders WHERE role IN ('kill', 'sl') ORDER BY created_at"
        )
        return [(row["role"], row["state"], row["code"]) for row in rows]

    async def is_back() -> bool:
        found = await orders()
        return ("kill", "REJECTED", "PRICE_MISSING") in found and found[-1][:2] == ("sl", "ACCEPTED")

    await until(is_back, deadline_s=8)
    await trade(live, 1, "101")
    rows = await until_filled(live, 2)
    assert [(row["trade_type"], row["price"]) for row in rows] == [("BUY", D(100)), ("SELL", D(101))]
    assert [state for role, state, _ in await orders() if role == "sl" and state != "CANCELLED"] == []


async def test_a_short_position_beyond_its_margin_is_closed_by_force_at_the_newest_price(live: Rig) -> None:
    """Ten times leverage: its stop ends, one page, the journal has the reason, and the rest opens no such position."""
    rules = {"margin": Margin.parse("0.1/0.05; fee 0.01"), "can_short": True, "mode": "last"}
    live.venues = {"paper": PaperVenue((), CostModel(D("0.001"), "quote"), {}, RealClock(), **rules)}  # type: ignore[arg-type]
    await live.db.sql("UPDATE accounts SET initial_balance = 30 WHERE id = 2")
    await live.start()
    signal = await buy(live, side=Side.SELL, stop_loss=D(150))
    assert await live.outcome(signal) == ("ordered", None)
    await until(lambda: live.service.cache.counts()["ACCEPTED"] == 1)
    await live.db.sql("UPDATE feeds SET last_price = 112, last_message_at = now()")
    await until_filled(live, 2)
    rows = await live.db.sql("SELECT trade_type, quantity, price, fee, instance, source FROM trades ORDER BY id")
    # of the value of 224: 0.001 and 0.01
    assert tuple(rows[1].values()) == ("BUY", D(2), D(112), D("2.464"), "", "liquidation")

    async def is_over() -> bool:
        states = [row["state"] for row in await live.db.sql("SELECT state FROM orders WHERE role = 'sl'")]
        alerts = await live.db.sql("SELECT severity FROM alerts WHERE event = 'fill.liquidation'")
        return states == ["EXPIRED"] and [one["severity"] for one in alerts] == ["page"]

    await until(is_over)
    assert await live.outcome(await buy(live)) == ("denied", "MARGIN")
    await write_journal(live.db, Settings(), RealClock().now_ns())
    (closed,) = await live.db.sql("SELECT exit_reason FROM journal_entries")
    assert closed["exit_reason"] == "liquidation"


async def test_a_forced_close_ends_positions_against_each_other(live: Rig) -> None:
    """The account held two: nothing is held after it, and no stop is placed for three against one."""
    rules = {"margin": Margin.parse("0.1/0.05"), "can_short": True, "mode": "last"}
    live.venues = {"paper": PaperVenue((), CostModel(D("0.001"), "quote"), {}, RealClock(), **rules)}  # type: ignore[arg-type]
    await live.db.sql("UPDATE accounts SET initial_balance = 60 WHERE id = 2")
    await live.start()
    for name, side, size, stop in (("one", Side.BUY, 3, 50), ("two", Side.SELL, 1, 150)):
        await live.db.sql(
            "INSERT INTO strategy_instances (id, strategy, exchange, symbol, timeframe, account_id, venue, size) VALUES"
            " ($1, 'sma_cross', 'binance', 'BTCUSDT', '1m', 2, 'paper', 1000)",
            name,
        )
        await live.service.refresh()
        changes = {"side": side, "size": D(size), "stop_loss": D(stop)}
        signal = await live.signal(account_id=2, venue="paper", instance=name, **changes)
        assert await live.outcome(signal) == ("ordered", None)
    await until(lambda: live.service.cache.counts()["ACCEPTED"] == 2)
    await live.db.sql("UPDATE feeds SET last_price = 72, last_message_at = now()")

    async def is_flat() -> bool:
        rows = await live.db.sql("SELECT instance FROM positions WHERE quantity <> 0")
        stops = await live.db.sql("SELECT state FROM orders WHERE role = 'sl'")
        return rows == [] and [row["state"] for row in stops] == ["EXPIRED", "EXPIRED"]

    await until(is_flat)
    rows = await live.db.sql("SELECT instance, realized_pnl, fees FROM positions ORDER BY instance")
    assert [tuple(row.values()) for row in rows] == [("one", D(-84), D("0.444")), ("two", D(28), D("0.1"))]


async def test_trades_of_a_downtime_trigger_what_rested(live: Rig) -> None:
    await live.start()
    await live.outcome(await buy(live, stop_loss=D(95)))
    await until(lambda: live.service.cache.counts()["ACCEPTED"] == 1)
    await live.crash()
    await trade(live, 1, "94", seconds=0.1)
    live.venues = {"paper": a_live_paper()}
    await live.start()
    rows = await until_filled(live, 2)
    assert rows[1]["price"] == D(94)


async def test_a_price_older_than_the_feed_limit_fills_nothing() -> None:
    clock = RealClock()
    venue = a_live_paper(price_age_max_s=1.0)
    venue.learn([an_instrument(symbol="BTCUSDT")])
    venue.restore((), (), {"USDT": D(10_000)})
    venue.on_price("BTCUSDT", D(100), at_ns=clock.now_ns() - 2 * NS)
    answer = await venue.submit(an_order(venue="paper", side=Side.BUY, quantity=D(1)))
    assert (answer.outcome, answer.code) == (Outcome.REFUSED, "PRICE_MISSING")
    venue.on_price("BTCUSDT", D(101), at_ns=clock.now_ns())
    answer = await venue.submit(an_order(venue="paper", side=Side.BUY, quantity=D(1), client_order_id="d" * 32))
    assert [fill.price for fill in answer.fills] == [D(101)]


async def test_quotes_fill_buys_at_the_ask_and_sells_at_the_bid(live: Rig) -> None:
    live.settings = FAST.model_copy(update={"paper": Paper(fills="quotes")})
    await live.start()
    now = iso(RealClock().now_ns())
    message = {
        "type": "quote",
        "exchange": "binance",
        "symbol": "BTCUSDT",
        "time": now,
        "received": now,
        "bid": "99",
        "bid_size": "1",
        "ask": "101",
        "ask_size": "1",
    }

    async def priced() -> bool:
        await live.bus.publish("fks.quotes", message)
        return await live.venues["paper"].last_price("BTCUSDT") == D(100)  # type: ignore[index]

    await until(priced)
    bought = await buy(live)
    await live.outcome(bought)
    assert (await live.becomes((await live.entry(bought)).client_order_id, State.FILLED)).average_price == D(101)
    sold = await buy(live, side=Side.SELL, size=D(1))
    await live.outcome(sold)
    assert (await live.becomes((await live.entry(sold)).client_order_id, State.FILLED)).average_price == D(99)
