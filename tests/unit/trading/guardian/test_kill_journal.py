"""The kill file: whatever a crash leaves of it, it can be read, and its lines are a beginning of the actions done."""

from __future__ import annotations

import errno
import os
import tempfile
import uuid
from decimal import Decimal
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model import ids
from fks.model.ids import flatten_id
from fks.model.order import Fill, Order, OrderType, Role, Side, State, TimeInForce
from fks.trading.guardian.journal import ABSENT, ENDED, Asked, KillJournal, KillRecord, kill_mode, last_kill, read_kill
from fks.trading.guardian.positions import DatabaseSnapshot, Holder, Known, VenueRules
from fks.trading.orders.messages import KillMode

NOW = 1_790_000_000_000_000_000


def flattening(kill_id: str, attempt: int = 0) -> Order:
    intent = flatten_id(kill_id, venue="ccxt", account_id=1, symbol="BTCUSDT", instance="s")
    return Order(
        client_order_id=ids.client_order_id(intent, "kill", attempt),
        intent_id=intent,
        signal_id=None,
        account_id=1,
        venue="ccxt",
        exchange="binance",
        symbol="BTCUSDT",
        instance="s",
        role=Role.KILL,
        attempt=attempt,
        side=Side.SELL,
        type=OrderType.MARKET,
        time_in_force=TimeInForce.GTC,
        quantity=Decimal("0.5"),
        state=State.SENDING,
        is_reduce_only=True,
        created_ns=NOW,
        sent_ns=NOW,
    )


def write_all(path: Path) -> KillRecord:
    journal = KillJournal(path)
    journal.engage("k1", Asked("system", "ünsicher", "me", False, NOW))
    journal.cancelled(venue="ccxt", symbol="BTCUSDT", client_order_id="a", outcome="ack", detail="", now_ns=NOW)
    journal.want_flatten(by="me", now_ns=NOW)
    first, second = flattening("k1"), flattening("k1", 1)
    journal.sending(first, now_ns=NOW)
    journal.outcome(first.client_order_id, ABSENT, now_ns=NOW)
    journal.sending(second, now_ns=NOW)
    journal.outcome(second.client_order_id, ENDED, now_ns=NOW, filled=Decimal("0.5"), venue_order_id="7")
    record = journal.done({"remaining": []}, now_ns=NOW)
    journal.close()
    return record


@cache
def whole_file() -> tuple[KillRecord, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kill.jsonl"
        return write_all(path), path.read_bytes()


def test_the_file_holds_what_memory_held(tmp_path: Path) -> None:
    record = write_all(tmp_path / "kill.jsonl")
    again = read_kill(tmp_path / "kill.jsonl")
    assert again == record
    assert (record.cancelled, record.flatten, record.is_done) == (1, True, True)
    assert [item.outcome for item in record.orders] == [ABSENT, ENDED]
    assert record.orders[0].order == flattening("k1")
    assert record.order(record.orders[1].order.client_order_id) == record.orders[1]


def test_no_file_and_a_released_kill_are_no_kill(tmp_path: Path) -> None:
    path = tmp_path / "kill.jsonl"
    assert read_kill(path) is None
    write_all(path)
    journal = KillJournal(path)
    journal.release(by="you", now_ns=NOW)
    assert read_kill(path) is None
    last = last_kill(path)
    assert last is not None
    assert last.released_by == "you"


@given(st.data())
def test_a_file_cut_anywhere_is_a_shorter_story(data: st.DataObject) -> None:
    """And a journal that goes on from it starts on a line of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kill.jsonl"
        full, raw = whole_file()
        cut = data.draw(st.integers(0, len(raw)))
        path.write_bytes(raw[:cut])
        record = read_kill(path)
        if record is not None:
            assert record.kill_id == full.kill_id
            assert [o.order for o in record.orders] == [o.order for o in full.orders][: len(record.orders)]
        journal = KillJournal(path)
        journal.engage("k2", Asked("system", "", "me", True, NOW))
        journal.close()
        again = read_kill(path)
        assert again is not None
        assert again.kill_id == "k2"


def test_a_file_that_cannot_be_written_stops_no_kill(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("")
    journal = KillJournal(tmp_path / "blocked" / "kill.jsonl")
    record = journal.engage("k", Asked("system", "", "me", True, NOW))
    assert record.is_engaged
    assert journal.error


def test_lines_that_found_no_space_are_written_later_and_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "blocked"
    folder.write_text("")
    journal = KillJournal(folder / "kill.jsonl")
    journal.engage("k", Asked("system", "", "me", True, NOW))
    record = journal.sending(flattening("k"), now_ns=NOW)
    folder.unlink()
    journal.flush()
    assert journal.error is None
    assert last_kill(journal.path) == record
    journal.path.write_bytes(journal.path.read_bytes() + journal.path.read_bytes().split(b"\n")[1] + b"\n")
    assert last_kill(journal.path) == record, "a line that is there twice counts once"


def test_every_line_is_on_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power failure right after an act has returned leaves its line: so the file is synced after each one."""
    path, synced = tmp_path / "kill.jsonl", list[bytes]()
    fsync = os.fsync

    def note(file: int) -> None:
        fsync(file)
        synced.append(path.read_bytes() if path.exists() else b"")

    monkeypatch.setattr(os, "fsync", note)
    journal = KillJournal(path)
    journal.engage("k", Asked("system", "", "me", True, NOW))
    assert synced[-1] == path.read_bytes() != b""
    journal.sending(flattening("k"), now_ns=NOW)
    assert synced[-1] == path.read_bytes()
    assert synced[-1].count(b"\n") == 2


def test_what_is_asked_for_later_reopens_a_kill_that_was_done(tmp_path: Path) -> None:
    def done(name: str, *, flatten: bool) -> KillJournal:
        journal = KillJournal(tmp_path / name)
        journal.engage("k", Asked("system", "", "me", flatten, NOW))
        assert journal.done({}, now_ns=NOW).is_done
        return journal

    more = Asked("system", "", "you", True, NOW + 1_000)
    less = Asked("system", "", "you", False, NOW + 1_000)
    joined = done("joined", flatten=False).join(more)
    assert (joined.flatten, joined.is_done, joined.joined) == (True, False, more)
    wanted = done("wanted", flatten=False).want_flatten(by="you", now_ns=NOW + 1_000)
    assert (wanted.flatten, wanted.is_done) == (True, False)
    same = done("same", flatten=True).join(less)
    assert (same.flatten, same.is_done) == (True, True)


def test_a_kill_file_that_cannot_be_read_counts_as_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "kill.jsonl"
    assert kill_mode(path) is KillMode.NONE
    path.mkdir()
    assert kill_mode(path) is KillMode.FLATTEN
    held = tmp_path / "held.jsonl"
    KillJournal(held).engage("k", Asked("system", "", "me", False, NOW))
    assert kill_mode(held) is KillMode.HELD


def test_our_ids_are_distinguished_from_others() -> None:
    assert ids.is_ours(ids.client_order_id(uuid.uuid4(), "entry"))
    for other in (None, "", "web_abc", uuid.uuid4().hex, "x" * 32, "x-TKT5PX2F" + "0" * 22):
        assert not ids.is_ours(other)


def test_fills_are_added_once_and_to_their_holder() -> None:
    holder = Holder("ccxt", 1, "BTCUSDT", "s")
    mine, late = (ids.client_order_id(uuid.uuid4(), "entry") for _ in range(2))

    def fill(client_order_id: str | None, trade: str, side: Side, quantity: str, fee: str = "0") -> Fill:
        return Fill(
            uuid.uuid4(),
            client_order_id,
            "1",
            trade,
            1,
            "ccxt",
            "BTCUSDT",
            side,
            Decimal(quantity),
            Decimal(10),
            Decimal(fee),
            "BTC" if side is Side.BUY else "USDT",
            NOW,
        )

    snapshot = DatabaseSnapshot(
        NOW,
        {holder: Decimal(1)},
        {"BTCUSDT": VenueRules("binance", "BTC", "USDT", Decimal("0.01"), Decimal("0.01"), Decimal(5))},
        {mine: Known(holder, "binance", Decimal(0))},
        frozenset({("ccxt", "BTCUSDT", "1")}),
    )
    fills = [
        fill(mine, "1", Side.BUY, "5"),  # booked
        fill(mine, "2", Side.BUY, "0.5", "0.01"),
        fill(late, "3", Side.SELL, "0.2"),  # ours, newer than the snapshot: the only holder's
        fill("web_1", "4", Side.BUY, "7"),  # another's
        fill(None, "5", Side.BUY, "7"),
        fill("skipped", "6", Side.BUY, "7"),
    ]
    assert snapshot.with_fills(fills, frozenset({"skipped"})) == {holder: Decimal("1.29")}


def test_an_exit_newer_than_the_snapshot_is_booked_to_its_holder() -> None:
    """A strategy's exit fills while the kill begins, and a person holds the same symbol: no holding goes below
    zero."""
    person, strategy = (Holder("ccxt", 1, "BTCUSDT", instance) for instance in ("", "sma"))
    rules = VenueRules("binance", "BTC", "USDT", Decimal("0.00001"), Decimal("0.00001"), Decimal(5))
    held = {person: Decimal("0.003996"), strategy: Decimal("0.00791414")}
    exit = Fill(
        uuid.uuid4(),
        ids.client_order_id(uuid.uuid4(), "exit"),
        "1",
        "9",
        1,
        "ccxt",
        "BTCUSDT",
        Side.SELL,
        Decimal("0.00791"),
        Decimal(65000),
        Decimal("0.5"),
        "USDT",
        NOW,
    )
    snapshot = DatabaseSnapshot(NOW, held, {"BTCUSDT": rules}, {}, frozenset())
    assert snapshot.with_fills([exit], frozenset()) == {person: Decimal("0.003996"), strategy: Decimal("0.00000414")}


def test_file_that_cannot_even_be_closed_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system may report a full disk or quota when a file is closed; the descriptor is gone all the same."""
    journal, close = KillJournal(tmp_path / "kill.jsonl"), os.close
    journal.engage("k1", Asked("system", "first", "me", True, NOW))

    def refused(number: int, *rest: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def closed(number: int) -> None:
        close(number)
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with monkeypatch.context() as full:
        full.setattr(os, "write", refused)
        full.setattr(os, "close", closed)
        journal.want_flatten(by="me", now_ns=NOW)
    assert journal.error
    journal.flush()
    assert journal.error is None
    assert read_kill(tmp_path / "kill.jsonl") == journal.record


def test_reserve_is_removed_for_a_kill_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve, write = tmp_path / "disk.reserve", os.write
    reserve.write_bytes(b"x")

    def limited(number: int, data: bytes) -> int:
        if reserve.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(number, data)

    monkeypatch.setattr(os, "write", limited)
    journal = KillJournal(tmp_path / "kill.jsonl", reserve)
    journal.engage("k1", Asked("system", "first", "me", True, NOW))
    assert (journal.error, reserve.exists()) == (None, False)
    assert read_kill(tmp_path / "kill.jsonl") == journal.record
