"""Runs a conversation whose script plays the bridge: the client session is under test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fks.bridge.ninja import messages as m
from fks.bridge.ninja import outputs as o
from fks.bridge.ninja import strict_json
from fks.bridge.ninja.auth import bridge_mac
from fks.bridge.ninja.session import ClientSession, Prepared
from tests.support.conversations import Conversation, Step, Variables, parse
from tests.support.ninja import SECRET, ManualClock, Wire, draws, identity, right_mac

EVENTS: dict[str, type[Any]] = {
    "stored_event": o.Logged, "alarm": o.Alarm, "trade_gap": o.TradesMissing, "bar": o.MarketData, "result": o.Answered,
    "signal": o.SignalChanged, "stopped": o.LinkStopped, "suspect": o.LinkSuspect, "ready": o.Ready, "log_lost": o.LogLost,
    "epoch_changed": o.EpochChanged, "not_answered": o.NotAnswered,
}  # fmt: skip


class ClientRun:
    """One run of one conversation."""

    def __init__(self, path: Path) -> None:
        self.conversation: Conversation = parse(path)
        self.clock = ManualClock(start_ms=self.conversation.clock_ms)
        self.variables = Variables(lambda: self.clock.now_ms)
        self.wire: Wire | None = None
        self.conn = 0
        self.seen = 0
        self.nonce = ""

    def run(self) -> None:
        for step in self.conversation.steps:
            try:
                self._do(step)
            except AssertionError as error:
                raise AssertionError(f"{self.conversation.name}:{step.line}: {error}") from None

    @property
    def _wire(self) -> Wire:
        assert self.wire is not None, "the script begins with `C start`"
        return self.wire

    def _do(self, step: Step) -> None:
        match step.name:
            case "C":
                self._command(step.verb, self.variables.filled(step.data))
            case "E":
                self._expect(step)
            case "I":
                self._wire.give(self._made(step.data))
            case "IRAW":
                self._wire.give_bytes(step.raw)
            case "eDISCONNECT":
                assert not self._wire.is_open, "the client keeps the connection open"
            case "iDISCONNECT":
                self._wire.lose()
            case "T":
                self._wire.advance(int(step.verb))
            case "A":
                self._check(step.verb, step.data)
            case _:
                raise AssertionError(f"{step.name} is not for a client under test")

    def _command(self, command: str, data: dict[str, Any]) -> None:
        match command:
            case "start":
                session = ClientSession(
                    identity(data.get("role", "control")),
                    self.clock,
                    draws(),
                    epoch=data["epoch"],
                    seq=data["last_seq"],
                )
                self.wire = Wire(session, self.clock)
                session.start()
            case "stored":
                session = self._wire.session
                session.stored(session.epoch or "", data["seq"])
            case "signal":
                fields = {
                    "t": "signal", "account": "Sim101", "instrument": "ES 03-25", "action": "buy", "qty": 1, "type": "limit", "price": 4500,
                    "sl_points": 10, "tp_points": 20, "created_ms": self.clock.now_ms, "valid_until": self.clock.now_ms + 30_000, **data,
                }  # fmt: skip
                message = m.from_client({key: value for key, value in fields.items() if value is not None})
                assert isinstance(message, m.SignalMessage)
                prepared = self._wire.session.prepare(message)
                assert isinstance(prepared, Prepared), prepared
                refusal = self._wire.session.send(prepared)
                assert refusal is None, refusal
            case "send":
                message = m.from_client(data)
                assert isinstance(message, m.LinkRequest), data
                refusal = self._wire.session.request(message)
                assert refusal is None, refusal
            case "stop":
                self._wire.session.stop()
            case _:
                raise AssertionError(f"unknown command {command}")
        self._wire.pull()

    def _expect(self, step: Step) -> None:
        wire = self._wire
        if step.connection is not None and step.connection > self.conn:
            if len(wire.dialled) <= self.conn:
                wire.until_dialled()
            self.conn = step.connection
            wire.open()
        lines = wire.heartbeats if step.data.get("t") in ("ping", "pong") else wire.lines
        assert lines, f"the client sent nothing, {step.data} was expected"
        got, expected = lines.pop(0), dict(step.data)
        if expected.get("mac") == "$MAC":
            expected["mac"] = right_mac(wire.opening, self.nonce)
        found = self.variables.difference(expected, got)
        assert not found, found

    def _made(self, data: dict[str, Any]) -> dict[str, Any]:
        wire, data = self._wire, dict(data)
        mac = data.pop("mac", None)
        found = self.variables.filled(data)
        if found.get("t") == "challenge":
            self.nonce = found["nonce"]
        if mac == "$MAC":
            mac = bridge_mac(
                SECRET,
                bridge_nonce=self.nonce,
                client_nonce=wire.opening["nonce"],
                epoch=found["epoch"],
                group=found["group"],
            )
        if mac is not None:
            found["mac"] = "0" * 64 if mac == "$BAD" else mac
        return found

    def _check(self, check: str, data: dict[str, Any]) -> None:
        wire = self._wire
        if check == "client":
            sent = len([line for line in wire.raw if strict_json.loads(line.strip())["t"] == "signal"])
            got: dict[str, Any] = {
                "state": wire.session.state.value,
                "stored": wire.session.stored_seq,
                "signals_sent": sent,
            }
            found = self.variables.difference(data, got)
            assert not found, found
        elif check == "event":
            self._find_event(data)
        elif check == "signal":
            states = [event for event in wire.seen(o.SignalChanged) if event.id == data["id"]]
            assert states, f"nothing was published of signal {data['id']}"
            assert states[-1].state.value == data["state"], states[-1].state
        else:
            raise AssertionError(f"{check} is not for a client under test")

    def _find_event(self, data: dict[str, Any]) -> None:
        expected = {key: value for key, value in data.items() if key != "type"}
        events = self._wire.events
        for at in range(self.seen, len(events)):
            event = events[at]
            if isinstance(event, EVENTS[data["type"]]) and not self.variables.difference(expected, _fields(event)):
                self.seen = at + 1
                return
        raise AssertionError(f"no event {data} among {events[self.seen :]}")


def _fields(event: Any) -> dict[str, Any]:
    """Return the values of an event by name, those of its message among them."""
    found = {name: getattr(event, name) for name in event.__dataclass_fields__}
    for name in ("event", "request", "message"):
        if isinstance(found.get(name), m.Message):
            found.update(m.as_object(found[name]))
    return found
