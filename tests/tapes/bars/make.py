"""Make `outage.jsonl`: an exchange's own bars of one and of five minutes around an outage, out of trades made up here.

    python tests/tapes/bars/make.py > tests/tapes/bars/outage.jsonl

Needs nothing of FKS: both timeframes are counted from the same trades, exactly, as Binance writes its klines. A bar
opens at its first trade, also after silence; one without a trade is flat at the close before; while the exchange
is away there are no bars at all.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from decimal import Decimal

START_S = 1_767_574_800  # 2026-01-05T01:00:00Z
AWAY_S = (START_S + 3600, START_S + 3600 + 150 * 60)
END_S = START_S + 5 * 3600
Trade = tuple[int, Decimal, Decimal, bool]  # second, price, quantity, whether the buyer took it
_ZERO = Decimal(0)


def trades(seed: int = 7) -> Iterator[Trade]:
    """Yield trades, oldest first: none while the exchange is away, and every ninth minute or so none either."""
    rng = random.Random(seed)
    price = Decimal("54700.00")
    for minute in range(START_S, END_S, 60):
        if AWAY_S[0] <= minute < AWAY_S[1] or (minute > START_S and rng.random() < 0.11):
            continue
        for second in sorted(rng.randrange(60) for _ in range(rng.randint(1, 60))):
            price = max(price + Decimal(rng.randint(-9000, 9000)).scaleb(-2), Decimal("1.00"))
            yield minute + second, price, Decimal(rng.randint(10, 9_000_000)).scaleb(-6), rng.random() < 0.5


def klines(found: list[Trade], size_s: int) -> Iterator[list[object]]:
    """Yield bars as Binance's REST answers them: times in ms, numbers as texts."""
    close = found[0][1]
    for start in range(START_S, END_S, size_s):
        if AWAY_S[0] <= start < AWAY_S[1]:
            continue
        inside = [trade for trade in found if start <= trade[0] < start + size_s]
        prices = [price for _, price, _, _ in inside] or [close]
        close = prices[-1]
        taken = [trade for trade in inside if trade[3]]
        yield [
            start * 1000,
            *(f"{price:.8f}" for price in (prices[0], max(prices), min(prices), close)),
            f"{sum((quantity for _, _, quantity, _ in inside), _ZERO):.8f}",
            (start + size_s) * 1000 - 1,
            f"{sum((price * quantity for _, price, quantity, _ in inside), _ZERO):.8f}",
            len(inside),
            f"{sum((quantity for _, _, quantity, _ in taken), _ZERO):.8f}",
            f"{sum((price * quantity for _, price, quantity, _ in taken), _ZERO):.8f}",
            "0",
        ]


def lines() -> Iterator[str]:
    """Yield the tape's lines."""
    found = list(trades())
    for interval, size_s in (("1m", 60), ("5m", 300)):
        for row in klines(found, size_s):
            yield json.dumps({"interval": interval, "kline": row})


if __name__ == "__main__":
    print("\n".join(lines()))
