"""The pages of research, system and administration, with data, and with hostile text in every column of others."""

from __future__ import annotations

import re
import uuid
from datetime import datetime
from typing import Any

import httpx
import pytest

from fks.interfaces.web.registry import PAGES
from fks.model.schedules import SCHEDULE_ACTIONS
from fks.model.timeframe import NS, to_ns
from fks.store.db import Database
from tests.support.users import PASSWORD, add_user, code_of
from tests.support.web import Web, csrf_of, log_in, make_user
from tests.support.web_rows import add_forecasts, add_language_models

HOSTILE = '<img src=x onerror="window.hacked=1">{{7777*3}}'
TREE = {
    "id": "root",
    "strategy": "one_for_one",
    "limit": {"restarts_max": 20, "period_s": 60},
    "used": 1,
    "state": "ready",
    "children": [{"id": "orders"}, {"id": "strategies", "strategy": "one_for_one", "children": [{"id": HOSTILE}]}],
}
RESULT = {
    "strategy": "sma_cross",
    "exchange": "binance",
    "symbol": "BTCUSDT",
    "timeframe": "1m",
    "inputs_hash": "abc123def",
    "statistics": {"trades": 42, "return_pct": 3.2, "net_profit": 320.5},
    "metrics": {"max_drawdown_pct": 4.4, "max_drawdown_s": 86400, "period": "day"},
    "months": [{"year": 2026, "month": 1, "return_pct": 3.2}],
    "trades": [
        {
            "side": "buy",
            "entry_time": "2026-01-02T00:00:00Z",
            "exit_time": "2026-01-03T00:00:00Z",
            "quantity": "0.1",
            "entry_price": "64000",
            "exit_price": "64500",
            "pnl": "50",
            "reason": HOSTILE,
        }
    ],
    "denied": {"NOTIONAL_MIN": 3},
    "equity": [[f"2026-01-{day:02d}T00:00:00Z", 10_000 + 10 * day] for day in range(1, 29)],
}
FOUND = {"best": {"all_params": {"fast": 7, "slow": HOSTILE}}, "findings": [HOSTILE], "bars": 1000}
#: pages with a path of their own, and what each of them has to show besides
SHOWN = {
    "chart": ("Signals, orders and fills", "Average 20", "FILLED"),
    "strategies": ("sma_cross", "Switch off", "version 1"),
    "instance": ("New parameters", "fast", "Roll back"),
    "backtests": ("Start the backtest", "40 %"),
    "backtest": ("3.20", "1 d 0 h", "Equity as a table"),
    "search": ("1.2500", "Promote to x"),
    "compare": ("Side by side", "max drawdown"),
    "data": ("BTCUSDT 1m", "Quarantine", "It is wrong"),
    "series": ("Missing, newest first", "40"),
    "monitor": ("one_for_one", "1 of 20 restarts", "signal 9 (SIGKILL)", "99.50", "Disable it"),
    "part": ("last log lines",),
    "alerts": ("I have seen it", "End it"),
    "schedules": ("0 3 * * *", "Run now"),
    "schedule": ("Runs of backup",),
    "ninja": ("not connected",),
    "users": ("root", "Make a token"),
    "webhooks": ("New secret",),
    "keys": ("0123abcd", "may withdraw", "Store the key"),
    "settings": ("risk.notional_max_order",),
    "audit": ("login",),
    "database": ("Largest tables", "Newest backup"),
}
#: pages on which nothing that others wrote is shown
OWN = {"compare", "series", "users", "audit", "chart"}


async def fill(database: Database) -> dict[str, str]:
    """Put rows into everything that the pages show; return the ids that their paths need."""
    backtest, search, signal = (str(uuid.uuid4()) for _ in range(3))
    spec = {"strategy": "sma_cross", "symbol": "BTCUSDT", "timeframe": "1m", "params": {"fast": 9}}
    wanted = {**spec, "space": {"fast": "5:20"}, "objectives": ["sharpe"]}
    rows: list[tuple[str, tuple[Any, ...]]] = [
        (
            "INSERT INTO strategy_instances (id, strategy, params, symbol, timeframe, account_id, venue, sizing, size,"
            " error) VALUES ('x','sma_cross',$1,'BTCUSDT','1m',1,'paper','notional',1000,$2)",
            ({"fast": 9}, HOSTILE),
        ),
        (
            "INSERT INTO strategy_parameters (instance_id, version, strategy, params, changed_by, provenance) VALUES"
            " ('x',1,'sma_cross',$1,$2,$3)",
            ({"fast": 9}, HOSTILE, {"search": HOSTILE}),
        ),
        (
            "INSERT INTO challengers (id, instance_id, number, params, added_by, error, evaluation, evaluated_at)"
            " VALUES ('c1','x',1,$1,$2,$2,$3,now())",
            ({"fast": 12}, HOSTILE, {"verdict": HOSTILE}),
        ),
        (
            "INSERT INTO ohlcv_data (time, symbol, timeframe, open, high, low, close, volume, exchange)"
            " SELECT t, 'BTCUSDT', '1m', 64000, 64010, 63990, 64005, 1.5, 'binance' FROM generate_series("
            " date_trunc('minute', now()) - interval '300 min', date_trunc('minute', now()) - interval '1 min',"
            " '1 min') t WHERE t NOT BETWEEN date_trunc('minute', now()) - interval '200 min'"
            " AND date_trunc('minute', now()) - interval '161 min'",
            (),
        ),
        (
            "INSERT INTO series (exchange, symbol, timeframe, oldest, newest, candles) SELECT exchange, symbol,"
            " timeframe, min(time), max(time), count(*) FROM ohlcv_data GROUP BY 1, 2, 3 ON CONFLICT DO NOTHING",
            (),
        ),
        (
            "INSERT INTO signals (id, source, instance, account_id, venue, exchange, symbol, timeframe, ts_event, kind,"
            " side, type, size, reason, state, detail, reference_price) VALUES ($1,'strategy','x',1,'paper','binance',"
            " 'BTCUSDT','1m',now() - interval '20 min','enter','buy','market',0.1,$2,'ordered',$2,64100)",
            (signal, HOSTILE),
        ),
        (
            "INSERT INTO orders (client_order_id, intent_id, signal_id, account_id, venue, exchange, symbol, instance,"
            " role, side, type, quantity, price, state, detail, attempt, created_at) VALUES ('o1',$1,$2,1,'paper',"
            " 'binance','BTCUSDT','x','entry','buy','market',0.1,64100,'FILLED',$3,0,now() - interval '5 min')",
            (str(uuid.uuid4()), signal, HOSTILE),
        ),
        (
            "INSERT INTO quarantine (exchange, symbol, channel, timeframe, time, reason, payload) VALUES"
            " ('binance',$1,'bars','1m',now(),$1,$2)",
            (HOSTILE, {"detail": HOSTILE}),
        ),
        (
            "INSERT INTO jobs (id, kind, spec, state, progress, result, submitted_by) VALUES"
            " ($1,'backtest',$2,'done',1,$3,$4)",
            (backtest, spec, RESULT, HOSTILE),
        ),
        (
            "INSERT INTO jobs (id, kind, spec, state, progress, error, submitted_by) VALUES"
            " ($1,'backtest',$2,'running',0.4,$3,'me')",
            (str(uuid.uuid4()), {**spec, "symbol": HOSTILE}, HOSTILE),
        ),
        (
            "INSERT INTO jobs (id, kind, spec, state, progress, result, submitted_by) VALUES"
            " ($1,'optimization',$2,'done',1,$3,$4)",
            (search, wanted, {**FOUND, "trials": {"done": 1, "pruned": 0, "failed": 0}}, HOSTILE),
        ),
        (
            "INSERT INTO trials (search_id, fold, number, params, state, result) VALUES ($1,0,0,$2,'done',$3)",
            (search, {"fast": HOSTILE}, {"values": [1.25], "metrics": {}}),
        ),
        (
            "INSERT INTO alerts (severity, event, message, component, resolved_at) VALUES ('page',$1,$1,$1,NULL),"
            " ('warning','x',$1,$1,now())",
            (HOSTILE,),
        ),
        (
            "INSERT INTO alert_silences (event, component, until, reason, created_by) VALUES"
            " ($1,$1,now() + interval '1 hour',$1,$1)",
            (HOSTILE,),
        ),
        (
            "INSERT INTO alert_deliveries (channel, about, rule, error, state) VALUES ($1,'raised',$1,$1,'failed')",
            (HOSTILE,),
        ),
        (
            "INSERT INTO schedules (name, task, cron, last_result, created_by) VALUES ('x','backup','0 3 * * *',$1,$1)",
            (HOSTILE,),
        ),
        (
            "INSERT INTO schedule_runs (schedule, due_at, cause, state, result) VALUES ('x',now(),'due','done',$1)",
            (HOSTILE,),
        ),
        (
            "INSERT INTO operations (id, kind, target, reason, requested_by, progress, state) VALUES"
            " ($1,'restart',$2,$2,$2,$2,'running')",
            (str(uuid.uuid4()), HOSTILE),
        ),
        (
            "INSERT INTO runtime_config (version, values, changes, changed_by, reason, state) VALUES"
            " (1,$1,$1,$2,$2,'active')",
            ({}, HOSTILE),
        ),
        ("INSERT INTO nodes (name, role, state, address, beat_at) VALUES ($1,'head','ready',$1,now())", (HOSTILE,)),
        ("INSERT INTO venue_states (venue, account_id, state, detail) VALUES ('paper',1,'READY',$1)", (HOSTILE,)),
        (
            "INSERT INTO component_health (name, kind, state, pid, beat_at, since, detail) VALUES"
            " ('supervisor','actor','ready',101,now(),now(),$1)",
            ({"tree": TREE},),
        ),
        (
            "INSERT INTO component_health (name, kind, state, pid, beat_at, since, version) VALUES"
            " ('orders','actor','ready',102,now(),now(),$1), ('x','actor','ready',103,now(),now(),'1'),"
            " ($1,'actor','failed',104,now(),now(),'1')",
            (HOSTILE,),
        ),
        (
            "INSERT INTO actor_events (child, event, reason, pid, payload, node) VALUES ('x','exited',$1,12,$2,$1)",
            (HOSTILE, {"how": "crash", "signal": 9, "last_lines": [HOSTILE]}),
        ),
        (
            "INSERT INTO health_checks (service, at, status, reported, response_ms, error, detail) VALUES"
            " ('database',now(),'healthy','healthy',1.5,$1,$2), ('backup',now(),'degraded','degraded',1.5,$1,$2)",
            (HOSTILE, {"age_s": 86400, "note": HOSTILE, "uptime": {"24h": 99.5, "7d": 100.0, "30d": 99.9}}),
        ),
        (
            "INSERT INTO service_registry (name, kind, services, host, version) VALUES ($1,'external','{}',$1,$1)",
            (HOSTILE,),
        ),
        (
            "INSERT INTO ninja_links (group_name, writer_epoch, state, accounts, alarm) VALUES ($1,1,'DOWN',$2,$1)",
            (HOSTILE, [{"name": HOSTILE, "state": "ok"}]),
        ),
        (
            "INSERT INTO webhooks (name, salt, key_check, account_id, symbols, sizing, size, quota_per_hour,"
            " confidence_min, created_by) VALUES ($1,'a','b',1,ARRAY['BTCUSDT'],'payload',1,60,0.6,$1)",
            (HOSTILE,),
        ),
        (
            "INSERT INTO credentials (account_id, venue, exchange, role, version, sealed, key_id, fingerprint, state,"
            " reason, created_by) VALUES (1,'ccxt','binance','orders',1,NULL,'0123abcd','0123abcd','refused',$1,$1)",
            (HOSTILE,),
        ),
    ]
    for statement, values in rows:
        await database.sql(statement, *values)
    return {"backtest": backtest, "search": search}


def address(name: str, path: str, ids: dict[str, str]) -> str:
    """Return the path of a page with its parameters filled in."""
    path = path.replace("{name}", "x").replace("{id}", ids.get(name, ""))
    queries = {
        "series": "?exchange=binance&symbol=BTCUSDT&timeframe=1m",
        "compare": f"?id={ids['backtest']}",
        "chart": "?symbol=BTCUSDT&timeframe=1m",
    }
    return "/app" + path + queries.get(name, "")


async def administrator(web: Web, browser: httpx.AsyncClient) -> str:
    """Log a browser in with scope admin and return its token for forms."""
    secret = await make_user(web, "root", "admin")
    await log_in(web, browser, "root", code_of(str(secret), steps=1))
    return await csrf_of(browser)


async def test_pages_show_their_data_and_hostile_text_as_text(web: Web, seeded: Database) -> None:
    ids = await fill(seeded)
    async with web.client() as browser:
        await administrator(web, browser)
        for page in PAGES:
            if page.name not in SHOWN:
                continue
            answer = await browser.get(address(page.name, page.path, ids))
            assert answer.status_code == 200, (page.name, answer.text[-2000:])
            assert 'class="problem"' not in answer.text, page.name
            assert ("<img" in answer.text, "23331" in answer.text) == (False, False), page.name
            assert page.name in OWN or "&lt;img src=x" in answer.text, page.name
            for text in SHOWN[page.name]:
                assert text in answer.text, (page.name, text)
    assert web.log.lines == []


async def test_a_document_is_stored_asked_read_and_removed(web: Web, seeded: Database) -> None:
    text = f"# Breaks\n\nAfter three losses the desk stops trading until noon.\n\n{HOSTILE}"
    async with web.client() as browser:
        csrf = await administrator(web, browser)
        nothing = await browser.post("/app/documents/ask", data={"csrf": csrf, "question": "When does the desk stop?"})
        assert "Nothing that is stored holds enough" in nothing.text
        form = {"csrf": csrf, "name": "desk rules", "kind": "text", "text": text}
        stored = await browser.post("/app/documents/add", data=form)
        assert "It is stored and can be asked now." in stored.text
        question = {"csrf": csrf, "question": "When does the desk stop trading after losses?"}
        answer = (await browser.post("/app/documents/ask", data=question)).text
        assert "After three losses the desk stops trading until noon." in answer
        (link,) = set(re.findall(r'href="(/app/documents/[0-9a-f-]+)#c-[0-9a-f-]+"', answer))
        shown = (await browser.get(link)).text
        assert ("<img" in shown, "&lt;img src=x" in shown, "23331" in shown) == (False, True, False)
        assert "desk rules" in (await browser.get("/app/documents")).text
        removed = await browser.post("/app/documents/remove", data={"csrf": csrf, "id": link.rpartition("/")[2]})
        assert "It is removed" in removed.text
    assert await seeded.sql("SELECT FROM ai_documents WHERE collection = 'user'") == []


async def test_models_and_forecasts_are_listed(web: Web, seeded: Database) -> None:
    await seeded.sql(
        "INSERT INTO ai_deployments (name, engine, model, context_size, state, reason) VALUES"
        " ('small', 'llama_cpp', $1, 8192, 'failed', $1)",
        HOSTILE,
    )
    figure = {"value": 0.5, "low": 0.4, "high": 0.6}
    metrics = {"skill": {"naive": figure}, "coverage": {"0.8": figure}}
    drift = {"rows": 9, "rows_needed": 9, "error": figure, "coverage": None, "findings": {"error": f"by {HOSTILE}"}}
    await seeded.sql(
        "INSERT INTO ai_models (name, exchange, timeframe, bar_s, created_by) VALUES ('ar', 'x', '1h', 1, '')"
    )
    await seeded.sql(
        "INSERT INTO ai_model_versions (model, version, stage, fingerprint, data_hash, artifact_hash, label_end, symbols,"
        " spec, seed, libraries, folds, metrics, checks, drift, created_by) VALUES ('ar', 1, 'live', '', '', '', now(),"
        " '{BTCUSDT}', '{}', 1, '{}', '[]', $1, '{}', $2, '')",
        metrics,
        drift,
    )
    await seeded.sql(  # of a deployed model: not evaluated
        "INSERT INTO ai_models (name, exchange, timeframe, bar_s, created_by) VALUES ('net', 'x', '1h', 1, '')"
    )
    await seeded.sql(
        "INSERT INTO ai_model_versions (model, version, stage, fingerprint, data_hash, artifact_hash, label_end, symbols,"
        " spec, seed, libraries, folds, metrics, checks, created_by) VALUES ('net', 1, 'live', '', '', '', now(),"
        " '{BTCUSDT}', '{}', 0, '{}', '[]', '{}', '{}', '')"
    )
    async with web.client() as browser:
        await administrator(web, browser)
        shown = (await browser.get("/app/models")).text
    assert ">net</th>" in shown
    assert ("by &lt;img src=x" in shown, "drifts" in shown) == (True, True)
    assert "inference:small:0" in shown
    assert ("<img" in shown, "&lt;img src=x" in shown, "failed" in shown) == (False, True, True)


async def test_page_models_shows_each_process_and_how_to_serve_one(web: Web, seeded: Database) -> None:
    async with web.client() as browser:
        await administrator(web, browser)
        assert "fks ai deploy NAME --file MODEL.gguf" in (await browser.get("/app/models")).text
        await add_language_models(seeded, HOSTILE)
        shown = (await browser.get("/app/models")).text
        navigation = (await browser.get("/app/documents")).text
    assert 'href="/app/models"' in navigation
    assert ("<img" in shown, "&lt;img src=x" in shown, "23331" in shown) == (False, True, False)
    rows = [re.sub(r"<[^>]+>|\s+", " ", row) for row in re.findall(r"<tr>.*?</tr>", shown, flags=re.DOTALL)]
    cells = {row.split()[0]: " ".join(row.split()) for row in rows if row.split()}
    assert "small answer llama_cpp /models/small.gguf serving since" in cells["small"]
    assert "1&nbsp;of&nbsp;2" in cells["small"]
    assert "remote answer ollama llama3 at http://127.0.0.1:11434 starting" in cells["remote"]
    assert "failed &lt;img src=x" in cells["broken"]
    first = "inference:small:0 ready gpu-1 1,843 2 1 31.4 120 3 1 0"
    assert cells["inference:small:0"].startswith(first), cells["inference:small:0"]
    assert cells["inference:small:1"].endswith("died: signal 9 (SIGKILL)"), cells["inference:small:1"]
    assert cells["inference:small:1"].startswith("inference:small:1 down gpu-1 \N{EM DASH} \N{EM DASH}")


async def test_a_key_that_is_typed_is_shown_nowhere_and_a_wrong_one_is_not_stored(web: Web, seeded: Database) -> None:
    secret = "not usable, with spaces"
    async with web.client() as browser:
        csrf = await administrator(web, browser)
        form = {"csrf": csrf, "account": "demo", "role": "orders", "api_key": secret, "api_secret": secret}
        answer = await browser.post("/app/keys/store", data=form)
        assert (answer.status_code, "key or secret is not usable" in answer.text) == (422, True), answer.text[-2000:]
        assert secret not in answer.text
        removed = await browser.post("/app/keys/remove", data={"csrf": csrf, "account": "demo"})
        assert (removed.status_code, "no stored key of this role" in removed.text) == (404, True), removed.text[-2000:]
    assert await seeded.sql("SELECT FROM credentials") == []
    assert secret not in "".join(
        map(str, web.log.lines + [dict(r) for r in await seeded.sql("SELECT * FROM audit_log")])
    )


async def test_a_venue_is_disabled_at_the_version_that_the_page_showed(web: Web, seeded: Database) -> None:
    await seeded.sql("INSERT INTO venue_states (venue, account_id, state) VALUES ('paper', 1, 'READY')")
    async with web.client() as browser:
        form = {"csrf": await administrator(web, browser), "name": "paper", "version": "0", "enabled": "false"}
        answer = await browser.post("/app/monitor/venue", data=form)
        assert (answer.status_code, "takes no entries" in answer.text) == (200, True), answer.text[-2000:]
        again = await browser.post("/app/monitor/venue", data=form | {"enabled": "true"})
        assert (again.status_code, "not at version 0" in again.text) == (409, True), again.text[-2000:]
        wrong = await browser.post("/app/monitor/venue", data=form | {"version": "x"})
        assert wrong.status_code == 422
        assert "denied" in (await browser.get("/app/monitor")).text
    assert [row["is_enabled"] for row in await seeded.sql("SELECT is_enabled FROM venues")] == [False]


async def test_result_of_a_search_shows_its_leaders_and_a_heat_map(web: Web, seeded: Database) -> None:
    ids = await fill(seeded)
    cells = {"fast": [5, 9], "slow": [20, 30], "mean": [0.5, -0.4], "best": [1.004, -0.2], "count": [3, 2]}
    winner = {"fast": 5, "slow": 20, "sl_pct": None}
    leader = {"trial": 1, "params": {**winner, "kind": HOSTILE}, "values": [1.004], "metrics": {"return_pct": 3.21}}
    result = {**FOUND, "best": {"params": winner}, "objectives": ["sharpe"], "leaders": [leader]}
    result["stability"] = {"map": cells}
    await seeded.sql("UPDATE jobs SET result = $1 WHERE id = $2", result, uuid.UUID(ids["search"]))
    async with web.client() as browser:
        await administrator(web, browser)
        text = (await browser.get(f"/app/searches/{ids['search']}")).text
    row = re.search(r'aria-label="Leaders".*?<tbody>(.*?)</tbody>', text, re.DOTALL)
    assert row is not None
    seen = re.sub(r"<[^>]+>", "", row[1])
    assert ("fast 5, kind &lt;img" in seen, "slow 20" in seen, "sl_pct" in seen) == (True, True, False)
    assert ("1.00" in seen, "+3.21" in seen) == (True, True)
    assert "sharpe by fast and slow" in text
    assert 'class="n gain p6 winner"' in text
    assert 'class="n loss p2"' in text
    assert '1.00<span class="visually-hidden">, mean 0.50 of 3, the winner' in text
    assert text.count("<td>—</td>") == 2, "no trial was there"


async def test_instance_is_switched_and_gets_parameters(web: Web, seeded: Database) -> None:
    await fill(seeded)
    async with web.client() as browser:
        csrf = await administrator(web, browser)
        answer = await browser.post("/app/strategies/switch", data={"csrf": csrf, "instance": "x", "on": "0"})
        assert "x is off" in answer.text
        form = {"csrf": csrf, "instance": "x", "version": "1", "p.fast": "7", "p.slow": "30"}
        wrong = await browser.post("/app/strategies/change", data={**form, "p.fast": "seven"})
        assert (wrong.status_code, "PARAMETER_WRONG" in wrong.text) == (422, True)
        wrong = await browser.post("/app/strategies/change", data={**form, "p.fast": "-7"})
        assert wrong.status_code == 422
        answer = await browser.post("/app/strategies/change", data=form)
        assert "x runs version 2" in answer.text, answer.text
        again = await browser.post("/app/strategies/change", data=form)
        assert (again.status_code, "INSTANCE_CHANGED" in again.text) == (409, True)
    row = (await seeded.sql("SELECT params, is_enabled FROM strategy_instances WHERE id = 'x'"))[0]
    assert (row["params"]["fast"], row["params"]["slow"], row["is_enabled"]) == (7, 30, False)


async def test_backtest_and_search_are_started_by_their_forms(web: Web, seeded: Database) -> None:
    await fill(seeded)
    async with web.client() as browser:
        csrf = await administrator(web, browser)
        form = {"csrf": csrf, "strategy": "sma_cross", "symbol": "BTCUSDT", "timeframe": "1m", "size": "1000"}
        costs = {"fee_rate": "", "slippage": "2 ticks", "commission": "0.01 each min 0.1", "margin": "0.5/0.25"}
        one = {**form, **costs, "key": "1" * 32, "p.fast": "7"}
        wrong = await browser.post("/app/backtests/start", data={**one, "margin": "half"})
        assert (wrong.status_code, "half" in wrong.text) == (422, True)
        first = await browser.post("/app/backtests/start", data=one)
        assert ("It is queued" in first.text, "/app/backtests/" in first.text) == (True, True)
        await browser.post("/app/backtests/start", data=one)  # a form that is sent twice is one backtest
        none = await browser.post("/app/backtests/search", data={**form, "key": "2" * 32, "p.fast": "7"})
        assert (none.status_code, "SPACE_MISSING" in none.text) == (422, True)
        ranged = {**form, "key": "2" * 32, "p.fast": "5:10", "trials": "5"}
        assert "The search is queued" in (await browser.post("/app/backtests/search", data=ranged)).text
    rows = await seeded.sql("SELECT kind, spec FROM jobs WHERE state = 'queued' ORDER BY kind")
    assert [row["kind"] for row in rows] == ["backtest", "optimization"]
    spec = rows[0]["spec"]
    assert (spec["params"], spec["slippage"], spec["commission"]) == ({"fast": 7}, "2 ticks", "0.01 each min 0.1")
    assert spec["margin"] == "0.5/0.25"
    assert rows[1]["spec"]["space"] == {"fast": "5:10"}


async def test_suspect_value_is_settled_once(web: Web, seeded: Database) -> None:
    await fill(seeded)
    id = str((await seeded.sql("SELECT id FROM quarantine"))[0]["id"])
    async with web.client() as browser:
        form = {"csrf": await administrator(web, browser), "id": id, "verdict": "refused"}
        assert f"Value {id} is refused" in (await browser.post("/app/data/settle", data=form)).text
        again = await browser.post("/app/data/settle", data={**form, "verdict": "confirmed"})
        assert (again.status_code, "QUARANTINE_UNKNOWN" in again.text) == (404, True)
    assert (await seeded.sql("SELECT verdict FROM quarantine"))[0]["verdict"] == "refused"


async def test_chart_draws_an_indicator_of_the_server(web: Web, seeded: Database) -> None:
    await fill(seeded)
    async with web.client() as browser:
        await administrator(web, browser)
        at = "/app/chart?symbol=BTCUSDT&timeframe=1m"
        answer = await browser.get(f"{at}&indicator=macd&params=fast:5,slow:9,signal:3")
        drawn = re.findall(r'data-i="([^"]*)"', answer.text)
        assert (len(drawn), len(drawn[0].split("|"))) == (260, 3)
        assert 'data-pane="1"' in answer.text
        assert 'data-pane="0"' in (await browser.get(f"{at}&indicator=sma")).text
        assert "INDICATOR_PARAM" in (await browser.get(f"{at}&indicator=sma&params=period:0")).text
        assert "INDICATOR_UNKNOWN" in (await browser.get(f"{at}&indicator=nothing")).text


async def test_chart_draws_forecasts_at_the_bars_that_they_are_about(web: Web, seeded: Database) -> None:
    await fill(seeded)
    await add_forecasts(seeded, 30)
    async with web.client() as browser:
        await administrator(web, browser)
        at = "/app/chart?symbol=BTCUSDT&timeframe=1m"
        assert "data-about" not in (await browser.get(at)).text
        shown = (await browser.get(f"{at}&forecast=ar")).text
        found = re.findall(r'data-about="([^"]*)" data-v="([^"]*)" data-l="([^"]*)" data-h="([^"]*)"', shown)
        bars = dict(re.findall(r'data-time="([^"]*)" .*?data-c="([^"]*)"', shown))
        newest = sorted(bars)[-1]
        assert len(found) == 30
        about, *levels = found[0]
        assert to_ns(datetime.fromisoformat(about)) - to_ns(datetime.fromisoformat(newest)) == 120 * NS
        close = float(bars[newest])
        assert [float(level) for level in levels] == pytest.approx([close * 1.01, close * 0.99, close * 1.03])
        # a missing row has no price, and a model no bars of another timeframe
        await seeded.sql(
            "UPDATE feature_values SET state = 'missing', value = 'NaN' WHERE time = (SELECT max(time) FROM feature_values)"
        )
        shown = (await browser.get(f"{at}&forecast=ar")).text
        assert (shown.count("data-about"), "missing" in shown) == (29, True)
        shown = (await browser.get("/app/chart?symbol=BTCUSDT&timeframe=5m&forecast=ar")).text
        assert ("data-about" in shown, "choose the timeframe" in shown or "No bars" in shown) == (False, True)
        assert "predicted none" in (await browser.get(f"{at}&forecast=nothing")).text


async def test_rules_and_channels_are_edited(web: Web, seeded: Database) -> None:
    async with web.client() as browser:
        csrf = await administrator(web, browser)
        rule = {"csrf": csrf, "name": "mine", "kind": "threshold", "on": "fks_queue_depth", "severity": "warning"}
        none = await browser.post("/app/alerts/save", data=rule)
        assert (none.status_code, "one of above and below" in none.text) == (422, True)
        assert "Rule mine is in force" in (await browser.post("/app/alerts/save", data={**rule, "above": "5"})).text
        shown = (await browser.get("/app/alerts?rule=mine")).text
        assert ("Edit mine" in shown, 'value="fks_queue_depth"' in shown) == (True, True)
        await browser.post("/app/alerts/save", data={**rule, "known": "mine", "below": "2", "severity": "page"})
        async with web.gateway.client("read") as client:
            (found,) = [row for row in (await client.get("/alerts/rules")).json()["items"] if row["name"] == "mine"]
        assert (found["above"], found["below"], found["severity"], found["changed_by"]) == (
            None,
            2,
            "page",
            "user:root",
        )
        assert "Rule mine is removed" in (await browser.post("/app/alerts/remove", data={**rule})).text
        channel = {"csrf": csrf, "name": "ops", "url": "json://127.0.0.1:9/token-of-the-channel"}
        made = await browser.post("/app/alerts/channel", data=channel)
        assert ("takes alerts from now on" in made.text, "token-of-the-channel" in made.text) == (True, False)
        off = await browser.post("/app/alerts/channel-change", data={"csrf": csrf, "name": "ops", "on": "0"})
        assert "Channel ops is changed" in off.text
        gone = await browser.post("/app/alerts/channel-remove", data={"csrf": csrf, "name": "ops"})
        assert "Channel ops is removed" in gone.text


async def test_no_number_in_a_form_is_an_error_of_the_page(web: Web, seeded: Database) -> None:
    await fill(seeded)
    one = {"symbol": "BTCUSDT", "strategy": "sma_cross", "timeframe": "1m", "size": "1000", "key": "3" * 32}
    rule = {"name": "mine", "kind": "rate", "on": "x", "severity": "info"}
    forms: tuple[tuple[str, dict[str, str], str], ...] = (
        ("/data/enable", {"symbol": "BTCUSDT"}, "history"), ("/data/sync", {"symbol": "BTCUSDT"}, "history"),
        ("/users/token", {"name": "t"}, "days"), ("/settings/rollback", {"reason": "r", "base": "0"}, "version"),
        ("/schedules/add", {"name": "s", "action": "backup"}, "every_s"), ("/alerts/save", rule, "count"),
        ("/alerts/silence", {"reason": "r"}, "minutes"), ("/backtests/search", {**one, "p.fast": "2:9"}, "trials"),
        ("/strategies/change", {"instance": "x"}, "version"), ("/strategies/change", {"instance": "x"}, "p.fast"),
        ("/schedules/add", {"name": "s", "action": "backup"}, "params"),
        ("/settings/change", {"key": "risk.notional_max_order", "reason": "r", "base": "0"}, "value"),
    )  # fmt: skip
    deep = '{"a":' + "[" * 400 + "]" * 400 + "}"
    async with web.client() as browser:
        csrf = await administrator(web, browser)
        for path, form, field in forms:
            for value in ("1e999990", "9" * 4000, "9" * 30, "²", "nan", "inf", deep, "[" * 5000):
                sent = {"csrf": csrf, "version": "1", **form, field: value}
                answer = await browser.post(f"/app{path}", data=sent)
                assert answer.status_code in (400, 409, 422), (path, field, value[:20], answer.status_code)
    assert web.log.lines == []


async def test_form_of_schedules_offers_each_action_of_the_table(web: Web, seeded: Database) -> None:
    async with web.client() as browser:
        csrf = await administrator(web, browser)
        form = re.search(r'<select id="f-action".*?</select>', (await browser.get("/app/schedules")).text)
        assert form
        assert re.findall(r'<option value="([^"]+)"', form[0]) == list(SCHEDULE_ACTIONS)
        sent = {
            "csrf": csrf,
            "name": "weekly",
            "action": "report",
            "cron": "0 6 * * 1",
            "params": '{"period": "weekly"}',
        }
        assert "weekly is first due at" in (await browser.post("/app/schedules/add", data=sent)).text


async def test_second_factor_is_set_up_in_the_page(web: Web, seeded: Database) -> None:
    await add_user(web.gateway, "eve", "admin")
    async with web.client() as browser:
        await log_in(web, browser, "eve")
        csrf = await csrf_of(browser, "/app/own")
        wrong = await browser.post("/app/own/begin", data={"csrf": csrf, "password": "no"})
        assert (wrong.status_code, "LOGIN_FAILED" in wrong.text) == (401, True), "the session goes on"
        begun = await browser.post("/app/own/begin", data={"csrf": csrf, "password": PASSWORD})
        secret = re.search(r"<dt>Secret</dt><dd>(\w+)</dd>", begun.text)
        assert secret
        assert 'src="data:image/svg+xml' in begun.text
        assert "Scope now</dt><dd>approve" in begun.text
        done = await browser.post("/app/own/confirm", data={"csrf": csrf, "totp": code_of(secret[1])})
        assert "Your scope is admin" in done.text
        assert "Scope now</dt><dd>admin" in (await browser.get("/app/own")).text


async def test_terms_lead_to_the_glossary(web: Web, seeded: Database) -> None:
    await make_user(web, "ann", "read")
    async with web.client() as browser:
        await log_in(web, browser, "ann")
        stop = (await browser.get("/app/stop")).text
        link = re.search(r'href="/app/glossary#(term-kill-switch)" data-term="kill switch" data-meaning="cancel', stop)
        assert link, "the title is a term"
        assert f'id="{link[1]}"' in (await browser.get("/app/glossary")).text


@pytest.mark.parametrize("path", ["/monitor", "/users"])
async def test_administrative_pages_name_the_scope_that_a_reader_lacks(web: Web, path: str) -> None:
    await make_user(web, "ann", "read")
    async with web.client() as browser:
        await log_in(web, browser, "ann")
        answer = await browser.get("/app" + path)
        assert (answer.status_code, "admin" in answer.text) == (200, True)
        assert f'action="/app{path}' not in answer.text
