"""Assets over HTTP: in any spelling, idempotently, with their state in the answer."""

from __future__ import annotations

from typing import Any

from fks.store.db import Database
from tests.support.gateway import Running


async def test_enabling_sets_options_and_requests_history_once(gateway: Running, seeded: Database) -> None:
    wanted = {
        "symbol": "ETH-USDT",
        "exchange": "binance",
        "timeframes": ["1h", "1s", "1m"],
        "history": 10,
        "channels": ["book"],
    }
    async with gateway.client("trade") as client:
        first = (await client.post("/assets/enable", json=wanted)).json()["items"]
        row = first[0]
        assert (row["timeframes"], row["history_days"], row["channels"]) == (["1s", "1m", "1h"], 10, ["trades", "book"])
        assert row["status"] == "backfilling"
        asked = await seeded.sql("SELECT timeframe, sync_status, wanted_from FROM sync_status ORDER BY timeframe")
        assert [(r["timeframe"], r["sync_status"]) for r in asked] == [("1h", "pending"), ("1m", "pending")]
        assert (await client.post("/assets/enable", json=wanted)).json()["items"] == first
        await seeded.sql("UPDATE sync_status SET sync_status = 'done', oldest = wanted_from")
        await client.post("/assets/enable", json={"symbol": "ETHUSDT"} | {"history": 10})
        states = await seeded.sql("SELECT DISTINCT sync_status FROM sync_status WHERE timeframe IN ('1h', '1m')")
        assert [r[0] for r in states] == ["done"]  # it is there already
        kept = (await client.post("/assets/enable", json={"symbol": "ETHUSDT", "history": 20})).json()["items"][0]
        assert (kept["timeframes"], kept["channels"], kept["history_days"]) == (
            ["1s", "1m", "1h"],
            ["trades", "book"],
            20,
        )
        pending = await seeded.sql("SELECT count(*) FROM sync_status WHERE sync_status = 'pending'")
        assert pending[0][0] > 0  # further back than before
        await seeded.sql("DELETE FROM sync_status")
        await seeded.sql(
            "INSERT INTO feeds (exchange, symbol, timeframe, state, epoch, last_price) VALUES "
            "('binance','ETHUSDT','trades','LIVE',3,7)"
        )
        assert await _status(client) == "stale"  # the lease that it was written under has no holder
        await seeded.sql(
            "INSERT INTO leases (name, epoch, expires_at) VALUES ('collector:binance', 3, now() + interval '1 h')"
        )
        assert await _status(client) == "live"
        await client.post("/assets/disable", json={"symbol": "ETHUSDT"})
        assert await _status(client) == "off"
        assert (await client.get("/assets?exchange=okx")).json()["items"] == []


async def _status(client: Any) -> str:
    return next(str(r["status"]) for r in (await client.get("/assets")).json()["items"] if r["symbol"] == "ETHUSDT")


async def test_a_wrong_choice_of_assets_is_one_clear_problem(gateway: Running, seeded: Database) -> None:
    async with gateway.client("trade") as client:
        for wrong, status in (
            ({"symbol": "BTCUSDT", "timeframes": ["7m"]}, 400),
            ({"symbol": "BTCUSDT", "timeframes": ["2m", "3m"]}, 400),
            ({"symbol": "BTCUSDT", "channels": ["gossip"]}, 400),
            ({"symbol": "BTCUSDT", "exchange": "nowhere"}, 404),
            ({"symbol": "BTCUSDT", "history": -1}, 422),
            ({"symbols": ["ETHUSDT", "NOPE"]}, 404),
        ):
            answer = await client.post("/assets/enable", json=wrong)
            assert (answer.status_code, bool(answer.json()["remedy"])) == (status, True), wrong
    assert len(await seeded.sql("SELECT FROM assets")) == 1  # nothing was changed
