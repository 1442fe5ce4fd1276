"""Reading market data over HTTP: the newest from Redis or PostgreSQL, with its age; history as pages, CSV and Arrow."""

from __future__ import annotations

import csv
import io
import re
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

from fks.interfaces.api.routes import history
from fks.model.bar import PublicTrade
from fks.model.market import Book, Quote
from fks.model.timeframe import NS
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.latest import Latest, key_of
from tests.support.gateway import Running, hold_lease, serving

T0 = datetime(2026, 5, 1, tzinfo=UTC)
BARS = (
    "INSERT INTO ohlcv_data (time, symbol, timeframe, exchange, open, high, low, close, volume, trades)"
    " SELECT '2026-05-01T00:00:00Z'::timestamptz + n * interval '1 minute', $1, '1m', $2, 100.1 + n, 101.5 + n, 99.5 "
    "+ n,"
    " 100.7 + n, 0.1, 3 FROM generate_series($3::int, $4::int) n"
)


@pytest.fixture
async def latest(bus: Bus) -> Latest:
    return Latest(bus)


def _trade(ago_s: float, price: str, number: int = 1) -> PublicTrade:
    at = time.time_ns() - int(ago_s * NS)
    return PublicTrade("binance", "BTCUSDT", number, at - 50_000_000, Decimal(price), Decimal("0.5"), False, 1, at)


async def _feed(db: Database, ago_s: int, price: str | None = "64000.10", number: int | None = None) -> None:
    await hold_lease(db)
    await db.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, last_price, last_message_at, last_trade_id) VALUES"
        " ('binance','BTCUSDT','trades','LIVE',$1::text::numeric, now() - $2::int * interval '1 second', $3)"
        " ON CONFLICT (exchange, symbol, timeframe) DO UPDATE SET last_price = excluded.last_price,"
        " last_message_at = excluded.last_message_at, last_trade_id = excluded.last_trade_id",
        price,
        ago_s,
        number,
    )


async def test_newer_price_of_redis_and_postgresql_is_returned_with_its_age(
    gateway: Running, seeded: Database, latest: Latest
) -> None:
    async with gateway.client("read") as client:
        assert (await client.get("/market-data/BTCUSDT")).json()["code"] == "NO_DATA"
        await _feed(seeded, 30)
        found = (await client.get("/market-data/BTCUSDT")).json()
        assert (found["price"], found["source"], found["state"]) == ("64000.1", "postgresql", "LIVE")
        assert 30_000 <= found["age_ms"] < 60_000
        assert found["time"] is None  # the time of a trade that is not stored is unknown
        await _feed(seeded, 30, number=1)
        await seeded.sql(
            "INSERT INTO market_trades (time, exchange, symbol, trade_id, price, quantity, is_buyer_maker)"
            " VALUES (date_trunc('second', now()) - interval '40 seconds', 'binance', 'BTCUSDT', 1, 64000.1, 1, false)"
        )
        (traded,) = (await seeded.sql("SELECT time FROM market_trades"))[0]
        found = (await client.get("/market-data/BTCUSDT")).json()
        assert datetime.fromisoformat(found["time"]) == traded
        await latest.publish([_trade(5, "64001.20")])
        found = (await client.get("/market-data/BTC/USDT")).json()
        assert (found["price"], found["source"]) == ("64001.2", "redis")
        assert 5_000 <= found["age_ms"] < 30_000
        assert (found["quote"], found["book"]) == (None, None)
        await _feed(seeded, 1, "64001.20", 7)
        await latest.publish([_trade(300, "64001.20", 7)])  # no trade for long, and other messages come
        found = (await client.get("/market-data/BTC/USDT")).json()
        assert (found["price"], found["source"]) == ("64001.2", "redis")
        assert found["age_ms"] < 60_000
        await _feed(seeded, 0, "64002", 9)  # Redis is behind: it was away when the last trades came
        assert (await client.get("/market-data/BTCUSDT")).json()["price"] == "64002"


async def test_quote_and_book_come_along_with_ages_of_their_own(
    gateway: Running, seeded: Database, latest: Latest
) -> None:
    await _feed(seeded, 1)
    at = time.time_ns()
    quote = Quote("binance", "BTCUSDT", at, Decimal("1.10"), Decimal(2), Decimal("1.2"), Decimal(3), at - 4 * NS)
    book = Book("binance", "BTCUSDT", at, ((Decimal("1.10"), Decimal(2)),), ((Decimal("1.20"), Decimal(1)),), 7, at)
    await latest.publish([quote, book])
    async with gateway.client("read") as client:
        found = (await client.get("/market-data/BTCUSDT")).json()
    assert (found["quote"]["bid"], found["quote"]["ask"]) == ("1.1", "1.2")
    assert found["quote"]["age_ms"] >= 4000 > found["book"]["age_ms"]
    assert found["book"]["bids"] == [["1.1", "2"]]


async def test_what_anyone_writes_into_redis_breaks_no_answer(
    gateway: Running, seeded: Database, bus: Bus, latest: Latest
) -> None:
    await _feed(seeded, 1)
    base = '"exchange": "binance", "symbol": "BTCUSDT", "time": "2026-05-01T00:00:00Z"'
    for text in (
        f'{{"type": "price", {base}, "received": "soon", "price": "1"}}',
        f'{{"type": "price", {base}, "received": "2099-01-01T00:00:00Z", "price": "many"}}',
        f'{{"type": "price", {base}, "received": "2099-01-01T00:00:00Z", "price": [1]}}',
        f'{{"type": "price", {base}, "received": "2099-01-01T00:00:00", "price": "1"}}',
        f'{{"type": "price", {base}, "received": "2099-01-01T00:00:00Z"}}',
    ):
        await bus.put(key_of("binance", "BTCUSDT"), "price", text.encode(), 60)
        async with gateway.client("read") as client:
            answer = await client.get("/market-data/BTCUSDT")
        assert (answer.status_code, answer.json().get("price")) == (200, "64000.1"), text


async def test_what_was_imported_has_a_latest_price_too(gateway: Running, seeded: Database, latest: Latest) -> None:
    await seeded.sql(BARS, "ESZ3", "cme", 0, 9)
    async with gateway.client("read") as client:
        found = (await client.get("/market-data/ESZ3")).json()
    assert (found["exchange"], found["source"], found["state"], found["price"]) == ("cme", "bars", "OFF", "109.7")
    assert found["time"] == "2026-05-01T00:10:00Z"
    assert found["age_ms"] > 0
    assert found["bars"]["1m"]["close"] == 109.7


async def test_newest_price_is_returned_without_postgresql(redis_url: str, tmp_path: Path, latest: Latest) -> None:
    await latest.publish(
        [_trade(1, "64001.2"), msgspec.structs.replace(_trade(1, "64009.3"), exchange="kraken", symbol="BTC/USD")]
    )
    away = "postgresql://fks:x@127.0.0.1:1/fks"
    async with serving(away, redis_url, tmp_path, {"read": "x"}, database={"retry_s": 0.1}) as gateway:
        from fks.interfaces.api.routes.market import latest as route

        answer = await route(gateway.app.state.gateway, None, "btc/usdt")  # type: ignore[arg-type]
        other = await route(gateway.app.state.gateway, None, "kraken:BTC/USD")  # type: ignore[arg-type]
    assert b'"price":"64001.2"' in bytes(answer.body)
    assert b'"state":null' in bytes(answer.body)
    assert b'"price":"64009.3"' in bytes(other.body)


# ── history ──────────────────────────────────────────────────────────────────────────────────────
async def test_pages_follow_one_another_and_carry_the_revision(gateway: Running, seeded: Database) -> None:
    await seeded.sql(BARS, "BTCUSDT", "binance", 0, 24)
    async with gateway.client("read") as client:
        seen, url = [], "/historical/BTCUSDT?timeframe=1m&from=2026-05-01T00:00:00Z&limit=10"
        while url:
            answer = await client.get(url)
            seen += answer.json()["bars"]
            link = re.match(r'<(\?.*)>; rel="next"', answer.headers.get("link", ""))
            url = f"/historical/BTCUSDT{link[1]}" if link else ""
            assert bool(link) == bool(answer.json()["next"])
        assert len(seen) == len({bar["time"] for bar in seen}) == 25
        assert seen[0] == {
            "time": "2026-05-01T00:00:00Z",
            "open": 100.1,
            "high": 101.5,
            "low": 99.5,
            "close": 100.7,
            "volume": 0.1,
            "trades": 3,
            "is_complete": True,
            "is_empty": False,
            "revision": 0,
        }
        before = answer.json()["revision"]
        await seeded.sql("UPDATE ohlcv_data SET close = 100.8, revision = revision + 1 WHERE time = $1", T0)
        again = (await client.get("/historical/BTCUSDT?timeframe=1m&from=2026-05-01T00:00:00Z&limit=1")).json()
        assert again["revision"] == before + 1
        assert (again["bars"][0]["revision"], again["bars"][0]["close"]) == (1, 100.8)


@pytest.mark.parametrize("limit", [None, 7])
async def test_csv_and_arrow_are_the_same_bars(
    gateway: Running, seeded: Database, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    monkeypatch.setattr(history, "PAGE", 10)  # several pages, the last one full
    await seeded.sql(BARS, "BTCUSDT", "binance", 0, 29)
    await seeded.sql("UPDATE ohlcv_data SET is_complete = false, volume = NULL WHERE time = $1", T0)
    query = {"timeframe": "1m", **({"limit": limit} if limit else {})}
    async with gateway.client("read") as client:
        bars = (await client.get("/historical/BTCUSDT", params=query)).json()["bars"]
        text = await client.get("/historical/BTCUSDT", params={**query, "format": "csv"})
        arrow = await client.get(
            "/historical/BTCUSDT", params=query, headers={"Accept": "application/vnd.apache.arrow.stream"}
        )
    assert text.headers["content-type"].startswith("text/csv")
    assert 'filename="binance-BTCUSDT-1m.csv"' in text.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(text.text)))
    assert len(rows) == len(bars) == (limit or 30)
    for row, bar in zip(rows, bars, strict=True):
        assert {key: {"true": True, "false": False}.get(value, value) for key, value in row.items()} == {
            key: value if isinstance(value, bool) else "" if value is None else str(value) for key, value in bar.items()
        }
    table = pa.ipc.open_stream(arrow.content).read_all()
    assert table.schema.metadata[b"symbol"] == b"BTCUSDT"
    assert table.num_rows == len(bars)
    assert table["close"].to_pylist() == [bar["close"] for bar in bars]
    assert table["volume"].to_pylist() == [bar["volume"] for bar in bars]
    assert [str(at) for at in table["time"].to_pylist()][-1] == "2026-05-01 00:29:00+00:00"


async def test_an_empty_file_is_a_whole_file(gateway: Running) -> None:
    async with gateway.client("read") as client:
        text = await client.get("/historical/BTCUSDT?timeframe=4h&format=csv")
        arrow = await client.get("/historical/BTCUSDT?timeframe=4h&format=arrow")
        assert text.text.startswith("time,open,high,low,close,volume,")
        assert text.text.count("\n") == 1
        assert pa.ipc.open_stream(arrow.content).read_all().num_rows == 0
        for wrong in ("format=xml", "limit=20000", "limit=0", "from=2026-05-02&to=2026-05-01&format=csv"):
            answer = await client.get(f"/historical/BTCUSDT?{wrong}")
            assert (answer.status_code, answer.json()["code"]) == (422, "INVALID"), wrong
            assert answer.json()["remedy"]
        assert (await client.get("/historical/BTCUSDT?format=csv&limit=2000000")).status_code == 200


async def test_unknown_parameter_and_impossible_time_are_refused(gateway: Running) -> None:
    async with gateway.client("read") as client:
        for path in ("/historical/BTCUSDT?start=2026-01-01", "/market-data/BTCUSDT?timeframe=1m", "/assets?symbl=x"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (422, "INVALID"), path
            assert path.partition("?")[2].partition("=")[0] in answer.json()["detail"]
        assert "from" in (await client.get("/historical/BTCUSDT?start=2026-01-01")).json()["remedy"]
        for wrong in ("9999-12-31T23:59:59-05:00", "0001-01-01T00:00:00%2B05:00"):
            answer = await client.get(f"/historical/BTCUSDT?from={wrong}")
            assert (answer.status_code, answer.json()["code"]) == (422, "TIME_INVALID"), wrong


async def test_symbol_of_two_exchanges_means_the_collected_one_or_is_refused(
    gateway: Running, seeded: Database
) -> None:
    await seeded.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min)"
        " VALUES ('bybit','BTCUSDT','BTC','USDT',0.01,0.00001,0.00001,9000,5)"
    )
    await seeded.sql(BARS, "BTCUSDT", "binance", 0, 4)
    async with gateway.client("read") as client:
        assert (await client.get("/historical/BTC-USDT?timeframe=1m")).json()["exchange"] == "binance"
        await seeded.sql(BARS, "BTCUSDT", "bybit", 0, 1)
        assert (await client.get("/historical/BTC-USDT?timeframe=1m")).json()[
            "exchange"
        ] == "binance"  # it is collected
        await seeded.sql("UPDATE assets SET is_enabled = false")
        refused = (await client.get("/historical/BTCUSDT?timeframe=1m")).json()
        assert refused["code"] == "SYMBOL_AMBIGUOUS"
        assert "bybit:BTCUSDT" in refused["remedy"]
        assert len((await client.get("/historical/bybit:BTC/USDT?timeframe=1m")).json()["bars"]) == 2


async def test_events_are_imported_whole_and_listed_as_they_were_known(gateway: Running, seeded: Database) -> None:
    split = {"kind": "split", "symbol": "BTCUSDT", "day": "2026-03-02", "ratio": "4:1", "published": "2026-03-01"}
    paid = {"kind": "dividend", "symbol": "SHARE", "exchange": "nyse", "day": "2026-02-10", "amount": "0.24"}
    rate = {"kind": "funding", "symbol": "BTCUSDT", "time": "2026-03-01T08:00Z", "rate": "0.0001"}
    async with gateway.client("trade") as client:
        for wrong, code in (
            (split | {"ratio": "0"}, "SPLIT_WRONG"),
            (paid | {"amount": "-1"}, "EVENT_WRONG"),
            (split | {"published": "soon"}, "EVENT_WRONG"),
            (split | {"ratio": "5:1"}, "EVENTS_OVERLAP"),
            (split | {"symbol": "NONE"}, "SYMBOL_UNKNOWN"),
            (split | {"day": "9999-12-31"}, "EVENT_WRONG"),
            (split | {"published": "0001-01-01T00:00+14:00"}, "EVENT_WRONG"),
            (rate | {"time": "9999-12-31T23:59-14:00"}, "EVENT_WRONG"),
            (rate | {"rate": "1E-9999999"}, "EVENT_WRONG"),
            (rate | {"mark": "1E200000"}, "EVENT_WRONG"),
            (paid | {"amount": "1E-20000"}, "EVENT_WRONG"),
        ):
            answer = await client.post("/data/events", json={"items": [split, paid, wrong]})
            assert (answer.status_code // 100, answer.json()["code"]) == (4, code), answer.text
        assert (await client.get("/data/events")).json()["items"] == [], "all of them, or none"
        for _ in range(2):  # the same again adds no revision
            answer = await client.post("/data/events", json={"items": [split, paid, rate]})
            assert answer.status_code == 200, answer.text
        release = {"kind": "economic", "currency": "USD", "name": "CPI", "time": "2026-03-11T12:30Z"}
        answer = await client.post("/data/events", json={"items": [release | {"importance": "huge"}]})
        assert (answer.status_code // 100, answer.json()["code"]) == (4, "EVENT_WRONG"), answer.text
        answer = await client.post("/data/events", json={"items": [release | {"importance": "high", "actual": "0.4"}]})
        assert answer.json()["items"][0]["value"] == "CPI, high, actual 0.4"
        (listed,) = (await client.get("/data/events", params={"symbol": "USD"})).json()["items"]
        assert (listed["kind"], listed["day"], listed["published"]) == ("economic", *["2026-03-11T12:30:00Z"] * 2)
        later = {"items": [split | {"ratio": "5:1", "published": "2026-03-05"}]}
        assert (await client.post("/data/events", json=later)).status_code == 200
        found = (await client.get("/data/events", params={"symbol": "BTC/USDT"})).json()["items"]
        assert [(one["kind"], one["value"], one["revision"]) for one in found] == [
            ("split", "5:1", 2),
            ("funding", "1 rates to 2026-03-01T08:00:00Z", None),
        ]
        params = {"symbol": "BTCUSDT", "known_at": "2026-03-03T00:00:00Z"}
        before = (await client.get("/data/events", params=params)).json()["items"][0]
        every = (await client.get("/data/events")).json()
        pages, page = [], {"items": [], "next": "0-0"}
        while page["next"] is not None:
            page = (await client.get("/data/events", params={"limit": 1, "after": page["next"]})).json()
            assert len(page["items"]) <= 1
            pages += page["items"]
        assert (pages, len(pages), every["next"]) == (every["items"], 4, None), "page by page, the same rows"
        for wrong in ({"after": "9-1"}, {"after": "x"}, {"limit": 1001}):
            assert (await client.get("/data/events", params=wrong)).json()["code"] == "INVALID"
        assert (before["value"], before["published"], before["source"][:4]) == ("4:1", "2026-03-01T00:00:00Z", "api:")
