"""The page of portfolios: what it shows, and a rebalancing from the preview to its run, by the hash of the preview."""

from __future__ import annotations

import re

import pytest

from fks.store.db import Database
from tests.support.portfolios import portfolio_with_targets
from tests.support.users import code_of
from tests.support.web import Web, csrf_of, log_in, make_user


@pytest.fixture
async def rows(web: Web, database: Database) -> Database:
    """A portfolio with all that the page shows."""
    await portfolio_with_targets(web.gateway, database)
    return database


async def test_the_page_shows_holdings_weights_risk_and_limits(web: Web, rows: Database) -> None:
    await make_user(web, "ann", "read")
    async with web.client() as browser:
        await log_in(web, browser, "ann")
        text = (await browser.get("/app/portfolios")).text
        for shown in (
            "Equity of main",
            "11,000.00",
            "Weights and targets",
            "historical",
            "cornish-fisher",
            "weight_max",
        ):
            assert shown in text, shown
        assert "Preview a rebalancing" not in text, "a reader trades nothing"
        await rows.sql("INSERT INTO balances (account_id, currency, free, locked) VALUES (1,'XYZ',9,0)")
        text = (await browser.get("/app/portfolios?portfolio=main&days=7")).text
        assert text.count("XYZ/USDT: missing") == 2, "in the holdings, and in what the risk lacks"
    assert web.log.lines == []


async def test_a_preview_shows_the_gain_of_a_sell(web: Web, rows: Database) -> None:
    """1 of 1.5 at 50000 was bought at 20000, the rest at 40000, without fees."""
    for quantity, price, day in ((1, 20_000, "2026-01-01"), (0.5, 40_000, "2026-02-01")):
        await rows.sql(
            "INSERT INTO trades (fill_id, account_id, venue, symbol, instance, trade_type, quantity, price, time) VALUES"
            " (gen_random_uuid(), 1, 'paper', 'BTCUSDT', 'portfolio:1', 'BUY', $1::float8::numeric, $2::int, $3::text::date)",
            *(quantity, price, day),
        )
    await rows.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price) VALUES"
        " (1, 'paper', 'BTCUSDT', 'portfolio:1', 1.5, 26666)"
    )
    await rows.sql("UPDATE portfolio_targets SET weight = 0 WHERE symbol = 'BTCUSDT'")
    secret = await make_user(web, "ann", "trade")
    async with web.client() as browser:
        await log_in(web, browser, "ann", code_of(str(secret), steps=1))
        form = {"csrf": await csrf_of(browser), "name": "main"}
        shown = (await browser.post("/app/portfolios/preview", data=form)).text
        found = re.search(r"gain ([0-9,.]+)", shown)
        assert found is not None, shown
        assert 34_800 < float(found[1].replace(",", "")) < 35_000, "30000 and 5000, less the fee"


async def test_a_preview_is_confirmed_by_its_hash_once(web: Web, rows: Database) -> None:
    secret = await make_user(web, "ann", "trade")
    async with web.client() as browser:
        await log_in(web, browser, "ann", code_of(str(secret), steps=1))
        form = {"csrf": await csrf_of(browser), "name": "main"}
        uncollared = (await browser.post("/app/portfolios/preview", data=form)).text
        assert ", limit " not in uncollared
        await rows.sql('UPDATE portfolio_target_sets SET rules = rules || \'{"collar": "0.01"}\'')
        shown = await browser.post("/app/portfolios/preview", data=form)
        assert (shown.status_code, "Nothing is traded yet" in shown.text) == (200, True)
        assert await rows.sql("SELECT * FROM portfolio_runs WHERE state <> 'planned'") == []
        found = re.search(r'name="plan_hash" value="([0-9a-f]{64})"', shown.text)
        assert found is not None
        wrong = await browser.post("/app/portfolios/rebalance", data={**form, "plan_hash": "0" * 64})
        assert (wrong.status_code, "PLAN_UNKNOWN" in wrong.text) == (409, True)
        for _ in range(2):
            begun = await browser.post("/app/portfolios/rebalance", data={**form, "plan_hash": found[1]})
            assert (begun.status_code, "The rebalancing of main is running" in begun.text) == (200, True), begun.text
        [run] = await rows.sql("SELECT id, state FROM portfolio_runs WHERE state <> 'planned'")
        [step] = await rows.sql("SELECT limit_price FROM portfolio_run_steps WHERE run_id = $1 AND step = 1", run["id"])
        limit = f"{step['limit_price']:,.2f}"
        collared = re.search(r", limit ([0-9,]+)", shown.text)
        assert collared is not None
        assert int(collared[1].replace(",", "")) == step["limit_price"] == 50_500, "1 % above the price"
        signal = await rows.sql(
            "UPDATE portfolio_run_steps SET signal_id = gen_random_uuid() WHERE step = 1 AND run_id = $1 RETURNING *",
            run["id"],
        )
        await rows.sql(
            "INSERT INTO orders (client_order_id, intent_id, account_id, venue, exchange, symbol, instance, role, side,"
            " type, quantity, state, filled, reported_cum_qty, signal_id, average_price) VALUES ('one',"
            " gen_random_uuid(), 1, 'paper', 'binance', 'BTCUSDT', 'portfolio:1', 'entry', 'buy', 'market', 1, 'FILLED',"
            " 1, 1, $1, 50001.49024115690527838033261)",
            signal[0]["signal_id"],
        )
        text = (await browser.get("/app/portfolios")).text
        assert ("1. buy" in text, "50,001.4902<" in text) == (True, True), (
            "an average has two digits more than the tick"
        )
        assert f'<span class="num">{limit}<' in text
        ended = await browser.post("/app/portfolios/cancel", data={**form, "id": str(run["id"])})
        assert (ended.status_code, "it sends no more orders" in ended.text) == (200, True)
