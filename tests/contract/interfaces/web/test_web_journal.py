"""The pages of the journal and of reports: what they show, notes at their version, and a report that is sent once."""

from __future__ import annotations

import json

import pytest

from fks.config.settings import Settings
from fks.model.accounting.period import last_ended
from fks.research.jobs.reports import issue_report
from fks.research.jobs.schedule import write_journal
from fks.store.db import Database
from fks.store.reports import ReportStore
from tests.support.users import code_of
from tests.support.web import Web, csrf_of, log_in, make_user
from tests.support.web_rows import HOSTILE

NOW_NS = 1_772_500_000_000_000_000  # 2026-03-03


@pytest.fixture
async def traded(web: Web, database: Database) -> str:
    """A closed trade with a note that is hostile, and the report of its day; its id."""
    for side, realized, time in (("BUY", "0", "2026-03-02T10:00Z"), ("SELL", "12", "2026-03-02T11:30Z")):
        await database.sql(
            "INSERT INTO trades (fill_id, account_id, venue, symbol, instance, trade_type, quantity, price, fee,"
            " fee_currency, realized_pnl, time) VALUES (gen_random_uuid(), 1, 'paper', 'BTCUSDT', 'trend', $1, 1, 100, 1,"
            " 'USDT', $2::text::numeric, $3::text::timestamptz)",
            *(side, realized, time),
        )
    await write_journal(database, Settings(), NOW_NS)
    store, period = ReportStore(database), last_ended("daily", NOW_NS)
    document = await store.report(period, None, home="binance", now_ns=NOW_NS)
    await issue_report(store, period, document, now_ns=NOW_NS)
    (row,) = await database.sql("UPDATE journal_entries SET note = $1 RETURNING id", HOSTILE)
    return str(row["id"])


async def test_the_journal_shows_a_trade_and_keeps_its_notes(web: Web, traded: str, database: Database) -> None:
    secret = await make_user(web, "ann", "trade")
    async with web.client() as browser:
        await log_in(web, browser, "ann", code_of(str(secret), steps=1))
        text = (await browser.get("/app/journal?instance=trend")).text
        assert "long BTCUSDT" in text
        assert "10.00" in text, "the profit after fees"
        assert "No trade matches" in (await browser.get("/app/journal?instance=other")).text
        text = (await browser.get(f"/app/journal?entry={traded}")).text
        assert "Held for" in text
        assert "<img src=x" not in text, "a note is text"
        form = {"csrf": await csrf_of(browser), "id": traded, "version": "1", "tags": "calm, good", "note": "kept"}
        assert "The notes of BTCUSDT are kept" in (await browser.post("/app/journal/note", data=form)).text
        stale = await browser.post("/app/journal/note", data={**form, "note": "lost"})
        assert (stale.status_code, "JOURNAL_VERSION" in stale.text) == (409, True)
    (row,) = await database.sql("SELECT tags, note, version, noted_by FROM journal_entries")
    assert tuple(row) == (["calm", "good"], "kept", 2, "user:ann")


async def test_a_report_is_shown_and_sent_once(web: Web, traded: str, database: Database) -> None:
    secret = await make_user(web, "ann", "trade")
    await database.sql("INSERT INTO alert_channels (name, kind, address) VALUES ('team', 'webhook', '')")
    async with web.client() as browser:
        await log_in(web, browser, "ann", code_of(str(secret), steps=1))
        text = (await browser.get("/app/reports")).text
        for shown in ("Daily report, 2026-03-02", "Realised to date", "No channel gets it", "all accounts"):
            assert shown in text, shown
        (row,) = await database.sql("SELECT id FROM reports")
        form = {"csrf": await csrf_of(browser), "id": str(row["id"]), "channel": "team"}
        sent = await browser.post("/app/reports/send", data=form)
        assert "Daily report, 2026-03-02 goes to team" in sent.text
        again = await browser.post("/app/reports/send", data=form)
        assert (again.status_code, "REPORT_SENT" in again.text) == (409, True)
        assert "queued" in (await browser.get("/app/reports")).text
    (document,) = await database.sql("SELECT document::text FROM reports")
    assert json.loads(document["document"])["closed"][0]["profit"] == "10"
