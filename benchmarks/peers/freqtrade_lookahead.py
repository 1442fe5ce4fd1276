"""freqtrade's look-ahead analysis of strategies whose decisions another process makes, without a network.

    python freqtrade_lookahead.py CONFIG SOCKET STRATEGY...

benchmarks/lookahead_peers.py starts it in a virtualenv of its own. `freqtrade lookahead-analysis` runs as it is, but for
two places: the markets of the exchange are given, and a JSON line is printed instead of the table.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from itertools import count
from multiprocessing.connection import Client
from typing import Any, ClassVar

from freqtrade.exchange import Exchange
from freqtrade.main import main
from freqtrade.optimize.analysis.lookahead_helpers import LookaheadAnalysisSubFunctions
from freqtrade.strategy import IStrategy, stoploss_from_absolute

MINUTE = timedelta(minutes=1)
MARKET = {
    "id": "BTCUSDT", "symbol": "BTC/USDT", "base": "BTC", "quote": "USDT", "baseId": "BTC", "quoteId": "USDT",
    "type": "spot", "spot": True, "margin": False, "swap": False, "future": False, "option": False, "contract": False,
    "active": True, "taker": 0.001, "maker": 0.001, "precision": {"amount": 0.00001, "price": 0.01}, "info": {},
    "limits": {"amount": {"min": 0.00001, "max": 9000}, "price": {"min": None, "max": None}, "cost": {"min": 5, "max": None}},
}  # fmt: skip
ARGUMENTS, MADE = sys.argv[1:], count()
SERVER: Any = Client(ARGUMENTS[1], "AF_UNIX") if __name__ != "__main__" else None


class Asked(IStrategy):
    """A strategy whose targets and levels another process makes of the frame's bars; the entry is a target's rise."""

    INTERFACE_VERSION = 3
    timeframe = "1m"
    minimal_roi: ClassVar[dict[str, float]] = {}
    stoploss = -0.99
    number = 0

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.made = next(MADE)

    def populate_indicators(self, frame: Any, metadata: Any) -> Any:
        times = frame["date"].dt.as_unit("ns").astype("int64").tolist()
        columns = [frame[name].tolist() for name in ("open", "high", "low", "close", "volume")]
        SERVER.send((self.number, self.made, times, columns))
        found = SERVER.recv()
        for name, column in found.items():
            frame[name] = column
        return frame

    def populate_entry_trend(self, frame: Any, metadata: Any) -> Any:
        frame["enter_long"] = ((frame["target"] > 0) & (frame["target"].shift(1) <= 0)).astype(int)
        return frame

    def populate_exit_trend(self, frame: Any, metadata: Any) -> Any:
        frame["exit_long"] = (frame["target"] <= 0).astype(int)
        return frame


class Levelled(Asked):
    """The same with levels, those of the bar before the position was opened."""

    use_custom_stoploss = True

    def populate_indicators(self, frame: Any, metadata: Any) -> Any:
        frame = super().populate_indicators(frame, metadata)
        levels = (frame.get(name, [None] * len(frame)) for name in ("stop_loss", "take_profit", "trail"))
        self.levels = dict(zip(frame["date"] + MINUTE, zip(*levels, strict=True), strict=True))
        return frame

    def custom_stoploss(self, pair: str, trade: Any, current_time: Any, current_rate: float, **_: Any) -> float | None:
        stop, _profit, trail = self.levels[trade.open_date_utc]
        price = stop if trail is None else current_rate - trail
        return None if price is None else stoploss_from_absolute(price, current_rate)

    def custom_exit(
        self, pair: str, trade: Any, current_time: Any, current_rate: float, *_: Any, **__: Any
    ) -> str | None:
        profit = self.levels[trade.open_date_utc][1]
        return "target" if profit is not None and current_rate >= profit else None


def given_markets(exchange: Any, *_: Any, **__: Any) -> None:
    if not exchange._markets:
        exchange._api.set_markets([MARKET])
        exchange._markets = exchange._api.markets


def row(analysis: Any) -> dict[str, Any]:
    found, trades = analysis.current_analysis, analysis.full_varHolder.result["results"]
    return {
        "is_checked": not analysis.failed_bias_check,
        "has_bias": found.has_bias,
        "signals": found.total_signals,
        "columns": found.false_indicators,
        "opened": trades["open_date"].map(lambda date: int(date.timestamp())).tolist(),
        "closed": trades["close_date"].map(lambda date: int(date.timestamp())).tolist(),
    }


def written(config: Any, analyses: list[Any], **_: Any) -> None:
    (analysis,) = analyses
    print(json.dumps({"name": config["strategy"], **row(analysis)}), flush=True)


if __name__ == "__main__":
    Exchange.reload_markets = given_markets
    LookaheadAnalysisSubFunctions.text_table_lookahead_analysis_instances = staticmethod(written)
    for strategy in ARGUMENTS[2:]:  # one each: with a list 2026.9 runs the first of the list for every name
        try:
            main(["lookahead-analysis", "--config", ARGUMENTS[0], "--strategy", strategy])
        except SystemExit as end:
            if end.code:
                raise
