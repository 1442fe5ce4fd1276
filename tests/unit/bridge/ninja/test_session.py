"""The client session: connection, event log, heartbeats, requests."""

from __future__ import annotations

from typing import Any

import pytest

from fks.bridge.ninja import messages as m
from fks.bridge.ninja import outputs as o
from fks.bridge.ninja.machine import TRANSITIONS, Input, LinkState
from fks.bridge.ninja.outputs import AlarmCode
from fks.bridge.ninja.session import UnsentReason
from fks.model.errors import BugError
from tests.support.ninja import (
    BRIDGE_NONCE,
    EPOCH,
    OTHER_EPOCH,
    Wire,
    challenge,
    log_event,
    right_mac,
    signal,
    status,
    welcome,
)


def ready(role: m.Role = "control", **how: Any) -> Wire:
    wire = Wire.of(role, **how)
    wire.to_ready()
    wire.lines.clear()
    return wire


def alarms(wire: Wire) -> list[AlarmCode]:
    return [alarm.code for alarm in wire.seen(o.Alarm)]


# ── opening ──────────────────────────────────────────────────────────────────────────────────────
def test_client_speaks_first_and_proves_the_secret() -> None:
    wire = Wire.of(epoch=EPOCH, seq=5)
    wire.session.start()
    wire.pull()
    assert wire.dialled == [8080]
    wire.open()
    hello = wire.pop("hello")
    assert "secret" not in str(hello)
    wire.give(challenge())
    assert wire.pop("auth") == {"t": "auth", "mac": right_mac(hello), "epoch": EPOCH, "last_seq": 5}
    wire.give(welcome(hello, wire.clock, last_seq=5))
    assert wire.session.state is LinkState.REPLAY
    assert not wire.seen(o.Ready)
    wire.give({"t": "replay_end", "last_seq": 5, "count": 0}, status())
    assert wire.session.state is LinkState.READY
    assert len(wire.seen(o.Ready)) == 1
    assert len(wire.seen(o.Snapshot)) == 1


def test_second_port_is_tried_before_any_wait() -> None:
    wire = Wire.of()
    wire.session.start()
    wire.session.dial_failed("refused")
    wire.pull()
    assert wire.dialled == [8080, 47740]
    wire.session.dial_failed("refused")
    wire.pull()
    assert wire.session.state is LinkState.BACKOFF
    assert [wait.wait_s for wait in wire.seen(o.Waiting)] == [0.5]


def test_port_that_worked_is_tried_first() -> None:
    wire = Wire.of()
    wire.session.start()
    wire.session.dial_failed("refused")
    wire.pull()
    wire.open()
    wire.give(challenge(), welcome(wire.opening, wire.clock), {"t": "replay_end", "last_seq": 0, "count": 0})
    wire.lose()
    wire.until_dialled()
    assert wire.dialled == [8080, 47740, 47740]


def test_waits_double_up_to_15_seconds() -> None:
    wire = Wire.of(ports=(8080,))
    wire.session.start()
    for _ in range(8):
        wire.session.dial_failed("refused")
        wire.until_dialled()
    assert [wait.wait_s for wait in wire.seen(o.Waiting)] == [0.5, 1, 2, 4, 8, 15, 15, 15]


def test_a_connection_that_lasted_makes_the_next_wait_short() -> None:
    wire = Wire.of(ports=(8080,))
    wire.session.start()
    for _ in range(4):
        wire.session.dial_failed("refused")
        wire.until_dialled()
    wire.open()
    wire.give(challenge(), welcome(wire.opening, wire.clock), {"t": "replay_end", "last_seq": 0, "count": 0})
    for _ in range(4):
        wire.advance(1900)
        wire.give(status())
    wire.lose()
    assert wire.seen(o.Waiting)[-1].wait_s == 0.5


def test_impostor_gets_nothing_and_an_alarm_is_raised() -> None:
    wire = Wire.of(ports=(8080,))
    wire.session.start()
    wire.open()
    wire.give(challenge(), welcome(wire.opening, wire.clock, mac="0" * 64))
    assert not wire.is_open
    assert alarms(wire) == [AlarmCode.BRIDGE_AUTH]
    assert wire.seen(o.Waiting)[-1].wait_s == 60.0
    assert wire.types() == ["hello", "auth"]


def test_impostor_on_the_first_port_does_not_keep_us_from_the_bridge() -> None:
    wire = Wire.of()
    wire.session.start()
    wire.open()
    wire.give(challenge(), welcome(wire.opening, wire.clock, mac="0" * 64))
    assert wire.dialled == [8080, 47740]
    wire.open()
    wire.give(challenge(), welcome(wire.opening, wire.clock), {"t": "replay_end", "last_seq": 0, "count": 0})
    assert wire.session.state is LinkState.READY


def test_a_reflected_proof_is_no_proof() -> None:
    wire = Wire.of(ports=(8080,))
    wire.session.start()
    wire.open()
    wire.challenge(wire.opening["nonce"])
    proof = wire.lines[-1]["mac"]
    wire.give(welcome(wire.opening, wire.clock, wire.opening["nonce"], mac=proof))
    assert alarms(wire) == [AlarmCode.BRIDGE_AUTH]


def test_refused_proof_waits_a_minute() -> None:
    wire = Wire.of(ports=(8080,))
    wire.session.start()
    wire.open()
    wire.give(challenge(), {"t": "bye", "code": "auth_failed", "detail": "", "retry_after_ms": 0})
    assert alarms(wire) == [AlarmCode.AUTH_FAILED]
    assert wire.seen(o.Waiting)[-1].wait_s == 60.0


def test_superseded_session_stops_for_good() -> None:
    wire = ready()
    wire.give({"t": "bye", "code": "superseded", "detail": "", "retry_after_ms": 0})
    assert wire.session.state is LinkState.STOPPED
    assert len(wire.seen(o.LinkStopped)) == 1
    wire.advance(300_000, 1_000)
    assert len(wire.dialled) == 1


def test_a_bye_may_lengthen_the_wait() -> None:
    wire = ready()
    wire.give({"t": "bye", "code": "shutdown", "detail": "", "retry_after_ms": 9_000})
    assert wire.seen(o.Waiting)[-1].wait_s == 9.0


def test_stop_sends_bye_and_closes() -> None:
    wire = ready()
    wire.session.stop()
    wire.pull()
    assert wire.types() == ["bye"]
    assert not wire.is_open
    assert wire.session.state is LinkState.STOPPED


@pytest.mark.parametrize("silent_after", [0, 1])
def test_an_answer_that_does_not_come_ends_the_attempt(silent_after: int) -> None:
    wire = Wire.of(ports=(8080,))
    wire.session.start()
    wire.open()
    wire.give(*[challenge()][:silent_after])
    wire.advance(4_900)
    assert wire.is_open
    wire.advance(100)
    assert not wire.is_open
    assert wire.session.state is LinkState.BACKOFF


@pytest.mark.parametrize(
    "data",
    [
        b'{"t":"challenge"}\n',
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff\xfe\n",
        b"x" * 70_000,
        b'{"t":"ev","seq":1}\n',
        b'{"t":"welcome"}\n',
    ],
)
def test_another_program_on_the_port_is_left_alone(data: bytes) -> None:
    wire = Wire.of(ports=(8080,))
    wire.session.start()
    wire.open()
    wire.give_bytes(data)
    assert not wire.is_open
    assert wire.types() == ["hello"]


def test_lines_after_the_close_are_not_read() -> None:
    wire = Wire.of(ports=(8080,))
    wire.session.start()
    wire.open()
    wire.give_bytes(b"garbage\n" + b'{"t":"challenge","v":1}\n')
    wire.give(challenge())
    assert wire.types() == ["hello"]


# ── event log ────────────────────────────────────────────────────────────────────────────────────
def test_events_come_once_and_in_order() -> None:
    wire = ready()
    wire.give(log_event(1), log_event(1), log_event(2), log_event(1))
    assert [logged.event.seq for logged in wire.seen(o.Logged)] == [1, 2]


def test_a_missing_event_closes_and_asks_again_from_the_stored_one() -> None:
    wire = ready()
    wire.give(log_event(1), log_event(2))
    wire.session.stored(EPOCH, 1)
    wire.give(log_event(4))
    assert not wire.is_open
    wire.until_dialled()
    wire.open()
    wire.give(challenge())
    assert wire.lines[-1] == {"t": "auth", "mac": right_mac(wire.opening), "epoch": EPOCH, "last_seq": 1}
    wire.give(welcome(wire.opening, wire.clock, last_seq=4), *(log_event(seq, replay=True) for seq in (2, 3, 4)))
    wire.give({"t": "replay_end", "last_seq": 4, "count": 3})
    assert [logged.event.seq for logged in wire.seen(o.Logged)] == [1, 2, 3, 4]
    assert wire.session.state is LinkState.READY


def test_a_replay_that_ends_early_is_a_hole() -> None:
    wire = Wire.of()
    wire.session.start()
    wire.open()
    wire.give(
        challenge(),
        welcome(wire.opening, wire.clock, last_seq=3),
        log_event(1),
        {"t": "replay_end", "last_seq": 3, "count": 1},
    )
    assert not wire.is_open
    assert not wire.seen(o.Ready)


def test_stored_events_are_acknowledged_within_a_second() -> None:
    wire = ready()
    wire.give(log_event(1), log_event(2), log_event(3))
    wire.session.stored(EPOCH, 1)
    wire.session.stored(EPOCH, 3)
    wire.advance(900)
    assert wire.types() == []
    wire.advance(100)
    assert wire.lines == [{"t": "evack", "seq": 3}]


def test_a_hundred_stored_events_are_acknowledged_at_once() -> None:
    wire = ready()
    wire.give(*(log_event(seq) for seq in range(1, 151)))
    wire.session.stored(EPOCH, 99)
    wire.session.stored(EPOCH, 100)
    wire.pull()
    assert wire.lines == [{"t": "evack", "seq": 100}]


def test_only_control_acknowledges() -> None:
    wire = ready("observe")
    wire.give(log_event(1))
    wire.session.stored(EPOCH, 1)
    wire.advance(3_000)
    assert wire.types() == []


def test_an_event_that_never_came_cannot_be_stored() -> None:
    wire = ready()
    with pytest.raises(BugError):
        wire.session.stored(EPOCH, 1)


def test_an_event_that_is_not_understood_does_not_stop_the_log() -> None:
    wire = ready()
    wire.give(log_event(1, kind="weather", rain=True), log_event(2))
    assert [logged.event.seq for logged in wire.seen(o.Logged)] == [1, 2]
    assert alarms(wire) == [AlarmCode.BAD_EVENT]


def test_another_epoch_starts_the_log_anew() -> None:
    wire = Wire.of(epoch=EPOCH, seq=7)
    wire.session.start()
    wire.open()
    wire.give(challenge(), welcome(wire.opening, wire.clock, epoch=OTHER_EPOCH, last_seq=2))
    wire.give({"t": "gap", "from": 1, "to": 7}, log_event(1, epoch=OTHER_EPOCH), log_event(2, epoch=OTHER_EPOCH))
    wire.give({"t": "replay_end", "last_seq": 2, "count": 2})
    assert wire.session.state is LinkState.READY
    assert alarms(wire) == [AlarmCode.NEW_EPOCH]
    assert wire.seen(o.EpochChanged) == [o.EpochChanged(EPOCH, OTHER_EPOCH, 0)]
    assert [logged.event.seq for logged in wire.seen(o.Logged)] == [1, 2]
    wire.session.stored(EPOCH, 7)
    assert wire.session.stored_seq == 0


def test_a_gap_moves_on_to_the_oldest_event_that_is_kept() -> None:
    wire = Wire.of(epoch=EPOCH, seq=3)
    wire.session.start()
    wire.open()
    wire.give(challenge(), welcome(wire.opening, wire.clock, last_seq=11, oldest_seq=10))
    wire.give(
        {"t": "gap", "from": 4, "to": 9}, log_event(10), log_event(11), {"t": "replay_end", "last_seq": 11, "count": 2}
    )
    assert wire.session.state is LinkState.READY
    assert wire.seen(o.LogLost) == [o.LogLost(4, 9, EPOCH)]
    assert [logged.event.seq for logged in wire.seen(o.Logged)] == [10, 11]


@pytest.mark.parametrize("by_bye", [True, False])
def test_a_journal_that_was_rolled_back_is_an_alarm(by_bye: bool) -> None:
    wire = Wire.of(epoch=EPOCH, seq=9, ports=(8080,))
    wire.session.start()
    wire.open()
    wire.give(challenge())
    if by_bye:
        wire.give({"t": "bye", "code": "seq_ahead", "detail": "", "retry_after_ms": 0})
    else:
        wire.give(welcome(wire.opening, wire.clock, last_seq=3))
    assert alarms(wire) == [AlarmCode.SEQ_AHEAD]
    assert wire.seen(o.Waiting)[-1].wait_s == 60.0


def test_an_event_of_another_epoch_breaks_the_protocol() -> None:
    wire = ready()
    wire.give(log_event(1, epoch=OTHER_EPOCH))
    assert not wire.is_open
    assert alarms(wire) == [AlarmCode.PROTOCOL]


# ── heartbeats and clock ─────────────────────────────────────────────────────────────────────────
def test_pings_are_answered() -> None:
    wire = ready()
    wire.heartbeats.clear()
    wire.give({"t": "ping", "n": 4, "t_ms": 1_000})
    assert wire.heartbeats == [{"t": "pong", "n": 4, "t_ms": wire.clock.now_ms, "echo_ms": 1_000}]


def test_a_ping_is_sent_when_nothing_else_was() -> None:
    wire = ready()
    wire.heartbeats.clear()
    wire.advance(1_900)
    assert wire.heartbeats == []
    wire.advance(100)
    assert [ping["t"] for ping in wire.heartbeats] == ["ping"]


def test_silence_makes_suspect_then_dead() -> None:
    wire = ready()
    wire.advance(3_900)
    assert wire.session.state is LinkState.READY
    wire.advance(100)
    assert wire.session.state is LinkState.SUSPECT
    assert len(wire.seen(o.LinkSuspect)) == 1
    wire.advance(1_900)
    assert wire.is_open
    wire.advance(100)
    assert not wire.is_open
    assert wire.session.state is LinkState.BACKOFF


def test_any_byte_is_life() -> None:
    wire = ready()
    wire.advance(4_000)
    assert wire.session.state is LinkState.SUSPECT
    wire.give_bytes(b"\n")
    assert wire.session.state is LinkState.READY
    assert [event.is_first for event in wire.seen(o.Ready)] == [True, False]


def pong(wire: Wire, ahead_ms: int) -> None:
    wire.heartbeats.clear()
    wire.session.ping()
    wire.pull()
    sent = wire.heartbeats[-1]
    wire.give({"t": "pong", "n": sent["n"], "t_ms": wire.clock.now_ms + ahead_ms, "echo_ms": sent["t_ms"]})


@pytest.mark.parametrize(
    ("ahead_ms", "code"), [(2_000, None), (-2_100, AlarmCode.CLOCK_OFFSET), (5_100, AlarmCode.CLOCK_SKEW)]
)
def test_clocks_that_differ_are_an_alarm(ahead_ms: int, code: AlarmCode | None) -> None:
    wire = Wire.of()
    wire.to_ready(now_ms=wire.clock.now_ms + ahead_ms)
    assert alarms(wire) == ([code] if code else [])


def test_the_quickest_of_eight_round_trips_gives_the_offset() -> None:
    wire = ready()
    for _ in range(8):
        wire.session.ping()
        wire.pull()
        sent = wire.heartbeats[-1]
        wire.clock.elapsed_ms += 400
        wire.give({"t": "pong", "n": sent["n"], "t_ms": wire.clock.now_ms + 300, "echo_ms": sent["t_ms"]})
    assert wire.session.offset.ms == 500  # 300 ms ahead, and half of the round trip
    pong(wire, 40)
    assert wire.session.offset.ms == 40


def test_a_skewed_clock_stops_signals_until_it_is_right() -> None:
    wire = ready()
    for _ in range(8):
        pong(wire, 6_000)
    prepared = wire.session.prepare(signal("a1"))
    assert not isinstance(prepared, UnsentReason)
    assert wire.session.send(prepared) is UnsentReason.CLOCK_SKEW
    for _ in range(8):
        pong(wire, 0)
    again = wire.session.prepare(signal("a1"))
    assert not isinstance(again, UnsentReason)
    assert wire.session.send(again) is None
    assert alarms(wire) == [AlarmCode.CLOCK_SKEW, AlarmCode.CLOCK_OK]


def test_times_of_a_signal_are_of_the_bridges_clock() -> None:
    wire = Wire.of()
    wire.to_ready(now_ms=wire.clock.now_ms + 1_500)
    prepared = wire.session.prepare(signal("a1"))
    assert not isinstance(prepared, UnsentReason)
    assert prepared.valid_until_ms == wire.clock.now_ms + 31_500
    assert b'"created_ms":%d' % (wire.clock.now_ms + 1_500) in prepared.line


# ── requests and roles ───────────────────────────────────────────────────────────────────────────
def flatten(rid: str = "r1") -> m.FlattenRequest:
    return m.FlattenRequest(rid=rid, account="Sim101", instruments="all", reason="test")


def test_a_request_gets_its_answer() -> None:
    wire = ready()
    assert wire.session.request(flatten()) is None
    wire.pull()
    wire.advance(300)
    wire.give({"t": "result", "rid": "r1", "ok": True, "flat": True, "remaining": []})
    answered = wire.seen(o.Answered)
    assert [(one.request.rid, one.took_s) for one in answered] == [("r1", pytest.approx(0.3))]
    assert isinstance(answered[0].message, m.ResultMessage)
    assert answered[0].message.flat is True


def test_a_request_without_answer_times_out() -> None:
    wire = ready()
    wire.session.request(m.GetStatus(rid="r1"))
    for _ in range(5):
        wire.advance(1_000)
        wire.give_bytes(b"\n")
    assert wire.seen(o.NotAnswered) == [o.NotAnswered(m.GetStatus(rid="r1"), "timeout")]


def test_a_lost_connection_leaves_requests_without_answer() -> None:
    wire = ready()
    wire.session.request(flatten())
    wire.lose()
    assert wire.seen(o.NotAnswered) == [o.NotAnswered(flatten(), "disconnected")]


def test_flatten_and_kill_leave_in_replay_and_when_suspect() -> None:
    wire = Wire.of()
    wire.session.start()
    wire.open()
    wire.give(challenge(), welcome(wire.opening, wire.clock, last_seq=3))
    assert wire.session.state is LinkState.REPLAY
    assert wire.session.request(flatten()) is None
    other = ready()
    other.advance(4_000)
    assert other.session.state is LinkState.SUSPECT
    assert other.session.request(m.Kill(rid="r2", reason="x")) is None


@pytest.mark.parametrize(
    ("role", "request_", "refusal"),
    [
        ("control", flatten(), None),
        ("control", m.Subscribe(rid="r", instruments=("ES 03-25",), quotes=False), UnsentReason.NOT_ALLOWED),
        ("guardian", flatten(), None),
        ("guardian", m.Kill(rid="r", reason="x"), None),
        ("guardian", m.Modify(rid="r", id="a"), UnsentReason.NOT_ALLOWED),
        ("observe", m.GetStatus(rid="r"), None),
        ("observe", flatten(), UnsentReason.NOT_ALLOWED),
        ("data", m.Subscribe(rid="r", instruments=("ES 03-25",), quotes=False), None),
        ("data", flatten(), UnsentReason.NOT_ALLOWED),
    ],
)
def test_a_role_sends_only_its_requests(role: m.Role, request_: m.LinkRequest, refusal: UnsentReason | None) -> None:
    assert ready(role).session.request(request_) is refusal


@pytest.mark.parametrize("role", ["guardian", "observe"])
def test_only_control_sends_signals(role: m.Role) -> None:
    wire = ready(role)
    prepared = wire.session.prepare(signal("a1"))
    assert not isinstance(prepared, UnsentReason)
    assert wire.session.send(prepared) is UnsentReason.NOT_ALLOWED


def test_a_status_in_parts_is_joined() -> None:
    wire = ready()
    account = {"name": "Sim101", "status": "Connected", "price_status": "Connected", "trade_date": None, "orders": []}
    position = {"instrument": "ES 03-25", "nt_name": None, "side": "long", "qty": 1, "avg": 4500}
    wire.session.request(m.GetStatus(rid="r1"))
    before = len(wire.seen(o.Snapshot))
    wire.give(
        status("r1", part=1, parts=2, accounts=[{**account, "values": {"CashValue": 5}, "positions": [position]}])
    )
    assert len(wire.seen(o.Snapshot)) == before
    wire.give(status("r1", part=2, parts=2, accounts=[
        {**account, "values": {}, "positions": [{**position, "instrument": "NQ 03-25"}]}, {**account, "name": "Sim102", "values": {}, "positions": []},
    ]))  # fmt: skip
    found = wire.seen(o.Snapshot)[-1].status
    assert [one.name for one in found.accounts] == ["Sim101", "Sim102"]
    assert [one.instrument for one in found.accounts[0].positions] == ["ES 03-25", "NQ 03-25"]
    assert found.accounts[0].values == {"CashValue": 5}
    assert len(wire.seen(o.Answered)) == 1


def test_errors_of_the_bridge_about_our_lines_are_alarms() -> None:
    wire = ready()
    wire.give({"t": "error", "code": "bad_json", "detail": "x", "line_no": 3})
    assert alarms(wire) == [AlarmCode.BRIDGE_ERROR]
    assert wire.is_open


def test_an_unknown_type_is_ignored() -> None:
    wire = ready()
    wire.give({"t": "hug"})
    assert wire.is_open
    assert alarms(wire) == []


# ── market data ──────────────────────────────────────────────────────────────────────────────────
def trade(n: int) -> dict[str, Any]:
    return {"t": "trade", "instrument": "ES 03-25", "n": n, "at_ms": 1, "price": 4500, "qty": 1}


def test_data_session_is_ready_without_a_replay() -> None:
    wire = Wire.of("data", epoch=EPOCH, seq=4)
    wire.to_ready()
    assert wire.lines[1]["epoch"] is None
    assert wire.lines[1]["last_seq"] == 0


def test_a_jump_of_the_trade_number_is_a_gap() -> None:
    wire = ready("data")
    wire.give(trade(7), trade(8), trade(11), trade(12))
    assert wire.seen(o.TradesMissing) == [o.TradesMissing("ES 03-25", 8, 11)]
    assert len(wire.seen(o.MarketData)) == 4


def test_numbers_of_trades_begin_again_with_a_connection() -> None:
    wire = ready("data")
    wire.give(trade(7))
    wire.lose()
    wire.to_ready()
    wire.give(trade(1))
    assert wire.seen(o.TradesMissing) == []


def test_trades_on_a_control_session_break_the_protocol() -> None:
    wire = ready()
    wire.give(trade(1))
    assert not wire.is_open


# ── the table ────────────────────────────────────────────────────────────────────────────────────
def test_every_input_has_a_row_and_every_state_an_end() -> None:
    assert {row.input for row in TRANSITIONS} == set(Input)
    stoppable = frozenset().union(*(row.states for row in TRANSITIONS if row.input is Input.STOP))
    assert stoppable == frozenset(LinkState) - {LinkState.STOPPED}
    assert not [row for row in TRANSITIONS if LinkState.STOPPED in row.states]


def test_nonces_differ_between_connections() -> None:
    wire = ready()
    first = wire.opening["nonce"]
    wire.lose()
    wire.to_ready()
    assert wire.opening["nonce"] != first
    assert first != BRIDGE_NONCE
