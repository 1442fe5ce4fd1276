"""A symbol of several exchanges: its meaning in each interface, the way to choose, and its refusal."""

from __future__ import annotations

import asyncio
import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from fks.interfaces.entry.order_entry import OrderRequest
from fks.store.bus import BARS, ORDERS, Bus
from fks.store.db import Database
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running

BARS_OF = (
    "INSERT INTO ohlcv_data (exchange, symbol, timeframe, time, open, high, low, close, volume)"
    " SELECT $1, $2, '1m', '2026-05-01T00:00:00Z'::timestamptz + n * interval '1 minute', 1, 1, 1, 1, 1"
    " FROM generate_series(0, 2) n"
)
ORDER = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "0.1", "price": "60000"}


@pytest.fixture
async def several(seeded: Database) -> Database:
    """BTC/USDT at three exchanges, collected at one of them; XRP/USDT at two, neither of them the venue's, nor
    collected."""
    await seeded.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min) VALUES"
        " ('bybit','BTCUSDT','BTC','USDT',0.01,0.00001,0.00001,9000,5),"
        " ('okx','BTC-USDT','BTC','USDT',0.01,0.00001,0.00001,9000,5),"
        " ('bybit','XRPUSDT','XRP','USDT',0.01,0.00001,0.00001,9000,5),"
        " ('okx','XRP-USDT','XRP','USDT',0.01,0.00001,0.00001,9000,5)"
    )
    return seeded


async def _collect(db: Database, exchange: str, symbol: str) -> None:
    await db.sql("INSERT INTO assets (exchange, symbol) VALUES ($1, $2)", exchange, symbol)


def _ambiguous(answer: httpx.Response, *names: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (400, "SYMBOL_AMBIGUOUS"), answer.text
    for name in (*names, "exchange="):
        assert name in answer.json()["remedy"]


# ── market data ──────────────────────────────────────────────────────────────────────────────────
async def test_market_data_is_of_the_exchange_that_is_collected(gateway: Running, several: Database) -> None:
    await several.sql(BARS_OF, "bybit", "BTCUSDT")  # loaded once, collected never
    await several.sql(BARS_OF, "binance", "BTCUSDT")
    async with gateway.client("read") as client:
        for path in ("/historical/BTC-USDT?timeframe=1m", "/market-data/BTC/USDT"):
            assert (await client.get(path)).json()["exchange"] == "binance", path
            there = await client.get(path, params={**dict(httpx.URL(path).params), "exchange": "bybit"})
            assert there.json()["exchange"] == "bybit", path


async def test_symbol_collected_at_two_exchanges_needs_an_exchange(gateway: Running, several: Database) -> None:
    await _collect(several, "okx", "BTC-USDT")
    for exchange, symbol in (("binance", "BTCUSDT"), ("okx", "BTC-USDT")):
        await several.sql(BARS_OF, exchange, symbol)
    async with gateway.client("read") as client:
        for path in ("/historical/BTC-USDT", "/market-data/BTC/USDT"):
            _ambiguous(await client.get(path), "binance:BTCUSDT", "okx:BTC-USDT")
            frame = {"timeframe": "1m"} if "historical" in path else {}
            named = await client.get(path, params={"exchange": "OKX", **frame})
            assert (named.json()["exchange"], named.json()["symbol"]) == ("okx", "BTC-USDT")
        _ambiguous(await client.get("/market-data/btcusdt"), "binance:BTCUSDT", "okx:BTC-USDT")  # in every spelling
        assert (await client.get("/historical/okx:BTCUSDT")).json()["symbol"] == "BTC-USDT"
        _ambiguous(await client.get("/historical/XRP/USDT"), "bybit:XRPUSDT", "okx:XRP-USDT")


async def test_the_following_page_is_of_the_same_exchange(gateway: Running, several: Database) -> None:
    await several.sql(BARS_OF, "bybit", "BTCUSDT")
    query = {"timeframe": "1m", "from": "2026-05-01T00:00:00Z", "limit": "2", "exchange": "bybit"}
    async with gateway.client("read") as client:
        first = await client.get("/historical/BTCUSDT", params=query)
        following = await client.get("/historical/BTCUSDT" + first.links["next"]["url"])
        assert [following.json()["exchange"], len(following.json()["bars"])] == ["bybit", 1]


async def test_exchange_without_the_symbol_names_those_that_have_it(gateway: Running, several: Database) -> None:
    async with gateway.client("read") as client:
        for path in ("/market-data/BTCUSDT", "/historical/BTCUSDT", "/positions/BTCUSDT", "/orders?symbol=BTCUSDT"):
            answer = await client.get(str(httpx.URL(path).copy_merge_params({"exchange": "kraken"})))
            assert (answer.status_code, answer.json()["code"]) == (404, "SYMBOL_UNKNOWN"), path
            assert "kraken" in answer.json()["detail"]
            assert "binance:BTCUSDT" in answer.json()["remedy"]
        damaged = await client.get("/market-data/okx:BTC-USDT?exchange=binance")
        assert (damaged.status_code, damaged.json()["code"]) == (422, "EXCHANGE"), damaged.text


# ── orders ───────────────────────────────────────────────────────────────────────────────────────
async def _placed(client: httpx.AsyncClient, **change: Any) -> httpx.Response:
    return await client.post("/orders", json={**ORDER, **change}, headers={"Idempotency-Key": uuid.uuid4().hex})


async def _wanted(db: Database, answer: httpx.Response) -> tuple[str, str]:
    assert answer.status_code == 202, answer.text
    [row] = await db.sql("SELECT exchange, symbol FROM signals WHERE id = $1", uuid.UUID(answer.json()["id"]))
    return row["exchange"], row["symbol"]


async def test_an_order_is_for_the_exchange_of_its_accounts_venue(gateway: Running, several: Database) -> None:
    await _collect(several, "okx", "BTC-USDT")  # what is collected beside it changes nothing
    async with gateway.client("trade") as client:
        assert await _wanted(several, await _placed(client, account="sim")) == ("binance", "BTCUSDT")
        named = await _placed(client, account="sim", exchange="binance")
        assert await _wanted(several, named) == ("binance", "BTCUSDT")
        for other in ({"exchange": "okx"}, {"symbol": "okx:BTC-USDT"}):
            refused = await _placed(client, account="sim", **other)
            assert (refused.status_code, refused.json()["code"]) == (422, "EXCHANGE"), refused.text
            assert "binance" in refused.json()["detail"]
        unknown = await _placed(client, account="sim", symbol="XRP/USDT")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "SYMBOL_UNKNOWN"), unknown.text
    assert len(await several.sql("SELECT FROM signals")) == 2


async def test_an_order_on_paper_is_for_the_exchange_that_is_collected(gateway: Running, several: Database) -> None:
    async with gateway.client("trade") as client:
        assert await _wanted(several, await _placed(client)) == ("binance", "BTCUSDT")
        assert await _wanted(several, await _placed(client, exchange="okx")) == ("okx", "BTC-USDT")
        await _collect(several, "bybit", "BTCUSDT")
        _ambiguous(await _placed(client), "binance:BTCUSDT", "bybit:BTCUSDT")
        assert await _wanted(several, await _placed(client, exchange="bybit")) == ("bybit", "BTCUSDT")
        assert (await _placed(client, exchange=["okx"])).json()["code"] == "EXCHANGE"


def test_order_without_exchange_keeps_its_body_hash() -> None:
    request_body = OrderRequest.parse(ORDER)
    assert request_body.body_hash() == "3e6b07ba2d204de7282159c2ab7fc82b038eb935f76e863ca91ce6bf3fd85c07"
    assert OrderRequest.parse({**ORDER, "exchange": "binance"}).body_hash() != request_body.body_hash()


# ── what is held, and lists ──────────────────────────────────────────────────────────────────────
async def test_a_position_is_the_sum_over_every_spelling(gateway: Running, several: Database) -> None:
    await several.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price, realized_pnl, fees) "
        "VALUES"
        " (1,'paper','BTC-USDT','',0.5,60000,1,0), (1,'paper','BTCUSDT','',0.25,60000,2,0),"
        " (2,'ccxt','BTCUSDT','',1,60000,4,0)"
    )
    async with gateway.client("read") as client:
        whole = (await client.get("/positions/BTC/USDT")).json()
        assert (whole["symbol"], whole["name"], whole["quantity"]) == ("BTCUSDT", "BTC/USDT", "1.75")
        assert {row["symbol"] for row in whole["items"]} == {"BTCUSDT", "BTC-USDT"}
        there = (await client.get("/positions/BTC/USDT?exchange=okx")).json()
        assert (there["symbol"], there["quantity"]) == ("BTC-USDT", "0.5")
        other = (await client.get("/positions/bybit:BTCUSDT")).json()
        assert other["quantity"] == "0.25"  # what is at binance's venue is not bybit's
        assert (await client.get("/positions/XRP-USDT")).json()["quantity"] == "0"


async def test_a_position_is_valued_at_the_price_of_the_venues_exchange(gateway: Running, several: Database) -> None:
    await several.sql(
        "INSERT INTO positions (account_id, venue, symbol, quantity, average_price) VALUES"
        " (2, 'ccxt', 'BTCUSDT', 1, 60000), (2, 'bybit', 'BTCUSDT', 1, 60000)"
    )
    await several.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, last_price, last_message_at) VALUES"
        " ('binance','BTCUSDT','trades','LIVE',61000,now() - interval '2 s'), "
        "('bybit','BTCUSDT','trades','LIVE',62000,now())"
    )
    async with gateway.client("read") as client:

        async def prices() -> dict[str, str]:
            return {row["venue"]: row["mark_price"] for row in (await client.get("/positions")).json()["items"]}

        assert await prices() == {"ccxt": "61000", "bybit": "62000"}
        await several.sql("UPDATE feeds SET state = 'OFF' WHERE exchange = 'binance'")
        assert await prices() == {"ccxt": "62000", "bybit": "62000"}


async def test_a_position_is_closed_beside_one_at_an_exchange_that_no_setting_names(
    gateway: Running, several: Database
) -> None:
    """bybit left venues.exchanges: its exit waits, and names its own instrument."""
    await several.sql("UPDATE api_tokens SET name = 'cli@t' WHERE name = 't-trade'")  # a person's command line
    await _collect(several, "bybit", "BTCUSDT")
    await several.sql(
        "INSERT INTO positions (account_id, venue, symbol, quantity, average_price) VALUES"
        " (2, 'bybit', 'BTCUSDT', 1, 60000), (2, 'ccxt', 'BTCUSDT', 2, 60000)"
    )
    async with gateway.client("trade") as client:
        closed = await client.post("/positions/BTC/USDT/close")
    assert closed.status_code == 202, closed.text
    rows = await several.sql("SELECT venue, exchange FROM signals ORDER BY venue")
    assert [tuple(row) for row in rows] == [("bybit", "bybit"), ("ccxt", "binance")]


async def test_a_paper_position_is_closed_at_the_exchange_that_is_named(gateway: Running, several: Database) -> None:
    """BTCUSDT is collected at two exchanges: a paper position may be of either. Nothing is closed until one is named."""
    await several.sql("UPDATE api_tokens SET name = 'cli@t' WHERE name = 't-trade'")  # a person's command line
    await _collect(several, "bybit", "BTCUSDT")
    await several.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price) VALUES"
        " (1, 'paper', 'BTCUSDT', '', 1, 60000), (2, 'ccxt', 'BTCUSDT', '', 2, 60000),"
        " (2, 'bybit', 'BTCUSDT', '', 3, 60000)"
    )
    async with gateway.client("trade") as client:
        _ambiguous(await client.post("/positions/BTCUSDT/close"), "binance:BTCUSDT", "bybit:BTCUSDT")
        assert await several.sql("SELECT id FROM signals") == []
        named = await client.post("/positions/bybit:BTCUSDT/close")
        by_query = await client.post("/positions/BTC/USDT/close?exchange=bybit")
    assert (named.status_code, by_query.status_code) == (202, 202), (named.text, by_query.text)
    rows = await several.sql("SELECT DISTINCT venue, exchange FROM signals ORDER BY venue")
    assert [tuple(row) for row in rows] == [("bybit", "bybit"), ("paper", "bybit")]


async def test_a_paper_position_is_closed_at_the_exchange_of_its_orders(gateway: Running, several: Database) -> None:
    await several.sql("UPDATE api_tokens SET name = 'cli@t' WHERE name = 't-trade'")  # a person's command line
    await _collect(several, "bybit", "BTCUSDT")
    await several.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price) VALUES"
        " (1, 'paper', 'BTCUSDT', '', 1, 60000), (2, 'ccxt', 'BTCUSDT', '', 2, 60000)"
    )
    await several.sql(
        "INSERT INTO orders (client_order_id, intent_id, account_id, venue, exchange, symbol, instance, role, attempt,"
        " side, type, quantity, state, epoch) VALUES ('o1', gen_random_uuid(), 1, 'paper', 'bybit', 'BTCUSDT', '',"
        " 'order', 0, 'buy', 'market', 1, 'FILLED', 1)"
    )
    async with gateway.client("trade") as client:
        other = await client.post("/positions/binance:BTCUSDT/close")
        closed = await client.post("/positions/BTCUSDT/close")
    assert (other.status_code, closed.status_code) == (202, 202), (other.text, closed.text)
    rows = await several.sql("SELECT DISTINCT venue, exchange FROM signals ORDER BY venue")
    assert [tuple(row) for row in rows] == [("ccxt", "binance"), ("paper", "bybit")]
    assert [order["venue"] for order in other.json()["items"]] == ["ccxt"]


async def test_symbols_that_are_not_one_thing_are_not_summed(gateway: Running, several: Database) -> None:
    await several.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min) VALUES"
        " ('polygon','BTCUSDT','BTCUSDT','USD',0.01,1,1,9000,0)"
    )
    async with gateway.client("read") as client:
        _ambiguous(await client.get("/positions/BTCUSDT"), "binance:BTCUSDT", "polygon:BTCUSDT")
        assert (await client.get("/positions/BTCUSDT?exchange=binance")).status_code == 200


async def test_a_list_takes_every_spelling_and_an_exchange_narrows_it(gateway: Running, several: Database) -> None:
    for n, (exchange, symbol) in enumerate(
        (("binance", "BTCUSDT"), ("bybit", "BTCUSDT"), ("okx", "BTC-USDT"), ("binance", "ETHUSDT"))
    ):
        await several.sql(
            "INSERT INTO orders (client_order_id, intent_id, account_id, venue, exchange, symbol, role, side, type, "
            "quantity, state)"
            " VALUES ($1, $2, 1, 'paper', $3, $4, 'order', 'buy', 'market', 1, 'FILLED')",
            f"order{n}",
            uuid.uuid4(),
            exchange,
            symbol,
        )
        await several.sql(
            "INSERT INTO signals (id, source, account_id, venue, exchange, symbol, ts_event, kind, side)"
            " VALUES ($1, 'principal:me', 1, 'paper', $2, $3, now(), 'order', 'buy')",
            uuid.uuid4(),
            exchange,
            symbol,
        )
        await several.sql(
            "INSERT INTO trades (fill_id, client_order_id, account_id, venue, symbol, trade_type, quantity, price, "
            "fee, fee_currency,"
            " time, order_type) VALUES ($1, $2, 1, 'paper', $3, 'BUY', 1, 1, 0, 'USDT', now(), 'market')",
            uuid.uuid4(),
            f"order{n}",
            symbol,
        )
    async with gateway.client("read") as client:
        for path in ("/orders", "/signals", "/fills"):
            counts = {
                query: len((await client.get(path + query)).json()["items"])
                for query in (
                    "",
                    "?symbol=BTC/USDT",
                    "?symbol=BTCUSDT",
                    "?symbol=okx:BTC-USDT",
                    "?exchange=bybit",
                    "?symbol=BTC/USDT&exchange=binance",
                    "?exchange=kraken",
                )
            }
            assert list(counts.values()) == [4, 3, 3, 1, 1, 1, 0], (path, counts)


async def test_what_is_disabled_is_what_is_collected(gateway: Running, several: Database) -> None:
    await _collect(several, "okx", "BTC-USDT")
    async with gateway.client("trade") as client:
        _ambiguous(await client.post("/assets/disable", json={"symbol": "BTC/USDT"}), "binance:BTCUSDT", "okx:BTC-USDT")
        assert (
            await client.post("/assets/disable", json={"symbol": "BTC/USDT", "exchange": "binance"})
        ).status_code == 200
        [gone] = (await client.post("/assets/disable", json={"symbol": "BTC/USDT"})).json()["items"]
        assert (gone["exchange"], gone["symbol"], gone["is_enabled"]) == ("okx", "BTC-USDT", False)
        await _collect(several, "kraken", "SOL/USD")  # its collector has not listed anything yet
        [gone] = (await client.post("/assets/disable", json={"symbol": "SOL-USD"})).json()["items"]
        assert (gone["exchange"], gone["symbol"], gone["is_enabled"]) == ("kraken", "SOL/USD", False)


# ── backtests ────────────────────────────────────────────────────────────────────────────────────
async def test_a_backtest_is_of_the_exchange_that_is_collected_or_named(gateway: Running, several: Database) -> None:
    request_body = {"strategy": "sma_cross", "params": {"fast": 3, "slow": 8}, "symbol": "BTC/USDT", "timeframe": "1m"}
    async with gateway.client("signal") as client:
        made = await client.post("/backtests", json=request_body)
        assert made.status_code == 202, made.text
        assert (made.json()["spec"]["exchange"], made.json()["spec"]["symbol"]) == ("binance", "BTCUSDT")
        named = (await client.post("/backtests", json={**request_body, "exchange": "okx"})).json()
        assert (named["spec"]["exchange"], named["spec"]["symbol"]) == ("okx", "BTC-USDT")
        _ambiguous(await client.post("/backtests", json={**request_body, "symbol": "XRP-USDT"}), "okx:XRP-USDT")


# ── the live stream ──────────────────────────────────────────────────────────────────────────────
async def test_socket_gets_every_exchange_or_the_named_one(gateway: Running, several: Database, bus: Bus) -> None:
    await _collect(several, "bybit", "BTCUSDT")
    read = {"Authorization": f"Bearer {gateway.tokens['read']}"}
    query = "?symbol=BTC/USDT&channels=bars,orders"
    async with (
        connect(gateway.ws + query, additional_headers=read, proxy=None) as whole,
        connect(f"{gateway.ws}{query}&exchange=bybit", additional_headers=read, proxy=None) as one,
    ):
        assert json.loads(await whole.recv())["symbols"] == ["BTC-USDT", "BTCUSDT"]
        assert json.loads(await one.recv())["symbols"] == ["BTCUSDT"]
        for exchange, symbol in (("okx", "BTC-USDT"), ("binance", "BTCUSDT"), ("bybit", "BTCUSDT")):
            await bus.publish(BARS, {"type": "bar", "exchange": exchange, "symbol": symbol, "timeframe": "1m"})
        await bus.publish(ORDERS, {"type": "order", "symbol": "BTCUSDT"})
        assert await _until_order(whole) >= {"okx", "binance", "bybit"}
        assert await _until_order(one) == {"bybit"}


async def _until_order(socket: ClientConnection) -> set[str]:
    events = set()
    async with asyncio.timeout(5):
        while (message := json.loads(await socket.recv()))["type"] != "order":
            events.add(message["exchange"])
    return events


async def test_a_subscription_names_its_exchange_and_is_ended_alone(gateway: Running, several: Database) -> None:
    await _collect(several, "bybit", "BTCUSDT")
    read = {"Authorization": f"Bearer {gateway.tokens['read']}"}
    async with connect(f"{gateway.ws}?channels=-", additional_headers=read, proxy=None) as ws:

        async def say(**output: Any) -> dict[str, Any]:
            await ws.send(json.dumps({"channels": ["bars"], "symbols": ["BTCUSDT"], **output}))
            while True:
                answer: dict[str, Any] = json.loads(await ws.recv())
                if answer["type"] not in ("hello", "snapshot", "heartbeat", "check"):
                    return answer

        refused = await say(type="subscribe")
        assert (refused["type"], refused["code"]) == ("error", "SYMBOL_AMBIGUOUS")
        assert "bybit:BTCUSDT" in refused["remedy"]
        for exchange in ("binance", "bybit"):
            received = await say(type="subscribe", exchange=exchange)
            assert (received["type"], received["symbols"]) == ("subscribed", [f"{exchange}:BTCUSDT"])
        assert (await say(type="unsubscribe", exchange="binance"))["count"] == 1
        assert (await say(type="unsubscribe"))["count"] == 1  # what is left, wherever it is
        assert (await say(type="subscribe", exchange=["bybit"]))["code"] == "INVALID"


# ── the command line ─────────────────────────────────────────────────────────────────────────────
async def test_commands_name_the_exchange_in_the_same_way(
    several: Database, database_url: str, fks: Fks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FKS_DATABASE_URL", database_url)  # for commands that need no gateway
    await several.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price, realized_pnl, fees) "
        "VALUES"
        " (1,'paper','BTC-USDT','',0.5,60000,1,0), (1,'paper','BTCUSDT','',0.25,60000,2,0)"
    )
    code, out, _ = await fks("positions", "BTC/USDT", "--exchange", "okx", "--json")
    assert (code, Decimal(json.loads(out)["quantity"])) == (0, Decimal("0.5"))
    await _collect(several, "bybit", "BTCUSDT")
    code, _, err = await fks("orders", "place", "buy", "1", "BTC/USDT", "--json")
    assert code != 0
    assert "bybit:BTCUSDT" in err
    assert (await fks("orders", "place", "buy", "1", "BTC/USDT", "--exchange", "bybit"))[0] == 0
    for command in (("orders", "list"), ("signals", "list"), ("fills",)):
        assert (await fks(*command, "--symbol", "BTC/USDT", "--exchange", "okx"))[0] == 0
    code, _, err = await fks("strategies", "add", "x", "sma_cross", "--symbol", "BTC/USDT", "--account", "demo")
    assert code != 0
    assert "bybit:BTCUSDT" in err
    code, _, err = await fks("strategies", "add", "x", "sma_cross", "--symbol", "bybit:BTC/USDT", "--account", "sim")
    assert code != 0
    assert "sim trades at binance, not at bybit" in err
    assert (await fks("strategies", "add", "x", "sma_cross", "--symbol", "BTC/USDT", "--account", "sim"))[0] == 0
    [row] = await several.sql("SELECT exchange, symbol FROM strategy_instances")
    assert tuple(row) == ("binance", "BTCUSDT")


async def test_an_export_is_of_the_exchange_that_has_the_bars(
    several: Database, database_url: str, fks: Fks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FKS_DATABASE_URL", database_url)
    await several.sql(BARS_OF, "okx", "XRP-USDT")

    async def exported(*more: str) -> tuple[int, str, str]:
        return await fks(
            "data", "export", "XRP/USDT", "1m", "--out", str(tmp_path / "x.csv"), "--force", "--json", *more
        )

    assert json.loads((await exported())[1])["exchange"] == "okx"
    code, _, err = await exported("--exchange", "binance")
    assert (code != 0, "no bars of XRP/USDT are stored of binance; there are okx:XRP-USDT" in err) == (True, True), err
    await several.sql(BARS_OF, "bybit", "XRPUSDT")
    code, _, err = await exported()
    assert (code != 0, "bybit:XRPUSDT, okx:XRP-USDT" in err) == (True, True), err
    assert json.loads((await exported("--exchange", "bybit"))[1])["symbol"] == "XRPUSDT"
    await _collect(several, "okx", "XRP-USDT")
    assert json.loads((await exported())[1])["exchange"] == "okx"
