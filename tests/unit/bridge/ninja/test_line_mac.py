"""A session whose lines carry a MAC: when it has them, what ends it, and what is not sent without them."""

from __future__ import annotations

import pytest

from fks.bridge.ninja import messages as m
from fks.bridge.ninja import outputs as o
from fks.bridge.ninja import strict_json
from fks.bridge.ninja.auth import is_marked
from fks.bridge.ninja.machine import LinkState
from fks.bridge.ninja.outputs import AlarmCode
from fks.bridge.ninja.session import Prepared, UnsentReason
from fks.bridge.ninja.signals import LinkSignalState
from fks.model.ninja import LineMacRule
from tests.support.ninja import MARKED_NONCE, Wire, log_event, nack, signal, welcome

EXIT = {"action": "exit", "type": "market", "price": None, "sl_points": None, "tp_points": None}


def prepared(wire: Wire, id: str, **changes: object) -> Prepared:
    made = wire.session.prepare(signal(id, wire.clock.now_ms, **changes))
    assert isinstance(made, Prepared)
    return made


def last_alarm(wire: Wire) -> AlarmCode:
    return wire.seen(o.Alarm)[-1].code


def test_both_ends_that_can_do_it_put_a_mac_on_each_line() -> None:
    wire = Wire.of()
    wire.to_ready(MARKED_NONCE)
    assert wire.session.has_line_mac
    assert wire.session.send(prepared(wire, "a1")) is None
    wire.pull()
    hello, *others = wire.raw
    assert hello.startswith(b"{")
    assert not any(line.startswith(b"{") for line in others)
    assert wire.lines[-1]["id"] == "a1"


def test_a_bridge_of_the_first_version_gets_plain_lines() -> None:
    wire = Wire.of()
    wire.to_ready()
    assert not wire.session.has_line_mac
    assert all(line.startswith(b"{") for line in wire.raw)
    assert wire.session.send(prepared(wire, "a1")) is None


def test_line_macs_that_are_off_are_not_offered() -> None:
    wire = Wire.of(line_mac="off", had_line_mac=True)
    wire.to_ready(MARKED_NONCE)
    assert not is_marked(wire.opening["nonce"])
    assert not wire.session.has_line_mac
    assert wire.session.send(prepared(wire, "a1")) is None


def test_a_mark_that_was_taken_out_of_a_nonce_ends_the_opening() -> None:
    wire = Wire.of(ports=(8080,))
    wire.session.start()
    wire.open()
    wire.challenge()  # the bridge's nonce had the mark; somebody in between took it out
    wire.give(welcome(wire.opening, wire.clock, MARKED_NONCE))
    assert last_alarm(wire) is AlarmCode.BRIDGE_AUTH
    assert wire.session.state is LinkState.BACKOFF


@pytest.mark.parametrize("what", ["plain", "changed", "repeated", "missing", "moved", "own"])
def test_a_line_that_was_tampered_with_ends_the_session(what: str) -> None:
    wire = Wire.of()
    wire.to_ready(MARKED_NONCE)
    assert wire.macs is not None
    first, second = (strict_json.dumps(log_event(seq)) for seq in (1, 2))
    sealed = [wire.macs[1].sealed(first), wire.macs[1].sealed(second)]
    wire.give_bytes({
        "plain": first, "changed": sealed[0].replace(b"test", b"tess"), "repeated": sealed[0] * 2, "missing": sealed[1],
        "moved": sealed[1] + sealed[0], "own": wire.raw[-1],
    }[what])  # fmt: skip
    assert wire.session.state is LinkState.BACKOFF
    assert last_alarm(wire) is AlarmCode.FORGED_LINE
    assert len(wire.seen(o.Logged)) == (what == "repeated")
    wire.to_ready(MARKED_NONCE, last_seq=1 if what == "repeated" else 0)


@pytest.mark.parametrize("code", ["superseded", "seq_ahead"])
def test_a_goodbye_that_only_a_proven_bridge_says_needs_its_mac(code: str) -> None:
    wire = Wire.of(ports=(8080,))
    wire.session.start()
    wire.open()
    wire.challenge(MARKED_NONCE)
    wire.give_bytes(strict_json.dumps({"t": "bye", "code": code, "detail": "", "retry_after_ms": 0}))
    assert wire.session.state is LinkState.BACKOFF
    assert last_alarm(wire) is AlarmCode.BRIDGE_AUTH


def test_a_bridge_with_another_secret_refuses_without_a_mac() -> None:
    wire = Wire.of(ports=(8080,))
    wire.session.start()
    wire.open()
    wire.challenge(MARKED_NONCE)
    wire.give_bytes(strict_json.dumps({"t": "bye", "code": "auth_failed", "detail": "", "retry_after_ms": 0}))
    assert last_alarm(wire) is AlarmCode.AUTH_FAILED


@pytest.mark.parametrize(("line_mac", "had"), [("required", False), ("auto", True)])
def test_a_session_without_line_macs_takes_exits_and_no_entries(line_mac: LineMacRule, had: bool) -> None:
    wire = Wire.of(line_mac=line_mac, had_line_mac=had)
    wire.to_ready()
    assert wire.session.refuses_entries
    assert wire.session.send(prepared(wire, "a1")) is UnsentReason.NO_LINE_MAC
    assert wire.session.send(prepared(wire, "x1", **EXIT)) is None
    assert wire.session.request(m.Kill(rid="k1", reason="test")) is None
    wire.pull()
    assert wire.types()[-2:] == ["signal", "kill"]


def test_an_entry_of_a_session_with_line_macs_is_not_repeated_on_one_without() -> None:
    wire = Wire.of()
    wire.to_ready(MARKED_NONCE)
    for id, changes in (("a1", {}), ("x1", EXIT)):
        assert wire.session.send(prepared(wire, id, **changes)) is None
        wire.pull()
        wire.give(nack(id, "rate_limited", final=False))
    wire.lose()
    wire.to_ready()
    for id in ("a1", "x1"):
        assert wire.session.retry(id) is None
    wire.pull()
    assert [line["id"] for line in wire.lines if line["t"] == "signal"] == ["x1"]
    assert wire.seen(o.SignalChanged)[-2].state is LinkSignalState.DROPPED


def test_bytes_without_their_mac_keep_no_session_alive() -> None:
    """A program in between holds the bridge's lines back, and sends ends of lines, which are skipped."""
    wire = Wire.of()
    wire.to_ready(MARKED_NONCE)
    for _ in range(6):
        wire.advance(1_000)
        if wire.is_open:
            wire.give_bytes(b"\n")
    assert wire.session.state is LinkState.BACKOFF
    assert wire.seen(o.LinkLost)[-1].reason.startswith("no byte")


def test_a_whole_line_with_its_mac_keeps_a_session_alive() -> None:
    wire = Wire.of()
    wire.to_ready(MARKED_NONCE)
    for number in range(10):
        wire.advance(1_000)
        wire.give({"t": "ping", "n": number, "t_ms": wire.clock.now_ms})
    assert wire.session.state is LinkState.READY


@pytest.mark.parametrize("line_mac", ["required", "auto"])
def test_an_entry_waits_for_a_connection_and_is_not_refused(line_mac: LineMacRule) -> None:
    wire = Wire.of(line_mac=line_mac)
    assert not wire.session.refuses_entries
    wire.to_ready(MARKED_NONCE)
    wire.lose()
    assert not wire.session.refuses_entries
    assert wire.session.prepare(signal("a1", wire.clock.now_ms)) is UnsentReason.NOT_READY
