"""Result that denied entries would have had, over HTTP and as `fks denials cost`."""

from __future__ import annotations

import json
import uuid
from decimal import Decimal

import pytest

from fks.clock import RealClock
from fks.model.timeframe import NS, to_datetime
from fks.store.bars import BarStore
from fks.store.db import Database
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running
from tests.support.strategies import bars_of

START_NS = (RealClock().now_ns() // (60 * NS) - 30) * 60 * NS
CLOSES = [100.0, 100.0, 110.0, 120.0, 120.0, 90.0, 90.0]


async def deny(db: Database, bar: int, kind: str, side: str, state: str, code: str | None, **more: object) -> None:
    """Store a signal of the instance `one` at a bar."""
    names = ["id", "source", "instance", "account_id", "venue", "exchange", "symbol", "timeframe", "ts_event", "kind",
             "side", "state", "code", "reference_price", "created_at", *more]  # fmt: skip
    at = to_datetime(START_NS + bar * 60 * NS)
    values = [uuid.uuid4(), "strategy:one", "one", 1, "paper", "binance", "BTCUSDT", "1m", at, kind, side, state, code,
              Decimal(100), at, *more.values()]  # fmt: skip
    marks = ", ".join(f"${number + 1}" for number in range(len(values)))
    await db.sql(f"INSERT INTO signals ({', '.join(names)}) VALUES ({marks})", *values)


async def seed(db: Database) -> None:
    """Store an instance that spends 1,000 an entry, bars, and two denied longs, one of which would have ended well."""
    await db.sql(
        "INSERT INTO strategy_instances (id, strategy, params, symbol, timeframe, account_id, venue, size)"
        " VALUES ('one', 'sma_cross', '{}', 'BTCUSDT', '1m', 1, 'paper', 1000)"
    )
    await BarStore(db).merge(bars_of(CLOSES, start_ns=START_NS), exchange="binance", source="rest")
    await deny(db, 0, "enter", "buy", "denied", "EXPOSURE_INSTRUMENT")
    await deny(db, 3, "exit", "sell", "nothing", None)
    await deny(db, 4, "enter", "buy", "denied", "STALE_DECISION")


async def test_denied_entries_have_the_value_that_their_trade_would_have_had(
    gateway: Running, seeded: Database, fks: Fks
) -> None:
    await seed(seeded)
    code, out, err = await fks("denials", "cost", "--since", "1h", "--json")
    assert code == 0, err
    found = json.loads(out)
    by_code = {row["code"]: row for row in found["total"]}
    # 10 BTC bought at 100 and sold at 120, less 0.1 % of either side
    assert Decimal(by_code["EXPOSURE_INSTRUMENT"]["value"]) == Decimal("197.6")
    # 10 BTC bought at 120, worth 90 at the last close
    assert Decimal(by_code["STALE_DECISION"]["value"]) == Decimal("-300.9")
    assert [(row["entries"], row["filled"], row["won"], row["open"]) for row in found["total"]] == [
        (1, 1, 1, 0),
        (1, 1, 0, 1),
    ]
    code, out, _ = await fks("denials", "cost", "--since", "1h", "--each")
    assert code == 0
    assert "EXPOSURE_INSTRUMENT" in out
    assert "it saved that" in out


async def test_span_with_too_many_bars_is_refused(
    gateway: Running, seeded: Database, fks: Fks, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seed(seeded)
    monkeypatch.setattr("fks.interfaces.entry.denials.BARS_MAX", len(CLOSES) - 2)
    code, _, err = await fks("denials", "cost", "--since", "1h")
    assert code != 0
    assert "more than 5 1m bars of BTCUSDT" in err
    assert "begin later" in err


async def test_no_denials_say_so_and_a_wrong_span_is_refused(gateway: Running, fks: Fks) -> None:
    code, out, _ = await fks("denials", "cost")
    assert (code, "no entry was denied" in out) == (0, True)
    code, _, err = await fks("denials", "cost", "--since", "2026-05-02", "--until", "2026-05-01")
    assert code != 0
    assert "before until" in err


async def test_span_that_ends_with_the_first_date_there_is_is_refused(gateway: Running) -> None:
    async with gateway.client() as client:
        answer = await client.get("/denials/cost", params={"until": "0001-01-01"})
    assert (answer.status_code, answer.json()["code"]) == (422, "TIME_INVALID")
