"""G6: on one bar tape, backtest, paper and live replay give the same fills, field by field, for every built-in
strategy.

Live replay is the real path without Ray: the local exchange (`--fills tape --hold`) over its sockets, the collector,
the strategy worker, the order service, ccxt. The tape advances only when everything that a bar caused has settled.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fks.backtest import Setup, run
from fks.clock import RealClock
from fks.config.endpoints import Node
from fks.config.settings import Costs, Data, Settings, Sim, Venue
from fks.matching import CostModel
from fks.model.bar import Bars
from fks.model.order import Side
from fks.model.tape import unpack_tape
from fks.strategies.registry import load_catalogue
from tests.support.live import Line, seed_account, seed_instance
from tests.support.waiting import until

SAMPLE = Path(__file__).resolve().parents[2] / "fks" / "files" / "sample_data" / "BTCUSDT-1m.fksbars"
START, BARS = 20_000, 160
#: every built-in, fast enough to trade often, and twice with protection
CASES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("sma", "sma_cross", {"fast": 3, "slow": 8}),
    ("ema", "ema_cross", {"fast": 3, "slow": 8}),
    ("rsi", "rsi", {"period": 5}),
    ("macd", "macd", {"fast": 4, "slow": 9, "signal": 3}),
    ("bollinger", "bollinger", {"period": 10}),
    ("hold", "buy_and_hold", {}),
    ("sma-guarded", "sma_cross", {"fast": 3, "slow": 8, "sl_pct": 0.05, "tp_pct": 0.08}),
)


@dataclass(frozen=True, order=True)
class Row:
    """What is compared."""

    time_ns: int
    side: str
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_currency: str


def tape_bars() -> Bars:
    return unpack_tape(SAMPLE.read_bytes()).bars()


@pytest.fixture
async def exchange(tmp_path: Path) -> AsyncIterator[dict[str, Any]]:
    """The local exchange on a held tape, as a process of its own."""
    opens = datetime.fromtimestamp(int(tape_bars().time_ns[START]) // 10**9, UTC).isoformat()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "fks.cli",
        "sim",
        "exchange",
        "--port",
        "0",
        "--json",
        "--data-dir",
        str(tmp_path / "sim"),
        "--tape",
        str(SAMPLE),
        "--fills",
        "tape",
        "--hold",
        "--start",
        opens,
        "--balance",
        "USDT=1000000",
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
    finally:
        process.kill()
        await process.wait()


async def advance(node: dict[str, Any]) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{node['rest']}/sim/tape/advance", json={"bars": 1}) as answer,
    ):
        assert answer.status == 200, await answer.text()


def backtest(strategy: str, params: dict[str, Any], bars: Bars, start_ns: int, instrument: Any) -> list[Row]:
    setup = Setup(
        instrument=instrument,
        costs=CostModel(Decimal("0.001"), "received"),
        sizing="notional",
        size=Decimal(1000),
        cash=Decimal(1_000_000),
        start_ns=start_ns,
        allow_gaps=True,
    )
    kind = load_catalogue().make(strategy, params)
    return [
        Row(fill.time_ns, fill.side.value, fill.quantity, fill.price, fill.fee, fill.fee_currency)
        for fill in run(kind, bars, setup).fills
    ]


def assert_same(id: str, found: list[Row], expected: list[Row], why: str) -> None:
    """Compare field by field; show both lists side by side where they part."""
    if found == expected:
        return
    lines = [f"{id}: {len(found)} fills, the backtest has {len(expected)}"]
    for left, right in zip_longest(found, expected):
        lines.append(f"{'  ' if left == right else '! '}{left}\n  {right}")
    pytest.fail("\n".join([*lines[:40], why]))


async def test_backtest_paper_and_live_replay_are_the_same(
    exchange: dict[str, Any], database: Any, bus: Any, log: Any, meter: Any, tmp_path: Path
) -> None:
    settings = Settings(
        home=tmp_path,
        sim=Sim(fills="tape"),
        costs=Costs(fee_rate=Decimal("0.001"), fee_in="received"),
        data=Data(symbols=("BTCUSDT",), timeframes=("1m",), backfill_bars=300),
        venue=Venue(sweep_s=2.0),
    )
    node = Node(database_url="", redis_url="", ray_address="", http={}, sim=exchange)
    line = await Line.open(settings, node, database, bus, RealClock(), meter, log, tmp_path)
    names = [
        (f"{name}-{venue}", strategy, params, venue) for name, strategy, params in CASES for venue in ("ccxt", "paper")
    ]
    for venue in ("ccxt", "paper"):
        await seed_account(database, venue, "BTCUSDT")
    async with line:
        await advance(exchange)
        await line.settled()
        await until(lambda: line.knows_price("BTCUSDT"))  # a feed that has said nothing yet takes no entries
        for id, strategy, params, venue in names:
            await seed_instance(database, id, strategy, params, "BTCUSDT", "1m", venue, Decimal(1000))
        for _ in range(BARS):
            await advance(exchange)
            await line.settled()
        instrument = await line.instrument("BTCUSDT")
        anchors = await line.anchors()
        outcomes = await database.sql(
            "SELECT instance, state, code, detail, count(*) FROM signals GROUP BY 1, 2, 3, 4 ORDER BY 1, 2"
        )
        states = await database.sql(
            "SELECT instance, state, role, type, code, max(detail) AS detail, count(*) FROM orders GROUP BY 1, 2, 3, "
            "4, 5 ORDER BY 1, 2"
        )
    bars = tape_bars()
    total = 0
    for id, strategy, params, _venue in names:
        anchor_ns, first_ns, last_ns = anchors[id]
        part = (bars.time_ns >= anchor_ns) & (bars.time_ns <= last_ns)
        first, last = int(part.argmax()), int(part.argmax() + part.sum())
        expected = [
            row for row in backtest(strategy, params, bars[first:last], first_ns, instrument) if row.time_ns <= last_ns
        ]
        found = [
            row for row in (Row(*fill) for fill in await line.fills(id)) if row.time_ns <= last_ns
        ]  # the open bar is no bar yet
        assert_same(id, found, expected, str([row for row in [*outcomes, *states] if row["instance"] == id]))
        total += len(found)
        assert Side.BUY.value in {row.side for row in found} or not expected
    assert total > 60, "the tape must make every strategy trade for this to mean anything"
