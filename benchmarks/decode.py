"""A trade frame, from its bytes to a checked value with exact prices: our wires against ccxt.pro's handlers and bare
decoders.

    python benchmarks/decode.py [repeats]

Every line is the median of interleaved repeats over the same frames, in one process on one core: compare within a run
only. Before anything is timed, every trade of our wires is compared with the recorded one, exactly, and with that of
ccxt.pro's handler; exits 1 when they differ. Limits: 1.5 us for a Binance trade on a calm machine, and at least ten
times ccxt.pro's handler, which is the one that gates. Binance's frames are recorded (tests/tapes), Kraken's and
Coinbase's are written in the documented form from the same trades."""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the recordings of the tests, however this is started

import msgspec

from benchmarks._results import near, run, same
from fks.market.exchanges.base import Wire
from fks.market.exchanges.binance.wire import BinanceWire
from fks.market.exchanges.coinbase.wire import CoinbaseWire
from fks.market.exchanges.kraken.wire import KrakenWire
from fks.model.bar import PublicTrade
from fks.model.market import Channel, Subscription
from fks.model.timeframe import iso
from tests.support.ccxt_feeds import feed_of, trades_of
from tests.support.recorded import EXCERPT, agg_trades, frames_of, raw_trades

RATIO_MIN = 10.0
LIMIT_US = 1.5


class Data(msgspec.Struct):
    """The fields of a trade that are used."""

    t: int
    p: Decimal
    q: Decimal
    T: int
    m: bool


class Bare(msgspec.Struct):
    """A message with only those."""

    data: Data


def frames() -> dict[str, list[bytes]]:
    """Return the same trades in every exchange's form, all of them twice: the first half warms up, the second is
    timed."""
    raw = raw_trades()
    kraken, coinbase = [], []
    for number, row in enumerate(raw * 2):
        time_text, side = iso(row["T"] * 1_000_000), "sell" if row["m"] else "buy"
        kraken.append(
            f'{{"channel":"trade","type":"update","data":[{{"symbol":"BTC/USD","side":"{side}","price":{row["p"]},'
            f'"qty":{row["q"]},"ord_type":"market","trade_id":{raw[0]["t"] + number},"timestamp":"{time_text}"}}]}}'.encode()
        )
        coinbase.append(
            f'{{"channel":"market_trades","timestamp":"{time_text}","sequence_num":{number},"events":[{{"type":"update",'
            f'"trades":[{{"product_id":"BTC-USD","trade_id":"{row["t"]}","price":"{row["p"]}","size":"{row["q"]}",'
            f'"time":"{time_text}","side":"{"BUY" if row["m"] else "SELL"}"}}]}}]}}'.encode()
        )
    return {
        "binance": [frame for _, frame in frames_of(EXCERPT)] * 2,
        "binance aggTrade": [
            json.dumps({"stream": "btcusdt@aggTrade", "data": row}).encode() for row in agg_trades(raw)
        ]
        * 2,
        "kraken": kraken,
        "coinbase": coinbase,
    }


Row = tuple[int, int, Decimal, Decimal]  # id, ms, price, quantity


def compare(made: dict[str, list[bytes]]) -> None:
    """Compare the trades of every wire with the recorded ones, and with those of ccxt.pro's handlers."""
    raw = raw_trades()
    trades: list[Row] = [(row["t"], row["T"], Decimal(row["p"]), Decimal(row["q"])) for row in raw]
    merged: list[Row] = [(row["a"], row["T"], Decimal(row["p"]), Decimal(row["q"])) for row in agg_trades(raw)]
    numbered = [(trades[0][0] + number, *row[1:]) for number, row in enumerate(trades)]
    for name, wire, symbol, wanted in (
        ("binance", BinanceWire(trades="trade"), "BTCUSDT", trades),
        ("binance aggTrade", BinanceWire(), "BTCUSDT", merged),
        ("kraken", KrakenWire(), "BTC/USD", numbered),
        ("coinbase", CoinbaseWire(), "BTC-USD", trades),
    ):
        wire.subscribe_frames([Subscription(Channel.TRADES, symbol)])
        found = [event for frame in made[name][: len(wanted)] for event in wire.receive(frame, 1)]
        ours = [(e.trade_id, e.time_ns // 1_000_000, e.price, e.quantity) for e in found if isinstance(e, PublicTrade)]
        same(f"{name}: trades", ours, wanted)
        if name == "binance aggTrade":
            continue  # its handler is not timed
        exchange, client = feed_of(name, {symbol: "BTC/USDT" if name == "binance" else "BTC/USD"})
        for frame in made[name][: len(wanted)]:
            exchange.handle_message(client, json.loads(frame))
        theirs = trades_of(exchange)
        same(
            f"{name}: ids and times, against ccxt.pro",
            [row[:2] for row in ours],
            [(int(t["id"]), t["timestamp"]) for t in theirs],
        )
        for column, field in ((2, "price"), (3, "amount")):
            near(
                f"{name}: {field}, against ccxt.pro",
                [float(row[column]) for row in ours],
                [t[field] for t in theirs],
                rtol=1e-12,
            )


Prepared = Callable[[], Callable[[], None]]


def ours(make: Callable[[], Wire], symbol: str, messages: list[bytes]) -> Prepared:
    """Return what makes a fresh wire and gives a run of it over the frames; each must come out as a trade."""

    def prepare() -> Callable[[], None]:
        wire = make()
        wire.subscribe_frames([Subscription(Channel.TRADES, symbol)])
        receive = wire.receive
        for frame in messages[: len(messages) // 2]:
            receive(frame, 1)

        def run() -> None:
            for frame in messages[len(messages) // 2 :]:
                events = receive(frame, 1)
                assert type(events[0]) is PublicTrade

        return run

    return prepare


def ccxts(name: str, id_: str, symbol: str, messages: list[bytes]) -> Prepared:
    """Return the same for ccxt.pro's handler, with the JSON decoding it comes after."""

    def prepare() -> Callable[[], None]:
        exchange, client = feed_of(name, {id_: symbol})
        handle, loads = exchange.handle_message, json.loads
        for frame in messages[: len(messages) // 2]:
            handle(client, loads(frame))

        def run() -> None:
            for frame in messages[len(messages) // 2 :]:
                handle(client, loads(frame))
            assert len(exchange.trades[symbol]) > 0

        return run

    return prepare


def bare(messages: list[bytes]) -> Prepared:
    """Return the same for the least that can be done: a typed decode with exact prices, and nothing kept."""
    decode = msgspec.json.Decoder(Bare).decode

    def run() -> None:
        for frame in messages[len(messages) // 2 :]:
            decode(frame)

    return lambda: run


def measured(runs: dict[str, tuple[Prepared, int]], repeats: int) -> dict[str, float]:
    """Return the median us a frame of each, repeats interleaved."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, (prepare, count) in runs.items():
            run = prepare()
            gc.collect()
            start = time.process_time()
            run()
            times[name].append((time.process_time() - start) / count * 1e6)
    return {name: statistics.median(found) for name, found in times.items()}


def main(repeats: int) -> int:
    """Measure and print; return 1 when a wire is not ten times as fast as ccxt.pro's handler."""
    made = frames()
    compare(made)
    messages = made["binance"]
    runs = {
        "msgspec typed decode alone (the floor)": (bare(messages), messages),
        "ours: binance trade": (ours(lambda: BinanceWire(trades="trade"), "BTCUSDT", messages), messages),
        "ours: binance aggTrade": (ours(BinanceWire, "BTCUSDT", made["binance aggTrade"]), made["binance aggTrade"]),
        "ours: kraken": (ours(KrakenWire, "BTC/USD", made["kraken"]), made["kraken"]),
        "ours: coinbase": (ours(CoinbaseWire, "BTC-USD", made["coinbase"]), made["coinbase"]),
        "ccxt.pro: binance": (ccxts("binance", "BTCUSDT", "BTC/USDT", messages), messages),
        "ccxt.pro: kraken": (ccxts("kraken", "BTC/USD", "BTC/USD", made["kraken"]), made["kraken"]),
        "ccxt.pro: coinbase": (ccxts("coinbase", "BTC-USD", "BTC/USD", made["coinbase"]), made["coinbase"]),
    }
    found = measured({name: (run, len(frames) // 2) for name, (run, frames) in runs.items()}, repeats)
    for name, us in found.items():
        print(f"{name:<42} {us:8.3f} us a frame")
    is_good = True
    for name in ("binance", "kraken", "coinbase"):
        mine = found["ours: binance trade" if name == "binance" else f"ours: {name}"]
        ratio = found[f"ccxt.pro: {name}"] / mine
        is_good &= ratio >= RATIO_MIN
        print(f"{name}: {ratio:.1f} x ccxt.pro's handler (at least {RATIO_MIN:.0f})")
    floor = found["msgspec typed decode alone (the floor)"]
    for name in ("binance trade", "binance aggTrade"):
        us = found[f"ours: {name}"]
        print(f"{name}: {us:.2f} us, {us / floor:.1f} x the floor (limit {LIMIT_US} us on a calm machine)")
    return 0 if is_good else 1


if __name__ == "__main__":
    run(lambda: main(int(sys.argv[1]) if len(sys.argv) > 1 else 7))
