"""Time of 100,000 fills into lots, against the bare matching loop on integers, and from the database.

    python benchmarks/lots.py [--fills 100000] [--rounds 5]

The fills are buys and sells of one symbol with a fee in quote. Ours takes them as the database gives them, with exact
decimals, and returns lots and disposals; the limit matches the same fills as integers (quantity, price and fee in steps
of 1e-8) in one loop. Lots and disposals of both are compared before anything is timed: quantities, costs, proceeds.
Aim: 2 x the loop. Then the same fills are read from the table of executions of an embedded server and matched, as each
request for lots does; the lots equal the first ones. Limit: 2 s. Exits 1 when results differ or an aim is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections import deque
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._results import run, same
from fks.model.accounting.lots import LotBook, LotMethod, LotTrade, match_lots
from fks.store import migrate
from fks.store.db import Database
from fks.store.lots import LotStore
from tests.support import servers

SCALE = 10**8
AIM, LIMIT_S = 2.0, 2.0
#: is a buy, quantity, price, fee, in steps; and what the loop gives: (bought, sold, quantity, cost, proceeds)
Fill = tuple[bool, int, int, int]
Piece = tuple[int, int, int, int, int]


def made(count: int) -> tuple[list[LotTrade], list[Fill]]:
    """Return the same fills twice: as trades and as integers. Some sales go beyond what is held."""
    dice = random.Random(7)
    trades: list[LotTrade] = []
    fills: list[Fill] = []
    for number in range(count):
        is_buy = dice.random() < 0.5
        quantity, price = dice.randrange(1, 10**5) * 10**3, dice.randrange(10**6, 10**7) * 10**6
        fee = quantity * price // SCALE // 1000
        fills.append((is_buy, quantity, price, fee))
        exact = [Decimal(value).scaleb(-8) for value in (quantity, price, fee)]
        trades.append(
            LotTrade(number, number, f"{number:08d}", "a", "BTCUSDT", "BTC", "USDT", is_buy, *exact, fee_asset="USDT")
        )
    return trades, fills


def share(amount: int, part: int, whole: int) -> int:
    """Return a share of an amount, half to even, as money is rounded."""
    found, rest = divmod(amount * part, whole)
    return found + (2 * rest > whole or (2 * rest == whole and found & 1))


def bare(fills: list[Fill]) -> tuple[list[Piece], list[tuple[int, int]]]:
    """Return the disposals and the open lots: first in, first out; a sale beyond the lots is covered by later buys."""
    lots: deque[list[int]] = deque()
    shorts: deque[list[int]] = deque()
    pieces: list[Piece] = []
    for number, (is_buy, quantity, price, fee) in enumerate(fills):
        amount = quantity * price // SCALE
        amount += fee if is_buy else -fee
        here, there = (shorts, lots) if is_buy else (lots, shorts)
        while here and quantity:
            lot = here[0]
            held, whole = lot[0], lot[1]
            if held > quantity:
                part = share(whole, quantity, held)
                lot[0] = held - quantity
                lot[1] = whole - part
                matched, other = quantity, amount
            else:
                here.popleft()
                part, matched = whole, held
                other = amount if held == quantity else share(amount, held, quantity)
            quantity -= matched
            amount -= other
            if is_buy:
                pieces.append((number, lot[2], matched, other, part))
            else:
                pieces.append((lot[2], number, matched, part, other))
        if quantity:
            there.append([quantity, amount, number])
    return pieces, [(lot[0], lot[1]) for lot in lots] + [(-lot[0], lot[1]) for lot in shorts]


def ours(trades: list[LotTrade]) -> LotBook:
    """Return lots and disposals of the trades."""
    return match_lots(trades, currency="USDT", method=LotMethod.FIFO, rate=lambda *_: None)


def in_steps(value: Decimal | None) -> int:
    """Return an exact amount in steps of 1e-8."""
    assert value is not None
    return int(value.scaleb(8))


def compare(trades: list[LotTrade], fills: list[Fill]) -> int:
    """Compare both results; return the number of disposals."""
    book, (pieces, lots) = ours(trades), bare(fills)
    found = [
        (
            int(d.lot_id),
            int(d.disposal_id),
            in_steps(d.quantity),
            in_steps(d.cost),
            in_steps(d.proceeds),
        )
        for d in book.disposals()
        if d.kind != "short"
    ]
    same("disposals", found, pieces)
    same("open lots", [(in_steps(lot.quantity), in_steps(lot.cost)) for lot in book.lots()], lots)
    return len(pieces)


def seconds(work: object, argument: object) -> float:
    """Return the CPU seconds of one call."""
    start = time.process_time()
    work(argument)  # type: ignore[operator]
    return time.process_time() - start


async def stored(url: str, trades: list[LotTrade], rounds: int) -> float:
    """Return the wall seconds from the tables to lots, the median, after a comparison with the lots of `trades`."""
    await migrate.upgrade(url)
    db = await Database.connect(url, application="bench")
    try:
        await db.sql("INSERT INTO accounts (name, venue) VALUES ('a', 'ccxt')")
        await db.sql(
            "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min)"
            " VALUES ('binance', 'BTCUSDT', 'BTC', 'USDT', 0.01, 0.00001, 0.00001, 9000, 5)"
        )
        await db.sql(
            "INSERT INTO trades (fill_id, account_id, venue, symbol, trade_type, quantity, price, fee, fee_currency,"
            " venue_trade_id, time) SELECT gen_random_uuid(), 1, 'ccxt', 'BTCUSDT', CASE WHEN b THEN 'BUY' ELSE 'SELL' END,"
            " q, p, f, 'USDT', n::text, '2026-01-01'::timestamptz + n * interval '1 second'"
            " FROM unnest($1::bigint[], $2::bool[], $3::numeric[], $4::numeric[], $5::numeric[]) AS w(n, b, q, p, f)",
            [trade.sequence for trade in trades],
            [trade.is_buy for trade in trades],
            *([getattr(trade, name) for trade in trades] for name in ("quantity", "price", "fee")),
        )
        await db.sql("ANALYZE trades")
        store = LotStore(db, "binance")
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            history = await store.history(None)
            book = await asyncio.to_thread(ours, history.trades)
            times.append(time.perf_counter() - start)
        wanted = [(lot.quantity, lot.cost) for lot in ours(trades).lots()]
        same("open lots from the database", [(lot.quantity, lot.cost) for lot in book.lots()], wanted)
        return statistics.median(times)
    finally:
        await db.close()


def measure(count: int, rounds: int) -> bool:
    """Print the times; return whether an aim was missed."""
    trades, fills = made(count)
    pieces = compare(trades, fills)
    times = [(seconds(bare, fills), seconds(ours, trades)) for _ in range(rounds)]
    floor, mine = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(own / least for least, own in times)
    print(f"{count:,} fills, {pieces:,} disposals, CPU time, medians of {rounds} interleaved rounds")
    print(f"bare loop on integers  {floor * 1000:8.1f} ms")
    print(f"match_lots             {mine * 1000:8.1f} ms  {ratio:.2f} x the loop (aim {AIM:g})")
    with servers.home() as paths, servers.running_postgres(paths, is_durable=True) as postgres:
        seconds_stored = asyncio.run(stored(postgres.url(), trades, rounds))
    print(f"from the database      {seconds_stored * 1000:8.1f} ms  wall (limit {LIMIT_S * 1000:.0f})")
    return ratio > AIM or seconds_stored > LIMIT_S


def main() -> bool:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fills", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    return measure(given.fills, given.rounds)


if __name__ == "__main__":
    run(main)
