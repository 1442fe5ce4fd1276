"""Recorded frames, and their trades and bars, computed the slow and obvious way."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

from fks.model.bar import PublicTrade
from fks.model.timeframe import bar_start
from tests.support.programs import leave_out

EXCERPT = Path(__file__).parents[1] / "tapes" / "exchanges" / "binance" / "btcusdt_2024-08-08.hft.gz"

#: the data set beside the checkout: whole recordings, and bars of exchanges
DATA = Path(__file__).parents[3] / "shared" / "data"
FRAMES = DATA / "frames"
SHARED = FRAMES / "binance_spot_BTCUSDT_2024-08-08.hft.gz"
MIXED = FRAMES / "binance_spot_2021-10-12.jsonl.gz"
COINBASE = FRAMES / "coinbase_advanced_2026-08-09.jsonl.gz"
KRAKEN_BOOK = FRAMES / "kraken_spot_v2_book_2026-07-19.jsonl"
KRAKEN_V1 = FRAMES / "kraken_spot_v1_2021-04-17.jsonl.gz"

Frame = tuple[int, bytes]  # (received_ns, text)


def present(path: Path) -> Path:
    """Return the path of a recording; without the data set the test is left out."""
    if not path.exists():
        leave_out(f"no data set in {DATA}")
    return path


def frames_of(path: Path) -> list[Frame]:
    """Return every message received, in the order of the file, whatever form the recording has."""
    present(path)
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    rows = [line for line in map(str.strip, text.splitlines()) if line]
    if ".hft" in path.suffixes:
        return [(int(row.partition(" ")[0]), row.partition(" ")[2].encode()) for row in rows]
    if path == KRAKEN_BOOK:
        return [(0, row.encode()) for row in rows]
    records = [json.loads(row) for row in rows]
    return [(round(r["ts"] * 1e9), r["data"].encode()) for r in records if r["t"] == "recv"]


def slowly(frame: bytes) -> Any:
    """Return a message as plain JSON values, its numbers with a point as decimals."""
    return json.loads(frame, parse_float=Decimal)


def raw_trades(path: Path = EXCERPT) -> list[dict[str, Any]]:
    """Return the trade messages' data in order of receipt."""
    found = []
    with gzip.open(present(path), "rt") as lines:
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
        made.append(
            {
                "e": "aggTrade",
                "E": row["E"],
                "s": row["s"],
                "a": len(made) + 1,
                "p": row["p"],
                "q": row["q"],
                "f": row["t"],
                "l": row["t"],
                "T": row["T"],
                "m": row["m"],
                "M": True,
            }
        )
    return made


def public_trades(rows: Iterable[dict[str, Any]]) -> list[PublicTrade]:
    """Return aggregate trade rows as values."""
    return [
        PublicTrade(
            "binance",
            row["s"],
            row["a"],
            row["T"] * 1_000_000,
            Decimal(row["p"]),
            Decimal(row["q"]),
            row["m"],
            row["l"] - row["f"] + 1,
        )
        for row in rows
    ]


def slow_bars(
    trades: Iterable[PublicTrade], timeframe: str
) -> dict[int, tuple[Decimal, Decimal, Decimal, Decimal, Decimal, int]]:
    """Return open time -> (open, high, low, close, volume, trades) of every bar that traded."""
    groups: dict[int, list[PublicTrade]] = {}
    for trade in trades:
        groups.setdefault(bar_start(trade.time_ns, timeframe), []).append(trade)
    return {
        start: (
            rows[0].price,
            max(r.price for r in rows),
            min(r.price for r in rows),
            rows[-1].price,
            sum((r.quantity for r in rows), Decimal(0)),
            sum(r.count for r in rows),
        )
        for start, rows in groups.items()
    }
