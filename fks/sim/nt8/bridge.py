"""The bridge's decisions: signals to orders at most once, brackets, protection, flatten, and the event log.

One object per NinjaTrader process, driven by `handle` and `turn`: messages and platform events in, replies and events
out. The intent of an entry is in the journal before its Submit, an event before it is sent; what closes or protects a
position is done first. Handlers of the platform only enqueue.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from fks.sim.nt8.checks import Nack, check_fields, is_id, is_number
from fks.sim.nt8.contracts import Contract
from fks.sim.nt8.disk import Disk
from fks.sim.nt8.event_log import EventLog
from fks.sim.nt8.journal import Journal, Record
from fks.sim.nt8.platform import (
    CONNECTED,
    TERMINAL,
    Account,
    ConnectionUpdate,
    Event,
    Execution,
    Order,
    OrderUpdate,
    Platform,
    PlatformError,
    Position,
)
from fks.sim.nt8.prices import bracket_prices, check_bracket, used_prices
from fks.sim.nt8.seed import SeedOrders, seed_reply
from fks.sim.nt8.signals import FINAL, LIVE, ORDER_NAME, PROTECTIVE, REPORTED, TABLE, Leg, Signal, content

Message = dict[str, Any]
_TYPES = {"market": "Market", "limit": "Limit", "stop": "StopMarket", "stop_limit": "StopLimit"}
_TIFS = {"day": "Day", "gtc": "Gtc", "ioc": "Ioc"}
_EXIT_ACTIONS = ("Sell", "BuyToCover")  # of a market order that closes; an entry is Buy or SellShort
_TICK_MS = 100
_VALUE_MS = 1_000  # between two looks at the equity of the accounts
_LACKING_MS = 2_000  # nt8: a position may be without its stop for 2 s, then it is repaired, then closed
_SURPLUS_MS = 500  # time for the platform's own OCO to cancel the partner
_RETRY_MS = 3_000
_FLATTEN_AGAIN_MS = 5_000
_FLATTEN_MS = 30_000
_NOT_FINAL = frozenset(
    {
        "not_ready", "replaying", "not_connected", "price_feed_lost", "flattening", "rate_limited", "not_control",
        "halted", "no_quote", "journal_error",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class BridgeConfig:
    """The bridge's configuration file. Units: *_ms milliseconds, quantities in contracts."""

    group: str = "sim"
    hb_ms: int = 2_000
    settle_ms: int = 5_000
    max_qty: int = 10
    max_position: int = 20
    max_distance_ticks: int = 800
    quote_age_ms: int = 10_000
    signals_per_s: int = 5
    signals_per_min: int = 60
    on_client_lost: str = "cancel_entries"  # keep | cancel_entries | flatten
    client_lost_grace_ms: int = 10_000
    allow_widen: bool = False
    remote_resume: bool = False
    instruments: frozenset[str] | None = None  # allow-list of roots; None: all that the platform knows
    features: tuple[str, ...] = ("exit_entries",)  # what it can do beyond the first version
    seed_account: str = "Sim101"
    seed_entry_type: str = "limit"
    seed_unauthenticated: str = "sim_only"  # sim_only | off


@dataclass(frozen=True, slots=True)
class Reply:
    """A message for one session."""

    peer: int
    message: Message


@dataclass(frozen=True, slots=True)
class Broadcast:
    """A message for every session that takes events: an `ev`, or a pushed `status`."""

    message: Message


Output = Reply | Broadcast


@dataclass(slots=True)
class _Flatten:
    """One instrument of one account that is being closed."""

    last_ms: int


@dataclass(slots=True)
class _Request:
    """A `flatten` or `kill` that waits for its instruments to be flat."""

    peer: int
    rid: str
    keys: set[tuple[str, str]]
    due_ms: int
    is_incomplete: bool = False


@dataclass(slots=True)
class _Seen:
    """An account's connection as the bridge has it."""

    connected_ms: int = -1
    is_settled: bool = False
    was_settled: bool = False
    names: set[str] = field(default_factory=set)


class Bridge:
    """The bridge of one platform process. `crash` is called at named points; a test raises there."""

    def __init__(
        self,
        platform: Platform,
        disk: Disk,
        config: BridgeConfig,
        new_id: Callable[[], str],
        crash: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Load the journal, attach to the platform. Errors: JournalWriteError."""
        self.platform = platform
        self.config = config
        self.modes: dict[str, str] = {}  # by account: auto | relay | off; a simulation account is auto by default
        self.blocks: dict[str, str] = {}  # by account: a code of the risk gate that refuses entries
        self.halted = False
        self.signals: dict[str, Signal] = {}
        self.blocked: set[tuple[str, str]] = set()  # (account, instrument) of an ambiguous signal
        self.counters = {"signals": 0, "submits": 0}
        self.journal = Journal(disk, new_id)
        self._log = EventLog()
        self._has_failed = False  # the journal, at the end of the last turn
        self._durable_seq = 0  # the last event that is on the disk: later ones are not sent
        self._held_back: list[Output] = []  # events that wait for the disk
        self._new_id = new_id
        self._crash = crash
        self._exec_seen: set[tuple[str, str]] = set()
        self._exec_prints: dict[tuple[object, ...], set[str]] = {}
        self._amended: set[tuple[object, ...]] = set()
        self._inbox: deque[Event] = deque()
        self._out: list[Output] = []
        self._rate: deque[int] = deque()
        self._flattening: dict[tuple[str, str], _Flatten] = {}
        self._requests: list[_Request] = []
        self._waiting: dict[str, int] = {}  # exit signal that waits for its cancels -> peer
        self._outside_since: dict[tuple[str, str], int] = {}
        self._late_fills: list[tuple[Signal, int, Decimal]] | None = None  # collected while an account is compared
        self._orphans: dict[tuple[str, str], int] = {}  # since when; 0 once it was reported
        self._seeds = SeedOrders(config.seed_account, config.seed_entry_type, config.seed_unauthenticated)
        self._seen: dict[str, _Seen] = {}
        self._highest: dict[str, Decimal] = {}  # by account: the highest equity, from which a trailing limit counts
        self._valued_ms = -_VALUE_MS
        self._offset_ms = 0
        self._ticked_ms = -1
        self._load()
        self._started_ms = self.now_ms
        self._detach = platform.subscribe(self._enqueue)

    # ── for the sessions ──────────────────────────────────────────────────────────────────────────

    @property
    def now_ms(self) -> int:
        """Return the PC's clock, which may be wrong."""
        return self.platform.now_ms + self._offset_ms

    @property
    def epoch(self) -> str:
        return self.journal.epoch

    @property
    def oldest_seq(self) -> int:
        """Return the first event that is kept; last_seq + 1 when none is."""
        return self._log.oldest_seq

    @property
    def last_seq(self) -> int:
        """Return the number of the newest event on the disk; 0 when there was none."""
        return self._durable_seq

    @property
    def is_ready(self) -> bool:
        """Return whether an account could take a signal now, the halt latch and the journal aside."""
        return any(self._is_ready(one) for one in self.platform.accounts)

    def set_clock_offset(self, offset_ms: int) -> None:
        """Make the PC's clock wrong by `offset_ms`."""
        self._offset_ms = offset_ms

    def stop(self) -> None:
        """Detach from the platform: no handler is left behind."""
        self._detach()

    def welcome(self) -> Message:
        """Return the fields of `welcome` that come from here."""
        return {
            "epoch": self.epoch,
            "last_seq": self.last_seq,
            "oldest_seq": self.oldest_seq,
            "now_ms": self.now_ms,
            "hb_ms": self.config.hb_ms,
            "group": self.config.group,
            "accounts": [
                {"name": one.name, "sim": one.is_sim, "mode": self.mode(one.name), "connected": _is_connected(one)}
                for one in self.platform.accounts.values()
            ],
            "limits": {
                "max_qty": self.config.max_qty,
                "max_position": self.config.max_position,
                "max_distance_ticks": self.config.max_distance_ticks,
                "signals_per_s": self.config.signals_per_s,
                "signals_per_min": self.config.signals_per_min,
            },
            "halted": self.halted,
            "ready": self.is_ready,
            "features": list(self.config.features),
            **self._journal_error(),
        }

    def events_after(self, seq: int) -> list[Message]:
        """Return the kept events with a higher number that are on the disk, oldest first."""
        return [event for event in self._log.after(seq) if event["seq"] <= self._durable_seq]

    def _journal_error(self) -> Message:
        return {"journal_error": self.journal.error} if self.journal.error else {}

    def mode(self, account: str) -> str:
        """Return auto, relay or off."""
        found = self.platform.accounts.get(account)
        return self.modes.get(account, "auto" if found is not None and found.is_sim else "off")

    def status(self, rid: str | None) -> Message:
        """Return the full snapshot."""
        return {
            "t": "status",
            "rid": rid,
            "at_ms": self.now_ms,
            "ready": self.is_ready,
            "halted": self.halted,
            "accounts": [self._account_status(one) for one in self.platform.accounts.values()],
            "signals_open": [
                {
                    "id": one.id,
                    "action": "exit" if one.is_exit else "buy" if one.is_buy else "sell",
                    "state": one.state,
                    "filled": one.filled,
                    "protected": self._is_protected(one),
                }
                for one in self.signals.values()
                if one.state not in FINAL
            ],
            "features": sorted({name for one in self.platform.accounts.values() for name in one.features}),
            "counters": {**self.counters, "events": self._log.last_seq, "acked": self._log.acked},
            **self._journal_error(),
        }

    def handle(self, peer: int, message: Message) -> None:
        """Take one message of an authenticated session; what follows comes out of the next `turn`."""
        kind = message["t"]
        if kind == "signal":
            self._answer(peer, lambda: self._signal(peer, message))
        elif kind == "evack":
            self._acknowledge(int(message["seq"]))
        elif kind == "query":
            self._out.append(Reply(peer, self._query(message)))
        elif kind == "status":
            self._out.append(Reply(peer, self.status(message.get("rid"))))
        else:
            requests = {
                "cancel": self._cancel,
                "modify": self._modify,
                "flatten": self._flatten,
                "kill": self._kill,
                "resume": self._resume,
            }
            result = self._check_request(message) or requests[kind](peer, message)
            if result is not None:
                self._out.append(Reply(peer, {"t": "result", "rid": message.get("rid"), **result}))

    def _answer(self, peer: int, decide: Callable[[], Message | None]) -> None:
        """Send the reply of `decide` before the events that it causes."""
        before = len(self._out)
        if (reply := decide()) is not None:
            self._out.insert(before, Reply(peer, reply))

    def handle_seed(self, peer: int, order: Message, *, is_authenticated: bool) -> None:
        """Take one line of the seed dialect; its reply comes out of the next `turn`."""

        def decide() -> Message:
            found = self._seeds.signal_of(order, self.platform.accounts, self.now_ms, is_authenticated=is_authenticated)
            if "success" in found:
                return found
            reply = self._signal(peer, found)
            assert reply is not None
            return seed_reply(found["id"], reply)

        self._answer(peer, decide)

    def client_lost(self) -> None:
        """Apply the policy for a control session that is gone and did not come back in time."""
        if self.config.on_client_lost == "keep":
            return
        for signal in self.signals.values():
            if signal.state in ("submitted", "working", "open") and not signal.is_exit:
                self._cancel_entry(signal)
        if self.config.on_client_lost == "flatten":
            for account in list(self.platform.accounts):
                for instrument in self._instruments(account):
                    self._begin_flatten(account, instrument)

    def halt(self, reason: str) -> None:
        """Latch the halt: entries are refused until it is lifted on the PC."""
        if self.halted:
            return
        self.halted = True
        self._write({"r": "halt", "on": True, "reason": reason})
        self._emit("halt", on=True, reason=reason)

    def lift_halt(self, reason: str) -> None:
        """Lift the halt, as the button on the PC does."""
        self.halted = False
        self._write({"r": "halt", "on": False, "reason": reason})
        self._emit("halt", on=False, reason=reason)

    def compact(self) -> None:
        """Write the journal anew with what still matters. Errors: OSError."""
        self._log.drop_acknowledged()
        self.journal.compact(self._snapshot())

    def turn(self) -> list[Output]:
        """Handle what the platform reported and what time has made due; return what may be sent.

        Guarantees: every returned event is in the journal and synced.
        """
        while self._inbox:
            self._on_event(self._inbox.popleft())
        if self._ticked_ms < 0 or abs(self.now_ms - self._ticked_ms) >= _TICK_MS:
            self._ticked_ms = self.now_ms
            self._tick()
            while self._inbox:
                self._on_event(self._inbox.popleft())
        self._continue()
        self._crash("before_sync")
        had_failed = self._has_failed
        self._has_failed = not self.journal.sync(self.now_ms)
        if self._has_failed:
            if not had_failed:
                self._emit("risk", code="journal_error", detail=self.journal.error)
            events = [one for one in self._out if isinstance(one, Broadcast) and one.message["t"] == "ev"]
            self._held_back += events
            out = [one for one in self._out if one not in events]
        else:
            self._durable_seq = self._log.last_seq
            out, self._held_back = self._held_back + self._out, []
        self._out = []
        if had_failed != self._has_failed:
            out.append(Broadcast(self.status(None)))
        self._crash("after_sync")
        return out

    # ── journal ───────────────────────────────────────────────────────────────────────────────────

    def _load(self) -> None:
        for record in self.journal.records:
            getattr(self, f"_load_{record['r']}")(record)
        self.journal.records = []
        self._durable_seq = self._log.last_seq
        for signal in self.signals.values():
            if signal.state == "intent":
                self._move(signal, "lost")
        if self.journal.is_large:
            with contextlib.suppress(OSError):  # the disk is full: it is compacted at a later start
                self.compact()

    def _load_intent(self, record: Record) -> None:
        self._register(record["fields"], record["at"])

    def _load_submitted(self, record: Record) -> None:
        self.signals[record["id"]].state = "submitted"
        self.signals[record["id"]].entry.state = "Submitted"

    def _load_nack(self, record: Record) -> None:
        signal = self.signals.get(record["id"]) or self._register(record["fields"], record["at"])
        signal.state, signal.code, signal.detail = "nacked", record["code"], record["detail"]

    def _load_leg(self, record: Record) -> None:
        signal = self.signals[record["id"]]
        leg = Leg(record["name"], record["role"], record["lot"], record["qty"], record["price"])
        signal.legs.setdefault(leg.name, leg)
        signal.lots = max(signal.lots, leg.lot)

    def _load_recovered(self, record: Record) -> None:
        signal = self._register(record["fields"], record["at"])
        signal.is_recovered = True
        signal.state = "submitted"

    def _load_exec_seen(self, record: Record) -> None:
        self._exec_seen.add((record["account"], record["exec_id"]))

    def _load_halt(self, record: Record) -> None:
        self.halted = bool(record["on"])

    def _load_highest(self, record: Record) -> None:
        self._highest[record["account"]] = record["value"]

    def _load_acked(self, record: Record) -> None:
        self._log.acknowledge(int(record["seq"]))

    def _load_state(self, record: Record) -> None:
        signal = self.signals[record["id"]]
        signal.state, signal.code, signal.detail = record["state"], record["code"], record["detail"]
        signal.filled, signal.exited, signal.paid = record["filled"], record["exited"], record["paid"]
        signal.is_recovered = bool(record["recovered"])
        for name, state, filled in record["legs"]:
            signal.legs[name].state, signal.legs[name].filled = state, filled

    def _load_event(self, record: Record) -> None:
        event = record["ev"]
        self._log.restore(event)
        signal = self.signals.get(event.get("id", ""))
        if event["kind"] == "exec" and event["op"] == "add":
            self._count_execution(signal, event)
        elif signal is not None and event["kind"] == "signal":
            signal.state, signal.code = event["state"], event.get("code", "")
            signal.detail = event.get("detail", "")
            if signal.state == "closed":
                signal.exited = max(signal.exited, signal.filled)  # also what a flatten or a person closed
        elif signal is not None and event["kind"] == "order" and event["name"] in signal.legs:
            leg = signal.legs[event["name"]]
            leg.state, leg.qty = event["state"], event["qty"]
            leg.reported = _order_print(event)
            if leg.role == "E" and leg.state in LIVE and signal.state == "submitted":
                signal.state = "working"
        elif signal is not None and event["kind"] == "relay":
            signal.state = "relayed"

    def _count_execution(self, signal: Signal | None, event: Message) -> None:
        self._exec_seen.add((event["account"], event["exec_id"]))
        self._exec_prints.setdefault(_execution_print(event), set()).add(event["exec_id"])
        if signal is None or event["name"] not in signal.legs:
            return
        leg = signal.legs[event["name"]]
        leg.filled += event["qty"]
        if leg.role == "E":
            signal.filled += event["qty"]
            signal.paid += event["price"] * event["qty"]
            if signal.is_exit:
                self._allocate(signal, event["qty"])
        else:
            signal.exited += event["qty"]

    def _snapshot(self) -> Iterable[Record]:
        """Yield the records of a compacted journal: states of all signals, the events that are not acknowledged."""
        for signal in self.signals.values():
            kind = "recovered" if signal.is_recovered else "intent"
            yield {"r": kind, "id": signal.id, "at": signal.at_ms, "fields": signal.fields}
            for leg in signal.legs.values():
                if leg.role != "E":
                    yield _leg_record(signal, leg)
            yield {
                "r": "state", "id": signal.id, "state": signal.state, "code": signal.code, "detail": signal.detail,
                "filled": signal.filled, "exited": signal.exited, "paid": signal.paid,
                "recovered": signal.is_recovered,
                "legs": [[leg.name, leg.state, leg.filled] for leg in signal.legs.values()],
            }  # fmt: skip
        for account, exec_id in sorted(self._exec_seen):
            yield {"r": "exec_seen", "account": account, "exec_id": exec_id}
        yield {"r": "halt", "on": self.halted, "reason": "compacted"}
        for account, value in self._highest.items():
            yield {"r": "highest", "account": account, "value": value}
        yield {"r": "acked", "seq": self._log.acked}
        for event in self._log.after(0):
            yield {"r": "event_kept", "ev": event}

    def _load_event_kept(self, record: Record) -> None:
        self._log.restore(record["ev"])

    def _write(self, record: Record, *, must: bool = False) -> bool:
        """Append a record; with `must` it is on the disk when True is returned, and forgotten otherwise."""
        self._crash(f"before_{record['r']}")
        is_written = True
        if must:
            is_written = self.journal.commit(record, self.now_ms)
        else:
            self.journal.append(record)
        self._crash(f"after_{record['r']}")
        return is_written

    def _emit(self, kind: str, **fields: Any) -> None:
        event = {
            "t": "ev",
            "seq": self._log.last_seq + 1,
            "epoch": self.epoch,
            "at_ms": self.now_ms,
            "kind": kind,
            **fields,
        }
        self._write({"r": "event", "ev": event})
        self._log.add(event)
        self._out.append(Broadcast(event))

    def _acknowledge(self, seq: int) -> None:
        if seq <= self._log.last_seq and self._log.acknowledge(seq):
            self._write({"r": "acked", "seq": seq})

    # ── signals ───────────────────────────────────────────────────────────────────────────────────

    def _register(self, fields: Message, at_ms: int) -> Signal:
        signal = Signal(
            fields["id"], fields, "intent", at_ms, str(fields.get("account", "")), str(fields.get("instrument", "")),
            is_buy=fields.get("action") in ("buy", "long"), qty=_whole(fields.get("qty")),
            is_exit=fields.get("action") == "exit",
        )  # fmt: skip
        signal.legs[signal.entry_name] = Leg(signal.entry_name, "E", 1, signal.qty, None)
        self.signals[signal.id] = signal
        return signal

    def _move(self, signal: Signal, event: str, code: str = "", detail: str = "") -> bool:
        """Apply an event of the signal's table; report and journal the new state. Return whether it changed."""
        state = TABLE.get((signal.state, event))
        if state is None or state == signal.state:
            return False
        signal.state, signal.code, signal.detail = state, code, detail
        if state not in REPORTED:
            return True
        extra = {"code": code} if code else {}
        extra |= {"detail": detail} if detail else {}
        self._emit("signal", id=signal.id, account=signal.account, state=state, **extra)
        return True

    def _signal(self, peer: int, message: Message) -> Message | None:
        if (nack := check_fields(message, self.now_ms)) is not None:
            return self._nack(message, *nack)
        known = self.signals.get(message["id"])
        if known is not None:
            return self._answer_again(known, message)
        if message["valid_until"] <= self.now_ms:
            return self._nack(message, "expired", "valid_until has passed")
        refusal = self._refuse(message)
        if refusal is not None:
            return self._nack(message, *refusal)
        contract = self.platform.contract(message["instrument"])
        assert contract is not None
        used = used_prices(message, contract)
        if self.mode(message["account"]) == "relay":
            return self._relay(message, used)
        if any(order.name == f"FKS:{message['id']}:E" for order in self.platform.orders(message["account"])):
            self._recover(message["account"], f"FKS:{message['id']}:E")
            return self._answer_again(self.signals[message["id"]], message)
        if message["action"] == "exit":
            return self._exit(peer, message)
        return self._enter(message, used)

    def _answer_again(self, signal: Signal, message: Message) -> Message:
        """Return the answer for an id that is known."""
        if signal.is_recovered and signal.is_exit and message["action"] == "exit":
            return self._ack(signal, is_dup=True)  # its order is at the platform; the record was lost with the process
        if signal.is_recovered:
            return self._nack_of(signal.id, "duplicate_recovered", "known from an order of an earlier epoch")
        if content(signal.fields) != content(message):
            return self._nack_of(signal.id, "duplicate_mismatch", "this id was used for another order")
        if signal.state == "nacked":
            return self._nack_of(signal.id, signal.code, signal.detail)
        if signal.state == "not_submitted":
            return self._nack_of(signal.id, "not_submitted", "the order did not reach the platform")
        if signal.state in ("indeterminate", "ambiguous"):
            return self._indeterminate(signal)
        return self._ack(signal, is_dup=True)

    def _refuse(self, message: Message) -> Nack | None:
        """Return why an order is refused now, or None; the checks in their documented order."""
        account, instrument = message["account"], message["instrument"]
        found = self.platform.accounts.get(account)
        is_exit = message["action"] == "exit"
        if self.journal.error and not is_exit:
            return "journal_error", self.journal.error
        if self.halted and not is_exit:
            return "halted", "the kill latch is set"
        if found is None:
            return "unknown_account", f"no account {account!r}"
        mode = self.mode(account)
        if not found.has_connection or found.status != CONNECTED:
            return "not_connected", f"the order feed of {account} is {found.status}"
        if not is_exit and found.price_status != CONNECTED:
            return "price_feed_lost", f"the price feed of {account} is {found.price_status}"
        if mode == "off":
            return "automation_forbidden", f"the mode of {account} is off"
        if mode == "auto" and not self._is_ready(account):
            return "not_ready", "the account was not compared with the journal yet"
        contract = self.platform.contract(instrument)
        if contract is None:
            return "unknown_instrument", f"no instrument {instrument!r}"
        if contract.expiry.toordinal() < _day_of(self.now_ms):
            return "expired_contract", f"{instrument} expired on {contract.expiry}"
        if self.config.instruments is not None and contract.root not in self.config.instruments:
            return "instrument_not_allowed", f"{contract.root} is not in the allow-list"
        if (account, instrument) in self._flattening:
            return "flattening", f"{instrument} is being closed"
        if is_exit:
            return None
        return self._refuse_prices(message, contract, found) or self._refuse_risk(message, found)

    def _refuse_prices(self, message: Message, contract: Contract, account: Account) -> Nack | None:
        last = self.platform.last_trade(contract.name)
        if last is None or self.platform.now_ms - last.at_ms > self.config.quote_age_ms:
            return "no_quote", f"no price of {contract.name} in {self.config.quote_age_ms // 1000} s"
        for name in ("price", "stop_price"):
            value = message.get(name)
            if value is not None and abs(value - last.price) > self.config.max_distance_ticks * contract.tick:
                return "too_far", f"{name} {value} is too far from the last price {last.price}"
        if "sl_points" not in message and "sl_price" not in message and not account.is_sim:
            return "no_stop", "an order on a live account needs a stop"
        return check_bracket(message, contract, last.price)

    def _refuse_risk(self, message: Message, account: Account) -> Nack | None:
        instrument, qty, is_buy = message["instrument"], message["qty"], message["action"] in ("buy", "long")
        if qty > self.config.max_qty:
            return "qty_limit", f"qty {qty} is above {self.config.max_qty}"
        others = [one for one in self.signals.values() if one.account == account.name and not one.is_exit]
        if any(
            one.instrument == instrument and one.is_buy != is_buy and (one.open_qty or one.is_working) for one in others
        ):
            return "opposite_position", f"a position or entry on the other side of {instrument} is open"
        used = sum(one.open_qty + one.entry.left for one in others if one.state not in ("nacked", "relayed"))
        if used + qty > self.config.max_position:
            return "position_limit", f"{used} contracts open or working, limit {self.config.max_position}"
        if account.name in self.blocks:
            return self.blocks[account.name], "refused by the group's rules"
        if (account.name, instrument) in self.blocked:
            return "not_ready", f"an order on {instrument} is ambiguous; an operator has to decide"
        while self._rate and self._rate[0] <= self.now_ms - 60_000:
            self._rate.popleft()
        in_second = sum(at > self.now_ms - 1_000 for at in self._rate)
        if in_second >= self.config.signals_per_s or len(self._rate) >= self.config.signals_per_min:
            return "rate_limited", f"more than {self.config.signals_per_s}/s or {self.config.signals_per_min}/min"
        self._rate.append(self.now_ms)
        return None

    def _enter(self, message: Message, used: dict[str, Decimal]) -> Message:
        if not self._write({"r": "intent", "at": self.now_ms, "fields": message}, must=True):
            return self._nack_of(message["id"], "journal_error", self.journal.error)
        self.counters["signals"] += 1
        signal = self._register(message, self.now_ms)
        action = "Buy" if signal.is_buy else "SellShort"
        outcome = self._submit_leg(
            signal, signal.entry, action, _TYPES[message["type"]], _TIFS[message.get("tif", "day")],
            used.get("price_used") if message["type"] in ("limit", "stop_limit") else None,
            used.get("stop_used"), "",
        )  # fmt: skip
        return self._answer_submit(signal, outcome, used)

    def _answer_submit(self, signal: Signal, outcome: str, used: dict[str, Decimal]) -> Message:
        if outcome == "failed":
            self._fail(signal, "submit_failed", "CreateOrder failed")
            return self._nack_of(signal.id, "submit_failed", "CreateOrder failed")
        if outcome == "unknown":
            signal.at_ms = self.now_ms
            self._move(signal, "lost")
            return self._indeterminate(signal)
        self._write({"r": "submitted", "id": signal.id})
        signal.state = "submitted"
        reply = self._ack(signal, is_dup=False, used=used)
        self._emit("signal", id=signal.id, account=signal.account, state="submitted")
        return reply

    def _intend(self, message: Message) -> Signal:
        """Record an intent that need not be on the disk first: an exit, or what a person will do."""
        self._write({"r": "intent", "at": self.now_ms, "fields": message})
        self.counters["signals"] += 1
        return self._register(message, self.now_ms)

    def _fail(self, signal: Signal, code: str, detail: str) -> None:
        signal.state, signal.code, signal.detail = "nacked", code, detail
        self._write(
            {"r": "nack", "id": signal.id, "code": code, "detail": detail, "at": self.now_ms, "fields": signal.fields}
        )

    def _relay(self, message: Message, used: dict[str, Decimal]) -> Message:
        signal = self._intend(message)
        signal.state = "relayed"
        reply = self._ack(signal, is_dup=False, used=used)
        self._emit("relay", **{name: value for name, value in message.items() if name != "t"})
        return reply

    def _exit(self, peer: int, message: Message) -> Message | None:
        """Close what the bridge holds on the instrument: first its exit orders go, then a market order closes."""
        wanted = message.get("entries")
        held = [
            one for one in self._held(message["account"], message["instrument"]) if wanted is None or one.id in wanted
        ]
        total = sum(one.open_qty - one.closing for one in held)
        if total <= 0:
            return self._nack(message, "opposite_position", "nothing of FKS is open on this instrument")
        signal = self._intend(message)
        signal.qty = min(message.get("qty") or total, total)
        signal.is_buy = not held[0].is_buy
        left = signal.qty
        for one in held:
            take = min(left, one.open_qty - one.closing)
            one.closing += take
            left -= take
            self._protect(one)
        self._waiting[signal.id] = peer
        self._continue_exits()
        return None

    def _held(self, account: str, instrument: str) -> list[Signal]:
        return [
            one
            for one in self.signals.values()
            if one.account == account and one.instrument == instrument and not one.is_exit and one.open_qty
        ]

    def _closable(self, signal: Signal) -> list[Signal]:
        """Return the signals that an exit closes."""
        return [one for one in self._held(signal.account, signal.instrument) if signal.closes(one.id)]

    def _continue_exits(self) -> None:
        for signal_id, peer in list(self._waiting.items()):
            signal = self.signals[signal_id]
            held = self._closable(signal)
            if (signal.account, signal.instrument) in self._flattening or signal.valid_until <= self.now_ms:
                del self._waiting[signal_id]
                self._release(signal)
                self._move(signal, "due")
                self._out.append(Reply(peer, self._ack(signal, is_dup=False)))
                continue
            if any(
                sum(leg.left for leg in one.role(role)) > one.open_qty - one.closing
                for one in held
                if one.closing
                for role in "ST"
            ):
                continue
            # the platform's position decides: an exit must not open a reverse one
            qty = min(signal.qty, sum(one.closing for one in held), self._position_of(held) if held else 0)
            del self._waiting[signal_id]
            if qty == 0:
                self._release(signal)
                self._move(signal, "due")
                self._out.append(Reply(peer, self._ack(signal, is_dup=False)))
                continue
            signal.qty = signal.entry.qty = qty
            action = "BuyToCover" if signal.is_buy else "Sell"
            outcome = self._submit_leg(signal, signal.entry, action, "Market", "Day", None, None, "")
            if outcome == "failed":
                self._release(signal)
            before = len(self._out)
            self._out.insert(before, Reply(peer, self._answer_submit(signal, outcome, {})))

    def _release(self, signal: Signal) -> None:
        """End the reservations of an exit signal that is over: what it did not close gets its stops again."""
        held = self._closable(signal)
        others = [
            one
            for one in self.signals.values()
            if one.is_exit
            and one is not signal
            and any(one.closes(other.id) for other in held)
            and (one.account, one.instrument) == (signal.account, signal.instrument)
            and (one.id in self._waiting or one.is_working)
        ]
        reserved = sum(one.entry.left if one.id not in self._waiting else one.qty for one in others)
        for one in held:
            one.closing = min(one.closing, one.open_qty, reserved)
            reserved -= one.closing

    def _allocate(self, signal: Signal, qty: int) -> None:
        """Book executions of an exit signal on the signals that they close, oldest first."""
        held = self._closable(signal)
        for one in sorted(held, key=lambda one: not one.closing):
            take = min(qty, one.open_qty)
            one.exited += take
            one.closing = max(one.closing - take, 0)
            qty -= take

    def _ack(self, signal: Signal, *, is_dup: bool, used: dict[str, Decimal] | None = None) -> Message:
        prices = {name: value for name, value in (used or {}).items() if name != "stop_used"}
        return {
            "t": "ack",
            "id": signal.id,
            "state": signal.state,
            "dup": is_dup,
            "order": signal.entry_name,
            **prices,
            "at_ms": self.now_ms,
        }

    def _nack(self, message: Message, code: str, detail: str) -> Message:
        """Return a nack; a final one is journalled under a well-formed id that is not known yet."""
        signal_id = message.get("id")
        if code not in _NOT_FINAL and is_id(signal_id) and signal_id not in self.signals:
            fields = {name: value for name, value in message.items() if name != "t"}
            record = {"r": "nack", "id": signal_id, "code": code, "detail": detail, "at": self.now_ms, "fields": fields}
            self._write(record)
            self._load_nack(record)
        return self._nack_of(signal_id if isinstance(signal_id, str) else None, code, detail)

    def _nack_of(self, signal_id: str | None, code: str, detail: str) -> Message:
        return {
            "t": "nack",
            "id": signal_id,
            "code": code,
            "detail": detail[:200],
            "final": code not in _NOT_FINAL,
            "at_ms": self.now_ms,
        }

    def _indeterminate(self, signal: Signal) -> Message:
        detail = "ambiguous: an operator has to decide" if signal.state == "ambiguous" else "Submit has no known result"
        return {"t": "indeterminate", "id": signal.id, "since_ms": signal.at_ms, "detail": detail}

    # ── requests ──────────────────────────────────────────────────────────────────────────────────

    def _check_request(self, message: Message) -> Message | None:
        if not isinstance(message.get("rid"), str) or len(message["rid"]) > 32:
            return {"rid": None, "ok": False, "code": "bad_field", "detail": "rid: a text of at most 32 characters"}
        known = {
            "cancel": {"id"},
            "modify": {"id", "sl_price", "tp_price"},
            "flatten": {"account", "instruments", "reason"},
            "kill": {"reason"},
            "resume": {"reason"},
        }[message["t"]]
        if unknown := sorted(message.keys() - known - {"t", "rid"}):
            return {"ok": False, "code": "unknown_field", "detail": f"unknown field {unknown[0]!r}"}
        needed = {"cancel": {"id"}, "modify": {"id"}, "flatten": {"account", "instruments"}}.get(message["t"], set())
        if missing := sorted(needed - message.keys()):
            return {"ok": False, "code": "missing_field", "detail": f"missing field {missing[0]!r}"}
        for name in ("id", "account", "reason"):
            if name in message and not isinstance(message[name], str):
                return {"ok": False, "code": "bad_field", "detail": f"{name}: a text"}
        for name in ("sl_price", "tp_price"):
            if name in message and (not is_number(message[name]) or message[name] <= 0):
                return {"ok": False, "code": "bad_field", "detail": f"{name}: a number above 0"}
        instruments = message.get("instruments", "all")
        if instruments != "all" and not (
            isinstance(instruments, list) and all(isinstance(one, str) for one in instruments)
        ):
            return {"ok": False, "code": "bad_field", "detail": 'instruments: a list of names or "all"'}
        return None

    def _query(self, message: Message) -> Message:
        signal = self.signals.get(str(message.get("id")))
        reply: Message = {"t": "sigstate", "rid": message.get("rid"), "id": message.get("id")}
        if signal is None:
            name = f"FKS:{message.get('id')}:E"
            for account in self.platform.accounts:
                if any(order.name == name for order in self.platform.orders(account)):
                    self._recover(account, name)
            signal = self.signals.get(str(message.get("id")))
        if signal is None:
            return reply | {"state": "unknown_id", "filled": 0, "avg_price": None}
        average = signal.avg_price if signal.filled else None
        reply |= {"state": signal.state, "filled": signal.filled, "avg_price": average}
        return reply | ({"code": signal.code} if signal.code else {})

    def _cancel(self, peer: int, message: Message) -> Message:
        signal = self.signals.get(message["id"])
        if signal is None:
            return {"ok": False, "code": "unknown_id", "detail": f"no signal {message['id']!r}"}
        if signal.state == "relayed":
            self._move(signal, "due")
            return {"ok": True}
        if signal.entry.left == 0 or signal.state in FINAL:
            return {"ok": False, "code": "nothing_to_do", "detail": f"the entry is {signal.entry.state}"}
        if not self._is_connected(signal.account):
            return {"ok": False, "code": "not_connected", "detail": "the order feed is lost"}
        self._cancel_entry(signal)
        return {"ok": True}

    def _modify(self, peer: int, message: Message) -> Message:
        signal = self.signals.get(message["id"])
        if signal is None:
            return {"ok": False, "code": "unknown_id", "detail": f"no signal {message['id']!r}"}
        contract = self.platform.contract(signal.instrument)
        if contract is None or not signal.open_qty:
            return {"ok": False, "code": "nothing_to_do", "detail": "no position is open"}
        if not self._is_connected(signal.account):
            return {"ok": False, "code": "not_connected", "detail": "the order feed is lost"}
        moves: list[tuple[Leg, Decimal]] = []
        for field_name, role in (("sl_price", "S"), ("tp_price", "T")):
            if field_name not in message:
                continue
            toward_entry_is_up = signal.is_buy == (role == "S")
            price = contract.ceiling(message[field_name]) if toward_entry_is_up else contract.floor(message[field_name])
            for leg in signal.role(role):
                if not leg.left or leg.price is None:
                    continue
                is_wider = price < leg.price if signal.is_buy else price > leg.price
                if role == "S" and is_wider and not self.config.allow_widen:
                    return {
                        "ok": False,
                        "code": "bad_bracket",
                        "detail": f"the stop may not move off {leg.price}",
                    }
                moves.append((leg, price))
        if not moves:
            return {"ok": False, "code": "nothing_to_do", "detail": "no exit order is live"}
        for leg, price in moves:
            leg.price = price
            self._change(signal, leg, leg.qty)
        return {"ok": True}

    def _flatten(self, peer: int, message: Message) -> Message | None:
        account = message["account"]
        if account not in self.platform.accounts:
            return {"ok": False, "code": "unknown_account", "flat": False, "remaining": []}
        wanted = message["instruments"]
        instruments = self._instruments(account) if wanted == "all" else list(dict.fromkeys(wanted))
        if not self._is_connected(account):
            return {"ok": False, "code": "not_connected", "flat": False, "remaining": self._remaining([account])}
        return self._flatten_all(peer, message["rid"], [(account, one) for one in instruments])

    def _kill(self, peer: int, message: Message) -> Message | None:
        self.halt(str(message.get("reason", "")))
        accounts = [one for one in self.platform.accounts if self.mode(one) != "off"]
        keys = [(one, name) for one in accounts if self._is_connected(one) for name in self._instruments(one)]
        lost = [one for one in accounts if not self._is_connected(one)]
        if lost and (remaining := self._remaining(lost)):
            self._flatten_all(peer, None, keys)
            return {"ok": False, "code": "not_connected", "flat": False, "remaining": remaining}
        return self._flatten_all(peer, message["rid"], keys)

    def _flatten_all(self, peer: int, rid: str | None, keys: list[tuple[str, str]]) -> Message | None:
        open_keys = {key for key in keys if key in self._flattening or not self._is_flat(*key)}
        for account, instrument in sorted(open_keys):
            self._begin_flatten(account, instrument)
        if not open_keys:
            return {"ok": True, "flat": True, "remaining": []}
        if rid is not None:
            self._requests.append(_Request(peer, rid, open_keys, self.now_ms + _FLATTEN_MS))
        return None

    def _resume(self, peer: int, message: Message) -> Message:
        if not self.config.remote_resume:
            return {"ok": False, "code": "local_only", "detail": "the halt is lifted on the PC"}
        self.lift_halt(str(message.get("reason", "")))
        return {"ok": True}

    # ── orders at the platform ────────────────────────────────────────────────────────────────────

    def _submit_leg(
        self,
        signal: Signal,
        leg: Leg,
        action: str,
        kind: str,
        tif: str,
        limit: Decimal | None,
        stop: Decimal | None,
        oco: str,
    ) -> str:
        """Create and submit an order of `signal`. Returns submitted, failed (not sent) or unknown."""
        signal.legs[leg.name] = leg  # before Submit: its events may come first
        try:
            order = self.platform.create_order(
                signal.account, signal.instrument, action, kind, tif, leg.qty, limit, stop, oco, leg.name
            )
        except PlatformError:
            order = None
        if order is None:
            leg.state = "Rejected"
            return "failed"
        self._crash("before_submit")
        try:
            self.counters["submits"] += 1
            self.platform.submit(order)
        except PlatformError:
            return "unknown"
        if leg.state == "Initialized":
            leg.state = "Submitted"
        self._crash("after_submit")
        return "submitted"

    def _bracket(self, signal: Signal, qty: int, price: Decimal) -> None:
        """Place stop and target of one lot of the entry."""
        contract = self.platform.contract(signal.instrument)
        if contract is None or signal.is_recovered:
            return  # its lots may have brackets: what is missing is found by the check of the protection
        stop, target = bracket_prices(signal.fields, contract, price, is_buy=signal.is_buy)
        signal.lots += 1
        lot = signal.lots
        oco = self._new_id() if stop is not None and target is not None else ""
        self._place(signal, [("S", lot, qty, stop), ("T", lot, qty, target)], oco)

    def _place(self, signal: Signal, wanted: list[tuple[str, int, int, Decimal | None]], oco: str) -> None:
        """Submit exits, then record them: after a crash those that the journal lacks are found at the platform."""
        legs = [
            Leg(signal.leg(role, lot), role, lot, qty, price) for role, lot, qty, price in wanted if price is not None
        ]
        action = "Sell" if signal.is_buy else "BuyToCover"
        for leg in legs:
            if leg.role == "S":
                self._submit_leg(signal, leg, action, "StopMarket", "Gtc", None, leg.price, oco)
            else:
                self._submit_leg(signal, leg, action, "Limit", "Gtc", leg.price, None, oco)
        for leg in legs:
            self._write(_leg_record(signal, leg))

    def _order(self, account: str, name: str) -> Order | None:
        return next((one for one in reversed(self.platform.orders(account)) if one.name == name), None)

    def _cancel_leg(self, signal: Signal, leg: Leg) -> None:
        if leg.is_cancel_asked and self.now_ms - leg.asked_ms < _RETRY_MS:
            return
        order = self._order(signal.account, leg.name)
        if order is None:
            return
        if order.state in TERMINAL:
            leg.state = order.state  # its event was lost, and is not waited for
            return
        leg.is_cancel_asked, leg.asked_ms = True, self.now_ms
        self.platform.cancel(order)

    def _change(self, signal: Signal, leg: Leg, qty: int) -> None:
        order = self._order(signal.account, leg.name)
        if order is None or order.state in TERMINAL:
            return
        leg.asked_ms = self.now_ms
        leg.qty = qty
        is_stop = leg.role == "S"
        self.platform.change(
            order, qty=qty, limit=None if is_stop else leg.price, stop=leg.price if is_stop else order.stop
        )

    def _cancel_entry(self, signal: Signal) -> None:
        if signal.entry.left == 0:
            return
        self._move(signal, "cancel")
        signal.is_cancel_wanted = True
        if self._is_connected(signal.account):
            self._cancel_leg(signal, signal.entry)

    # ── platform events ───────────────────────────────────────────────────────────────────────────

    def _enqueue(self, event: Event) -> None:
        self._inbox.append(event)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, OrderUpdate):
            self._on_order(event)
        elif isinstance(event, Execution):
            self._on_execution(event)
        elif isinstance(event, Position):
            self._on_position(event)
        elif isinstance(event, ConnectionUpdate):
            self._emit(
                "conn",
                account=event.account,
                connection="simulated",
                status=event.status,
                price_status=event.price_status,
                prev=event.previous,
                native_error=event.native_error,
            )
            self._tick_account(event.account)

    def _on_order(self, update: OrderUpdate) -> None:
        found = ORDER_NAME.fullmatch(update.name)
        if found is None:
            return
        signal = self.signals.get(found[1])
        if signal is None:
            return  # of another epoch: taken over when the account is compared
        leg = self._leg_of(signal, update)
        seen = (update.state, update.filled, update.qty, update.limit, update.stop, update.error)
        if leg.reported == seen or (leg.state in TERMINAL and update.state not in TERMINAL):
            return  # doubled, or late
        leg.reported, leg.state = seen, update.state
        if update.qty != leg.qty and leg.role != "E":
            leg.qty = update.qty
        self._emit(
            "order",
            id=signal.id,
            role=leg.role,
            name=leg.name,
            account=update.account,
            order_id=update.order_id,
            state=update.state,
            qty=update.qty,
            filled=update.filled,
            avg_price=update.avg_price,
            limit=update.limit,
            stop=update.stop,
            error=update.error,
            comment=update.comment,
        )
        if update.error in ("UnableToCancelOrder", "UnableToChangeOrder"):
            leg.is_cancel_asked = False
            leg.failures += 1
            leg.qty = update.qty
        if update.state == "Unknown":
            self._emit("risk", account=signal.account, code="order_unknown", detail=leg.name)
        if leg.role == "E":
            self._on_entry(signal, update)
        elif leg.role == "S" and update.state == "Rejected" and signal.open_qty:
            signal.lacking_since_ms = self.now_ms - _LACKING_MS
        self._protect(signal)

    def _leg_of(self, signal: Signal, update: OrderUpdate) -> Leg:
        found = ORDER_NAME.fullmatch(update.name)
        assert found is not None
        leg = signal.legs.get(update.name)
        if leg is None:
            leg = Leg(update.name, found[2], int(found[3] or 1), update.qty, update.stop or update.limit)
            signal.legs[update.name] = leg
            signal.lots = max(signal.lots, leg.lot)
        return leg

    def _on_entry(self, signal: Signal, update: OrderUpdate) -> None:
        if update.state in LIVE:
            self._move(signal, "live")
        elif update.state == "Submitted":
            self._move(signal, "returned")
        elif update.state == "Rejected" and not signal.filled:
            self._move(signal, "rejected", detail=update.comment)
            self._end_exit(signal)
        elif update.state == "Cancelled" and update.filled == 0 and not signal.filled:
            self._move(signal, "expired" if signal.is_expiring else "ended")
            self._end_exit(signal)
        self._close_if_done(signal)

    def _end_exit(self, signal: Signal) -> None:
        if signal.is_exit:
            self._release(signal)

    def _on_execution(self, execution: Execution, *, is_handed_again: bool = False) -> None:
        name = execution.name or self._name_by_order_id(execution)
        found = ORDER_NAME.fullmatch(name)
        signal = self.signals.get(found[1]) if found else None
        ours = {"id": signal.id, "role": found[2]} if signal is not None and found is not None else {}
        event: Message = {
            **ours,
            "name": name,
            "account": execution.account,
            "instrument": execution.instrument,
            "exec_id": execution.exec_id,
            "op": execution.op,
            "side": "buy" if execution.is_buy else "sell",
            "qty": execution.qty,
            "price": execution.price,
            "commission": execution.commission,
            "fee": execution.fee,
            "time_ms": execution.at_ms,
            "sod": execution.is_sod,
        }
        if execution.op != "add":
            amended = (execution.account, execution.exec_id, execution.op, execution.qty, execution.price)
            if amended not in self._amended:
                self._amended.add(amended)
                self._emit("exec", **event)
            return
        key = (execution.account, execution.exec_id)
        if key in self._exec_seen:
            return
        if is_handed_again and self._is_suspect(event):
            self._exec_seen.add(key)
            self._write({"r": "exec_seen", "account": execution.account, "exec_id": execution.exec_id})
            self._emit("risk", account=execution.account, code="exec_suspect", detail=f"{name} {execution.exec_id}")
            return
        if signal is not None and name not in signal.legs:
            assert found is not None
            signal.legs[name] = Leg(name, found[2], int(found[3] or 1), execution.qty, None)
        if signal is not None and ours["role"] == "E" and signal.state in ("indeterminate", "ambiguous"):
            self._move(signal, "filled")  # the outcome is known: it is reported before what follows from it
        self._emit("exec", **event)
        if execution.is_sod:
            self._exec_seen.add(key)
            return
        self._count_execution(signal, event)
        if signal is not None and found is not None:
            self._after_execution(signal, found[2], execution)

    def _is_suspect(self, event: Message) -> bool:
        """Return whether an equal execution was reported under an id that the platform does not list any more."""
        known = self._exec_prints.get(_execution_print(event), set())
        return bool(known - {one.exec_id for one in self.platform.executions(event["account"])})

    def _after_execution(self, signal: Signal, role: str, execution: Execution) -> None:
        key = (signal.account, signal.instrument)
        if role == "E":
            self._move(signal, "filled")
            if signal.is_exit:
                for one in list(self.signals.values()):
                    if (one.account, one.instrument) == key and not one.is_exit:
                        self._close_if_done(one)
            elif key in self._flattening:
                self._move(signal, "flatten")
                self._begin_flatten(*key)
            elif self._late_fills is not None:
                self._late_fills.append((signal, execution.qty, execution.price))
            else:
                self._bracket(signal, execution.qty, execution.price)
        elif signal.exited > signal.filled:
            self._emit(
                "risk", account=signal.account, code="over_exit", detail=signal.id,
                value=signal.exited, limit=signal.filled,
            )  # fmt: skip
            self._begin_flatten(*key)
        self._close_if_done(signal)
        self._protect(signal)

    def _name_by_order_id(self, execution: Execution) -> str:
        """Return the name of the order of an execution that came without one, or an empty text."""
        if not execution.order_id:
            return ""
        orders = self.platform.orders(execution.account)
        return next((one.name for one in orders if one.order_id == execution.order_id), "")

    def _on_position(self, position: Position) -> None:
        traded = {(one.account, one.instrument) for one in self.signals.values()}
        if (position.account, position.instrument) not in traded:
            return
        side = "long" if position.qty > 0 else "short" if position.qty < 0 else "flat"
        self._emit(
            "position",
            account=position.account,
            instrument=position.instrument,
            side=side,
            qty=abs(position.qty),
            avg=position.avg_price,
        )

    def _close_if_done(self, signal: Signal, detail: str = "") -> None:
        if not signal.filled or (not signal.entry.is_over and signal.entry.left):
            return
        if signal.is_exit or signal.exited >= signal.filled:
            self._move(signal, "flat", detail=detail)
            self._end_exit(signal)

    # ── time ──────────────────────────────────────────────────────────────────────────────────────

    def _tick(self) -> None:
        for account in list(self.platform.accounts):
            self._tick_account(account)
        for signal in list(self.signals.values()):
            if signal.state not in FINAL:
                self._tick_signal(signal)
            elif any(leg.role != "E" and leg.left for leg in signal.legs.values()):
                self._protect(signal)  # an exit that outlives its position would open another
        self._find_outside_closes()
        self._find_orphans()
        if abs(self.now_ms - self._valued_ms) >= _VALUE_MS:
            self._valued_ms = self.now_ms
            self._note_equity()

    def _note_equity(self) -> None:
        """Keep the highest equity of each account, as the AddOn does for a limit that trails it at once."""
        for name in self.platform.accounts:
            equity = self.platform.values(name)["NetLiquidation"]
            if equity is not None and equity > self._highest.get(name, equity - 1):
                self._highest[name] = equity
                self._write({"r": "highest", "account": name, "value": equity})

    def _continue(self) -> None:
        """Go on with what waits for the platform: exits for their cancels, requests for flat positions."""
        self._continue_exits()
        for key in list(self._flattening):
            self._continue_flatten(key)
        self._answer_requests()

    def _tick_account(self, name: str) -> None:
        account = self.platform.accounts.get(name)
        seen = self._seen.setdefault(name, _Seen())
        if account is None or not _is_connected(account):
            seen.connected_ms, seen.is_settled = -1, False
            return
        if seen.connected_ms != account.connected_ms:
            seen.connected_ms, seen.is_settled = account.connected_ms, False
            self._compare(name, is_settled=False)
            self._out.append(Broadcast(self.status(None)))
        since = max(account.connected_ms, self._started_ms - self._offset_ms)
        if not seen.is_settled and self.platform.now_ms - since >= self.config.settle_ms:
            seen.is_settled = seen.was_settled = True
            self._compare(name, is_settled=True)

    def _tick_signal(self, signal: Signal) -> None:
        if signal.state == "relayed":
            if signal.valid_until <= self.now_ms:
                self._move(signal, "due")
            return
        if signal.state == "indeterminate" and self._is_settled(signal.account):
            if self.now_ms - signal.at_ms >= self.config.settle_ms:
                self._resolve(signal)
            return
        if signal.entry.left and signal.valid_until and signal.valid_until <= self.now_ms and not signal.is_exit:
            if signal.state in ("submitted", "working", "cancelling", "open", "flattening"):
                signal.is_expiring = signal.is_expiring or not signal.is_cancel_wanted
                self._cancel_entry(signal)
        elif signal.is_cancel_wanted and signal.entry.left:
            self._cancel_entry(signal)
        self._protect(signal)

    def _compare(self, account: str, *, is_settled: bool) -> None:
        """Take over what the platform lists of an account; after it settled, what is not listed is gone."""
        self._late_fills = []
        self._take_over(account, is_settled=is_settled)
        self._bracket_late_fills()

    def _bracket_late_fills(self) -> None:
        """Protect fills that happened unseen, as far as the platform still has their position."""
        late, self._late_fills = self._late_fills or [], None
        for signal, qty, price in late:
            self._book_outside_close(signal.account, signal.instrument, [signal])
            unprotected = signal.open_qty - sum(leg.left for leg in signal.role("S"))
            if (qty := min(qty, unprotected)) > 0:
                self._bracket(signal, qty, price)

    def _book_outside_close(self, account: str, instrument: str, signals: list[Signal]) -> None:
        """Book on `signals` what others closed: the platform's position is smaller than what is open here."""
        held = self._held(account, instrument)
        missing = sum(one.open_qty for one in held) - self._position_of(held) if held else 0
        for one in signals:
            take = min(max(missing, 0), one.open_qty)
            if take:
                missing -= take
                one.exited += take
                one.closing = min(one.closing, one.open_qty)
                self._close_if_done(one, detail="closed outside")

    def _position_of(self, held: list[Signal]) -> int:
        """Return the platform's position on the side of the signals `held`; 0 when it is on the other."""
        qty = sum(one.qty for one in self.platform.positions(held[0].account) if one.instrument == held[0].instrument)
        return max(qty if held[0].is_buy else -qty, 0)

    def _take_over(self, account: str, *, is_settled: bool) -> None:
        orders = self.platform.orders(account)
        for order in orders:
            found = ORDER_NAME.fullmatch(order.name)
            if found is not None and found[1] not in self.signals:
                self._recover(account, f"FKS:{found[1]}:E")
        for signal in list(self.signals.values()):
            if signal.account == account and signal.state == "indeterminate" and is_settled:
                self._resolve(signal)
        for execution in self.platform.executions(account):
            name = execution.name or self._name_by_order_id(execution)
            found = ORDER_NAME.fullmatch(name)
            if found is not None and found[1] not in self.signals:
                self._recover(account, f"FKS:{found[1]}:E")
            owner = self.signals.get(found[1]) if found else None
            if owner is None or owner.state != "indeterminate":
                self._on_execution(execution, is_handed_again=True)
        for order in orders:
            found = ORDER_NAME.fullmatch(order.name)
            owner = self.signals.get(found[1]) if found else None
            if owner is not None and owner.state != "indeterminate":
                self._on_order(_as_update(order))
        if is_settled:
            self._find_missing(account, {order.name for order in orders})

    def _find_missing(self, account: str, listed: set[str]) -> None:
        for signal in list(self.signals.values()):
            if signal.account != account or signal.state in FINAL or signal.state in ("indeterminate", "relayed"):
                continue
            for leg in list(signal.legs.values()):
                if leg.is_over or leg.name in listed or signal.id in self._waiting:
                    continue
                if leg.role == "E" and leg.left:
                    self._doubt(signal, f"{leg.name} is not listed by the platform")
                    self._end_exit(signal)
                leg.state = "missing"
            self._protect(signal)

    def _resolve(self, signal: Signal) -> None:
        """Decide an indeterminate signal from what the platform lists."""
        is_alone = self._late_fills is None
        if is_alone:
            self._late_fills = []
        self._decide(signal)
        if is_alone:
            self._bracket_late_fills()

    def _decide(self, signal: Signal) -> None:
        name = signal.entry_name
        if (order := self._order(signal.account, name)) is not None:
            fills = [one for one in self.platform.executions(signal.account) if one.name == name]
            if fills or order.filled:
                self._move(signal, "filled")
            self._on_order(_as_update(order))
            for execution in fills:
                self._on_execution(execution)
            return
        fills = [one for one in self.platform.executions(signal.account) if one.name == name]
        if fills:
            self._move(signal, "filled")
            for execution in fills:
                self._on_execution(execution)
            return
        if self._nameless(signal):
            self._doubt(signal, "an automated order without a name was made on this instrument")
        else:
            self._move(signal, "absent")

    def _nameless(self, signal: Signal) -> bool:
        """Return whether the platform lists an order that may be this signal's under another name."""
        return any(
            order.automated
            and order.instrument == signal.instrument
            and not ORDER_NAME.fullmatch(order.name)
            and order.name != "Close"
            and order.created_ms >= signal.at_ms - self._offset_ms - 1_000
            for order in self.platform.orders(signal.account)
        )

    def _doubt(self, signal: Signal, detail: str) -> None:
        if self._move(signal, "doubtful", detail=detail):
            self.blocked.add((signal.account, signal.instrument))
            self._emit("risk", account=signal.account, code="ambiguous", detail=f"{signal.id}: {detail}")

    def _recover(self, account: str, name: str) -> None:
        """Take over a signal that is known only from the names of its orders: the journal is newer than they are."""
        found = ORDER_NAME.fullmatch(name)
        assert found is not None
        order = self._order(account, name)
        others = [one for one in self.platform.orders(account) if one.name.startswith(f"FKS:{found[1]}:")]
        known = order or (others[0] if others else None)
        if known is None:
            fills = [one for one in self.platform.executions(account) if one.name.startswith(f"FKS:{found[1]}:")]
            if not fills:
                return
            instrument, qty, is_buy = fills[0].instrument, fills[0].qty, fills[0].is_buy
        else:
            instrument, qty, is_buy = known.instrument, known.qty, known.is_buy
        if order is None and known is not None:
            is_buy = not is_buy  # only an exit is left of it
        fields = {
            "id": found[1],
            "account": account,
            "instrument": instrument,
            "action": "exit" if order is not None and order.action in _EXIT_ACTIONS else "buy" if is_buy else "sell",
            "qty": qty,
        }
        stop = next((one.stop for one in others if ORDER_NAME.fullmatch(one.name) and one.type == "StopMarket"), None)
        if stop is not None:
            fields["sl_price"] = stop
        self._write({"r": "recovered", "id": found[1], "at": self.now_ms, "fields": fields})
        signal = self._register(fields, self.now_ms)
        signal.is_recovered = True
        signal.state = "submitted"
        signal.lots = len([one for one in others if one.type == "StopMarket"])
        self._emit("signal", id=signal.id, account=account, state="submitted", detail="recovered from order names")
        if known is not None and order is None:
            signal.legs[name].state = "missing"

    # ── protection ────────────────────────────────────────────────────────────────────────────────

    def _is_protected(self, signal: Signal) -> bool:
        return self._protection(signal) >= signal.open_qty

    def _protection(self, signal: Signal) -> int:
        return sum(leg.left for leg in signal.role("S") if leg.state in PROTECTIVE and not leg.is_cancel_asked)

    def _protect(self, signal: Signal) -> None:
        """Keep the live stops of a signal equal to its open quantity, and its targets not above it."""
        key = (signal.account, signal.instrument)
        if signal.is_exit or not signal.legs or key in self._flattening or not self._is_connected(signal.account):
            return
        if signal.state in ("indeterminate", "relayed", "nacked"):
            return
        required = max(signal.open_qty - signal.closing, 0)
        if signal.has_stop or signal.role("S") or signal.is_recovered:
            self._restore(signal, required)
        self._trim(signal, required)

    def _restore(self, signal: Signal, required: int) -> None:
        protected = self._protection(signal)
        lack = required - protected
        if lack > 0:
            # a stop for contracts that the platform does not have would open a reverse position
            held = self._held(signal.account, signal.instrument)
            lack = min(required, self._position_of(held) if held else 0) - protected
        if lack <= 0:
            signal.lacking_since_ms, signal.repairs = None, 0
            return
        if signal.lacking_since_ms is None:
            signal.lacking_since_ms = self.now_ms
        if self.now_ms - signal.lacking_since_ms < _LACKING_MS:
            return
        signal.lacking_since_ms = self.now_ms
        price = self._stop_price(signal)
        if signal.repairs or price is None:
            signal.lacking_since_ms, signal.repairs = None, 0
            self._emit("risk", account=signal.account, code="unprotected", detail=signal.id, value=lack, limit=0)
            self._begin_flatten(signal.account, signal.instrument)
            return
        signal.repairs += 1
        signal.lots += 1
        self._place(signal, [("S", signal.lots, lack, price)], "")

    def _stop_price(self, signal: Signal) -> Decimal | None:
        known = [leg.price for leg in signal.role("S") if leg.price is not None]
        if known:
            return known[-1]
        contract = self.platform.contract(signal.instrument)
        if contract is None or not signal.has_stop:
            return None
        return bracket_prices(signal.fields, contract, signal.avg_price, is_buy=signal.is_buy)[0]

    def _trim(self, signal: Signal, required: int) -> None:
        """Cancel or reduce exits that are larger than the position: they would open a reverse one."""
        for leg in signal.legs.values():
            if leg.role != "E" and leg.is_cancel_asked and not leg.is_over:
                self._cancel_leg(signal, leg)  # again, when the last one had no effect
        excess = {
            role: sum(leg.left for leg in signal.role(role) if not leg.is_cancel_asked) - required for role in "ST"
        }
        if max(excess.values()) <= 0:
            signal.surplus_since_ms = None
            return
        if signal.surplus_since_ms is None:
            signal.surplus_since_ms = self.now_ms
        if self.now_ms - signal.surplus_since_ms < _SURPLUS_MS and not signal.closing:
            return
        for role in "ST":
            left = excess[role]
            legs = [leg for leg in signal.role(role) if leg.left and not leg.is_cancel_asked]
            for leg in sorted(legs, key=lambda one: (one.state in PROTECTIVE, -one.lot)):
                if left <= 0:
                    break
                cut = min(left, leg.left)
                if self.now_ms - leg.asked_ms < 1_000:
                    left -= cut
                    continue
                left -= cut
                if cut == leg.left or leg.failures >= 3:
                    self._cancel_leg(signal, leg)
                else:
                    self._change(signal, leg, leg.qty - cut)

    # ── flatten ───────────────────────────────────────────────────────────────────────────────────

    def _instruments(self, account: str) -> list[str]:
        """Return the instruments with a position or a live order."""
        open_ones = {one.instrument for one in self.platform.positions(account)}
        open_ones |= {one.instrument for one in self.platform.orders(account) if one.is_live}
        return sorted(open_ones)

    def _is_flat(self, account: str, instrument: str) -> bool:
        if any(one.instrument == instrument for one in self.platform.positions(account)):
            return False
        return not any(one.instrument == instrument and one.is_live for one in self.platform.orders(account))

    def _begin_flatten(self, account: str, instrument: str) -> None:
        """Cancel our entries, then let the platform cancel and close; called again it does both again."""
        if not self._is_connected(account):
            return
        for signal in list(self.signals.values()):
            if (signal.account, signal.instrument) != (account, instrument):
                continue
            if signal.entry.left and not signal.entry.is_over and signal.state not in FINAL:
                self._cancel_entry(signal)
            self._move(signal, "flatten")
        self._flattening[account, instrument] = _Flatten(self.now_ms)
        self.platform.flatten(account, [instrument])

    def _continue_flatten(self, key: tuple[str, str]) -> None:
        account, instrument = key
        if not self._is_connected(account) or self._inbox:
            return
        mine = [one for one in self.signals.values() if (one.account, one.instrument) == key]
        is_open = any(one.instrument == instrument for one in self.platform.positions(account))
        works = any(
            order.is_live and order.instrument == instrument and order.name.endswith(":E")
            for order in self.platform.orders(account)
        )
        if is_open or works:
            if self.now_ms - self._flattening[key].last_ms >= _FLATTEN_AGAIN_MS:
                self._begin_flatten(*key)
            return
        del self._flattening[key]
        for signal in mine:
            if signal.filled and signal.state in ("open", "flattening"):
                signal.exited = max(signal.exited, signal.filled)
                signal.closing = 0
                self._move(signal, "flat")
            for leg in signal.legs.values():
                if leg.role != "E" and leg.left:
                    self._cancel_leg(signal, leg)

    def _answer_requests(self) -> None:
        for request in list(self._requests):
            is_flat = not any(key in self._flattening for key in request.keys)
            if not is_flat and self.now_ms < request.due_ms:
                continue
            self._requests.remove(request)
            result: Message = {"t": "result", "rid": request.rid, "ok": is_flat, "flat": is_flat}
            result["remaining"] = [] if is_flat else self._remaining(sorted({one for one, _ in request.keys}))
            if not is_flat:
                result["code"] = "timeout"
                for account, instrument in sorted(request.keys & self._flattening.keys()):
                    self._emit("risk", account=account, code="flatten_timeout", detail=instrument)
            self._out.append(Reply(request.peer, result))

    def _remaining(self, accounts: Iterable[str]) -> list[Message]:
        return [
            {"account": account, "instrument": one.instrument, "qty": one.qty}
            for account in accounts
            for one in self.platform.positions(account)
        ]

    def _find_outside_closes(self) -> None:
        """Book what a person closed on the platform: the exits of such signals would open a reverse position."""
        for key in {(one.account, one.instrument) for one in self.signals.values() if one.open_qty}:
            account, instrument = key
            held = self._held(account, instrument)
            is_whole = sum(one.open_qty for one in held) <= self._position_of(held)
            if is_whole or key in self._flattening or not self._is_connected(account):
                self._outside_since.pop(key, None)
                continue
            since = self._outside_since.setdefault(key, self.now_ms)
            if self.now_ms - since >= _LACKING_MS:
                self._book_outside_close(account, instrument, held)

    def _find_orphans(self) -> None:
        """Report a position on an instrument of FKS that belongs to no signal; a person may hold it on purpose.

        In mode relay a person trades: there it belongs to none.
        """
        signals = [one for one in self.signals.values() if one.state != "nacked" and self.mode(one.account) == "auto"]
        for key in {(one.account, one.instrument) for one in signals}:
            account, instrument = key
            has_position = any(one.instrument == instrument for one in self.platform.positions(account))
            if not has_position or self._held(account, instrument) or key in self._flattening:
                self._orphans.pop(key, None)
                continue
            since = self._orphans.setdefault(key, self.now_ms)
            if 0 < since <= self.now_ms - self.config.settle_ms and self._is_settled(account):
                self._orphans[key] = 0
                self._emit("risk", account=account, code="orphan_position", detail=instrument)

    # ── views ─────────────────────────────────────────────────────────────────────────────────────

    def _is_connected(self, account: str) -> bool:
        found = self.platform.accounts.get(account)
        return found is not None and _is_connected(found)

    def _is_settled(self, account: str) -> bool:
        return account in self._seen and self._seen[account].is_settled

    def _is_ready(self, account: str) -> bool:
        return self._is_connected(account) and account in self._seen and self._seen[account].was_settled

    def _account_status(self, account: Account) -> Message:
        return {
            "name": account.name,
            "status": account.status,
            "price_status": account.price_status,
            "trade_date": None,
            "values": {**self.platform.values(account.name), "FksHighest": self._highest.get(account.name)},
            "positions": [
                {
                    "instrument": one.instrument,
                    "nt_name": one.instrument,
                    "side": "long" if one.qty > 0 else "short",
                    "qty": abs(one.qty),
                    "avg": one.avg_price,
                }
                for one in self.platform.positions(account.name)
            ],
            "orders": [
                {
                    "name": one.name,
                    "order_id": one.order_id,
                    "state": one.state,
                    "side": "buy" if one.is_buy else "sell",
                    "type": one.type,
                    "qty": one.qty,
                    "filled": one.filled,
                    "limit": one.limit,
                    "stop": one.stop,
                    "oco": one.oco,
                    "ours": ORDER_NAME.fullmatch(one.name) is not None,
                }
                for one in self.platform.orders(account.name)
                if one.is_live
            ],
        }


# ── small functions ───────────────────────────────────────────────────────────────────────────────


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _is_connected(account: Account) -> bool:
    return account.has_connection and account.status == CONNECTED


def _day_of(now_ms: int) -> int:
    """Return the proleptic ordinal of the UTC day of `now_ms`."""
    return now_ms // 86_400_000 + 719_163


def _leg_record(signal: Signal, leg: Leg) -> Record:
    return {
        "r": "leg", "id": signal.id, "name": leg.name, "role": leg.role, "lot": leg.lot, "qty": leg.qty,
        "price": leg.price,
    }  # fmt: skip


def _order_print(event: Message) -> tuple[object, ...]:
    return tuple(event[name] for name in ("state", "filled", "qty", "limit", "stop", "error"))


def _execution_print(event: Message) -> tuple[object, ...]:
    return tuple(event[name] for name in ("account", "name", "side", "qty", "price", "time_ms"))


def _as_update(order: Order) -> OrderUpdate:
    return OrderUpdate(
        order, order.name, order.account, order.order_id, order.state, order.qty, order.filled, order.avg_price,
        order.limit, order.stop,
    )  # fmt: skip
