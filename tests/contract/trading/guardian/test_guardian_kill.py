"""G5: the kill switch cancels and flattens with nothing else alive, once, through every kind of death."""

from __future__ import annotations

import asyncio
import json
import stat
import time
import uuid
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import pytest

from fks.model import ids
from fks.model.account import Balance
from fks.model.errors import OutageError
from fks.model.ids import flatten_id
from fks.model.order import Answer, Fill, Order, OrderType, Outcome, Refusal, Role, Side
from fks.store.db import Database
from fks.trading.guardian.journal import ENDED, Asked, KillJournal, last_kill, read_kill
from fks.trading.venues.ccxt import CcxtVenue
from tests.support.guarded_trading import ask, at_work, mark, rest_one, seed_account, sells, write_positions
from tests.support.guardian_process import QUICK, GuardianProcess, guardian_with, venue_on
from tests.support.invariants import assert_closed, assert_once, assert_one
from tests.support.local_exchange import LocalExchange
from tests.support.venue_orders import order
from tests.support.waiting import until


async def test_kill_without_database_and_order_manager(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path
) -> None:
    """Cancels all, sells exactly what is ours of a larger balance, and the file says so to everyone."""
    write_positions(folder, [["ccxt", 1, "BTCUSDT", "s1", "0.5"], ["ccxt", 1, "BTCUSDT", "s2", "0.250001"]])
    await rest_one(trader)
    since = mark(exchange)
    before = (await trader.balances())["BTC"].total
    async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, None)) as guardian:
        assert read_kill(folder / "kill.jsonl") is None
        report = await ask(folder, {"op": "kill", "reason": "test", "by": "me"})
        assert report["ok"]
        assert report["is_quiet"], report
        assert report["cancelled"] == 1
        assert sorted(item["filled"] for item in report["orders"]) == ["0.25000000", "0.50000000"]
        assert [left["kind"] for left in report["remaining"]] == ["dust"]
        assert guardian.detail()["engaged"] is True
        await until(lambda: guardian.report()["is_done"])
    assert await trader.open_orders() == []
    assert_closed(before - (await trader.balances())["BTC"].total - Decimal("0.75"))
    assert len(sells(exchange, since)) == 2
    record = read_kill(folder / "kill.jsonl")
    assert record is not None
    assert (record.reason, record.by, record.is_done) == ("test", "me", True)
    assert stat.S_IMODE((folder / "kill.jsonl").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("lots", "parts"),
    [
        (["0.4", None], ["0.33334", "0.33334", "0.33333"]),
        (["9000", ["0.00001", "0.4", "0"]], ["0.33334", "0.33334", "0.33333"]),
        (["9000", ["0.3", "0.8", "0.001"]], ["0.500", "0.500"]),
    ],
)
async def test_a_close_is_split_at_the_market_lot(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, lots: list[Any], parts: list[str]
) -> None:
    write_positions(folder, [["ccxt", 1, "BTCUSDT", "s1", "1.00001"]], lots=lots)
    since = mark(exchange)
    async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, None)) as guardian:
        await guardian.kill(reason="", by="me")
        await until(lambda: guardian.report()["is_done"])
    assert [Decimal(row["params"]["quantity"]) for row in sells(exchange, since)] == [Decimal(part) for part in parts]


async def test_never_more_than_the_free_balance_nor_than_ours(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path
) -> None:
    held = (await trader.balances())["BTC"].total
    write_positions(folder, [["ccxt", 1, "BTCUSDT", "s1", str(held + 5)]])
    since = mark(exchange)
    async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, None)) as guardian:
        await guardian.kill(reason="", by="me", wait_s=0.1)
        # the venue has less than our books: the kill is not done, since it is our books that say what is flat
        await until(lambda: any("less of it than our books" in left["why"] for left in guardian.report()["remaining"]))
        assert not guardian.report()["is_done"]
    (sold,) = sells(exchange, since)
    assert held - Decimal("0.00001") <= Decimal(sold["params"]["quantity"]) <= held
    assert (await trader.submit(order(str(held)))).outcome is Outcome.ACK  # buy it back for the tests that follow


async def test_cancel_only(exchange: LocalExchange, trader: CcxtVenue, folder: Path) -> None:
    write_positions(folder, [["ccxt", 1, "BTCUSDT", "s1", "0.5"]])
    await rest_one(trader)
    since = mark(exchange)
    async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, None)) as guardian:
        report = await guardian.kill(reason="", by="me", flatten=False)
        assert report["is_quiet"]
        assert report["cancelled"] == 1
        assert sells(exchange, since) == []
        # asked for later, it is the same kill that goes on
        again = await guardian.kill(reason="", by="me", flatten=True)
        assert (again["kill_id"], again["already"]) == (report["kill_id"], True)
        await until(lambda: len(sells(exchange, since)) == 1)


async def test_a_second_kill_joins_the_first(exchange: LocalExchange, trader: CcxtVenue, folder: Path) -> None:
    write_positions(folder, [["ccxt", 1, "BTCUSDT", "s1", "0.2"]])
    since = mark(exchange)
    async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, None)) as guardian:
        answers = await asyncio.gather(*(ask(folder, {"op": "kill", "by": str(n)}) for n in range(4)))
        assert len({answer["kill_id"] for answer in answers}) == 1
        assert sorted(answer["already"] for answer in answers) == [False, True, True, True]
        await until(lambda: guardian.report()["is_done"])
        assert (await guardian.kill(reason="", by="late"))["is_done"] is True
    assert_one(sells(exchange, since))


async def test_resume_releases_and_a_new_kill_is_a_new_one(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path
) -> None:
    write_positions(folder, [])
    async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, None)) as guardian:
        first = await guardian.kill(reason="", by="me")
        assert await ask(folder, {"op": "resume", "by": "me"}) == {
            "ok": True,
            "engaged": False,
            "already": False,
            "kill_id": first["kill_id"],
            "database": "none",
        }
        assert read_kill(folder / "kill.jsonl") is None
        assert (await ask(folder, {"op": "resume", "by": "me"}))["already"] is True
        assert (await guardian.kill(reason="", by="me"))["kill_id"] != first["kill_id"]
    record = last_kill(folder / "kill.jsonl")
    assert record is not None
    assert record.is_engaged


@pytest.mark.parametrize("kind", ["accept_then_cut", "html_502", "answer_after", "drop"])
async def test_an_unclear_flattening_is_asked_about_not_repeated(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, kind: str
) -> None:
    write_positions(folder, [["ccxt", 1, "BTCUSDT", "s1", "0.3"]])
    before = (await trader.balances())["BTC"].total
    since = mark(exchange)
    extra = {"accept": True} if kind == "html_502" else {}
    exchange.fault(kind, path="/api/v3/order", method="POST", count=1, seconds=4.0, **extra)
    venue = venue_on(exchange.info, order_timeout_s=2.0)
    async with at_work(guardian_with({"ccxt": venue}, folder, None, replace(QUICK, reply_s=60.0))) as guardian:
        report = await guardian.kill(reason="", by="me")
        assert report["is_quiet"], report
    assert_closed(before - (await trader.balances())["BTC"].total - Decimal("0.3"))
    ids = [row["params"]["newClientOrderId"] for row in sells(exchange, since)]
    assert_once(ids)
    if kind == "drop":  # never arrived: proven absent by C5, then the next attempt closed it
        assert [item["outcome"] for item in report["orders"]] == ["absent", "filled"]
    else:
        assert len(ids) == 1


async def test_what_the_journal_had_not_booked_is_closed_too(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path
) -> None:
    """A hung order manager left fills unbooked: the venue's history shows them, known ones are not counted twice."""
    booked, unbooked = order("0.1"), order("0.2")
    fills: list[Fill] = []
    for item in (booked, unbooked):
        answer = await trader.submit(item)
        fills += answer.fills
    sold = order("0.05", side=Side.SELL)
    await trader.submit(sold)
    known = [
        [o.client_order_id, "ccxt", 1, "binance", "BTCUSDT", "s1", f]
        for o, f in ((booked, "0.1"), (unbooked, "0"), (sold, "0"))
    ]
    seen = [["ccxt", "BTCUSDT", f.venue_trade_id] for f in fills if f.client_order_id == booked.client_order_id]
    write_positions(folder, [["ccxt", 1, "BTCUSDT", "s1", "0.0999"]], orders=known, booked=seen)
    since = mark(exchange)
    async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, None)) as guardian:
        report = await guardian.kill(reason="", by="me")
        assert report["is_quiet"]
    total = sum(Decimal(row["params"]["quantity"]) for row in sells(exchange, since))
    # 0.0999 booked, 0.2 less its 0.1 % fee, and 0.05 sold: what is left of the window of other tests is not ours
    assert total == Decimal("0.0999") + Decimal("0.1998") - Decimal("0.05")


async def test_kill_while_the_exchange_is_down(tmp_path: Path, folder: Path) -> None:
    exchange = LocalExchange(
        tmp_path, ["--rate-limits", "off", "--balance", "USDT=100000", "--balance", "BTC=1"]
    ).start()
    write_positions(folder, [["ccxt", 1, "BTCUSDT", "s1", "0.3"]])
    try:
        timing = replace(QUICK, reply_s=15.0)
        async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, None, timing)) as guardian:
            exchange.kill()
            begun = time.monotonic()
            report = await ask(folder, {"op": "kill", "by": "me", "wait_s": 0.5})
            assert (report["engaged"], report["is_quiet"]) == (True, False)
            assert time.monotonic() - begun < 0.5 + 5.0, "it waits as long as it was asked to"
            await until(lambda: guardian.report()["venues"][0]["state"] == "unreachable")
            refused = await ask(folder, {"op": "resume", "by": "me"})
            assert (refused["ok"], refused["code"]) == (False, "KILL_WORKING")
            exchange.start()
            await until(lambda: guardian.report()["is_done"])
            assert Decimal(exchange.free("BTC")) == Decimal("0.7")
    finally:
        exchange.stop()


async def test_forced_resume_gives_up(tmp_path: Path, folder: Path) -> None:
    """The venue is gone for good: a person may end the kill."""
    info = {
        "api_key": "k" * 64,
        "api_secret": "s" * 64,
        "rest": "http://127.0.0.1:9",
        "ws": "ws://127.0.0.1:9",
        "ws_api": "ws://127.0.0.1:9/ws-api/v3",
    }
    write_positions(folder, [])
    hasty = replace(QUICK, reply_s=0.3)
    async with at_work(guardian_with({"ccxt": venue_on(info)}, folder, None, hasty)) as guardian:
        assert (await guardian.kill(reason="", by="me"))["is_quiet"] is False
        answer = await ask(folder, {"op": "resume", "by": "me", "force": True})
        assert answer["ok"]
        assert read_kill(folder / "kill.jsonl") is None


@pytest.mark.parametrize(
    "moment", ["between cancel and flatten", "while the order is on its way", "before the order is accepted"]
)
async def test_kill_9_of_the_guardian(exchange: LocalExchange, trader: CcxtVenue, folder: Path, moment: str) -> None:
    """It comes back, goes on from its file, and nothing is sold twice."""
    write_positions(folder, [["ccxt", 1, "BTCUSDT", "s1", "0.4"]])
    await rest_one(trader)
    before = (await trader.balances())["BTC"].total
    since = mark(exchange)
    if moment == "between cancel and flatten":
        exchange.fault("hang", path="/api/v3/account", method="GET", count=50, seconds=5)
    elif moment == "while the order is on its way":
        exchange.fault("answer_after", path="/api/v3/order", method="POST", seconds=5)
    else:
        exchange.fault("latency", path="/api/v3/order", method="POST", seconds=1.0)
    process = GuardianProcess(exchange, folder, order_timeout_s=4.0).start()
    try:
        asking = asyncio.create_task(ask(folder, {"op": "kill", "by": "me"}))

        def is_there() -> bool:
            record = read_kill(folder / "kill.jsonl")
            if record is None:
                return False
            return record.cancelled == 1 if moment == "between cancel and flatten" else bool(record.orders)

        await until(is_there)
        if moment == "while the order is on its way":
            await until(lambda: sells(exchange, since))
        process.kill()
        asking.cancel()
        exchange.clear()
        process = GuardianProcess(exchange, folder).start()

        def is_done() -> bool:
            record = read_kill(folder / "kill.jsonl")
            return record is not None and record.is_done

        await until(is_done)
    finally:
        process.stop()
    assert_closed(before - (await trader.balances())["BTC"].total - Decimal("0.4"))
    ids = [row["params"]["newClientOrderId"] for row in sells(exchange, since)]
    assert_once(ids)


async def test_positions_come_from_the_database_and_rows_go_back(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, database: Database
) -> None:
    await seed_account(database)
    async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, database)) as guardian:
        await until(lambda: guardian.detail()["database"] == "up" and (folder / "kill-positions.json").exists())
        report = await guardian.kill(reason="why", by="me")
        assert report["is_quiet"], report
        await until(lambda: guardian.report()["is_done"] and guardian.report()["database"] == "up")
        (row,) = await database.sql("SELECT * FROM kill_switch")
        assert (row["kill_id"], row["is_engaged"], row["reason"]) == (report["kill_id"], True, "why")
        assert row["report"]["cancelled"] == 0
        (sold,) = await database.sql("SELECT * FROM orders")
        assert (sold["role"], sold["instance"], sold["side"], sold["quantity"]) == (
            "kill",
            "s1",
            "sell",
            Decimal("0.6"),
        )
        assert (sold["state"], sold["filled"], sold["is_reduce_only"]) == ("WORKING", 0, True)
        events = await database.sql("SELECT event FROM order_events ORDER BY id")
        assert [event["event"] for event in events] == ["sent", "ended"]
        await guardian.resume(by="you")
        (row,) = await database.sql("SELECT * FROM kill_switch")
        assert (row["is_engaged"], row["released_by"]) == (False, "you")


async def test_a_kill_without_database_is_merged_when_it_is_back(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, database: Database
) -> None:
    await seed_account(database, position=None)
    write_positions(folder, [["ccxt", 1, "BTCUSDT", "s1", "0.2"]])
    async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, None)) as guardian:
        await guardian.kill(reason="", by="me")
        await until(lambda: guardian.report()["is_done"])
    async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, database)) as guardian:
        await until(lambda: guardian.report()["database"] == "up")
        assert len(await database.sql("SELECT 1 FROM kill_switch WHERE is_engaged")) == 1
        assert len(await database.sql("SELECT 1 FROM orders WHERE role = 'kill'")) == 1


def no_close(venue: Any, cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the venue refuse market orders, hide the coins, or answer nothing about BTCUSDT."""
    submit, balances = venue.submit, venue.balances

    async def refuse(item: Order) -> Answer:
        if item.type is not OrderType.MARKET:
            return await submit(item)
        return Answer(Outcome.REFUSED, code="-1013", detail="PERCENT_PRICE_BY_SIDE", refusal=Refusal.PRICE)

    async def hide() -> dict[str, Balance]:
        return {name: balance for name, balance in (await balances()).items() if name != "BTC"}

    async def be_silent(symbol: str, since_ns: int = 0) -> NoReturn:
        raise OutageError(f"no answer about {symbol}")

    change = {"submit": refuse, "balances": hide, "fills_since": be_silent}[cause]
    monkeypatch.setattr(venue, cause, change)


@pytest.mark.parametrize(
    ("cause", "kind", "why"),
    [
        ("submit", "refused", "-1013"),
        ("balances", "pending", "the venue shows less of it"),
        ("fills_since", "pending", "no answer about BTCUSDT"),
    ],
)
async def test_a_kill_that_cannot_close_puts_the_stop_back_and_goes_on(
    exchange: LocalExchange,
    trader: CcxtVenue,
    folder: Path,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    cause: str,
    kind: str,
    why: str,
) -> None:
    """One page, which ends with the cause; the stop is a leg of the same order again, in the tables too."""
    await seed_account(database, position="0.5")
    price = await trader.last_price("BTCUSDT")
    assert price is not None
    parent = order("0.5")
    stop = order(
        "0.5",
        type=OrderType.STOP,
        side=Side.SELL,
        stop_price=(price * Decimal("0.8")).quantize(Decimal(1)),
        role=Role.STOP_LOSS,
        parent_id=parent.client_order_id,
    )
    assert (await trader.submit(stop)).outcome is Outcome.ACK
    for item, state in ((parent, "FILLED"), (stop, "WORKING")):
        await database.sql(
            "INSERT INTO orders (client_order_id, intent_id, account_id, venue, exchange, symbol, instance, role, side,"
            " type, quantity, state, filled, parent_id, stop_price) VALUES ($1, $2, 1, 'ccxt', 'binance', 'BTCUSDT', "
            "'s1', $3, $4, $5, 0.5, $6, $7, $8, $9)",
            item.client_order_id,
            item.intent_id,
            item.role.value,
            item.side.value,
            item.type.value,
            state,
            Decimal("0.5") if state == "FILLED" else Decimal(0),
            item.parent_id,
            item.stop_price,
        )
    before = (await trader.balances())["BTC"].total
    venue, since = venue_on(exchange.info), mark(exchange)
    no_close(venue, cause, monkeypatch)

    async def pages() -> list[bool]:
        rows = await database.sql("SELECT resolved_at, payload FROM alerts WHERE event = 'kill.stuck' ORDER BY id")
        assert all(row["payload"]["symbols"] == ["BTCUSDT"] for row in rows)
        return [row["resolved_at"] is None for row in rows]

    async def is_back() -> bool:
        found = [(r.stop_price, r.quantity, r.client_order_id) for r in await trader.open_orders()]
        rows = await database.sql(
            "SELECT parent_id, stop_price, quantity, role, type FROM orders WHERE client_order_id = $1",
            found[0][2] if found else "",
        )
        wanted = (parent.client_order_id, stop.stop_price, Decimal("0.5"), "sl", "stop")
        return len(found) == 1 and found[0][2] != stop.client_order_id and [tuple(row) for row in rows] == [wanted]

    async with at_work(guardian_with({"ccxt": venue}, folder, database)) as guardian:
        await until(lambda: guardian.detail()["database"] == "up" and (folder / "kill-positions.json").exists())
        report = await guardian.kill(reason="", by="me", wait_s=0.5)
        assert (report["is_quiet"], report["is_done"]) == (False, False)
        await until(is_back)

        async def is_paged() -> bool:
            return await pages() == [True]

        await until(is_paged)
        answer = await ask(folder, {"op": "status"})
        (left,) = answer["remaining"]
        assert (left["kind"], left["symbol"]) == (kind, "BTCUSDT")
        assert why in left["why"]
        assert "until then 0.5" in left["why"]
        sent = exchange.received(path="/api/v3/order", method="POST", after=since)
        assert kind == "refused" or len(sent) == 1, "the stop rests until the close can go"
        monkeypatch.undo()
        await until(lambda: guardian.report()["is_done"])

        async def is_ended() -> bool:
            return await pages() == [False]

        await until(is_ended)
    assert await trader.open_orders() == []
    assert_closed(before - (await trader.balances())["BTC"].total - Decimal("0.5"))


async def test_silent_symbols_delay_no_other(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exchange answers nothing about eight symbols. They are asked about at the same time and once each before the
    other symbol is sold, so that they cost it one time-out of a reading."""
    before = (await trader.balances())["BTC"].total
    silent = [[uuid.uuid4().hex, "ccxt", 1, "binance", f"OLD{number}USDT", "s1", "0"] for number in range(8)]
    write_positions(folder, [["ccxt", 1, "BTCUSDT", "s1", "0.5"]], orders=silent)
    venue = venue_on(exchange.info)
    fills_since, submit = venue.fills_since, venue.submit
    asked: list[str] = []
    asked_before: list[str] = []
    are_all_asked = asyncio.Event()

    async def read(symbol: str, since_ns: int) -> list[Fill]:
        if symbol == "BTCUSDT":
            return list(await fills_since(symbol, since_ns))
        asked.append(symbol)
        if len(set(asked)) == len(silent):
            are_all_asked.set()
        await asyncio.wait_for(are_all_asked.wait(), 60.0)  # asked one after the other, the first is not answered
        raise OutageError(f"no answer about {symbol}")

    async def send(order: Order) -> Answer:
        asked_before[:] = asked_before or asked
        return await submit(order)

    monkeypatch.setattr(venue, "fills_since", read)
    monkeypatch.setattr(venue, "submit", send)
    async with at_work(guardian_with({"ccxt": venue}, folder, None)) as guardian:
        await guardian.kill(reason="", by="me", wait_s=0.0)

        async def is_sold() -> bool:
            return before - (await trader.balances())["BTC"].total == Decimal("0.5")

        await until(is_sold)
        assert sorted(asked_before) == [row[4] for row in silent]


async def test_the_socket_is_ours_alone_and_takes_nonsense(exchange: LocalExchange, folder: Path) -> None:
    async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, None)):
        assert stat.S_IMODE((folder / "g.sock").stat().st_mode) == 0o600
        reader, writer = await asyncio.open_unix_connection(folder / "g.sock")
        for nonsense in (b"{", b"[]", b'{"op": "dance"}', b'{"op": "kill", "scope": "moon"}'):
            writer.write(nonsense + b"\n")
            answer = json.loads(await asyncio.wait_for(reader.readline(), 5))
            assert answer["ok"] is False
            assert answer["error"]
        writer.close()
        assert (await ask(folder, {"op": "status"}))["engaged"] is False
    assert not (folder / "g.sock").exists()


async def test_a_flattening_booked_long_ago_is_not_counted_again(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, database: Database
) -> None:
    """A kill that goes on for hours must not take its own booked sale for one that is missing, and buy it back."""
    await seed_account(database, position="0.1")
    journal = KillJournal(folder / "kill.jsonl")
    long_ago = time.time_ns() - 3600 * 10**9
    record = journal.engage("k", Asked("system", "", "me", True, long_ago))
    intent = flatten_id(record.kill_id, venue="ccxt", account_id=1, symbol="BTCUSDT", instance="s0")
    sold = order(
        "0.4",
        side=Side.SELL,
        instance="s0",
        role=Role.KILL,
        intent_id=intent,
        client_order_id=ids.client_order_id(intent, "kill"),
    )
    journal.sending(sold, now_ns=long_ago)
    journal.outcome(sold.client_order_id, ENDED, now_ns=long_ago, filled=Decimal("0.4"))
    journal.close()
    await database.sql(
        "INSERT INTO orders (client_order_id, intent_id, account_id, venue, symbol, instance, role, side, type, "
        "quantity,"
        " state, filled, created_at) VALUES ($1, $2, 1, 'ccxt', 'BTCUSDT', 's0', 'kill', 'sell', 'market', 0.4, "
        "'FILLED', 0.4,"
        " now() - interval '1 hour')",
        sold.client_order_id,
        intent,
    )
    since = mark(exchange)
    async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, database)) as guardian:
        await until(lambda: guardian.report()["is_done"])
    rows = [row["params"] for row in exchange.received(path="/api/v3/order", method="POST", after=since)]
    assert [(row["side"], row["quantity"]) for row in rows] == [("SELL", "0.1")]


async def test_a_kill_closes_nothing_at_another_account(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path
) -> None:
    """The demo's positions are not sold from the coins of the real account, nor the reverse."""
    who = await trader.identity()
    price = await trader.last_price("BTCUSDT")
    assert price is not None
    standing = order("0.01", type=OrderType.LIMIT, price=(price * Decimal("0.9")).quantize(Decimal(1)))
    assert (await trader.submit(standing)).outcome is Outcome.ACK
    mine = [1, "sim", who.uid, who.network_epoch]
    positions = [["ccxt", 1, "BTCUSDT", "s1", "0.1"], ["ccxt", 2, "BTCUSDT", "s2", "0.2"]]
    write_positions(folder, positions[1:], identities=[mine, [2, "live", "9", ""]])
    since = mark(exchange)
    async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, None)) as guardian:
        await guardian.kill(reason="", by="me", wait_s=0.1)
        await until(lambda: guardian.report()["venues"][0]["state"] == "refused")
    assert sells(exchange, since) == []
    assert standing.client_order_id in {report.client_order_id for report in await trader.open_orders()}
    (folder / "kill.jsonl").unlink()
    write_positions(folder, positions, identities=[mine, [2, "live", "9", ""]])
    async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, None)) as guardian:
        report = await guardian.kill(reason="", by="me")
        assert report["is_quiet"], report
    assert sum(Decimal(row["params"]["quantity"]) for row in sells(exchange, since)) < Decimal("0.2"), (
        "s2's is not sold"
    )
    assert await trader.open_orders() == []
