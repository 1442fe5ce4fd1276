"""Random backtests for the auditor: tapes with gaps, flat and huge bars, and decisions of every kind on their tick
grid."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from fks.model.bar import Bars
from fks.model.instrument import Instrument
from fks.model.timeframe import NS, TIMEFRAMES
from fks.research.backtest import Setup
from fks.research.backtest.limits import UNLIMITED
from fks.trading.matching import Commission, CostModel, Slippage
from tests.support.given import Given
from tests.support.strategies import START_NS

Ticks = npt.NDArray[np.int64]


def random_tape(dice: np.random.Generator, tick: Decimal, *, count: int, timeframe: str) -> Bars:
    """Return bars on the tick grid: most move by some ticks, some gap, some have one price, some reach far; time is
    missing between some of them."""
    size = int(dice.choice([2, 6, 20]))
    moves = dice.integers(-size, size + 1, (count, 2))
    gaps = np.where(dice.random(count) < dice.choice([0.0, 0.1, 0.5]), dice.integers(-4 * size, 4 * size + 1, count), 0)
    reach = dice.integers(0, size, (count, 2)) + np.where(dice.random((count, 2)) < 0.03, 12 * size, 0)
    is_flat, rows, price = dice.random(count) < 0.08, [], 40 * size + 200
    for (drift, _), gap, (up, down), flat in zip(moves, gaps, reach, is_flat, strict=True):
        open_ = max(price + int(gap), 20 * size)
        close = open_ if flat else max(open_ + int(drift), 20 * size)
        high, low = (open_, open_) if flat else (max(open_, close) + int(up), min(open_, close) - int(down))
        rows.append((open_, high, max(low, 5), close))
        price = close
    columns = np.array(rows, dtype=np.int64).T
    steps = np.where(dice.random(count) < 0.03, 3, 1).astype(np.int64)
    times = START_NS + np.cumsum(steps) * TIMEFRAMES[timeframe] * NS
    return Bars("BTCUSDT", timeframe, times, *(floats(column, tick) for column in columns), np.ones(count))


def floats(ticks: npt.NDArray[Any], tick: Decimal) -> npt.NDArray[np.float64]:
    """Return prices of ticks as the nearest floats of their decimals."""
    return np.array([float(int(value) * tick) for value in ticks])


class RandomRun:
    """A run of a seed: its `decided`, `bars` and `setup`. `is_plain`: entries of one unit without trails, moves and
    parts, as the paper venue's test gives them."""

    def __init__(self, seed: int, *, is_plain: bool = False) -> None:
        self._dice, self._is_plain = np.random.default_rng(seed), is_plain
        dice = self._dice
        self._tick = Decimal(str(dice.choice(["0.01", "0.5", "1", "0.00000001"]))) if not is_plain else Decimal("0.01")
        timeframe = "1m" if is_plain else str(dice.choice(["1m", "1h", "4h"]))
        self.bars = random_tape(dice, self._tick, count=int(dice.integers(12, 60)), timeframe=timeframe)
        self._close: Ticks = np.array([int(Decimal(repr(x)) / self._tick) for x in self.bars.close.tolist()])
        self.setup = self._setup()
        self.decided = self._decided()

    def _one_of(self, *values: Any) -> Any:
        return values[int(self._dice.integers(len(values)))]

    def _setup(self) -> Setup:
        price = Decimal(int(self._close[0])) * self._tick
        lot = Decimal("0.00001") if self._is_plain else self._one_of(Decimal("0.00001"), Decimal("0.01"), Decimal(1))
        units_least = Decimal("0.1") if self._is_plain else self._one_of(Decimal("0.1"), Decimal("0.1"), Decimal(2))
        least = round(price * units_least, 9)
        item = Instrument("binance", "BTCUSDT", "BTC", "USDT", self._tick, lot, lot, Decimal(10**9), least)
        can_short = bool(self._dice.random() < 0.5) and not self._is_plain
        costs = CostModel(
            Decimal(self._one_of("0", "0", "0.001", "0.0137")),
            "quote" if can_short or self._is_plain else self._one_of("received", "quote"),
            self._one_of(None, Decimal("0.0002"), Decimal("-0.0001")),
            Slippage.parse(self._one_of("none", "none", "1 tick", "3 ticks", "25 bps", "0.1 range", "1.5 range")),
            Commission.parse(
                "none" if self._is_plain else self._one_of("none", "none", "0.25 each", "0.005 each min 1")
            ),
        )
        sizing = "quantity" if self._is_plain else self._one_of("notional", "quantity", "equity_pct", "risk_pct")
        units = Decimal(1) if self._is_plain else Decimal(int(self._dice.integers(3, 40)))
        size = {
            "quantity": units,
            "notional": round(units * price, 8),
            "equity_pct": Decimal(self._one_of(10, 50, 95, 100)),
            "risk_pct": Decimal(self._one_of("0.2", "1")),
        }[sizing]
        cash = round(units * price * self._one_of(Decimal("1.05"), 2, 10), 8)
        collar_pct = self._one_of(None, None, Decimal("0.5"), Decimal(2))
        item = replace(item, has_oto=collar_pct is not None)
        return Setup(item, costs, sizing, size, cash, can_short, True, UNLIMITED, collar_pct=collar_pct)

    def _decided(self) -> Given:
        dice, count = self._dice, len(self.bars)
        most = 1 if self._is_plain else self._one_of(1, 1, 1, 3)
        target = self._target(most)
        side, reach = np.where(target < 0, -1, 1), int(self._one_of(3, 8, 25))
        made: dict[str, Any] = {"target": tuple(target.tolist()), "most": most}
        kind = "market" if most > 1 else self._one_of("market", "limit", "stop", "stop-limit", "any")
        kinds = np.full(count, kind) if kind != "any" else dice.choice(["market", "limit", "stop", "stop-limit"], count)
        away = dice.integers(1, reach + 1, (5, count)) * side
        stop_at, limit_at = self._close + away[0], self._close - away[1]
        limit_at = np.where(kinds == "stop-limit", stop_at + dice.integers(-6, 7, count) * side, limit_at)
        has_stop, has_limit = (kinds == "stop") | (kinds == "stop-limit"), (kinds == "limit") | (kinds == "stop-limit")
        if kind != "market":
            made |= {"entry_limit": self._prices(limit_at, has_limit), "entry_stop": self._prices(stop_at, has_stop)}
            if dice.random() < 0.4:
                made["entry_bars"] = tuple(np.where(dice.random(count) < 0.6, dice.integers(1, 6, count), np.nan))
        paid = np.where(has_limit, limit_at, np.where(has_stop, stop_at, self._close))
        made["stop"] = self._prices(paid - away[2], dice.random(count) < self._one_of(0.0, 0.7, 1.0, 1.0))
        made["limit"] = self._prices(paid + away[3], dice.random(count) < self._one_of(0.0, 0.6, 1.0))
        if not self._is_plain and dice.random() < 0.3:
            made["trail"] = self._prices(np.abs(away[4]), dice.random(count) < 0.8)
        if not self._is_plain and dice.random() < 0.25:
            made["move"] = self._prices(self._close - away[4], dice.random(count) < 0.3)
        if not self._is_plain and dice.random() < 0.25:
            shares = np.round(dice.uniform(0.05, 1.0, count), 3)
            made["share"] = tuple(np.where(dice.random(count) < 0.5, shares, np.nan))
        return Given(**made)

    def _prices(self, ticks: npt.NDArray[Any], is_given: npt.NDArray[np.bool_]) -> tuple[float, ...]:
        """Return prices of ticks, NaN where none is given or it would not be above 0."""
        return tuple(np.where(is_given & (ticks > 0), floats(np.maximum(ticks, 1), self._tick), np.nan))

    def _target(self, most: int) -> npt.NDArray[np.float64]:
        """Return targets that hold for some bars, turn where the account can be short, grow to `most`, and fall in
        some runs."""
        dice, found, now = self._dice, [], 0.0
        changes, falls = (
            float(self._one_of(0.1, 0.3)),
            float(self._one_of(0.0, 0.0, 0.15)) if not self._is_plain else 0.0,
        )
        for _ in range(len(self.bars)):
            draw = dice.random()
            if now == 0.0:
                now = float(dice.choice([1.0, -1.0])) if self.setup.can_short else 1.0
                now = now if draw < 0.5 else 0.0
            elif draw < changes:
                now = -np.sign(now) if self.setup.can_short and dice.random() < 0.4 else 0.0
            elif draw < changes + falls:
                now *= float(dice.choice([0.5, 0.3, 0.75, 0.05]))
            elif most > 1 and draw > 0.8 and abs(now) + 1 <= most:
                now += float(np.sign(now))
            found.append(float(now))
        return np.array(found)
