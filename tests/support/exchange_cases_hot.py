"""The cases of binance, coinbase and kraken, and with them those of every exchange. Their wires are proven on
recordings elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from fks.model.bar import Bar
from fks.model.market import BarSeen, Book, Channel, Quote, Subscription
from tests.support.exchange_cases import CASES, MS, NEW_YEAR, Case, crypto, levels, subscriptions

_LIVE = NEW_YEAR + 180_000 * MS


def _bar(
    exchange: str, symbol: str, start_ns: int, low: float, volume: float, *, timeframe: str = "1m", trades: int = 0
) -> Bar:
    return Bar(exchange, symbol, timeframe, start_ns, 87650.1, 87651.4, low, 87651.4, volume, trades)


def _next(exchange: str, symbol: str, start_ns: int, *, timeframe: str = "1m", trades: int = 0) -> Bar:
    return Bar(exchange, symbol, timeframe, start_ns, 87651.4, 87651.4, 87651.4, 87651.4, 0.1, trades)


def _counted(bars: tuple[Bar, ...]) -> tuple[Bar, ...]:
    return tuple(replace(bar, trades=count) for bar, count in zip(bars, (7, 0, 1), strict=True))


def _two_levels(exchange: str, symbol: str, best_bid: str, time_ns: int, sequence: int) -> Book:
    bids = levels(("87651.3", best_bid), ("87650", "3"))
    return Book(exchange, symbol, time_ns, bids, levels(("87651.4", "1.25"), ("87651.5", "4")), sequence)


def _binance() -> Case:
    def answer(text: str) -> list[str]:
        return [json.dumps({"result": None, "id": json.loads(text)["id"]})]

    def trimmed(query: dict[str, str], found: Any) -> Any:
        return found[-int(query["limit"]) :] if "limit" in query and isinstance(found, list) else found

    common = crypto("binance", "BTCUSDT", 41)
    common["live"] |= {
        "bar": (BarSeen(_bar("binance", "BTCUSDT", _LIVE, 87649.0, 1.512, trades=5), True),),
        "quote": (replace(common["live"]["quote"][0], time_ns=0),),  # it has no time: ours
        "book": (_two_levels("binance", "BTCUSDT", "0.7", 0, 700101),),
    }
    common["bars"] = _counted(common["bars"])
    common["survivors"] = {"unknown field": 1, "malformed": 0}
    return Case(
        name="binance",
        answer=answer,
        trimmed=trimmed,
        instrument=("BTCUSDT", "BTC/USDT", "0.1", "0.00001", "0.00001"),
        too_much='{"code":-1003,"msg":"Too much request weight used; please use WebSocket Streams."}',
        not_streamed=Subscription(Channel.BARS, "BTCUSDT", "5s"),
        **common,
    )


def _kraken() -> Case:
    def answer(text: str) -> list[str]:
        asked = json.loads(text)
        if asked["method"] == "ping":
            return [json.dumps({"method": "pong", "req_id": asked["req_id"]})]
        params = asked["params"]
        return [
            json.dumps(
                {
                    "method": asked["method"],
                    "success": True,
                    "req_id": asked["req_id"],
                    "result": {"channel": params["channel"], "symbol": symbol},
                }
            )
            for symbol in params["symbol"]
        ]

    common = crypto("kraken", "BTC/USD", 41)
    next_bar = _next("kraken", "BTC/USD", _LIVE + 60_000 * MS, trades=1)
    common["live"] |= {
        "bar": (BarSeen(_bar("kraken", "BTC/USD", _LIVE, 87649.0, 1.512, trades=5), True), BarSeen(next_bar, False)),
        "book": (_two_levels("kraken", "BTC/USD", "0.9", NEW_YEAR + 190_028 * MS, 0),),
    }
    common["bars"] = _counted(common["bars"])
    common["survivors"] = {"unknown field": 1, "malformed": 0}
    return Case(
        name="kraken",
        answer=answer,
        instrument=("BTC/USD", "BTC/USD", "0.1", "0.00000001", "0.00005"),
        too_much='{"error":["EGeneral:Too many requests"]}',
        not_streamed=Subscription(Channel.BARS, "BTC/USD", "1w"),
        **common,
    )


def _coinbase() -> Case:
    def answer(text: str) -> list[str]:
        asked = json.loads(text)
        stands = {asked["channel"]: asked.get("product_ids", [])}
        return [
            json.dumps(
                {
                    "channel": "subscriptions",
                    "client_id": "",
                    "timestamp": "2026-01-01T00:03:00Z",
                    "sequence_num": 0,
                    "events": [{"subscriptions": stands}],
                }
            )
        ]

    def numbered(text: str, number: int) -> str:
        return text.replace('"sequence_num":0', f'"sequence_num":{number}').replace(
            '"sequence_num": 0', f'"sequence_num": {number}'
        )

    common = crypto("coinbase", "BTC-USD", 41)
    wanted = subscriptions("BTC-USD", Channel.TRADES, Channel.QUOTES, Channel.BOOK)
    bars = [
        _bar("coinbase", "BTC-USD", NEW_YEAR, 87649.0, 1.512, timeframe="5m"),
        _next("coinbase", "BTC-USD", NEW_YEAR + 300_000 * MS, timeframe="5m"),
    ]
    quote: Quote = common["live"]["quote"][0]
    common |= {
        "wanted": (*wanted, Subscription(Channel.BARS, "BTC-USD", "5m")),
        "bars": tuple(bar for bar in common["bars"] if not bar.is_empty),  # it sends none
        "survivors": {"unknown field": 1, "malformed": 0},
        "live": common["live"]
        | {
            "bar": (BarSeen(bars[0], True), BarSeen(bars[1], False)),
            "quote": (quote,),
            "book": (_two_levels("coinbase", "BTC-USD", "0.9", NEW_YEAR + 190_028 * MS, 0),),
        },
    }
    return Case(
        name="coinbase",
        answer=answer,
        numbered=numbered,
        instrument=("BTC-USD", "BTC/USD", "0.01", "0.00000001", "0.00000001"),
        too_much='{"error":"rate_limit_exceeded","message":"Rate limit exceeded"}',
        not_streamed=Subscription(Channel.BARS, "BTC-USD", "1m"),
        **common,
    )


ALL: dict[str, Case] = CASES | {case.name: case for case in (_binance(), _coinbase(), _kraken())}
