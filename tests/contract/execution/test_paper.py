"""Paper: fed sealed bars in order, filled by the written rule, rebuilt from the journal (G6)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

import pytest

from fks.clock import RealClock
from fks.config.settings import Sim
from fks.matching import CostModel
from fks.model.order import State
from fks.model.signal import Kind
from fks.model.timeframe import NS, to_datetime
from fks.store.bus import Bus
from fks.store.db import Database
from fks.venues.paper import PaperVenue
from tests.support.order_rig import FAST, Rig, seed
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until

D = Decimal
START = 1_767_225_600 * NS
MINUTE = 60 * NS
STRICT = FAST.model_copy(update={"sim": Sim(fills="tape")})
#: open, high, low, close of minutes 0 to 9
BARS = [
    (100, 101, 99, 100), (100, 102, 99, 101), (101, 103, 100, 102), (102, 104, 101, 103), (103, 105, 102, 104),
    (104, 106, 103, 105), (105, 107, 104, 106), (106, 108, 105, 107), (107, 109, 80, 90), (90, 95, 85, 92),
]  # fmt: skip


def a_paper(mode: str = "bar") -> PaperVenue:
    return PaperVenue((), CostModel(D("0.001"), "received"), {}, RealClock(), mode=mode)  # type: ignore[arg-type]


@pytest.fixture
async def paper(database: Database, bus: Bus) -> AsyncIterator[Rig]:
    """A rig on paper in the strict order of a tape, one instance on 1m bars."""
    await seed(database, instances=())
    await database.sql(
        "INSERT INTO strategy_instances (id, strategy, exchange, symbol, timeframe, account_id, venue, size) VALUES"
        " ('one', 'sma_cross', 'binance', 'BTCUSDT', '1m', 2, 'paper', 1000)"
    )
    rig = Rig(database, bus, ScriptedVenue(), settings=STRICT, venues={"paper": a_paper()})
    yield rig
    if rig.task is not None:
        await rig.stop()


async def seal(rig: Rig, count: int) -> None:
    """Have the first `count` bars sealed."""
    for number, (open_, high, low, close) in enumerate(BARS[:count]):
        await rig.db.sql(
            "INSERT INTO ohlcv_data (time, symbol, timeframe, open, high, low, close, volume) VALUES"
            " ($1, 'BTCUSDT', '1m', $2, $3, $4, $5, 1) ON CONFLICT DO NOTHING",
            to_datetime(START + number * MINUTE), *(float(value) for value in (open_, high, low, close)),
        )  # fmt: skip
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
            kind, account_id=2, venue="paper", ts_event_ns=START + bar * MINUTE, reference_price=D(BARS[bar][3]), **changes
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


async def test_decisions_fill_at_the_next_open_even_when_the_whole_tape_is_there_already(paper: Rig) -> None:
    await seal(paper, 10)
    await decide(paper, 2, Kind.ENTER)
    await paper.start()
    assert await filled(paper, 1) == [(3, "BUY", D(102))]
    await decide(paper, 4)
    await decide(paper, 5, Kind.EXIT)
    assert await filled(paper, 2) == [(3, "BUY", D(102)), (6, "SELL", D(105))]
    assert await paper.position() < D("0.001")


async def test_a_stop_is_matched_from_its_entrys_bar_on_and_an_exit_after_it_is_nothing(paper: Rig) -> None:
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
    await until(lambda: paper.service.book.counts()["ACCEPTED"] == paper.service.book.counts()["WORKING"] == 1)  # both legs
    await paper.restart(venues={"paper": a_paper()})
    await decide(paper, 9)
    await seal(paper, 10)
    assert (await filled(paper, 2))[1] == (8, "SELL", D(95))
    assert await paper.position() < D("0.001")
    rows = await paper.db.sql("SELECT state FROM orders WHERE role = 'tp'")
    assert rows[0]["state"] in ("EXPIRED", "CANCELLED")


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
    await seed(database, instances=())
    await database.sql(
        "INSERT INTO strategy_instances (id, strategy, exchange, symbol, timeframe, account_id, venue, size) VALUES"
        " ('one', 'sma_cross', 'binance', 'BTCUSDT', '1m', 2, 'paper', 1000)"
    )
    rig = Rig(database, bus, ScriptedVenue(), venues={"paper": a_paper("last")})
    await seal(rig, 4)
    try:
        await rig.start()
        signal = await rig.signal(account_id=2, venue="paper", ts_event_ns=START + 3 * MINUTE)
        assert await rig.outcome(signal) == ("ordered", None)
        done = await rig.becomes((await rig.entry(signal)).client_order_id, State.FILLED)
        assert done.average_price == D(103)
    finally:
        await rig.stop()


@pytest.mark.parametrize("wants_flat", [True, False])
async def test_a_kill_closes_on_paper_too_when_it_flattens(database: Database, bus: Bus, wants_flat: bool) -> None:
    await seed(database, instances=())
    await database.sql(
        "INSERT INTO strategy_instances (id, strategy, exchange, symbol, timeframe, account_id, venue, size) VALUES"
        " ('one', 'sma_cross', 'binance', 'BTCUSDT', '1m', 2, 'paper', 1000)"
    )
    rig = Rig(database, bus, ScriptedVenue(), venues={"paper": a_paper("last")})
    await seal(rig, 4)
    try:
        await rig.start()
        await rig.signal(
            account_id=2, venue="paper", ts_event_ns=START + 3 * MINUTE, reference_price=D(103), stop_loss=D(95), take_profit=D(120)
        )
        await until(lambda: rig.service.book.counts()["ACCEPTED"] == rig.service.book.counts()["WORKING"] == 1)  # both legs
        await database.sql(
            "INSERT INTO kill_switch (kill_id, report) VALUES ('k', jsonb_build_object('flatten', $1::boolean))", wants_flat
        )
        await rig.bus.publish("fks.kill", {"type": "kill"})
        await until(lambda: rig.service.book.is_killed)
        if wants_flat:

            async def is_flat() -> bool:  # for a moment between the legs' end and the sale there is no order either
                return not rig.service.book.orders and await rig.position() < D("0.001")

            await until(is_flat, deadline_s=8)
            await rig.restart(venues={"paper": a_paper("last")})
        rows = await database.sql("SELECT role, state FROM orders WHERE role <> 'entry' ORDER BY role")
        ended = [("kill", "FILLED"), ("sl", "CANCELLED"), ("tp", "CANCELLED")]
        assert [(row["role"], row["state"]) for row in rows] == (ended if wants_flat else [("sl", "ACCEPTED"), ("tp", "WORKING")])
    finally:
        await rig.stop()
