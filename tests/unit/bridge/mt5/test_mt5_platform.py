"""Signals at a simulated MetaTrader 5: requests, outcomes, exits on positions, times, on a virtual clock."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fks.bridge.mt5.platform import Mt5Login, ServerOffset, exact, filling_of, magic_of
from fks.bridge.ninja import strict_json
from fks.bridge.ninja.auth import client_mac
from fks.bridge.peer.market_data import MarketDataServer
from fks.bridge.peer.platform import RefusedError
from fks.bridge.peer.server import BridgeKilled
from fks.bridge.peer.sessions import BridgeSessions
from fks.lab.sim.mt5 import KINDS
from tests.support.mt5 import ACCOUNT, START_MS, Mt5Rig
from tests.support.soak_cases import soaked

D = Decimal
A, B, C = "a" * 32, "b" * 32, "c" * 32


def accepted(rig: Mt5Rig, signal_id: str) -> int:
    return sum(line["magic"] == magic_of(signal_id) for line in rig.terminal.log())


@pytest.fixture(params=[True, False], ids=["hedging", "netting"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Mt5Rig:
    return Mt5Rig(tmp_path, is_hedging=request.param)


def test_an_entry_carries_magic_comment_stop_and_target(rig: Mt5Rig) -> None:
    assert rig.signal(A)["state"] == "submitted"
    (position,) = rig.positions()
    assert (position.magic, position.comment) == (magic_of(A), "a" * 28)
    assert (position.volume, position.sl, position.tp) == (0.1, 1.078, 1.084)
    assert rig.state(A) == "open"
    assert rig.bridge.status(None)["signals_open"][0]["protected"] is True
    assert len(rig.found("exec", id=A, role="E", qty=D("0.1"))) == 1


def test_magic_numbers_have_63_bits_and_are_never_zero() -> None:
    found = {magic_of(f"{n}") for n in range(1_000)}
    assert len(found) == 1_000
    assert all(0 < one < 2**63 for one in found)


def test_hedging_exits_close_by_ticket_and_leave_the_others(tmp_path: Path) -> None:
    rig = Mt5Rig(tmp_path)
    rig.signal(A)
    rig.signal(B, qty=D("0.05"))
    first, second = rig.positions()
    assert rig.exit(C, entries=[B])["state"] == "submitted"
    rig.step(1_000)
    (left,) = rig.positions()
    assert left.ticket == first.ticket
    assert (rig.state(A), rig.state(B), rig.state(C)) == ("open", "closed", "closed")
    assert [line["position_id"] for line in rig.terminal.log()] == [0, 0, second.ticket]


def test_an_exit_closes_a_part(rig: Mt5Rig) -> None:
    rig.signal(A)
    rig.exit(C, qty=D("0.04"))
    rig.step(1_000)
    (left,) = rig.positions()
    assert left.volume == pytest.approx(0.06)
    assert left.sl == 1.078
    assert rig.bridge.signals[A].open_qty == D("0.06")


@pytest.mark.parametrize("behaviour", ["none_accepted", "timeout_accepted", "error_accepted", "none_late"])
def test_an_ambiguous_order_is_found_and_not_sent_again(rig: Mt5Rig, behaviour: str) -> None:
    rig.terminal.options = replace(rig.options, on=frozenset({behaviour, "comment_rewritten"}), chance=1.0)
    assert rig.signal(A)["t"] == "indeterminate"
    rig.terminal.options = rig.options
    rig.step(35_000)
    assert rig.state(A) == "open"
    assert rig.signal(A, created_ms=START_MS, valid_until=rig.now_ms + 1)["dup"] is True
    assert accepted(rig, A) == 1


@pytest.mark.parametrize("behaviour", ["none_not_accepted", "connection_not_accepted"])
def test_an_absent_order_is_proven_after_a_wait_with_a_readable_history(rig: Mt5Rig, behaviour: str) -> None:
    rig.terminal.options = replace(rig.options, on=frozenset({behaviour}), chance=1.0)
    assert rig.signal(A)["t"] == "indeterminate"
    rig.terminal.options = rig.options
    rig.step(29_000)
    assert rig.state(A) == "indeterminate"
    rig.terminal.switch_on("history_unreadable", 20.0)
    rig.step(10_000)
    assert rig.state(A) == "indeterminate", "an unreadable history proves nothing"
    rig.step(20_000)
    assert rig.state(A) == "not_submitted"
    assert accepted(rig, A) == 0


def test_absence_is_proven_no_sooner_after_a_restart(rig: Mt5Rig) -> None:
    """The lists of a terminal that has settled do not show an order that the broker still has to accept."""
    rig.terminal.options = replace(rig.options, on=frozenset({"none_not_accepted"}), chance=1.0)
    assert rig.signal(A)["t"] == "indeterminate"
    rig.terminal.options = rig.options
    rig.step(20_000)
    rig.restart()
    rig.step(20_000)
    assert rig.state(A) == "indeterminate"
    rig.step(15_000)
    assert rig.state(A) == "not_submitted"


def test_lists_read_before_the_wait_was_over_prove_no_absence(rig: Mt5Rig) -> None:
    """A call to the terminal held the agent up: the broker accepted the order meanwhile, and no list was read."""
    rig.terminal.options = replace(rig.options, on=frozenset({"none_late"}), chance=1.0)
    assert rig.signal(A)["t"] == "indeterminate"
    rig.terminal.options = rig.options
    rig.step(1_000)
    rig.now_ms += 60_000
    rig.turn()
    assert rig.state(A) == "open"
    assert not rig.found("signal", id=A, state="not_submitted")


@pytest.mark.parametrize(
    ("behaviours", "state", "count"), [((), "not_submitted", 0), (("none_late",), "open", 1)], ids=["at once", "late"]
)
def test_an_order_whose_write_was_killed_is_not_in_the_brokers_log(
    rig: Mt5Rig, behaviours: tuple[str, ...], state: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies as the broker's state with the order would replace the one before."""
    replace_file = os.replace

    def replace_or_die(source: Path, target: Path) -> None:
        if target.name == "broker.json" and any(
            one["magic"] == magic_of(A) for one in json.loads(source.read_text())["orders"]
        ):
            raise BridgeKilled("in the write")
        replace_file(source, target)

    def trade() -> None:
        rig.signal(A)
        rig.step(5_000)

    rig.terminal.options = replace(rig.options, on=frozenset(behaviours), chance=1.0)
    monkeypatch.setattr("os.replace", replace_or_die)
    with pytest.raises(BridgeKilled):
        trade()
    monkeypatch.undo()
    rig.restart()
    rig.step(40_000)
    assert rig.state(A) == state
    assert accepted(rig, A) == count


@pytest.mark.parametrize(("behaviour", "code"), [("requote", "requote"), ("rejected", "rejected")])
def test_a_refused_order_has_code_and_text(rig: Mt5Rig, behaviour: str, code: str) -> None:
    rig.terminal.options = replace(rig.options, on=frozenset({behaviour}), chance=1.0)
    answer = rig.signal(A)
    assert (answer["t"], answer["code"], answer["final"]) == ("nack", code, True)
    assert answer["detail"]
    assert rig.signal(A)["code"] == code, "the same id has this answer for ever"
    assert accepted(rig, A) == 0


@pytest.mark.parametrize(
    ("behaviour", "number"), [("autotrading_off", 10027), ("server_disables", 10026)], ids=["terminal", "server"]
)
def test_trading_disabled_denies_entries_and_is_reported(rig: Mt5Rig, behaviour: str, number: int) -> None:
    rig.terminal.switch_on(behaviour, 3.0)
    rig.step(1_000)
    answer = rig.signal(A)
    assert (answer["code"], answer["final"]) == ("trading_disabled", False)
    assert str(number) in answer["detail"]
    status = rig.bridge.status(None)
    assert (status["ready"], status["accounts"][0]["trading_code"]) == (False, number)
    rig.step(5_000)
    assert rig.signal(A)["state"] == "submitted"
    assert [one["code"] for one in rig.found("risk")] == ["trading_disabled", "trading_enabled"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"qty": D("0.015")}, "qty_limit"),
        ({"qty": D("0.001")}, "qty_limit"),
        ({"qty": D(101)}, "qty_limit"),
        ({"sl_points": D("0.00005"), "tp_points": None}, "bad_bracket"),
        ({"type": "limit", "price": D("1.08001")}, "bad_price"),
        ({"type": "limit", "price": D("1.07"), "tif": "ioc"}, "bad_field"),
        ({"instrument": "US500", "qty": D(60), "sl_points": D(5), "tp_points": D(5)}, "position_limit"),
        ({"instrument": "XYZ"}, "unknown_instrument"),
    ],
)
def test_what_the_broker_would_refuse_is_not_sent(rig: Mt5Rig, changes: dict[str, Any], code: str) -> None:
    assert rig.signal(A, **changes)["code"] == code
    assert rig.terminal.log() == []
    assert rig.state(A) == "nacked"


def test_prices_are_on_the_tick_not_on_the_point(rig: Mt5Rig) -> None:
    answer = rig.signal(
        A, instrument="US500", qty=D("0.1"), type="limit", price=D("4490.13"), sl_points=D("10.1"), tp_points=D(20)
    )
    assert (answer["price_used"], answer["sl_used"]) == (D(4490), D(4480))
    (order,) = rig.terminal.orders_get()
    assert (order.price_open, order.sl, order.tp) == (4490.0, 4480.0, 4510.0)


def test_filling_follows_the_mask_of_the_symbol() -> None:
    fok, ioc, rest = 0, 1, 2
    rows = [(3, 2, fok, ioc), (1, 2, None, fok), (2, 2, ioc, ioc), (0, 3, None, rest), (0, 1, None, fok)]
    for mask, execution, wanted, otherwise in rows:
        assert filling_of(mask, execution, wants_ioc=False) == otherwise
        if wanted is None:
            with pytest.raises(RefusedError):
                filling_of(mask, execution, wants_ioc=True)
    for mask in (0, 4):
        with pytest.raises(RefusedError):
            filling_of(mask, 2, wants_ioc=False)


def test_a_partial_fill_is_booked_and_protected(rig: Mt5Rig) -> None:
    rig.terminal.options = replace(rig.options, on=frozenset({"partial_fills"}), chance=1.0)
    assert rig.signal(A)["state"] == "submitted"
    rig.step(1_000)
    (position,) = rig.positions()
    assert position.volume == 0.05
    assert rig.bridge.signals[A].open_qty == D("0.05")
    assert rig.bridge.signals[A].entry_left == 0


def test_an_order_that_is_placed_first_fills_later(rig: Mt5Rig) -> None:
    rig.terminal.options = replace(rig.options, on=frozenset({"placed_first"}), chance=1.0)
    assert rig.signal(A)["state"] == "submitted"
    rig.step(2_000)
    assert rig.state(A) == "open"


def test_a_pending_order_is_cancelled(rig: Mt5Rig) -> None:
    rig.signal(A, type="limit", price=D("1.07"))
    rig.step(500)
    assert rig.state(A) == "working"
    assert rig.send({"t": "cancel", "rid": "1", "id": A})[0]["ok"] is True
    rig.step(1_000)
    assert rig.state(A) == "cancelled"
    assert not rig.terminal.orders_get()


def test_an_entry_that_is_not_filled_in_time_is_cancelled(rig: Mt5Rig) -> None:
    rig.signal(A, type="limit", price=D("1.07"), valid_until=rig.now_ms + 2_000)
    rig.step(5_000)
    assert rig.state(A) == "expired"


def test_modify_moves_the_positions_exits(rig: Mt5Rig) -> None:
    rig.signal(A)
    rig.step(500)
    assert (
        rig.send({"t": "modify", "rid": "1", "id": A, "sl_price": D("1.079"), "tp_price": D("1.09")})[0]["ok"] is True
    )
    rig.step(1_500)
    (position,) = rig.positions()
    assert (position.sl, position.tp) == (1.079, 1.09)


def test_a_stop_that_someone_removed_is_set_again(rig: Mt5Rig) -> None:
    rig.signal(A)
    rig.step(500)
    ticket = rig.positions()[0].ticket
    rig.terminal.order_send({"action": 6, "position": ticket, "sl": 0.0, "tp": 0.0})
    rig.step(3_000)
    (position,) = rig.positions()
    assert (position.sl, position.tp) == (exact_float(rig, A, -1), exact_float(rig, A, 2))


def exact_float(rig: Mt5Rig, signal_id: str, steps: int) -> float:
    """Return the price `steps` times 0.002 from the fill: a bracket that is made again counts from there."""
    return float(rig.bridge.signals[signal_id].price + steps * D("0.002"))


def test_a_stop_loss_ends_the_signals_of_the_position(rig: Mt5Rig) -> None:
    rig.signal(A, sl_points=D("0.0008"), tp_points=D("0.05"))
    rig.signal(B, qty=D("0.05"), sl_points=D("0.0008"), tp_points=D("0.05"))
    rig.step(500)
    rig.terminal.options = replace(rig.options, swing=4.0)
    for _ in range(200):
        rig.step(1_000)
        if not rig.positions():
            break
    rig.step(1_000)
    assert (rig.state(A), rig.state(B)) == ("closed", "closed")
    exits = [one for one in rig.found("exec") if one.get("role") == "S"]
    assert {one["id"]: one["qty"] for one in exits} == {A: D("0.1"), B: D("0.05")}
    assert not rig.found("risk")


def test_a_cancelled_deal_is_a_bust(rig: Mt5Rig) -> None:
    rig.signal(A)
    rig.step(500)
    rig.terminal.options = replace(rig.options, on=frozenset({"deal_cancelled"}), chance=5.0)
    rig.terminal.order_send({"action": 6, "position": rig.positions()[0].ticket, "sl": 1.077, "tp": 1.09})
    rig.terminal.options = rig.options
    rig.step(6_000)
    (bust,) = rig.found("exec", op="remove")
    assert (bust["id"], bust["qty"]) == (A, D("0.1"))
    assert not rig.positions()
    assert rig.state(A) == "closed"
    rig.restart()
    rig.step(12_000)
    assert len(rig.found("exec", op="remove")) == 1


def test_flatten_closes_what_is_not_ours_too(rig: Mt5Rig) -> None:
    rig.signal(A)
    rig.signal(B, type="limit", price=D("1.07"))
    by_hand = {"action": 1, "symbol": "XAUUSD", "volume": 0.1, "type": 0, "price": 2000.0, "type_filling": 1}
    rig.terminal.order_send(by_hand)
    rig.step(1_000)
    rig.send({"t": "flatten", "rid": "1", "account": ACCOUNT, "instruments": "all"})
    rig.step(2_000)
    assert rig.replies[-1] == {"t": "result", "rid": "1", "ok": True, "flat": True, "remaining": []}
    assert not rig.positions()
    assert not rig.terminal.orders_get()
    assert (rig.state(A), rig.state(B)) == ("closed", "cancelled")


def test_a_close_without_a_result_is_not_repeated_at_once(rig: Mt5Rig) -> None:
    rig.signal(A)
    rig.step(500)
    rig.terminal.options = replace(rig.options, on=frozenset({"none_late"}), chance=1.0)
    rig.send({"t": "kill", "rid": "1", "reason": "test"})
    rig.step(20_000)
    assert rig.replies[-1]["flat"] is True
    assert len(rig.terminal.log()) == 2, "one entry, one close"
    assert rig.bridge.halted


def test_an_exit_without_a_result_keeps_its_part_of_the_position(rig: Mt5Rig) -> None:
    rig.signal(A)
    rig.step(500)
    rig.terminal.options = replace(rig.options, on=frozenset({"none_late"}), chance=1.0)
    assert rig.exit(B)["t"] == "indeterminate"
    rig.terminal.options = rig.options
    assert rig.exit(C)["code"] == "opposite_position", "the first one may still be done"
    rig.step(35_000)
    assert not rig.positions()
    assert (rig.state(A), rig.state(B)) == ("closed", "closed")


def test_history_that_cannot_be_read_is_an_answer(rig: Mt5Rig) -> None:
    market = MarketDataServer(rig.platform, rig.bridge.market_events)
    rig.platform.contract("EURUSD")
    rig.terminal.switch_on("terminal_lost", 5.0)
    begin = rig.now_ms - 120_000
    market.handle(
        1, {"t": "history", "rid": "1", "instrument": "EURUSD", "from_ms": begin, "to_ms": begin, "period": "1m"}
    )
    (answer,) = [one for _, one in market.work() if one["t"] == "result"]
    assert (answer["ok"], answer["code"]) == (False, "not_connected")


def test_the_password_is_in_no_text_of_the_login() -> None:
    assert "secret-word" not in repr(Mt5Login(account_number=1, password="secret-word"))


def test_without_the_servers_offset_no_order_is_sent(tmp_path: Path) -> None:
    rig = Mt5Rig(tmp_path, offset_s=7_200 + 400)  # no time zone: the ticks are late or the clock is wrong
    assert rig.platform.offset.seconds is None
    assert rig.signal(A)["code"] == "not_connected"
    assert rig.terminal.log() == []


def test_the_offset_is_kept_by_date(tmp_path: Path) -> None:
    offset = ServerOffset(tmp_path / "offsets.json")
    now_ms = START_MS
    for at_ms in (now_ms, now_ms + 250):
        offset.measure(at_ms + 7_200_000, at_ms)
    day_ms = now_ms + 86_400_000
    for at_ms in (day_ms, day_ms + 250):
        offset.measure(at_ms + 10_800_000, at_ms)
    assert offset.seconds == 10_800
    assert offset.utc_ms(day_ms + 10_800_000) == day_ms
    assert offset.utc_ms(now_ms + 7_200_000) == now_ms, "a time of the day before has the offset of that day"
    assert sorted(json.loads((tmp_path / "offsets.json").read_text()).values()) == [7_200, 10_800]
    again = ServerOffset(tmp_path / "offsets.json")
    again.recall(day_ms + 2 * 86_400_000)
    assert again.seconds is None, "an offset of another day is none"
    again.recall(day_ms)
    assert again.seconds == 10_800


def test_times_on_the_wire_are_utc(rig: Mt5Rig) -> None:
    rig.signal(A)
    (execution,) = rig.found("exec")
    assert abs(execution["time_ms"] - rig.now_ms) < 1_000


def test_a_lost_journal_does_not_repeat_an_order(rig: Mt5Rig) -> None:
    rig.terminal.options = replace(rig.options, on=frozenset({"comment_rewritten"}), chance=1.0)
    rig.signal(A)
    rig.terminal.options = rig.options
    (rig.folder / "journal.log").unlink()
    rig.restart()
    rig.step(12_000)
    answer = rig.signal(A)
    assert (answer["code"], answer["final"]) == ("duplicate_recovered", True)
    assert accepted(rig, A) == 1
    rig.step(1_000)
    assert (rig.state(A), rig.bridge.signals[A].open_qty) == ("open", D("0.1"))


@pytest.mark.parametrize("point", ["before_submit", "after_submit"])
def test_an_order_that_only_its_intent_knows_is_found_by_magic(rig: Mt5Rig, point: str) -> None:
    rig.terminal.options = replace(rig.options, on=frozenset({"comment_rewritten"}), chance=1.0)
    rig.kill_at = point
    with pytest.raises(BridgeKilled):
        rig.signal(A)
    rig.restart()
    rig.step(40_000)
    is_sent = point == "after_submit"
    assert rig.state(A) == ("open" if is_sent else "not_submitted")
    assert [one.get("id") for one in rig.found("exec")] == [A] * is_sent
    assert accepted(rig, A) == is_sent


def test_the_wrong_account_of_the_terminal_is_not_traded(tmp_path: Path) -> None:
    rig = Mt5Rig(tmp_path, login=777)
    assert not rig.bridge.is_ready
    assert "777" in str(rig.platform.last_error) or "failed" in str(rig.platform.last_error)


def test_a_real_account_takes_no_orders_by_itself(tmp_path: Path) -> None:
    rig = Mt5Rig(tmp_path, is_demo=False)
    assert rig.signal(A)["code"] == "automation_forbidden"


def test_instruments_are_told_in_decimal_strings(rig: Mt5Rig) -> None:
    found = {one["instrument"]: one for one in rig.platform.instruments()}
    assert found["US500"] == {
        "instrument": "US500", "tick_size": "0.25", "volume_min": "0.1", "volume_max": "100", "volume_step": "0.1",
        "contract_size": "1", "currency_profit": "USD", "trading": True,
    }  # fmt: skip


def test_bars_are_stamped_in_utc(rig: Mt5Rig) -> None:
    begin = rig.now_ms - rig.now_ms % 60_000 - 300_000
    bars = rig.platform.bars("EURUSD", "1m", begin, begin + 240_000)
    assert len(bars) == 5
    assert bars[0].close.replace(tzinfo=UTC).timestamp() * 1000 == begin + 60_000
    assert all(bar.h >= bar.l for bar in bars)


def test_a_data_session_gets_quotes_instruments_and_bars(tmp_path: Path) -> None:
    rig = Mt5Rig(tmp_path, swing=1.0)
    market = MarketDataServer(rig.platform, rig.bridge.market_events)
    market.handle(1, {"t": "subscribe", "rid": "1", "instruments": ["EURUSD", "XYZ"], "quotes": True})
    market.handle(1, {"t": "instruments", "rid": "2"})
    begin = rig.now_ms - rig.now_ms % 60_000 - 120_000
    market.handle(
        1,
        {"t": "history", "rid": "3", "instrument": "EURUSD", "from_ms": begin, "to_ms": begin + 60_000, "period": "1m"},
    )
    first = market.work()
    assert [one["count"] for _, one in first if one["t"] == "result" and "count" in one] == [4, 1]
    assert [one["at_ms"] for _, one in first if one["t"] == "bar"] == [begin]
    found = []
    for _ in range(40):
        rig.step(100)
        found += market.work()
    quotes = [one for _, one in found if one["t"] == "quote"]
    assert len(quotes) > 5
    assert all(one["bid"] < one["ask"] and 0 <= rig.now_ms - one["at_ms"] < 5_000 for one in quotes)
    trades = [one for _, one in found if one["t"] == "trade"]
    assert [one["n"] for one in trades] == list(range(trades[0]["n"], trades[0]["n"] + len(trades)))
    assert {one["qty"] for one in trades} == {1}
    assert {one["price"] for one in trades} >= {one["bid"] for one in quotes}


def test_lots_are_texts_on_the_wire(rig: Mt5Rig) -> None:
    sessions = BridgeSessions(rig.bridge, b"secret", lambda: "0" * 64)
    sent: list[bytes | None] = []
    sessions.open(1)
    hello = {"client": "t", "instance": "0" * 32, "group": "mt5", "role": "control", "nonce": "1" * 64}
    mac = client_mac(b"secret", bridge_nonce="0" * 64, client_nonce="1" * 64, instance="0" * 32, group="mt5")
    fields = {
        "account": ACCOUNT, "instrument": "EURUSD", "action": "buy", "type": "market", "created_ms": rig.now_ms,
        "valid_until": rig.now_ms + 1_000,
    }  # fmt: skip
    lines: list[dict[str, Any]] = [
        {"t": "hello", "v": 1, **hello},
        {"t": "auth", "mac": mac, "epoch": None, "last_seq": 0},
        {"t": "signal", "id": A, "qty": "0.10", **fields},
        *(
            {"t": "signal", "id": f"x{n}", "qty": qty, **fields}
            for n, qty in enumerate((1, D("0.1"), "1e2", "-1", "0"))
        ),
    ]
    for line in lines:
        sessions.receive(1, strict_json.dumps(line))
        sent += [data for _, data in sessions.work()]
    found = [dict(strict_json.loads(data)) for data in sent if data]
    assert [one["code"] for one in found if one["t"] == "nack"] == ["bad_field"] * 5
    assert [one["qty"] for one in found if one.get("kind") == "exec"] == ["0.1"]
    welcome = next(one for one in found if one["t"] == "welcome")
    assert str(welcome["platform"]).startswith("mt5 ")


def test_floats_are_the_decimals_they_stand_for() -> None:
    assert [f"{exact(one):f}" for one in (0.1 + 0.2, 1.08002, 100.0, 0.01 * 3, 0.0)] == [
        "0.3",
        "1.08002",
        "100",
        "0.03",
        "0",
    ]


@pytest.mark.parametrize("is_hedging", [True, False], ids=["hedging", "netting"])
@pytest.mark.parametrize("seed", soaked(range(1, 5), 1))
def test_under_all_behaviours_no_order_is_sent_twice(seed: int, is_hedging: bool, tmp_path: Path) -> None:
    rig = Mt5Rig(tmp_path, seed=seed, is_hedging=is_hedging, on=frozenset(KINDS), chance=0.08, swing=1.0)
    answers = []
    for number in range(12):
        for _ in range(10):
            answer = rig.signal(f"{seed:02}-{number:029}", sl_points=D("0.003"), tp_points=D("0.003"))
            rig.step(2_000, by=250)
            if answer.get("final") is not False:
                break
            rig.step(10_000, by=250)
        answers.append(answer["t"])
        if number % 5 == 4:
            rig.restart()
            rig.step(12_000, by=250)
        if number % 4 == 3:
            rig.exit(f"x{seed:02}-{number:028}")
    rig.terminal.options = rig.options = replace(rig.options, on=frozenset())
    rig.step(120_000, by=250)
    entries = [line["magic"] for line in rig.terminal.log() if not line["position_id"]]
    assert len(entries) == len(set(entries)) >= 6
    open_by_signal = sum((one.open_qty for one in rig.bridge.signals.values()), D(0))
    assert open_by_signal == exact(sum(one.volume for one in rig.positions()))
    assert all(one.sl for one in rig.positions())
    assert not [one for one in rig.bridge.signals.values() if one.state in ("indeterminate", "ambiguous", "intent")]
    assert {"ack", "indeterminate"} <= set(answers)
