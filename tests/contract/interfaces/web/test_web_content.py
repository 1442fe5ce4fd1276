"""Contents of the pages: what stands in the tables is shown, with its unit and age, and text of others is text."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser

from fks.interfaces.web.registry import PAGES
from fks.store.db import Database
from tests.support.web import Web, csrf_of, log_in, make_user
from tests.support.web_rows import HOSTILE, populate


class _Reader(HTMLParser):
    """Elements and attributes of a page as a browser would parse them."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str | None] = []
        self.handlers: list[str] = []
        self.images: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "script":
            self.scripts.append(given.get("src"))
        if tag == "img":
            self.images.append(str(given))
        self.handlers += [name for name, _ in attrs if name.startswith("on") or name == "style"]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(text: str) -> _Reader:
    reader = _Reader()
    reader.feed(text)
    return reader


def shown(text: str) -> str:
    """Return what a person reads, white space joined."""
    return re.sub(r"\s+", " ", unescape("".join(read(text).text)))


async def test_text_of_others_shows_as_text_in_every_column(web: Web, database: Database) -> None:
    rows = await populate(database, symbol=HOSTILE, text=HOSTILE)
    await database.sql("INSERT INTO kill_switch (kill_id, reason, engaged_by) VALUES ('k', $1, $1)", HOSTILE)
    await database.sql("UPDATE accounts SET name = $1 WHERE name = 'sim'", HOSTILE)
    await make_user(web, "ann", "read")
    async with web.client() as browser:
        await log_in(web, browser, "ann")
        times = 0
        for page in PAGES:
            for what in (str(rows.denied), rows.order) if "{what}" in page.path else ("",):
                answer = await browser.get("/app" + page.path.replace("{what}", what))
                assert answer.status_code == 200, page.name
                found = read(answer.text)
                assert found.images == []
                assert found.handlers == []
                assert all(src is not None and src.startswith("/app/static/") for src in found.scripts)
                times += shown(answer.text).count(HOSTILE)
                assert "49" not in answer.text or "{{7*7}}" in unescape(answer.text)
        assert times > 30, "the text of others stands in the pages"
        for path in ("/app/<script>x</script>", "/app/why/<img src=x>", '/app/login?next="><script>x</script>'):
            answer = await browser.get(path)
            assert read(answer.text).images == []
            assert all(src is not None for src in read(answer.text).scripts)


async def test_the_dashboard_shows_money_risk_and_ages(web: Web, database: Database) -> None:
    await populate(database)
    await make_user(web, "ann", "read")
    async with web.client() as browser:
        await log_in(web, browser, "ann")
        text = (await browser.get("/app/")).text
    seen = shown(text)
    for part in (
        "USDT",
        "Today (from 00:00 UTC)",
        "BTCUSDT",
        "−2.5",
        "sma-btc",
        "Signals that wait",
        "the feed of ETHUSDT is stale",
    ):
        assert part in seen, f"{part}: {seen}"
    assert re.search(r"stale, 3 min \d+ s ago", seen), "the age of a stale feed is text, not only colour"
    assert '<a class="btn btn-danger stop" href="/app/stop">' in text


async def test_prices_and_quantities_have_the_digits_of_tick_and_lot(web: Web, database: Database) -> None:
    """Averages have two more; a symbol without known steps has its own digits, eight at most."""
    await populate(database)
    await database.sql("UPDATE positions SET average_price = 63500.51234567891 WHERE symbol = 'BTCUSDT'")
    await database.sql("UPDATE orders SET average_price = 63500.51234567891 WHERE state = 'FILLED'")
    await make_user(web, "ann", "read")
    async with web.client() as browser:
        await log_in(web, browser, "ann")
        pages = {path: shown((await browser.get(f"/app{path}")).text) for path in ("/", "/orders", "/signals")}
        ids = dict.fromkeys(re.findall(r"/why/([0-9a-f]{32})", (await browser.get("/app/orders")).text))
        stories = [shown((await browser.get(f"/app/why/{id}")).text) for id in ids]
    for path in ("/", "/orders"):
        assert "0.35000" in pages[path], path
        assert "63,500.5123" in pages[path], path
        assert "a person−2.53,100" in pages[path], "no asset has the steps of ETHUSDT"
    assert "0.35000 at 63,500.5123" in pages["/orders"]
    assert "63,000.00" in pages["/orders"], "the limit of the entry"
    assert "stop loss 62,000.00, take profit 66,000.00" in pages["/signals"]
    assert any("0.35000 at 63,500.5123" in story for story in stories)
    assert not any("63,500.51234" in text for text in (*pages.values(), *stories))


async def test_the_profit_of_today_leaves_transfers_out(web: Web, database: Database) -> None:
    await database.sql(
        "INSERT INTO balance_history (account_id, balance, equity, cause, time) VALUES"
        " (1, 1000, 1000, 'snapshot', date_trunc('day', now(), 'UTC') - interval '1 hour'),"
        " (1, 1500, 1500, 'deposit', date_trunc('day', now(), 'UTC') + interval '1 second'),"
        " (1, 1490, 1512, 'fill', date_trunc('day', now(), 'UTC') + interval '2 seconds')"
    )
    async with web.gateway.client("read") as client:
        (row,) = (await client.get("/equity")).json()["items"]
        points = (await client.get("/equity/demo", params={"days": 2})).json()["items"]
        none = await client.get("/equity/nobody")
    assert (row["account"], row["equity"], row["equity_at_start"]) == ("demo", "1512", "1000")
    assert (row["transfers_today"], row["pnl_today"]) == ("500", "12")
    assert [point["equity"] for point in points][-1] == "1512"
    assert none.status_code == 404


async def test_a_caller_bound_to_an_account_sees_its_equity_alone(web: Web, database: Database) -> None:
    await database.sql("INSERT INTO balance_history (account_id, balance, equity) VALUES (1, 10, 10), (2, 20, 20)")
    await make_user(web, "ann", "read", accounts=["sim"])
    async with web.client() as browser:
        await log_in(web, browser, "ann")
        text = shown((await browser.get("/app/")).text)
        assert "20.00 USDT" in text
        assert "10.00 USDT" not in text
        assert "ACCOUNT_SCOPE" in text, "what the session may not see is named, and the rest of the page stays"
        answer = await browser.get("/app/accounts?account=demo")
        assert (answer.status_code, "Equity of sim" in shown(answer.text)) == (200, True)


async def test_signals_show_reason_expiry_and_what_speaks_against_them(web: Web, database: Database) -> None:
    await populate(database)
    await database.sql("UPDATE feeds SET state = 'STALE' WHERE symbol = 'BTCUSDT'")
    await make_user(web, "ann", "approve")
    async with web.client() as browser:
        await log_in(web, browser, "ann")
        seen = shown((await browser.get("/app/signals")).text)
    for part in (
        "Wait for a decision (2)",
        "the fast average crossed",
        "stop loss 62,000",
        "1 of 7 checks would not pass now",
    ):
        assert part in seen, part
    assert "FEED_STALE" in seen
    assert "message is older than its limit" in seen, "the code has its meaning beside it"


async def test_an_approval_shows_what_the_journal_says(web: Web, database: Database) -> None:
    rows = await populate(database)
    await make_user(web, "ann", "approve")
    async with web.client() as browser:
        await log_in(web, browser, "ann")
        form = {"csrf": await csrf_of(browser, "/app/signals"), "id": str(rows.first)}
        part = await browser.post(
            "/app/signals/approve", data=form, headers={"HX-Request": "true", "HX-Target": "outcome"}
        )
        assert (part.status_code, part.headers["hx-trigger"]) == (200, "fks:refresh")
        assert "the order manager has not decided yet" in part.text
        assert f'hx-get="/app/outcome/{rows.first}?n=0"' in part.text
        await database.sql(
            "UPDATE signals SET state='denied', code='KILL_SWITCH', detail='drill' WHERE id=$1", rows.first
        )
        answer = shown((await browser.get(f"/app/outcome/{rows.first}?n=1")).text)
        assert "Denied: buy BTCUSDT." in answer
        assert "KILL_SWITCH" in answer
        again = await browser.post("/app/signals/reject", data=form)
        assert (again.status_code, "SIGNAL_NOT_PENDING" in again.text) == (409, True)
        form["id"] = str(rows.second)
        rejected = shown((await browser.post("/app/signals/reject", data=form)).text)
        assert "Rejected: sell BTCUSDT." in rejected
        assert "Wait for a decision" in rejected, "without scripts the whole page comes back"


async def test_a_part_that_the_gateway_refuses_leaves_the_rest_of_the_page(web: Web, database: Database) -> None:
    await populate(database)
    await make_user(web, "ann", "read")
    async with web.client() as browser:
        await log_in(web, browser, "ann")
        await database.sql("ALTER TABLE balance_history RENAME TO balance_history_away")
        answer = await browser.get("/app/")
    seen = shown(answer.text)
    assert answer.status_code == 200
    assert "Code" in seen
    assert "Open orders" in seen


async def test_times_are_in_the_zone_that_the_reader_chose(web: Web, database: Database) -> None:
    await populate(database)
    await make_user(web, "ann", "read")
    async with web.client() as browser:
        await log_in(web, browser, "ann")
        assert "Times are in UTC" in shown((await browser.get("/app/orders")).text)
        browser.cookies.set("fks_zone", "Asia%2FTokyo")
        seen = shown((await browser.get("/app/orders")).text)
        assert "Times are in Asia/Tokyo" in seen
        assert " JST" in seen
        for wrong in ("../../etc/passwd", "Nowhere", "x" * 999):
            browser.cookies.set("fks_zone", wrong)
            assert (await browser.get("/app/orders")).status_code == 200
