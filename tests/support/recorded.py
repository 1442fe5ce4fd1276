"""Recorded Binance frames, and what they amount to, computed the slow and obvious way."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

from fks.model.bar import PublicTrade
from fks.model.timeframe import bar_start

EXCERPT = Path(__file__).parents[1] / "tapes" / "exchanges" / "binance" / "btcusdt_2024-08-08.hft.gz"

#: the whole recording, where the data set stands beside the checkout
SHARED = Path(__file__).parents[3] / "shared" / "data" / "frames" / "binance_spot_BTCUSDT_2024-08-08.hft.gz"


def raw_trades(path: Path = EXCERPT) -> list[dict[str, Any]]:
    """Return the trade messages' data in order of receipt."""
    found = []
    with gzip.open(path, "rt") as lines:
        for line in lines:
            message = json.loads(line.partition(" ")[2])
            data = message.get("data", message)
            if data.get("e") == "trade":
                found.append(data)
    return found


def agg_trades(raw: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return Binance's aggregate trades of raw ones: a run of one time, price and side is one, ids from 1."""
    made: list[dict[str, Any]] = []
    for row in raw:
        last = made[-1] if made else None
        if last and (last["T"], last["p"], last["m"]) == (row["T"], row["p"], row["m"]):
            last["q"] = format(Decimal(last["q"]) + Decimal(row["q"]), "f")
            last["l"] = row["t"]
            continue
        made.append({
            "e": "aggTrade", "E": row["E"], "s": row["s"], "a": len(made) + 1, "p": row["p"], "q": row["q"],
            "f": row["t"], "l": row["t"], "T": row["T"], "m": row["m"], "M": True,
        })  # fmt: skip
    return made


def public_trades(rows: Iterable[dict[str, Any]]) -> list[PublicTrade]:
    """Return aggregate trade rows as values."""
    return [
        PublicTrade("binance", row["s"], row["a"], row["T"] * 1_000_000, Decimal(row["p"]), Decimal(row["q"]), row["m"],
                    row["l"] - row["f"] + 1)
        for row in rows
    ]  # fmt: skip


def slow_bars(trades: Iterable[PublicTrade], timeframe: str) -> dict[int, tuple[Decimal, Decimal, Decimal, Decimal, Decimal, int]]:
    """Return open time -> (open, high, low, close, volume, trades) of every bar that traded."""
    groups: dict[int, list[PublicTrade]] = {}
    for trade in trades:
        groups.setdefault(bar_start(trade.time_ns, timeframe), []).append(trade)
    return {
        start: (
            rows[0].price, max(r.price for r in rows), min(r.price for r in rows), rows[-1].price,
            sum((r.quantity for r in rows), Decimal(0)), sum(r.count for r in rows),
        )
        for start, rows in groups.items()
    }  # fmt: skip
