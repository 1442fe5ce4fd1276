"""One case an exchange for the contract test: its tape, its dialect, and by hand what the tape must come out as.

`origin` is the tape's word: *recorded* frames are the exchange's own bytes, *documented* ones were written after its
documentation and prove no more than that we read it as we say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from fks.model.bar import Bar, PublicTrade
from fks.model.market import BarSeen, Book, Channel, MarketEvent, Quote, Subscription

TAPES = Path(__file__).parents[1] / "tapes" / "exchanges"
MS = 1_000_000
NEW_YEAR = 1_767_225_600_000 * MS  # 2026-01-01T00:00Z
FRIDAY = 1_767_364_200_000 * MS  # 2026-01-02 09:30 in New York
KEY = "a-key-that-must-not-be-seen-anywhere"


@dataclass(frozen=True)
class Tape:
    """The contents of a `.jsonl` tape: the header, REST answers by path, messages by their purpose."""

    header: dict[str, Any]
    http: dict[str, tuple[int, str]]
    frames: dict[str, list[str]]

    @staticmethod
    def read(file: Path) -> Tape:
        """Return the tape in `file`."""
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        frames: dict[str, list[str]] = {}
        for row in rows:
            if row["t"] == "recv":
                frames.setdefault(row["what"], []).append(row["data"])
        http = {row["path"]: (row["status"], row["data"]) for row in rows if row["t"] == "http"}
        return Tape(rows[0], http, frames)


@dataclass(frozen=True)
class Case:
    """One exchange. `answer` says what it answers to a message of ours; the rest is what our values must be."""

    name: str
    symbol: str
    present_ns: int
    answer: Callable[[str], list[str]]
    wanted: tuple[Subscription, ...]
    live: dict[
        str, tuple[MarketEvent, ...]
    ]  # by what, `received_ns` 0; of quotes, books and unfinished bars the newest
    survivors: dict[str, int]  # how many trades "unknown field" and "malformed" hold that are valid
    instrument: tuple[str, str, str, str, str]  # symbol, name, tick, lot step, smallest order
    bars: tuple[Bar, ...]  # all closed one-minute bars of the tape
    trades: tuple[PublicTrade, ...]
    not_streamed: Subscription
    greeting: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    hears: Callable[[str, str], bool] = lambda path, frame: True  # whether the socket at this path is sent this message
    numbered: Callable[[str, int], str] = lambda text, number: text  # a message with its number in the connection
    trimmed: Callable[[dict[str, str], Any], Any] = lambda query, found: found  # a REST answer as the query wants it
    too_much: str = ""  # how its REST says with status 200 that too much was asked, where it has words of its own

    @property
    def tape(self) -> Tape:
        """The exchange's tape."""
        return Tape.read(TAPES / self.name / "documented.jsonl")


def subscriptions(symbol: str, *channels: Channel) -> tuple[Subscription, ...]:
    """Return a subscription of each channel, of one-minute bars."""
    return tuple(Subscription(channel, symbol, "1m" if channel is Channel.BARS else "") for channel in channels)


def levels(*pairs: tuple[str, str]) -> tuple[tuple[Decimal, Decimal], ...]:
    """Return the levels of a book, exactly."""
    return tuple((Decimal(price), Decimal(size)) for price, size in pairs)


def _trade(
    exchange: str, symbol: str, number: int, time_ns: int, price: str, size: str, is_buyer_maker: bool | None
) -> PublicTrade:
    return PublicTrade(exchange, symbol, number, time_ns, Decimal(price), Decimal(size), is_buyer_maker)


def _minute_bars(exchange: str, symbol: str) -> tuple[Bar, ...]:
    rows = [
        (0, 87648.5, 87660.2, 87630.0, 87640.0, 1.000001, False),
        (1, 87640.0, 87640.0, 87640.0, 87640.0, 0.0, True),
        (2, 87640.0, 87650.1, 87640.0, 87650.1, 0.25, False),
    ]
    return tuple(
        Bar(exchange, symbol, "1m", NEW_YEAR + minute * 60_000 * MS, *ohlcv, is_empty=is_empty)
        for minute, *ohlcv, is_empty in rows
    )


def crypto(exchange: str, symbol: str, first_id: int) -> dict[str, Any]:
    """Return what the tapes of bybit and okx have in common: the same market."""

    def bar(low: float, volume: float) -> Bar:
        return Bar(exchange, symbol, "1m", NEW_YEAR + 180_000 * MS, 87650.1, 87651.4, low, 87651.4, volume)

    traded_ns = NEW_YEAR + 184_400 * MS
    live = NEW_YEAR + 190_010 * MS
    quote = Quote(
        exchange,
        symbol,
        NEW_YEAR + 190_018 * MS,
        Decimal("87651.3"),
        Decimal("0.7"),
        Decimal("87651.4"),
        Decimal("1.25"),
    )
    return {
        "symbol": symbol,
        "present_ns": NEW_YEAR + 185_000 * MS,
        "wanted": subscriptions(symbol, *Channel),
        "live": {
            "trade": (
                _trade(exchange, symbol, first_id + 3, live, "87651.3", "0.012000", False),
                _trade(exchange, symbol, first_id + 4, live, "87651.4", "0.5", True),
            ),
            "bar": (BarSeen(bar(87649.0, 1.512), True),),
            "quote": (quote,),
        },
        "survivors": {"unknown field": 1, "malformed": 1},
        "bars": _minute_bars(exchange, symbol),
        "trades": (
            _trade(exchange, symbol, first_id, traded_ns, "87640", "0.1", False),
            _trade(exchange, symbol, first_id + 1, traded_ns, "87650.1", "0.25", False),
            _trade(exchange, symbol, first_id + 2, traded_ns + 100 * MS, "87650.10", "0.000020", True),
        ),
    }


def _bybit() -> Case:
    def answer(text: str) -> list[str]:
        asked = json.loads(text)
        reply = {
            "success": True,
            "ret_msg": "pong" if asked["op"] == "ping" else asked["op"],
            "conn_id": "c-1",
            "op": asked["op"],
        }
        return [json.dumps(reply | ({"req_id": asked["req_id"]} if "req_id" in asked else {}))]

    common = crypto("bybit", "BTCUSDT", 2290000000912345001)
    common["live"]["book"] = (
        Book(
            "bybit",
            "BTCUSDT",
            NEW_YEAR + 190_048 * MS,
            levels(("87651.3", "0.9"), ("87650", "3")),
            levels(("87651.4", "1.25"), ("87651.45", "0.3"), ("87651.5", "4")),
            700101,
        ),
    )
    return Case(
        name="bybit",
        answer=answer,
        instrument=("BTCUSDT", "BTC/USDT", "0.1", "0.000001", "0.000011"),
        too_much='{"retCode":10006,"retMsg":"Too many visits!","result":{},"retExtInfo":{},"time":1767225785000}',
        not_streamed=Subscription(Channel.BARS, "BTCUSDT", "1s"),
        **common,
    )


def _okx() -> Case:
    def answer(text: str) -> list[str]:
        if text == "ping":
            return ["pong"]
        asked = json.loads(text)
        return [json.dumps({"event": asked["op"], "arg": arg, "connId": "a4d3ae55"}) for arg in asked["args"]]

    def hears(path: str, frame: str) -> bool:
        channel = json.loads(frame)["arg"]["channel"]
        return path.endswith("/business" if channel.startswith(("trades", "candle")) else "/public")

    common = crypto("okx", "BTC-USDT", 777000001)
    common["live"]["book"] = (
        Book(
            "okx",
            "BTC-USDT",
            NEW_YEAR + 190_028 * MS,
            levels(("87651.3", "0.7"), ("87651.2", "2"), ("87650", "3")),
            levels(("87651.4", "1.25"), ("87651.5", "4")),
            90001007,
        ),
    )
    return Case(
        name="okx",
        answer=answer,
        hears=hears,
        instrument=("BTC-USDT", "BTC/USDT", "0.1", "0.00000001", "0.00001"),
        too_much='{"code":"50011","msg":"Too Many Requests","data":[]}',
        not_streamed=Subscription(Channel.BARS, "BTC-USDT", "5s"),
        **common,
    )


def _polygon() -> Case:
    def answer(text: str) -> list[str]:
        asked = json.loads(text)
        if asked["action"] == "auth":
            is_right = asked["params"] == KEY
            return [
                json.dumps(
                    [
                        {
                            "ev": "status",
                            "status": "auth_success" if is_right else "auth_failed",
                            "message": "authenticated",
                        }
                    ]
                )
            ]
        topics, done = asked["params"].split(","), asked["action"] + "d"
        return [
            json.dumps([{"ev": "status", "status": "success", "message": f"{done} to: {topic}"} for topic in topics])
        ]

    day = 20_455 * 10**11  # 2026-01-02 is day 20,455 since 1970
    live = FRIDAY + 190_010 * MS
    bar = Bar("polygon", "AAPL", "1m", FRIDAY + 180_000 * MS, 271.2, 271.22, 271.19, 271.21, 4110.0)
    return Case(
        name="polygon",
        symbol="AAPL",
        present_ns=FRIDAY + 185_000 * MS,
        answer=answer,
        greeting=('[{"ev":"status","status":"connected","message":"Connected Successfully"}]',),
        settings={"polygon_api_key": KEY},
        wanted=subscriptions("AAPL", Channel.TRADES, Channel.BARS, Channel.QUOTES),
        live={
            "trade": (
                _trade("polygon", "AAPL", day + 1075, live, "271.2050", "100", None),
                _trade("polygon", "AAPL", day + 1080, live, "271.21", "7", None),
            ),
            "bar": (BarSeen(bar, True),),
            "quote": (
                Quote(
                    "polygon",
                    "AAPL",
                    FRIDAY + 190_018 * MS,
                    Decimal("271.2"),
                    Decimal(3),
                    Decimal("271.21"),
                    Decimal(16),
                ),
            ),
        },
        survivors={"unknown field": 1, "malformed": 1},
        instrument=("AAPL", "AAPL/USD", "0.01", "1", "1"),
        bars=(
            Bar("polygon", "AAPL", "1m", FRIDAY, 271.1, 271.3, 271.0512, 271.25, 125000.0, 1201),
            Bar("polygon", "AAPL", "1m", FRIDAY + 120_000 * MS, 271.25, 271.26, 271.19, 271.2, 80250.5, 900),
        ),
        trades=(
            _trade("polygon", "AAPL", day + 1063, FRIDAY + 180_001 * MS, "271.1999", "5", None),
            _trade("polygon", "AAPL", day + 1069, FRIDAY + 180_002 * MS, "271.20", "100", None),
        ),
        not_streamed=Subscription(Channel.BARS, "AAPL", "5m"),
    )


def _template() -> Case:
    def answer(text: str) -> list[str]:
        asked = json.loads(text)
        return [json.dumps({"op": asked["op"] + "d", "stream": stream}) for stream in asked["streams"]]

    common = crypto("template", "BTC-USD", 41) | {
        "wanted": subscriptions("BTC-USD", Channel.TRADES, Channel.BARS, Channel.QUOTES)
    }
    return Case(
        name="template",
        answer=answer,
        instrument=("BTC-USD", "BTC/USD", "0.1", "0.001", "0.002"),
        not_streamed=Subscription(Channel.BOOK, "BTC-USD"),
        **common,
    )


CASES: dict[str, Case] = {case.name: case for case in (_bybit(), _okx(), _polygon(), _template())}


def of_kind(events: Sequence[MarketEvent], kind: type[Any]) -> list[Any]:
    """Return the events of one kind."""
    return [event for event in events if isinstance(event, kind)]
