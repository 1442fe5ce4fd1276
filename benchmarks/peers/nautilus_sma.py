"""SMA cross by nautilus_trader over bars of a file; benchmarks/backtest.py starts it in a virtualenv of its own.

Writes one JSON line for each line that it reads: the fills of a run and the CPU seconds of `engine.run()`.
"""

from __future__ import annotations

import json
import sys
import time
from decimal import Decimal
from typing import Any

import numpy as np
from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
from nautilus_trader.config import LoggingConfig, RiskEngineConfig
from nautilus_trader.indicators import SimpleMovingAverage
from nautilus_trader.model.currencies import BTC, USDT
from nautilus_trader.model.data import Bar, BarType
from nautilus_trader.model.enums import AccountType, OmsType, OrderSide
from nautilus_trader.model.identifiers import InstrumentId, Symbol, Venue
from nautilus_trader.model.instruments import CurrencyPair
from nautilus_trader.model.objects import Money, Price, Quantity
from nautilus_trader.trading.strategy import Strategy

MINUTE_NS = 60 * 10**9
ID = InstrumentId(Symbol("BTCUSDT"), Venue("BENCH"))
BAR_TYPE = BarType.from_str(f"{ID}-1-MINUTE-LAST-EXTERNAL")


class Cross(Strategy):
    """Long one unit while the fast average is above the slow one."""

    def __init__(self, fast: int, slow: int) -> None:
        super().__init__()
        self.fast, self.slow, self.warmup = SimpleMovingAverage(fast), SimpleMovingAverage(slow), slow
        self.register_indicator_for_bars(BAR_TYPE, self.fast)
        self.register_indicator_for_bars(BAR_TYPE, self.slow)

    def on_start(self) -> None:
        self.instrument = self.cache.instrument(ID)
        self.unit = self.instrument.make_qty(1)
        self.bars, self.is_long = 0, False
        self.fills: list[tuple[int, float, float]] = []
        self.subscribe_bars(BAR_TYPE)

    def on_reset(self) -> None:
        self.fast.reset()
        self.slow.reset()

    def on_bar(self, bar: Bar) -> None:
        self.bars += 1
        if self.bars <= self.warmup:
            return
        if self.fast.value > self.slow.value and not self.is_long:
            self.order(OrderSide.BUY)
        elif self.fast.value < self.slow.value and self.is_long:
            self.order(OrderSide.SELL)

    def order(self, side: OrderSide) -> None:
        self.is_long = not self.is_long
        self.submit_order(self.order_factory.market(ID, side, self.unit))

    def on_order_filled(self, event: Any) -> None:
        self.fills.append((event.ts_event, event.last_px.as_double(), event.commission.as_double()))


def engine_with(columns: Any, cash: float, rate: str) -> BacktestEngine:
    engine = BacktestEngine(
        BacktestEngineConfig(
            logging=LoggingConfig(bypass_logging=True), risk_engine=RiskEngineConfig(bypass=True), run_analysis=False
        )
    )
    engine.add_venue(Venue("BENCH"), OmsType.NETTING, AccountType.CASH, [Money(cash, USDT)])
    engine.add_instrument(
        CurrencyPair(
            instrument_id=ID,
            raw_symbol=ID.symbol,
            base_currency=BTC,
            quote_currency=USDT,
            price_precision=6,
            size_precision=3,
            price_increment=Price(1 / 64, 6),
            size_increment=Quantity(0.001, 3),
            ts_event=0,
            ts_init=0,
            maker_fee=Decimal(rate),
            taker_fee=Decimal(rate),
        )
    )
    volume = Quantity(1000, 3)
    prices = zip(*(columns[name].tolist() for name in ("open", "high", "low", "close")), strict=True)
    ends = (columns["time_ns"] + MINUTE_NS).tolist()
    engine.add_data(
        [
            Bar(BAR_TYPE, *(Price(price, 6) for price in row), volume, end, end)
            for row, end in zip(prices, ends, strict=True)
        ]
    )
    return engine


def main(path: str, fast: str, slow: str, cash: str, rate: str) -> None:
    engine, strategy = engine_with(np.load(path), float(cash), rate), Cross(int(fast), int(slow))
    engine.add_strategy(strategy)
    for _ in sys.stdin:
        start = time.process_time()
        engine.run()
        took_s = time.process_time() - start
        print(json.dumps({"seconds": took_s, "fills": strategy.fills}), flush=True)
        engine.reset()


if __name__ == "__main__":
    main(*sys.argv[1:])
