"""The bridge of a trading platform: it answers signals and requests, places orders, keeps brackets, logs events.

One object per platform process, driven by `handle` and `turn`: messages and platform events in, replies and events
out. The intent of an entry is in the journal before its Submit, an event before it is sent. Exits follow from a
comparison: the live stops and targets at the platform are made equal to the open quantity, again at each turn.

Where the platform holds exits (`Platform.holds_exits`), stop and target go with the entry and live on the position;
its orders S and T only show them.

The group's rules, calendars, limits of rate and position, and a journal on a bad disk are the AddOn's alone (nt8/).
"""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import Any

from fks.bridge.peer.journal import EpochJournal
from fks.bridge.peer.platform import (
    CONNECTED,
    TERMINAL,
    ConnectionUpdate,
    Event,
    MarketEvent,
    Platform,
    PlatformAccount,
    PlatformContract,
    PlatformError,
    PlatformExecution,
    PlatformOrder,
    PlatformPosition,
    Quantity,
    RefusedError,
)
from fks.bridge.peer.signals import (
    FINAL,
    LIVE,
    ORDER_NAME,
    PROTECTIVE,
    REPORTED,
    TABLE,
    BridgeSignal,
    Message,
    Nack,
    bracket_prices,
    check_bracket,
    check_request,
    check_signal,
    content,
    is_id,
    used_prices,
)
from fks.model.ninja import EXIT_ENTRIES, LINE_MAC

Key = tuple[str, str]  # account, instrument
Output = tuple[int | None, Message]  # a session, or None for all that take events (`ev`, or a pushed `status`)
_TYPES = {"market": "Market", "limit": "Limit", "stop": "StopMarket", "stop_limit": "StopLimit"}
_TIFS = {"day": "Day", "gtc": "Gtc", "ioc": "Ioc"}
_EXIT_ACTIONS = ("Sell", "BuyToCover")  # of a market order that closes; an entry is Buy or SellShort
_ORDER_FIELDS = ("name", "order_id", "state", "qty", "filled", "limit", "stop")
_TICK_MS = 100
_VALUE_MS = 1_000  # between two looks at the equity of the accounts
_OUTSIDE_MS = 2_000  # a position may be smaller than the open signals so long, then it was closed by others
_SURPLUS_MS = 500  # time for the platform's own OCO to cancel the partner
_CANCEL_AGAIN_MS = 3_000
_FLATTEN_AGAIN_MS = 5_000
_FLATTEN_MS = 30_000
_STOPS_MAX = 2  # rejected stops of a signal, then its instrument is closed
_NOT_FINAL = frozenset(
    {
        "not_ready",
        "not_connected",
        "price_feed_lost",
        "flattening",
        "not_control",
        "halted",
        "no_quote",
        "trading_disabled",
    }
)
_SEED_FIELDS = frozenset({"action", "instrument", "price", "tp_points", "sl_points", "quantity", "account"})
_SEED_SAME_MS = 2_000
_SEED_VALID_MS = 30_000


@dataclass(frozen=True, slots=True)
class BridgeConfig:
    """The settings of the bridge. Units: *_ms milliseconds, quantities in contracts.

    `max_position` and `signals_per_*` are reported in `welcome`; only the AddOn refuses what is above them.
    """

    group: str = "sim"
    settle_ms: int = 5_000
    absent_ms: int = 5_000  # after an order call without a result, before its absence counts as proven
    max_qty: int = 10
    max_position: int = 20
    max_distance_ticks: int = 800
    quote_age_ms: int = 10_000
    signals_per_s: int = 5
    signals_per_min: int = 60
    on_client_lost: str = "cancel_entries"  # keep | cancel_entries
    features: tuple[str, ...] = (EXIT_ENTRIES, LINE_MAC)  # what it can do beyond the first version


@dataclass(slots=True)
class _Request:
    """A `flatten` or `kill` that waits for its instruments to be flat."""

    peer: int
    rid: str
    keys: set[Key]
    due_ms: int


class Bridge:
    """The bridge of one platform process. `crash` is called at named points; a test raises there."""

    def __init__(
        self,
        platform: Platform,
        journal: EpochJournal,
        config: BridgeConfig,
        new_id: Callable[[], str],
        crash: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Take over the journal's records, attach to the platform."""
        self.platform = platform
        self.config = config
        self.modes: dict[str, str] = {}  # by account: auto | relay | off; a simulation account is auto by default
        self.halted = False
        self.signals: dict[str, BridgeSignal] = {}
        self.counters = {"signals": 0, "submits": 0}
        self._journal = journal
        self._log: list[Message] = []  # all events; the number of an event is its place, from 1
        self._durable_seq = 0  # the last event that is on the disk: later ones are not sent
        self._state: Message = {"acked": 0, "highest": {}}  # also in the journal
        self._changed: set[str] = set()  # signals that differ from the journal
        self._new_id = new_id
        self._crash = crash
        self._executions: dict[tuple[str, str, str], str] = {}  # by account, id, op of those reported: the signal
        self.market_events: deque[MarketEvent] = deque()  # for the sessions of role data
        self._inbox: deque[Event] = deque()
        self._out: list[Output] = []
        self._flattening: dict[Key, int] = {}  # since when, at the platform's clock
        self._requests: list[_Request] = []
        self._waiting: dict[str, int] = {}  # exit signal that waits for its cancels -> peer
        self._since: dict[tuple[str, ...], int] = {}  # of `_lasts`
        self._asked: dict[str, int] = {}  # by order name: when its cancellation was last asked for
        self._rejected_stops: dict[str, int] = defaultdict(int)  # by signal, since one was accepted
        self._blocked: set[Key] = set()  # of an ambiguous signal
        self._seeds: dict[str, tuple[str, int]] = {}  # by content: id, and when it came
        self._connected_ms: dict[str, int] = {}  # by account
        self._settled: set[str] = set()  # accounts that were compared since they are connected
        self._ready: set[str] = set()  # accounts that were compared once
        self._disabled = ""  # why the platform takes no orders, as it was reported last
        self._offset_ms = 0
        self._ticked_ms = self._valued_ms = -_VALUE_MS
        self._load()
        self._started_ms = platform.now_ms
        self.stop: Callable[[], None] = platform.subscribe(self._inbox.append)

    # ── for the sessions ──────────────────────────────────────────────────────────────────────────

    @property
    def now_ms(self) -> int:
        """Return the PC's clock, which may be wrong."""
        return self.platform.now_ms + self._offset_ms

    @property
    def epoch(self) -> str:
        return self._journal.epoch

    @property
    def last_seq(self) -> int:
        """Return the number of the newest event on the disk; 0 when there was none."""
        return self._durable_seq

    @property
    def is_ready(self) -> bool:
        """Return whether an account could take a signal now, the halt latch aside."""
        return not self.platform.trading_disabled() and any(map(self._is_ready, self.platform.accounts))

    def set_clock_offset(self, offset_ms: int) -> None:
        """Make the PC's clock wrong by `offset_ms`."""
        self._offset_ms = offset_ms

    def welcome(self) -> Message:
        """Return the fields of `welcome` that come from here."""
        limits = "max_qty", "max_position", "max_distance_ticks", "signals_per_s", "signals_per_min"
        return {
            "epoch": self.epoch,
            "last_seq": self.last_seq,
            "oldest_seq": 1,
            "now_ms": self.now_ms,
            "group": self.config.group,
            "accounts": [
                {
                    "name": name,
                    "sim": one.is_sim,
                    "mode": self.mode(name),
                    "connected": self._is_connected(name),
                    **self.platform.account_fields(name),
                }
                for name, one in self.platform.accounts.items()
            ],
            "limits": _fields(self.config, *limits),
            "halted": self.halted,
            "ready": self.is_ready,
            "features": list(self.config.features),
        }

    def events_after(self, seq: int) -> list[Message]:
        """Return the events with a higher number that are on the disk, oldest first."""
        return self._log[seq : self._durable_seq]

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
                    "protected": self._stops_of(one) >= one.open_qty,
                }
                for one in self.signals.values()
                if one.state not in FINAL
            ],
            "features": sorted({name for one in self.platform.accounts.values() for name in one.features}),
            "counters": {**self.counters, "events": len(self._log), "acked": self._state["acked"]},
            **self.platform.status_fields(),
        }

    def _stops_of(self, signal: BridgeSignal) -> Quantity:
        return sum(order.left for order in self._exits(signal, "S") if order.state in PROTECTIVE)

    def _account_status(self, account: PlatformAccount) -> Message:
        highest = self._state["highest"].get(account.name)
        return {
            "name": account.name,
            "status": account.status,
            "price_status": account.price_status,
            "trade_date": None,
            "sim": account.is_sim,
            "mode": self.mode(account.name),
            **self.platform.account_fields(account.name),
            "values": {**self.platform.values(account.name), "FksHighest": highest},
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
                    **_fields(one, *_ORDER_FIELDS, "type", "oco"),
                    "side": "buy" if one.is_buy else "sell",
                    "ours": ORDER_NAME.fullmatch(one.name) is not None,
                }
                for one in self.platform.orders(account.name)
                if one.is_live and not self._is_shared_exit(one)
            ],
        }

    def _is_shared_exit(self, order: PlatformOrder) -> bool:
        """Return whether an exit of a position is shown for a signal that is over: others still hold the position."""
        found = ORDER_NAME.fullmatch(order.name)
        signal = self.signals.get(found[1]) if found and found[2] != "E" and self.platform.holds_exits else None
        return signal is not None and signal.state in FINAL

    def handle(self, peer: int, message: Message) -> None:
        """Take one message of an authenticated session; what follows comes out of the next `turn`."""
        kind = message["t"]
        if kind == "signal":
            self._answer(peer, lambda: self._signal(peer, message))
        elif kind == "evack":
            if self._state["acked"] < message["seq"] <= len(self._log):
                self._state = {**self._state, "acked": message["seq"]}
        elif kind == "query":
            self._out.append((peer, self._query(message)))
        elif kind == "status":
            self._out.append((peer, self.status(message["rid"])))
        else:
            requests = {
                "cancel": self._cancel,
                "modify": self._modify,
                "flatten": self._close,
                "kill": self._close,
                "resume": self._resume,
            }
            if nack := check_request(message):
                result: Message | None = {"ok": False, "code": nack[0], "detail": nack[1]}
            else:
                result = requests[kind](peer, message)
            if result is not None:
                self._out.append((peer, {"t": "result", "rid": message["rid"], **result}))

    def _answer(self, peer: int, decide: Callable[[], Message | None]) -> None:
        """Send the reply of `decide` before the events that it causes."""
        before = len(self._out)
        if (reply := decide()) is not None:
            self._out.insert(before, (peer, reply))

    def client_lost(self) -> None:
        """Apply the policy for a control session that is gone and did not come back in time."""
        if self.config.on_client_lost == "cancel_entries":
            for signal in self.signals.values():
                if signal.state in ("submitted", "working", "open") and not signal.is_exit:
                    self._cancel_entry(signal)

    def halt(self, reason: str) -> None:
        """Latch the halt: entries are refused until it is lifted on the PC."""
        if not self.halted:
            self.halted = True
            self._emit("halt", on=True, reason=reason)

    def lift_halt(self, reason: str) -> None:
        """Lift the halt, as the button on the PC does."""
        self.halted = False
        self._emit("halt", on=False, reason=reason)

    def turn(self) -> list[Output]:
        """Handle what the platform reported and what time has made due; return what may be sent.

        Guarantees: every returned event is in the journal.
        """
        self._take_events()
        if self.platform.now_ms - self._ticked_ms >= _TICK_MS:
            self._ticked_ms = self.platform.now_ms
            self._tick()
            self._take_events()
        for signal_id in sorted(self._changed):
            self._protect(self.signals[signal_id])
        self._continue_exits()
        for key in list(self._flattening):
            self._continue_flatten(key)
        self._answer_requests()
        self._crash("before_sync")
        self._record()
        self._crash("after_sync")
        out, self._out = self._out, []
        return out

    # ── journal ───────────────────────────────────────────────────────────────────────────────────

    def _load(self) -> None:
        for record in self._journal.records:
            if "intent" in record:
                self._register(record["intent"], record["at"])
                continue
            self._log += record["events"]
            self._state = record["state"]
            for found in record["signals"]:
                self.signals[found["id"]] = BridgeSignal(**found | {"closing": 0})
                self.platform.introduce(found["id"])
        self._durable_seq = len(self._log)
        for event in self._log:
            if event["kind"] == "exec" and event["op"] != "update":
                self._executions[event["account"], event["exec_id"], event["op"]] = event.get("id", "")
            elif event["kind"] == "halt":
                self.halted = event["on"]
        for signal in self.signals.values():
            self._move(signal, "lost")
        self._recorded = self._state

    def _record(self) -> None:
        """Write what this turn has changed."""
        if len(self._log) > self._durable_seq or self._changed or self._state != self._recorded:
            signals = [asdict(self.signals[one]) for one in sorted(self._changed)]
            self._journal.append({"events": self._log[self._durable_seq :], "signals": signals, "state": self._state})
            self._changed.clear()
            self._durable_seq, self._recorded = len(self._log), self._state

    def _emit(self, kind: str, **fields: Any) -> None:
        self._crash("before_event")
        seq = len(self._log) + 1
        event = {"t": "ev", "seq": seq, "epoch": self.epoch, "at_ms": self.now_ms, "kind": kind, **fields}
        self._log.append(event)
        self._out.append((None, event))
        self._crash("after_event")

    # ── signals ───────────────────────────────────────────────────────────────────────────────────

    def _register(self, fields: Message, at_ms: int) -> BridgeSignal:
        qty = fields.get("qty")
        signal = BridgeSignal(fields["id"], fields, "intent", at_ms, qty if isinstance(qty, int | Decimal) else 0)
        self.signals[signal.id] = signal
        self._changed.add(signal.id)
        self.platform.introduce(signal.id)
        return signal

    def _intend(self, message: Message) -> BridgeSignal:
        """Record that an order is about to be submitted: after a crash it is never submitted again."""
        self._crash("before_intent")
        self._journal.append({"intent": message, "at": self.now_ms})
        self._crash("after_intent")
        self.counters["signals"] += 1
        return self._register(message, self.now_ms)

    def _move(self, signal: BridgeSignal, event: str, detail: str = "") -> bool:
        """Apply an event of the signal's table; report the new state. Return whether it changed."""
        state = TABLE.get((signal.state, event))
        if state is None or state == signal.state:
            return False
        signal.state, signal.code, signal.detail = state, "", detail
        self._changed.add(signal.id)
        if state in REPORTED:
            extra = {"detail": detail} if detail else {}
            self._emit("signal", id=signal.id, account=signal.account, state=state, **extra)
        return True

    def _signal(self, peer: int, message: Message) -> Message | None:
        if (nack := check_signal(message, self.now_ms, has_lots=self.platform.has_lots)) is not None:
            return self._nack(message, *nack)
        self.platform.introduce(message["id"])
        known = self.signals.get(message["id"]) or self._find_recovered(message)
        if known is not None:
            return self._answer_again(known, message)
        if message["valid_until"] <= self.now_ms:
            return self._nack(message, "expired", "valid_until has passed")
        if (refusal := self._refuse(message)) is not None:
            return self._nack(message, *refusal)
        contract = self.platform.contract(message["instrument"])
        assert contract is not None
        used = used_prices(message, contract)
        if self.mode(message["account"]) == "relay":
            signal = self._intend(message)
            signal.state = "relayed"
            self._emit("relay", **{name: value for name, value in message.items() if name != "t"})
            return self._ack(signal, is_dup=False, used=used)
        if message["action"] == "exit":
            return self._exit(peer, message)
        signal = self._intend(message)
        return self._answer_submit(signal, self._submit(self._entry(signal, contract)), used)

    def _find_recovered(self, message: Message) -> BridgeSignal | None:
        """Return a signal that only an order of the platform knows: its journal is lost. None: there is none."""
        name = f"FKS:{message['id']}:E"
        entry = next((one for one in self.platform.orders(message["account"]) if one.name == name), None)
        if entry is None:
            return None
        self._recover(message["id"], entry)
        self._on_order(entry)
        return self.signals[message["id"]]

    def _answer_again(self, signal: BridgeSignal, message: Message) -> Message:
        """Return the answer for an id that is known."""
        if signal.is_recovered:
            return self._nack_of(signal.id, "duplicate_recovered", "known from an order of an earlier epoch")
        if content(signal.fields) != content(message):
            return self._nack_of(signal.id, "duplicate_mismatch", "this id was used for another order")
        if signal.state == "nacked":
            return self._nack_of(signal.id, signal.code, signal.detail) | {"final": True}
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
        if self.halted and not is_exit:
            return "halted", "the kill latch is set"
        if disabled := self.platform.trading_disabled():
            return "trading_disabled", disabled
        if found is None:
            return "unknown_account", f"no account {account!r}"
        mode = self.mode(account)
        if not self._is_connected(account):
            return "not_connected", f"the order feed of {account} is {found.status}"
        if not is_exit and found.price_status != CONNECTED:
            return "price_feed_lost", f"the price feed of {account} is {found.price_status}"
        if mode == "off":
            return "automation_forbidden", f"the mode of {account} is off"
        if mode == "auto" and account not in self._ready:
            return "not_ready", "the account was not compared with the journal yet"
        contract = self.platform.contract(instrument)
        if contract is None:
            return "unknown_instrument", f"no instrument {instrument!r}"
        if contract.expiry is not None and contract.expiry.toordinal() < _day_of(self.now_ms):
            return "expired_contract", f"{instrument} expired on {contract.expiry}"
        if (account, instrument) in self._flattening:
            return "flattening", f"{instrument} is being closed"
        if is_exit:
            return None
        return (
            self._refuse_prices(message, contract, found)
            or self._refuse_size(message)
            or self._refuse_order(message, contract)
        )

    def _refuse_prices(self, message: Message, contract: PlatformContract, account: PlatformAccount) -> Nack | None:
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

    def _refuse_order(self, message: Message, contract: PlatformContract) -> Nack | None:
        """Return why the platform's own rules do not allow an entry now, or None."""
        signal = BridgeSignal(message["id"], message, "intent", self.now_ms, message["qty"])
        return self.platform.refusal(self._entry(signal, contract))

    def _entry(self, signal: BridgeSignal, contract: PlatformContract) -> PlatformOrder:
        """Return the order of an entry, with stop and target where the platform holds them."""
        message, used = signal.fields, used_prices(signal.fields, contract)
        attached: tuple[Decimal | None, Decimal | None] = (None, None)
        if self.platform.holds_exits:
            last = self.platform.last_trade(contract.name)
            anchor = used.get("price_used", used.get("stop_used", last.price if last else Decimal(0)))
            attached = bracket_prices(message, contract, anchor, is_buy=signal.is_buy)
        return PlatformOrder(
            signal.entry_name, *signal.key, "Buy" if signal.is_buy else "SellShort", _TYPES[message["type"]],
            _TIFS[message.get("tif", "day")], signal.qty, used.get("price_used"), used.get("stop_used"),
            attached=attached,
        )  # fmt: skip

    def _refuse_size(self, message: Message) -> Nack | None:
        qty, is_buy = message["qty"], message["action"] in ("buy", "long")
        key = message["account"], message["instrument"]
        if qty > self.config.max_qty:
            return "qty_limit", f"qty {qty} is above {self.config.max_qty}"
        others = [one for one in self.signals.values() if one.key == key and not one.is_exit]
        if any(one.is_buy != is_buy and (one.open_qty or one.is_working) for one in others):
            return "opposite_position", f"a position or entry on the other side of {key[1]} is open"
        if key in self._blocked:
            return "not_ready", f"an order on {key[1]} is ambiguous; an operator has to decide"
        return None

    def _answer_submit(self, signal: BridgeSignal, outcome: Nack | str, used: dict[str, Decimal]) -> Message:
        if isinstance(outcome, tuple):
            signal.state, (signal.code, signal.detail) = "nacked", outcome
            return self._nack_of(signal.id, *outcome) | {"final": True}
        if outcome == "unknown":
            signal.at_ms = self.now_ms
            self._move(signal, "lost")
            return self._indeterminate(signal)
        self._move(signal, "returned")
        return self._ack(signal, is_dup=False, used=used)

    def _ack(self, signal: BridgeSignal, *, is_dup: bool, used: dict[str, Decimal] | None = None) -> Message:
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
        """Return a nack; a final one is kept under a well-formed id that is not known yet."""
        signal_id = message.get("id")
        if code not in _NOT_FINAL and is_id(signal_id) and signal_id not in self.signals:
            signal = self._register({name: value for name, value in message.items() if name != "t"}, self.now_ms)
            signal.state, signal.code, signal.detail = "nacked", code, detail
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

    def _indeterminate(self, signal: BridgeSignal) -> Message:
        detail = "ambiguous: an operator has to decide" if signal.state == "ambiguous" else "Submit has no known result"
        return {"t": "indeterminate", "id": signal.id, "since_ms": signal.at_ms, "detail": detail}

    # ── seed dialect ──────────────────────────────────────────────────────────────────────────────

    def handle_seed(self, peer: int, order: Message, *, is_authenticated: bool) -> None:
        """Take a line without a type that asks for an order; its reply comes out of the next `turn`."""
        self._answer(peer, lambda: self._seed(peer, order, is_authenticated=is_authenticated))

    def _seed(self, peer: int, order: Message, *, is_authenticated: bool) -> Message:
        if unknown := sorted(order.keys() - _SEED_FIELDS):
            return _seed_failure("unknown_field", f"unknown field {unknown[0]!r}")
        if order.get("action") not in ("buy", "sell", "long", "short"):
            return _seed_failure("bad_field", "action: one of buy, sell, long, short")
        account = order.get("account", "Sim101")
        found = self.platform.accounts.get(account) if isinstance(account, str) else None
        if not is_authenticated and (found is None or not found.is_sim):
            return _seed_failure("auth_required", "without the secret only a simulation account takes orders")
        given = {name: order.get(name) for name in ("instrument", "action", "price", "sl_points", "tp_points")}
        signal: Message = {
            "t": "signal", "id": self._seed_id(order), "account": account, "qty": order.get("quantity", 1),
            "type": "limit", "created_ms": self.now_ms, "valid_until": self.now_ms + _SEED_VALID_MS,
            **{name: value for name, value in given.items() if value is not None},
        }  # fmt: skip
        reply = self._signal(peer, signal)
        assert reply is not None
        if reply["t"] == "nack":
            return _seed_failure(reply["code"], reply["detail"], signal["id"])
        state = ("duplicate " if reply.get("dup") else "") + reply.get("state", "indeterminate")
        return {"success": True, "message": f"{state} FKS:{signal['id']}:E", "signal_id": signal["id"]}

    def _seed_id(self, order: Message) -> str:
        """Return the id of a line; the same line within two seconds is the same order, so it has the same id."""
        digest = content(order)
        known_id, at_ms = self._seeds.get(digest, ("", 0))
        if known_id and 0 <= self.now_ms - at_ms <= _SEED_SAME_MS:
            return known_id
        signal_id = f"s{digest[:12]}-{self.now_ms // 1000:x}"
        self._seeds[digest] = (signal_id, self.now_ms)
        return signal_id

    # ── exits that a signal asks for ──────────────────────────────────────────────────────────────

    def _exit(self, peer: int, message: Message) -> Message | None:
        """Close what the bridge holds on the instrument: first its exit orders go, then a market order closes."""
        wanted = message.get("entries")
        held = self._held((message["account"], message["instrument"]))
        total = sum(one.open_qty - one.closing for one in held if wanted is None or one.id in wanted)
        if total <= 0:
            return self._nack(message, "opposite_position", "nothing of FKS is open on this instrument")
        signal = self._intend(message)
        signal.qty = min(message.get("qty") or total, total)
        self._waiting[signal.id] = peer
        self._reserve(signal)
        return None

    def _held(self, key: Key) -> list[BridgeSignal]:
        return [one for one in self.signals.values() if one.key == key and one.open_qty]

    def _reserve(self, exit_signal: BridgeSignal) -> None:
        """Reserve open quantities of the instrument for its exits that are not over, oldest first.

        One that still waits gets smaller where nothing is left for it.
        """
        held = self._held(exit_signal.key)
        before = {one.id: one.closing for one in held}
        for one in held:
            one.closing = 0
        for signal in self.signals.values():
            is_sent = signal.state in ("submitted", "working", "cancelling")
            # of an exit without a result; where stops are orders they come first, and take the reservation's place
            is_sent |= signal.state == "indeterminate" and self.platform.holds_exits
            if not signal.is_exit or signal.key != exit_signal.key or not (is_sent or signal.id in self._waiting):
                continue
            left = signal.entry_left
            for one in [other for other in held if signal.closes(other.id)]:
                take = min(left, one.open_qty - one.closing)
                one.closing += take
                left -= take
            if signal.id in self._waiting:
                signal.qty -= left
        self._changed.update(one.id for one in held if one.closing != before[one.id])

    def _continue_exits(self) -> None:
        for signal_id, peer in list(self._waiting.items()):
            signal = self.signals[signal_id]
            self._reserve(signal)
            closed = [one for one in self._held(signal.key) if signal.closes(one.id) and one.closing]
            is_over = signal.key in self._flattening or signal.valid_until <= self.now_ms
            if (
                not is_over
                and not self.platform.holds_exits
                and any(
                    sum(order.left for order in self._exits(one, role)) > one.open_qty - one.closing
                    for one in closed
                    for role in "ST"
                )
            ):
                continue
            # the platform's position decides: an exit must not open a reverse one
            held = self.platform.held(*signal.key, is_buy=closed[0].is_buy) if closed else 0
            qty = 0 if is_over else min(signal.qty, held)
            del self._waiting[signal_id]
            if qty == 0:
                self._move(signal, "due")
                self._reserve(signal)
                self._out.append((peer, self._ack(signal, is_dup=False)))
                continue
            signal.qty = qty
            action = "Sell" if closed[0].is_buy else "BuyToCover"
            shares = tuple((one.id, one.closing) for one in closed)
            outcome = self._submit(
                PlatformOrder(signal.entry_name, *signal.key, action, "Market", "Day", qty, None, None, closes=shares)
            )
            before = len(self._out)
            self._out.insert(before, (peer, self._answer_submit(signal, outcome, {})))
            self._reserve(signal)

    # ── requests ──────────────────────────────────────────────────────────────────────────────────

    def _query(self, message: Message) -> Message:
        signal = self.signals.get(str(message.get("id")))
        reply: Message = {"t": "sigstate", "rid": message["rid"], "id": message.get("id")}
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
        if signal.entry_left == 0 or signal.state in FINAL:
            state = signal.seen.get(signal.entry_name, ["Submitted"])[0]
            return {"ok": False, "code": "nothing_to_do", "detail": f"the entry is {state}"}
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
        wanted = {name: message[name] for name in ("sl_price", "tp_price") if message.get(name) is not None}
        stop, target = bracket_prices(wanted, contract, Decimal(0), is_buy=signal.is_buy)
        stops = self._exits(signal, "S") if stop is not None else []
        targets = self._exits(signal, "T") if target is not None else []
        for order in stops:
            assert stop is not None
            assert order.stop is not None
            if stop < order.stop if signal.is_buy else stop > order.stop:
                return {"ok": False, "code": "bad_bracket", "detail": f"the stop may not move off {order.stop}"}
        if not stops and not targets:
            return {"ok": False, "code": "nothing_to_do", "detail": "no exit order is live"}
        signal.moved |= wanted
        self._changed.add(signal.id)
        for order in stops:
            self.platform.change(order, qty=order.qty, limit=None, stop=stop)
        for order in targets:
            self.platform.change(order, qty=order.qty, limit=target, stop=None)
        return {"ok": True}

    def _resume(self, peer: int, message: Message) -> Message:
        return {"ok": False, "code": "local_only", "detail": "the halt is lifted on the PC"}

    def _close(self, peer: int, message: Message) -> Message | None:
        """Take a `flatten` of one account or a `kill` of all; None: the answer waits until they are flat."""
        if message["t"] == "kill":
            self.halt(str(message.get("reason", "")))
            accounts, wanted = [one for one in self.platform.accounts if self.mode(one) != "off"], "all"
        else:
            accounts, wanted = [message["account"]], message["instruments"]
            if accounts[0] not in self.platform.accounts:
                return {"ok": False, "code": "unknown_account", "flat": False, "remaining": []}
        keys = {
            (account, instrument)
            for account in accounts
            if self._is_connected(account)
            for instrument in (self._instruments(account) if wanted == "all" else wanted)
        }
        keys = {key for key in keys if key in self._flattening or key[1] in self._instruments(key[0])}
        for key in sorted(keys):
            self._begin_flatten(key)
        lost = [account for account in accounts if not self._is_connected(account)]
        remaining = self._remaining(lost)
        if lost and (remaining or message["t"] == "flatten"):
            return {"ok": False, "code": "not_connected", "flat": False, "remaining": remaining}
        if not keys:
            return {"ok": True, "flat": True, "remaining": []}
        self._requests.append(_Request(peer, message["rid"], keys, self.platform.now_ms + _FLATTEN_MS))
        return None

    def _instruments(self, account: str) -> list[str]:
        """Return the instruments with a position or a live order."""
        open_ones = {one.instrument for one in self.platform.positions(account)}
        return sorted(open_ones | {one.instrument for one in self.platform.orders(account) if one.is_live})

    def _remaining(self, accounts: Iterable[str]) -> list[Message]:
        return [
            {"account": account, "instrument": one.instrument, "qty": one.qty}
            for account in accounts
            for one in self.platform.positions(account)
        ]

    def _begin_flatten(self, key: Key) -> None:
        """Cancel our entries, then let the platform cancel and close; called again it does both again."""
        if not self._is_connected(key[0]):
            return
        for signal in self.signals.values():
            if signal.key == key:
                if signal.is_working:
                    self._cancel_entry(signal)
                self._move(signal, "flatten")
        self._flattening[key] = self.platform.now_ms
        self.platform.flatten(key[0], [key[1]])

    def _continue_flatten(self, key: Key) -> None:
        account, instrument = key
        if not self._is_connected(account) or self._inbox:
            return
        works = any(
            one.is_live and one.instrument == instrument and one.name.endswith(":E")
            for one in self.platform.orders(account)
        )
        if works or any(one.instrument == instrument for one in self.platform.positions(account)):
            if self.platform.now_ms - self._flattening[key] >= _FLATTEN_AGAIN_MS:
                self._begin_flatten(key)
            return
        del self._flattening[key]
        for signal in self.signals.values():
            if signal.key == key and signal.filled and signal.state in ("open", "flattening"):
                signal.exited, signal.closing = max(signal.exited, signal.filled), 0
                self._move(signal, "flat")

    def _answer_requests(self) -> None:
        for request in list(self._requests):
            is_flat = request.keys.isdisjoint(self._flattening)
            if is_flat or self.platform.now_ms >= request.due_ms:
                self._requests.remove(request)
                remaining = [] if is_flat else self._remaining(sorted({account for account, _ in request.keys}))
                result = {"t": "result", "rid": request.rid, "ok": is_flat, "flat": is_flat, "remaining": remaining}
                self._out.append((request.peer, result | ({} if is_flat else {"code": "timeout"})))

    # ── orders at the platform ────────────────────────────────────────────────────────────────────

    def _submit(self, order: PlatformOrder) -> Nack | str:
        """Create and submit an order. Returns `submitted`, `unknown`, or code and detail when the broker has it not."""
        try:
            if not self.platform.create(order):
                return "submit_failed", "CreateOrder failed"
        except PlatformError:
            return "submit_failed", "CreateOrder failed"
        self._crash("before_submit")
        self.counters["submits"] += 1
        try:
            self.platform.submit(order)
        except RefusedError as error:
            return error.code, error.detail
        except PlatformError:
            return "unknown"
        self._crash("after_submit")
        return "submitted"

    def _cancel_entry(self, signal: BridgeSignal) -> None:
        """Ask for the end of an entry; asked again until it is over."""
        signal.is_cancel_wanted = True
        self._end_entry(signal)

    def _end_entry(self, signal: BridgeSignal) -> None:
        self._move(signal, "cancel")
        for order in self.platform.orders(signal.account):
            if order.name == signal.entry_name and order.is_live:
                self._cancel_order(order)

    def _cancel_order(self, order: PlatformOrder) -> None:
        asked_ms = self._asked.get(order.name)
        if asked_ms is not None and self.platform.now_ms - asked_ms < _CANCEL_AGAIN_MS:
            return
        if self._is_connected(order.account):
            self._asked[order.name] = self.platform.now_ms
            self.platform.cancel(order)

    def _exits(self, signal: BridgeSignal, role: str) -> list[PlatformOrder]:
        """Return the live stops or targets of a signal, oldest first."""
        prefix = f"FKS:{signal.id}:{role}"
        return [one for one in self.platform.orders(signal.account) if one.is_live and one.name.startswith(prefix)]

    def _protect(self, signal: BridgeSignal) -> None:
        """Make the live stops and targets of a signal equal to its open quantity.

        None is placed while the platform may still lack orders in its list, after a reconnect.
        """
        if signal.is_exit or signal.key in self._flattening or not self._is_ready(signal.account):
            return
        needed = max(signal.open_qty - (0 if self.platform.holds_exits else signal.closing), 0)
        orders = {role: self._exits(signal, role) for role in "ST"}
        for role, found in orders.items():
            for order in found:
                if order.name in self._asked:
                    self._cancel_order(order)  # again, when the last one had no effect
            kept = orders[role] = [one for one in found if one.name not in self._asked]
            surplus = 0 if self.platform.holds_exits else sum(one.left for one in kept) - needed
            if self._lasts((signal.id, role), surplus > 0, 0 if signal.closing else _SURPLUS_MS):
                self._reduce(kept[::-1], surplus)
        lacks = [needed - sum(one.left for one in orders[role]) for role in "ST"]
        if max(lacks) > 0 and signal.account in self._settled:
            # an exit of contracts that the platform does not have would open a reverse position
            too_many = max(needed - self._position(signal.key), 0)
            self._place_exits(signal, lacks[0] - too_many, lacks[1] - too_many)

    def _reduce(self, orders: list[PlatformOrder], surplus: Quantity) -> None:
        """Cancel or reduce exits, which come newest first; those that protect nothing yet go before the others."""
        for order in sorted(orders, key=lambda one: one.state in PROTECTIVE):
            cut = min(surplus, order.left)
            surplus -= cut
            if cut and cut == order.left:
                self._cancel_order(order)
            elif cut:
                self.platform.change(order, qty=order.qty - cut, limit=order.limit, stop=order.stop)

    def _place_exits(self, signal: BridgeSignal, stop_qty: Quantity, target_qty: Quantity) -> None:
        """Place what a signal lacks. A target goes with its stop: one that the platform has ended is not renewed."""
        contract = self.platform.contract(signal.instrument)
        if contract is None:
            return
        stop, target = bracket_prices(signal.fields | signal.moved, contract, signal.price, is_buy=signal.is_buy)
        if stop is None:
            stop_qty = 0
        else:
            target_qty = min(stop_qty, target_qty)
        if self._rejected_stops[signal.id] >= _STOPS_MAX and stop_qty > 0:
            del self._rejected_stops[signal.id]
            self._emit("risk", account=signal.account, code="unprotected", detail=signal.id, value=stop_qty, limit=0)
            self._begin_flatten(signal.key)
            return
        names = {one.name for one in self.platform.orders(signal.account)}
        lots = itertools.chain([""], map(str, itertools.count(2)))
        suffix = next(lot for lot in lots if not {f"FKS:{signal.id}:{role}{lot}" for role in "ST"} & names)
        action = "Sell" if signal.is_buy else "BuyToCover"
        oco = self._new_id() if target is not None and stop_qty == target_qty else ""
        if stop_qty > 0:
            name = f"FKS:{signal.id}:S{suffix}"
            order = PlatformOrder(name, *signal.key, action, "StopMarket", "Gtc", stop_qty, None, stop, oco)
            if isinstance(self._submit(order), tuple) and self.platform.holds_exits:
                self._rejected_stops[signal.id] += 1  # no order of it will report the rejection
        if target is not None and target_qty > 0:
            name = f"FKS:{signal.id}:T{suffix}"
            self._submit(PlatformOrder(name, *signal.key, action, "Limit", "Gtc", target_qty, target, None, oco))

    def _position(self, key: Key) -> Quantity:
        """Return the platform's position on the side of the signals that are open; 0 when it is on the other."""
        held = self._held(key)
        return self.platform.held(*key, is_buy=bool(held) and held[0].is_buy)

    def _lasts(self, about: tuple[str, ...], is_so: bool, ms: int) -> bool:
        """Return whether something has been so for `ms` milliseconds."""
        if not is_so:
            self._since.pop(about, None)
            return False
        return self.platform.now_ms - self._since.setdefault(about, self.platform.now_ms) >= ms

    # ── platform events ───────────────────────────────────────────────────────────────────────────

    def _take_events(self) -> None:
        while self._inbox:
            event = self._inbox.popleft()
            if isinstance(event, PlatformOrder):
                self._on_order(event)
            elif isinstance(event, PlatformExecution):
                self._on_execution(event)
            elif isinstance(event, PlatformPosition):
                self._on_position(event)
            else:
                self.market_events.append(event)
                if isinstance(event, ConnectionUpdate):
                    self._on_connection(event)

    def _on_connection(self, event: ConnectionUpdate) -> None:
        self._emit(
            "conn",
            account=event.account,
            connection="simulated",
            status=event.status,
            price_status=event.price_status,
            prev=event.previous,
            native_error=event.native_error,
        )
        self._look_at(event.account)

    def _on_position(self, position: PlatformPosition) -> None:
        if any(one.key == (position.account, position.instrument) for one in self.signals.values()):
            self._emit(
                "position",
                account=position.account,
                instrument=position.instrument,
                side="long" if position.qty > 0 else "short" if position.qty < 0 else "flat",
                qty=abs(position.qty),
                avg=position.avg_price,
            )

    def _on_order(self, update: PlatformOrder) -> None:
        found = ORDER_NAME.fullmatch(update.name)
        signal = self.signals.get(found[1]) if found else None
        if found is None or signal is None:
            return  # of another epoch: taken over when the account is compared
        seen = [update.state, update.filled, update.qty, update.limit, update.stop, update.error]
        last = signal.seen.get(update.name)
        if last is not None and (last == seen or (last[0] in TERMINAL and update.state not in TERMINAL)):
            return  # doubled, or late
        signal.seen[update.name] = seen
        self._changed.add(signal.id)
        more = _fields(update, *_ORDER_FIELDS, "account", "avg_price", "error", "comment")
        self._emit("order", id=signal.id, role=found[2], **more)
        if update.error in ("UnableToCancelOrder", "UnableToChangeOrder"):
            self._asked.pop(update.name, None)
        if found[2] == "E":
            self._on_entry(signal, update)
        elif found[2] == "S" and update.state in PROTECTIVE:
            self._rejected_stops.pop(signal.id, None)
        elif found[2] == "S" and update.state == "Rejected":
            self._rejected_stops[signal.id] += 1

    def _on_entry(self, signal: BridgeSignal, update: PlatformOrder) -> None:
        if update.state in LIVE:
            self._move(signal, "live")
        elif update.state == "Submitted":
            self._move(signal, "returned")
        elif update.state == "Rejected" and not signal.filled:
            self._move(signal, "rejected", detail=update.comment)
        elif update.state == "Cancelled" and update.filled == 0 and not signal.filled:
            is_due = signal.valid_until <= self.now_ms and not signal.is_cancel_wanted
            self._move(signal, "expired" if is_due else "ended")
        self._close_if_done(signal)
        if signal.is_exit and update.state in TERMINAL:
            self._reserve(signal)

    def _on_execution(self, execution: PlatformExecution) -> None:
        name = execution.name or self._name_by_order_id(execution)
        found = ORDER_NAME.fullmatch(name)
        signal = self.signals.get(found[1]) if found else None
        role = found[2] if found else ""
        key = execution.account, execution.exec_id, execution.op
        if execution.op != "update":
            known = self._executions.get(key)
            # a platform that keeps hashes of ids may name the signal of an execution late, after a lost journal
            if known is not None and not (known == "" and signal is not None and self.platform.holds_exits):
                return
            self._executions[key] = signal.id if signal is not None else ""
        if execution.op == "add":
            if self.platform.holds_exits and signal is not None and role in ("S", "T"):
                execution = self._split_exit(execution, signal, role)
            if signal is not None and role == "E" and signal.state in ("indeterminate", "ambiguous"):
                self._move(signal, "filled")  # the outcome is known: it is reported before what follows from it
        self._emit(
            "exec",
            **({"id": signal.id, "role": role} if signal is not None else {}),
            **_fields(execution, "account", "instrument", "exec_id", "op", "qty", "price", "commission", "fee"),
            name=name,
            side="buy" if execution.is_buy else "sell",
            time_ms=execution.at_ms,
            sod=execution.is_sod,
        )
        if signal is None or execution.op != "add" or execution.is_sod:
            return
        self._changed.add(signal.id)
        if role == "E":
            self._book_entry(signal, execution)
        else:
            signal.exited += execution.qty
            if signal.exited > signal.filled:
                self._emit(
                    "risk", account=signal.account, code="over_exit", detail=signal.id,
                    value=signal.exited, limit=signal.filled,
                )  # fmt: skip
                self._begin_flatten(signal.key)
        self._close_if_done(signal)

    def _split_exit(self, execution: PlatformExecution, signal: BridgeSignal, role: str) -> PlatformExecution:
        """Report the shares of other signals in the end of a position that several signals hold; return this one's."""
        left = execution.qty - min(execution.qty, signal.open_qty)
        for other in self._held(signal.key):
            share = min(left, other.open_qty)
            if other is not signal and share:
                left -= share
                exec_id, name = f"{execution.exec_id}:{other.id}", f"FKS:{other.id}:{role}"
                self._on_execution(replace(execution, qty=share, exec_id=exec_id, name=name))
        return replace(execution, qty=min(execution.qty, signal.open_qty) + left)

    def _book_entry(self, signal: BridgeSignal, execution: PlatformExecution) -> None:
        signal.filled += execution.qty
        signal.paid += execution.price * execution.qty
        signal.price = execution.price
        self._move(signal, "filled")
        if signal.is_exit:
            held, left = [one for one in self._held(signal.key) if signal.closes(one.id)], execution.qty
            for one in sorted(held, key=lambda one: not one.closing):
                take = min(left, one.open_qty)
                one.exited += take
                left -= take
                self._changed.add(one.id)
                self._close_if_done(one)
            self._reserve(signal)
        elif signal.key in self._flattening:
            self._begin_flatten(signal.key)

    def _name_by_order_id(self, execution: PlatformExecution) -> str:
        """Return the name of the order of an execution that came without one, or an empty text."""
        orders = self.platform.orders(execution.account)
        return next((one.name for one in orders if one.order_id == execution.order_id != ""), "")

    def _close_if_done(self, signal: BridgeSignal, detail: str = "") -> None:
        if signal.filled and not signal.entry_left and (signal.is_exit or signal.exited >= signal.filled):
            self._move(signal, "flat", detail=detail)

    # ── time ──────────────────────────────────────────────────────────────────────────────────────

    def _tick(self) -> None:
        disabled = self.platform.trading_disabled()
        if disabled != self._disabled:
            self._disabled = disabled
            self._emit("risk", code="trading_disabled" if disabled else "trading_enabled", detail=disabled)
            self._out.append((None, self.status(None)))
        for account in list(self.platform.accounts):
            self._look_at(account)
        live = {
            found[1]
            for account in self.platform.accounts
            for one in self.platform.orders(account)
            if one.is_live and (found := ORDER_NAME.fullmatch(one.name))
        }
        for signal in list(self.signals.values()):
            if signal.state not in FINAL:
                self._look_at_signal(signal)
            if signal.open_qty or signal.id in live:
                self._protect(signal)
        for key in sorted({one.key for one in self.signals.values() if one.open_qty}):
            self._find_outside_close(key)
        if self.platform.now_ms - self._valued_ms >= _VALUE_MS:
            self._valued_ms = self.platform.now_ms
            equity = {name: self.platform.values(name)["NetLiquidation"] for name in self.platform.accounts}
            known = self._state["highest"]
            highest = {name: max(value, known.get(name, value)) for name, value in equity.items() if value is not None}
            self._state = {**self._state, "highest": highest}

    def _look_at(self, name: str) -> None:
        """Follow the connection of an account: after it came up, and once it settled, it is compared."""
        account = self.platform.accounts[name]
        if not self._is_connected(name):
            self._connected_ms.pop(name, None)
            self._settled.discard(name)
            return
        if self._connected_ms.get(name) != account.connected_ms:
            self._connected_ms[name] = account.connected_ms
            self._settled.discard(name)
            self._compare(name, is_settled=False)
            self._out.append((None, self.status(None)))
        since_ms = max(account.connected_ms, self._started_ms)
        if name not in self._settled and self.platform.now_ms - since_ms >= self.config.settle_ms:
            self._settled.add(name)
            self._ready.add(name)
            self._compare(name, is_settled=True)

    def _look_at_signal(self, signal: BridgeSignal) -> None:
        is_due = 0 < signal.valid_until <= self.now_ms
        if signal.state == "relayed" and is_due:
            self._move(signal, "due")
        elif signal.state == "indeterminate" and signal.account in self._settled:
            wait_ms = max(self.config.settle_ms, self.config.absent_ms)
            # the process before may have called a moment before its end, whenever it noted the intent
            since_start_ms = self.platform.now_ms - self._started_ms
            is_over = min(self.now_ms - signal.at_ms, since_start_ms) >= wait_ms
            # lists from before that do not show an order that the broker has accepted since
            if is_over and self.platform.refresh(signal.account):
                self._resolve(signal)
        elif signal.is_working and (signal.is_cancel_wanted or (is_due and not signal.is_exit)):
            self._end_entry(signal)

    def _find_outside_close(self, key: Key) -> None:
        """Book what a person closed on the platform: the exits of such signals would open a reverse position."""
        held = self._held(key)
        missing = sum(one.open_qty for one in held) - self._position(key)
        is_so = missing > 0 and key not in self._flattening and key[0] in self._settled
        if self._lasts(key, is_so, _OUTSIDE_MS):
            for one in held:
                take = min(missing, one.open_qty)
                if take:
                    missing -= take
                    one.exited += take
                    self._changed.add(one.id)
                    self._close_if_done(one, detail="closed outside")

    def _compare(self, account: str, *, is_settled: bool) -> None:
        """Take over the platform's lists of an account; after it settled, anything that is not listed is gone."""
        orders = self.platform.orders(account)
        listed = {order.name for order in orders}
        for order in orders:
            found = ORDER_NAME.fullmatch(order.name)
            if found is not None and found[2] == "E" and found[1] not in self.signals:
                self._recover(found[1], order)
        for execution in self.platform.executions(account):
            self._on_execution(execution)
        for order in orders:
            self._on_order(order)
        for signal in list(self.signals.values()):
            # an indeterminate one may still come: `_look_at_signal` decides it once that is over
            is_sent = signal.is_working and signal.state not in ("intent", "indeterminate")
            is_missing = signal.account == account and signal.entry_name not in listed
            if is_settled and is_sent and is_missing and signal.id not in self._waiting:
                self._doubt(signal, f"{signal.entry_name} is not listed by the platform")

    def _recover(self, signal_id: str, entry: PlatformOrder) -> None:
        """Take over a signal that is known only from the name of its entry: the journal is newer than that."""
        action = "exit" if entry.action in _EXIT_ACTIONS else "buy" if entry.is_buy else "sell"
        fields = {"id": signal_id, "account": entry.account, "instrument": entry.instrument, "action": action}
        signal = self._register({**fields, "qty": entry.qty}, self.now_ms)
        signal.is_recovered, signal.state = True, "submitted"
        detail = "recovered from order names"
        self._emit("signal", id=signal.id, account=signal.account, state="submitted", detail=detail)

    def _resolve(self, signal: BridgeSignal) -> None:
        """Decide an indeterminate signal from the platform's lists."""
        orders = self.platform.orders(signal.account)
        if (entry := next((one for one in orders if one.name == signal.entry_name), None)) is not None:
            self._move(signal, "returned")
            self._on_order(entry)
        elif any(
            one.automated
            and one.instrument == signal.instrument
            and not ORDER_NAME.fullmatch(one.name)
            and one.name != "Close"
            and one.created_ms >= signal.at_ms - self._offset_ms - 1_000
            for one in orders
        ):
            self._doubt(signal, "an automated order without a name was made on this instrument")
        else:
            self._move(signal, "absent")

    def _doubt(self, signal: BridgeSignal, detail: str) -> None:
        if self._move(signal, "doubtful", detail=detail):
            self._blocked.add(signal.key)
            self._emit("risk", account=signal.account, code="ambiguous", detail=f"{signal.id}: {detail}")

    def _is_ready(self, account: str) -> bool:
        return self._is_connected(account) and account in self._ready

    def _is_connected(self, account: str) -> bool:
        found = self.platform.accounts.get(account)
        return found is not None and found.status == CONNECTED


# ── small functions ───────────────────────────────────────────────────────────────────────────────


def _day_of(now_ms: int) -> int:
    """Return the proleptic ordinal of the UTC day of `now_ms`."""
    return now_ms // 86_400_000 + 719_163


def _fields(source: object, *names: str) -> Message:
    """Return fields of a platform object that have the same name on the wire."""
    return {name: getattr(source, name) for name in names}


def _seed_failure(code: str, detail: str, signal_id: str | None = None) -> Message:
    return {"success": False, "message": f"{code}: {detail}", "signal_id": signal_id}
