"""One guardian per file, one kill per system: across processes, across machines; and a position that is kept stays protected."""

from __future__ import annotations

import errno
import os
import signal
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from fks.model.errors import OutageError
from fks.model.order import OrderType, Outcome, Presence, Side
from fks.store.db import Database
from fks.store.kill import KillStore
from fks.trading.guardian.journal import Asked, KillJournal, last_kill, read_kill
from fks.trading.venues.ccxt import CcxtVenue
from tests.support.guarded_trading import at_work, mark, sells, write_positions
from tests.support.guardian_process import GuardianProcess, guardian_with, venue_on
from tests.support.invariants import assert_one
from tests.support.local_exchange import LocalExchange
from tests.support.venue_orders import order
from tests.support.waiting import until


async def test_a_second_guardian_waits_until_the_first_is_gone(exchange: LocalExchange, folder: Path) -> None:
    process = GuardianProcess(exchange, folder).start()
    second = guardian_with({}, folder, None)
    try:
        assert process.process is not None
        os.kill(process.process.pid, signal.SIGSTOP)  # hung is not gone: it may go on at any moment
        with pytest.raises(OutageError, match="another guardian holds"):
            await second.start()
        await second.stop()
        assert (folder / "g.sock").exists()  # the first one's control socket was left alone
        process.kill()
        third = guardian_with({}, folder, None)
        await third.start()
        assert third.is_ready
        await third.stop()
    finally:
        process.stop()


async def test_it_reads_what_the_first_one_wrote_before_it_died(folder: Path) -> None:
    first, second = KillJournal(folder / "kill.jsonl"), KillJournal(folder / "kill.jsonl")
    assert first.lock()
    assert not second.lock()
    first.engage("k1", Asked("system", "", "me", True, 1))
    first.close()
    assert second.lock()
    assert second.record is not None
    assert second.record.kill_id == "k1"
    second.close()


async def test_a_lock_that_cannot_be_written_stops_no_guardian(folder: Path) -> None:
    (folder / "kill.lock").mkdir()
    journal = KillJournal(folder / "kill.jsonl")
    assert journal.lock()
    assert journal.error is not None
    assert journal.engage("k", Asked("system", "", "", True, 1)).is_engaged
    journal.close()


async def test_kill_on_a_full_disk_takes_the_reserve_and_is_written_in_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve, write, is_full = folder / "disk.reserve", os.write, True

    def limited(number: int, data: bytes) -> int:
        if is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(number, data)

    async with at_work(guardian_with({}, folder, None)) as guardian:
        reserve.write_bytes(b"x")
        monkeypatch.setattr(os, "write", limited)
        await guardian.kill(reason="a test", by="me")
        assert not reserve.exists(), "what it freed is taken by others here"
        await until(lambda: guardian.report()["is_done"])  # nothing further is to be written
        assert read_kill(folder / "kill.jsonl") is None
        is_full = False
        await until(lambda: read_kill(folder / "kill.jsonl") is not None)


async def test_a_guardian_on_another_machine_takes_an_engaged_kill_up(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, tmp_path: Path, database: Database
) -> None:
    await database.sql("INSERT INTO accounts (name, venue) VALUES ('main', 'ccxt')")
    await database.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min)"
        " VALUES ('binance', 'BTCUSDT', 'BTC', 'USDT', 0.01, 0.00001, 0.00001, 9000, 5)"
    )
    await database.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity) VALUES (1, 'ccxt', 'BTCUSDT', 's1', 0.3)"
    )
    since = mark(exchange)
    async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, database)) as first:
        report = await first.kill(reason="flood", by="me")
        await until(lambda: first.report()["is_done"])
        await until(lambda: first.report()["database"] == "up")
    assert_one(sells(exchange, since))
    # no order manager runs here, so the tables still show the position: what was sent counts, not what was
    # booked
    async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, tmp_path, database)) as other:
        await until(lambda: other.report()["engaged"], deadline_s=10)
        found = read_kill(tmp_path / "kill.jsonl")
        assert found is not None
        assert (found.kill_id, found.reason, found.by) == (report["kill_id"], "flood", "me")
        await until(lambda: other.report()["is_done"])
        sent = [row["params"]["newClientOrderId"] for row in sells(exchange, since)]
        assert_one(sorted(set(sent)))
        done = await other.resume(by="me")
        assert done["kill_id"] == report["kill_id"]
    assert await KillStore(database).engaged() == []


async def test_a_kill_the_file_released_is_not_taken_up_from_a_table_that_lags(
    exchange: LocalExchange, folder: Path, database: Database
) -> None:
    journal = KillJournal(folder / "kill.jsonl")
    journal.engage("old", Asked("system", "", "me", True, 1_700_000_000_000_000_000))
    journal.release(by="me", now_ns=1_700_000_001_000_000_000)
    journal.close()
    await database.sql("INSERT INTO kill_switch (kill_id) VALUES ('old')")
    async with at_work(guardian_with({}, folder, database)) as guardian:

        async def merged() -> bool:
            return await KillStore(database).engaged() == []

        await until(merged, deadline_s=10)
        assert not guardian.report()["engaged"]
    record = last_kill(folder / "kill.jsonl")
    assert record is not None
    assert not record.is_engaged


async def test_a_kill_that_was_released_on_another_machine_is_not_begun_again(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, database: Database
) -> None:
    """This machine died in the middle of it, its role moved on, a person resumed there; now the role is back here."""
    journal = KillJournal(folder / "kill.jsonl")
    journal.engage("old", Asked("system", "", "me", True, 1_700_000_000_000_000_000))
    journal.close()
    await database.sql(
        "INSERT INTO kill_switch (kill_id, is_engaged, released_by, released_at) VALUES ('old', false, 'me', now())"
    )
    price = await trader.last_price("BTCUSDT")
    assert price is not None
    far = (price * Decimal("1.04")).quantize(Decimal("0.01"))
    standing = order("0.01", type=OrderType.LIMIT, side=Side.SELL, price=str(far))
    assert (await trader.submit(standing)).outcome is Outcome.ACK
    async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, database)) as guardian:
        assert not guardian.report()["engaged"]
        await until(lambda: guardian.detail()["database"] == "up")
    assert (await trader.query("BTCUSDT", standing.client_order_id)).presence is Presence.FOUND
    assert [report.client_order_id for report in await trader.open_orders()] == [standing.client_order_id]
    assert await KillStore(database).engaged() == []
    assert read_kill(folder / "kill.jsonl") is None


async def test_an_older_file_does_not_engage_in_the_tables_what_was_released(database: Database) -> None:
    at = datetime.fromtimestamp(1_700_000_000, UTC)
    store = KillStore(database)
    record = {"kill_id": "k", "scope": "system", "reason": "", "by": "me", "engaged_at": at, "report": {}}
    await store.save(**record, is_engaged=True, released_by=None, released_at=None)
    assert len(await store.engaged()) == 1
    await store.release_all(by="you", at=at)
    await store.save(**record, is_engaged=True, released_by=None, released_at=None)
    assert await store.engaged() == []
    row = await store.release("k")
    assert row is not None
    assert row["released_by"] == "you"


async def test_without_flattening_protections_stay(exchange: LocalExchange, trader: CcxtVenue, folder: Path) -> None:
    price = await trader.last_price("BTCUSDT")
    assert price is not None
    far = (price * Decimal("1.04")).quantize(Decimal("0.01"))
    guard = order("0.01", type=OrderType.LIMIT, side=Side.SELL, price=str(far))
    stray = order("0.02", type=OrderType.LIMIT, side=Side.SELL, price=str(far))
    for item in (guard, stray):
        assert (await trader.submit(item)).outcome is Outcome.ACK
    write_positions(
        folder,
        [["ccxt", 1, "BTCUSDT", "s1", "0.01"]],
        orders=[
            [guard.client_order_id, "ccxt", 1, "binance", "BTCUSDT", "s1", "0", "tp"],
            [stray.client_order_id, "ccxt", 1, "binance", "BTCUSDT", "s1", "0", "entry"],
        ],
    )
    async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, None)) as guardian:
        report = await guardian.kill(reason="", by="me", flatten=False)
        assert report["is_quiet"]
        assert report["cancelled"] == 1
        open_ids = {item.client_order_id for item in await trader.open_orders()}
        assert open_ids == {guard.client_order_id}
        await guardian.kill(reason="", by="me", flatten=True)  # now the position goes, and what protected it
        await until(lambda: guardian.report()["is_done"])
    lookup = await trader.query("BTCUSDT", guard.client_order_id)
    assert lookup.presence is Presence.FOUND
    assert await trader.open_orders() == []
