"""After a node loss two guardians may live: they never both close, and no order goes out twice under one id."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from decimal import Decimal
from pathlib import Path

from fks.clock import RealClock
from fks.config.settings import Settings
from fks.interfaces.entry.emergency_stop import EmergencyStop
from fks.model.timeframe import to_datetime
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.kill import KillStore
from fks.trading.guardian.journal import Asked, KillJournal, last_kill
from fks.trading.venues.ccxt import CcxtVenue
from tests.support.guarded_trading import ask, at_work, mark, rest_one, seed_account, sells, write_positions
from tests.support.guardian_process import GuardianProcess, guardian_with, venue_on
from tests.support.invariants import assert_closed, assert_one
from tests.support.local_exchange import LocalExchange
from tests.support.waiting import until


async def test_only_the_holder_of_the_lease_acts_and_the_other_follows(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, tmp_path: Path, database: Database
) -> None:
    await seed_account(database, position="0.3")
    since = mark(exchange)
    holder = guardian_with({"ccxt": venue_on(exchange.info)}, folder, database)
    other = guardian_with({"ccxt": venue_on(exchange.info)}, tmp_path, database)
    async with at_work(holder), at_work(other):
        assert (holder.detail()["lease"], other.detail()["lease"]) == ("held", "elsewhere")
        asking = asyncio.create_task(other.kill(reason="asked here", by="me"))  # the one that must not act
        await until(lambda: holder.report().get("is_done"))
        assert holder.report()["reason"] == "asked here"
        assert_one(sells(exchange, since))
        assert other.report()["venues"][0]["state"] == "looks_on"
        assert not other.report()["is_done"]
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await holder.resume(by="me")
        await until(lambda: not other.report()["engaged"], deadline_s=10)
    assert_one(sells(exchange, since))
    assert await KillStore(database).engaged() == []


async def test_a_stop_through_the_database_acts_although_an_earlier_kill_is_open(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, database: Database, bus: Bus
) -> None:
    """The guardian's file knows the release of the row, and passes the row over."""
    await seed_account(database, position="0.3")
    since = mark(exchange)
    stop = EmergencyStop(database, bus, RealClock(), folder / "nobody.sock", Settings())
    guardian = guardian_with({"ccxt": venue_on(exchange.info)}, folder, database)
    async with at_work(guardian):
        earlier = await guardian.kill(reason="earlier", by="me", flatten=False)
        await until(lambda: guardian.report().get("is_done"))
        await guardian.resume(by="me")
        await database.sql("UPDATE kill_switch SET is_engaged = true, released_at = NULL, released_by = NULL")
        done = await stop.engage(scope="system", reason="now", by="me", flatten=True)
        assert (done["already"], done["beside"]) == (False, [earlier["kill_id"]])
        await until(lambda: guardian.report().get("is_done"))
        assert (guardian.report()["kill_id"], guardian.report()["reason"]) == (done["kill_id"], "now")
        assert_one(sells(exchange, since))
        await guardian.resume(by="me")
        assert await KillStore(database).engaged() == []
    records = [json.loads(line) for line in (folder / "kill.jsonl").read_text().splitlines()]
    assert [line["kill_id"] for line in records if line["act"] == "engaged"] == [earlier["kill_id"], done["kill_id"]]


async def test_a_kill_asked_for_after_a_release_elsewhere_does_not_end_with_it(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, database: Database
) -> None:
    """The release is read a second later: the guardian takes the request for one that joins the old kill."""
    await seed_account(database)
    guardian = guardian_with({"ccxt": venue_on(exchange.info)}, folder, database)
    async with at_work(guardian):
        earlier = await guardian.kill(reason="earlier", by="me", flatten=False)
        await until(lambda: guardian.report().get("database") == "up")
        await database.sql(
            "UPDATE kill_switch SET is_engaged = false, released_by = 'other', released_at = now() - interval '1 ms'"
        )
        await guardian.kill(reason="again", by="me", flatten=False)
        await until(lambda: guardian.report().get("kill_id") != earlier["kill_id"], deadline_s=10)
        assert (guardian.report()["engaged"], guardian.report()["reason"]) == (True, "again")

        async def is_in_the_table() -> bool:
            return [row["reason"] for row in await KillStore(database).engaged()] == ["again"]

        await until(is_in_the_table, deadline_s=10)


async def test_a_successor_takes_up_the_order_that_its_predecessor_had_on_the_way(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, tmp_path: Path, database: Database, database_url: str
) -> None:
    """The first machine stops in the middle of a kill, with its order at the venue and no answer, and goes on much
    later."""
    await seed_account(database, position="0.4")
    before, since = (await trader.balances())["BTC"].total, mark(exchange)
    exchange.fault("answer_after", path="/api/v3/order", method="POST", count=1, seconds=20)
    first = GuardianProcess(exchange, folder, database_url, order_timeout_s=15.0).start()
    try:
        asking = asyncio.create_task(ask(folder, {"op": "kill", "by": "me"}))
        await until(lambda: sells(exchange, since), deadline_s=10)
        assert first.process is not None
        os.kill(first.process.pid, signal.SIGSTOP)
        asking.cancel()
        async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, tmp_path, database)) as second:
            await until(lambda: second.report().get("is_done"))
            record = last_kill(tmp_path / "kill.jsonl")
            assert record is not None
            assert len(record.orders) == 1
            os.kill(first.process.pid, signal.SIGCONT)
            since_then = mark(exchange)
            await until(lambda: len(exchange.received(after=since_then)) > 5)  # rounds go on
    finally:
        os.kill(first.process.pid, signal.SIGCONT)
        first.kill()
    assert_closed(before - (await trader.balances())["BTC"].total - Decimal("0.4"))
    assert_one(sells(exchange, since))


async def test_a_position_that_a_kill_cannot_close_pages(
    exchange: LocalExchange, folder: Path, database: Database
) -> None:
    holder = guardian_with({"ccxt": venue_on(exchange.info)}, folder, database)
    await seed_account(database, position="-3")  # less than nothing: there is nothing to sell, and a person must look
    async with at_work(holder):
        await holder.kill(reason="", by="me")
        await until(lambda: holder.report()["is_done"])

        async def is_paged() -> bool:
            rows = await database.sql("SELECT severity, event, payload FROM alerts WHERE component = 'guardian'")
            found = [(row["severity"], row["event"], row["payload"].get("symbols")) for row in rows]
            return ("page", "kill.stuck", ["BTCUSDT"]) in found

        await until(is_paged)


async def test_without_postgres_a_guardian_that_the_placement_does_not_name_looks_on(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path
) -> None:
    write_positions(folder, [["ccxt", 1, "BTCUSDT", "s1", "0.5"]])
    await rest_one(trader)
    since = mark(exchange)
    guardian = guardian_with({"ccxt": venue_on(exchange.info)}, folder, None, is_placed=False)
    async with at_work(guardian):
        assert guardian.detail()["lease"] == "unanswered"
        asking = asyncio.create_task(guardian.kill(reason="", by="me"))
        await until(lambda: guardian.report()["engaged"] and guardian.report()["venues"][0]["state"] == "looks_on")
        assert "placement" in str(guardian.detail()["looks_on"])
        assert not guardian.report()["is_quiet"]
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert exchange.received(method="DELETE", after=since) == []
    assert sells(exchange, since) == []
    assert len(await trader.open_orders()) == 1


async def test_a_kill_that_joined_after_a_release_elsewhere_outlives_its_guardian(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, database: Database
) -> None:
    """The guardian ends before it has read the release: its successor reads both."""
    await seed_account(database)
    async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, database)) as guardian:
        earlier = await guardian.kill(reason="earlier", by="me", flatten=False)
        await until(lambda: guardian.report().get("database") == "up")
    asked = Asked("system", "again", "me", False, RealClock().now_ns())
    journal = KillJournal(folder / "kill.jsonl")
    journal.join(asked)
    journal.close()
    await database.sql(
        "UPDATE kill_switch SET is_engaged = false, released_by = 'other', released_at = $1",
        to_datetime(asked.at_ns - 1_000_000),
    )
    async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, database)) as guardian:
        assert (guardian.report()["engaged"], guardian.report()["reason"]) == (True, "again")
        assert guardian.report()["kill_id"] != earlier["kill_id"]


async def test_a_resume_leaves_a_kill_engaged_that_was_asked_for_meanwhile(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, database: Database
) -> None:
    """The old kill's row is held: the release of all that was engaged is written after the row of the new kill."""
    await seed_account(database)
    guardian = guardian_with({"ccxt": venue_on(exchange.info)}, folder, database)
    async with at_work(guardian):
        earlier = await guardian.kill(reason="earlier", by="me", flatten=False)
        await until(lambda: guardian.report().get("database") == "up")
        async with database.transaction() as tx:
            await tx.sql("SELECT kill_id FROM kill_switch FOR UPDATE")
            resuming = asyncio.create_task(guardian.resume(by="me"))
            await until(lambda: not guardian.report()["engaged"], deadline_s=5)
            killing = asyncio.create_task(guardian.kill(reason="again", by="me", flatten=False))
            await until(lambda: guardian.report()["engaged"], deadline_s=5)
            await until(lambda: _has_both(database), deadline_s=5)
            assert not resuming.done()
        await asyncio.gather(resuming, killing)
        await until(lambda: guardian.report().get("database") == "up")
        assert guardian.report()["kill_id"] != earlier["kill_id"]
        assert [row["reason"] for row in await KillStore(database).engaged()] == ["again"]


async def _has_both(database: Database) -> bool:
    return len(await KillStore(database).engaged()) == 2
