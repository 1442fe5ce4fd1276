"""Rows of a day's trading for the pages: accounts with equity, positions, orders, signals, feeds, alerts."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from fks.store.db import Database

#: Text that would run, or break out of its place, if a page put it into HTML as it is.
HOSTILE = "\"'><img src=x onerror=window.hacked=1><script>window.hacked=1</script>{{7*7}}"


@dataclass(frozen=True)
class Rows:
    """Ids of the rows: two pending signals, a denied one, and a working order."""

    first: uuid.UUID = field(default_factory=uuid.uuid4)
    second: uuid.UUID = field(default_factory=uuid.uuid4)
    denied: uuid.UUID = field(default_factory=uuid.uuid4)
    order: str = field(default_factory=lambda: uuid.uuid4().hex)


async def populate(db: Database, *, symbol: str = "BTCUSDT", text: str = "") -> Rows:
    """Fill the tables of a database with instruments and the accounts demo and sim; `text` stands in every column that
    a user, a venue or an exchange may fill."""
    rows = Rows()
    name, why = text or "sma-btc", text or "the fast average crossed the slow one"
    await db.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, last_price, last_message_at) VALUES"
        " ('binance',$1,'trades','LIVE',64123.45,now()), ('binance',$2,'trades','STALE',3120.5,now() - interval '3 min')",
        symbol,
        f"{text} 2" if text else "ETHUSDT",
    )
    await db.sql(
        "INSERT INTO component_health (name, kind, state, pid, beat_at) VALUES"
        " ('supervisor','actor','ready',101,now() + interval '1 hour'),"
        " ('orders','actor','ready',102,now() + interval '1 hour'),"
        " ('guardian','actor','ready',103,now() + interval '1 hour')"
    )
    await db.sql("INSERT INTO venue_states (venue, account_id, state, detail) VALUES ('paper',1,'READY',$1)", text)
    await db.sql(
        "INSERT INTO balance_history (account_id, currency, balance, equity, cause, time)"
        " SELECT 1, 'USDT', 100000 + n * 7, 100000 + n * 9 + 400 * sin(n / 9.0), 'snapshot', now() - (200 - n) * interval '3 hours'"
        " FROM generate_series(0, 200) n"
    )
    await db.sql(
        "INSERT INTO balances (account_id, currency, free, locked) VALUES (1,'USDT',98123.45,1200), (1,$1,0.5,0)",
        text or "BTC",
    )
    await db.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price, realized_pnl, fees) VALUES"
        " (1,'paper',$1,$2,0.35,63500.5,210.25,3.2), (1,'paper',$1,'external',1.5,60000,0,0),"
        " (1,'paper','ETHUSDT','',-2.5,3100,-40.5,1)",
        symbol,
        name,
    )
    for id, state, code, side in (
        (rows.first, "pending", None, "buy"),
        (rows.second, "pending", None, "sell"),
        (rows.denied, "denied", "FEED_STALE", "buy"),
    ):
        await db.sql(
            "INSERT INTO signals (id, source, instance, account_id, venue, symbol, timeframe, ts_event, kind, side, size,"
            " stop_loss, take_profit, reference_price, valid_until, reason, state, code, detail, trace_id) VALUES"
            " ($1,'strategy:sma',$2,1,'paper',$3,'1m',now(),'enter',$4,0.1,62000,66000,64100,"
            " now() + interval '20 min',$5,$6,$7,$8,'t')",
            id, name, symbol, side, why, state, code, text or ("the newest price is 12.4 s old" if code else None),
        )  # fmt: skip
    for id, role, type, state, side, price in (
        (rows.order, "entry", "limit", "WORKING", "buy", "63000"),
        (uuid.uuid4().hex, "sl", "stop", "WORKING", "sell", "62000"),
        (uuid.uuid4().hex, "entry", "market", "FILLED", "buy", None),
        (uuid.uuid4().hex, "entry", "market", "REJECTED", "buy", None),
    ):
        await db.sql(
            "INSERT INTO orders (client_order_id, intent_id, account_id, venue, symbol, instance, role, side, type, quantity,"
            " price, state, filled, average_price, code, detail) VALUES ($1,$2,1,'paper',$3,$4,$5,$6,$7,0.35,"
            " $8::text::numeric,$9,$10::text::numeric,$11::text::numeric,$12,$13)",
            id, uuid.uuid4(), symbol, name, role, side, type, price, state,
            "0.35" if state == "FILLED" else "0", "63500.5" if state == "FILLED" else None,
            "VENUE_REFUSED" if state == "REJECTED" else None, text if state == "REJECTED" else None,
        )  # fmt: skip
        await db.sql(
            "INSERT INTO order_events (client_order_id, event_id, event, from_state, to_state, source) VALUES"
            " ($1,$2,'Intended',NULL,'SENDING',$3), ($1,$4,'Accepted','SENDING','WORKING','stream')",
            id, uuid.uuid4().hex, text or "order_manager", uuid.uuid4().hex,
        )  # fmt: skip
    await db.sql(
        "INSERT INTO trades (fill_id, client_order_id, account_id, venue, symbol, instance, trade_type, quantity, price, fee,"
        " fee_currency, realized_pnl, time) VALUES ($1,$2,1,'paper',$3,$4,'BUY',0.35,63500.5,22.22,$5,0,now())",
        uuid.uuid4(), rows.order, symbol, name, text or "USDT",
    )  # fmt: skip
    await db.sql(
        "INSERT INTO alerts (severity, event, message, component) VALUES ('page','feed.stale',$1,$2), ('warning','x','disk 81 % full','node')",
        text or "the feed of ETHUSDT is stale",
        text or "collector:binance",
    )
    await db.sql("INSERT INTO incidents (account_id, kind, subject, detail) VALUES (2,'balance',$1,$1)", text or "BTC")
    return rows


async def add_forecasts(db: Database, rows: int, horizon: int = 2) -> None:
    """Add a live model `ar` of BTCUSDT in minutes, and its predictions of the newest stored bars: a rise of 1 % within
    2 %."""
    figure = {"value": 0.5, "low": 0.4, "high": 0.6}
    metrics = {"skill": {"naive": figure}, "coverage": {"0.8": figure}}
    await db.sql(
        "INSERT INTO ai_models (name, exchange, timeframe, bar_s, created_by) VALUES ('ar', 'binance', '1m', 60, '')"
    )
    await db.sql(
        "INSERT INTO ai_model_versions (model, version, stage, fingerprint, data_hash, artifact_hash, label_end, symbols,"
        " spec, seed, libraries, folds, metrics, checks, created_by) VALUES ('ar', 1, 'live', '', '', '', now(),"
        " '{BTCUSDT}', $1, 1, '{}', '[]', $2, '{}', '')",
        {"label": "return", "horizon": horizon},
        metrics,
    )
    await db.sql(
        "INSERT INTO feature_values (feature, symbol, time, known_at, value, lower, upper, version, label_end, origin, state)"
        " SELECT 'forecast:ar', 'BTCUSDT', time + interval '1 min', time + interval '1 min', 0.01, -0.01, 0.03, 1, time,"
        " 'live', 'ok' FROM ohlcv_data WHERE symbol = 'BTCUSDT' AND timeframe = '1m' ORDER BY time DESC LIMIT $1",
        rows,
    )


async def add_language_models(db: Database, text: str = "PeerError: llama.cpp cannot load it") -> None:
    """Add three models: `small` with a process that answers and one that died, `remote` behind a URL, and `broken`,
    which failed for the reason `text`."""
    await db.sql(
        "INSERT INTO ai_deployments (name, engine, model, url, context_size, replicas, state, reason, deployed_by,"
        " deployed_at) VALUES"
        " ('small','llama_cpp','/models/small.gguf','',8192,2,'wanted','','root',now() - interval '3 h'),"
        " ('remote','ollama','llama3','http://127.0.0.1:11434',8192,1,'wanted','','root',now() - interval '2 h'),"
        " ('broken','llama_cpp','/models/broken.gguf','',8192,1,'failed',$1,'root',now() - interval '1 h')",
        text,
    )
    figures = {
        "memory_mb": 1843,
        "working": 2,
        "waiting": 1,
        "tokens_s": 31.4,
        "tokens": 98_000,
        "answered": 120,
        "busy": 3,
        "late": 1,
        "failed": 0,
        "cancelled": 2,
    }
    for number, state in enumerate(("ready", "down")):
        await db.sql(
            "INSERT INTO component_health (name, kind, state, pid, node, since, beat_at, detail) VALUES"
            " ($1,'actor',$2,7,'gpu-1',now(),now() + interval '1 hour',$3)",
            f"inference:small:{number}",
            state,
            figures,
        )
    await db.sql(
        "INSERT INTO actor_events (child, event, reason, payload) VALUES"
        " ('inference:small:1','exited','died: signal SIGKILL',$1), ('inference:broken:0','exited','exit code 1',$2)",
        {"how": "crash", "signal": 9},
        {"how": "failed start", "traceback": f"Traceback\n{text}\n"},
    )
