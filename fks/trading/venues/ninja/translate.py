"""Conversion between FKS's orders and the messages of a platform's bridge. Pure.

An order of ours is the signal with its client_order_id; the platform names its orders `FKS:<id>:E` (the order itself),
`:S`, `:T`, `:S2` … (the legs that the bridge places). Units: prices in price units, quantities in
contracts or lots.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from fks.bridge.ninja.messages import ORDER_NAME
from fks.model import ids
from fks.model.account import Balance, VenueIdentity
from fks.model.codes import Code
from fks.model.decimals import plain
from fks.model.errors import InputError
from fks.model.futures import SPECS, Contract, check_entry, contract_of, front_month, futures_instrument, trade_date
from fks.model.ninja import NINJA, BridgePlatform, NinjaEvent
from fks.model.order import (
    Answer,
    BracketLeg,
    Fill,
    Order,
    OrderType,
    Outcome,
    Refusal,
    Report,
    Role,
    Side,
    State,
    TimeInForce,
)
from fks.trading.venues.base import refused

VENUE: Final = "ninja"
CURRENCY: Final = "USD"  # of an account that names none: CME contracts are in dollars
MS_NS: Final = 1_000_000
RELAYED: Final = "relayed"  # state of a signal that the bridge shows to a person and never submits
_NAME = re.compile(ORDER_NAME)
_SHOWN: Final = "shown to a person at NinjaTrader, who trades; FKS sends no order"
_OURS = re.compile(r"[0-9a-f]{32}")
_ZERO = Decimal(0)
_LOADING: Final = threading.Lock()
_LEG_ROLES: Final = {"S": Role.STOP_LOSS, "T": Role.TAKE_PROFIT}
_CLOSING: Final = (Role.EXIT, Role.KILL)
_TIFS: Final = {TimeInForce.GTC: "gtc", TimeInForce.IOC: "ioc"}

#: NinjaTrader's OrderState -> ours. States that say nothing (Unknown) are missing.
_ORDER_STATES: Final[Mapping[str, State]] = {
    "Initialized": State.ACCEPTED, "Submitted": State.ACCEPTED, "Accepted": State.ACCEPTED,
    "AcceptedByRisk": State.ACCEPTED, "TriggerPending": State.ACCEPTED, "Suspended": State.ACCEPTED,
    "Working": State.WORKING, "ChangePending": State.WORKING, "ChangeSubmitted": State.WORKING,
    "CancelPending": State.WORKING, "CancelSubmitted": State.WORKING, "PartFilled": State.PARTIAL,
    "Filled": State.FILLED, "Cancelled": State.CANCELLED, "Rejected": State.REJECTED,
}  # fmt: skip
#: state of a signal -> state of its order. The bridge reports executions beside it; the others prove no state.
_SIGNAL_STATES: Final[Mapping[str, State]] = {
    "submitted": State.ACCEPTED, "working": State.WORKING, "cancelling": State.WORKING, "open": State.PARTIAL,
    "flattening": State.PARTIAL, "closed": State.FILLED, "cancelled": State.CANCELLED, "expired": State.EXPIRED,
    "rejected": State.REJECTED, "not_submitted": State.REJECTED, "nacked": State.REJECTED, RELAYED: State.REJECTED,
}  # fmt: skip
#: code of a nack -> reason. A code that is not here is OTHER.
REFUSALS: Final[Mapping[str, Refusal]] = {
    "bad_field": Refusal.OTHER, "missing_field": Refusal.OTHER, "unknown_field": Refusal.OTHER,
    "unknown_instrument": Refusal.OTHER, "expired_contract": Refusal.OTHER,
    "instrument_not_allowed": Refusal.PERMISSION, "unknown_account": Refusal.PERMISSION,
    "account_not_allowed": Refusal.PERMISSION, "automation_forbidden": Refusal.PERMISSION,
    "expired": Refusal.NOT_SENT, "not_submitted": Refusal.NOT_SENT,
    "bad_bracket": Refusal.PRICE, "no_stop": Refusal.PRICE, "too_far": Refusal.PRICE,
    "no_quote": Refusal.UNAVAILABLE, "qty_limit": Refusal.QUANTITY, "position_limit": Refusal.QUANTITY,
    "opposite_position": Refusal.OTHER, "daily_loss": Refusal.PERMISSION, "drawdown": Refusal.PERMISSION,
    "outside_session": Refusal.HALTED, "news_block": Refusal.HALTED,
    "not_ready": Refusal.UNAVAILABLE, "replaying": Refusal.UNAVAILABLE, "not_connected": Refusal.UNAVAILABLE,
    "price_feed_lost": Refusal.UNAVAILABLE, "flattening": Refusal.UNAVAILABLE, "rate_limited": Refusal.RATE_LIMITED,
    "not_control": Refusal.UNAVAILABLE, "halted": Refusal.UNAVAILABLE, "trading_disabled": Refusal.HALTED,
    "market_closed": Refusal.HALTED, "not_enough_money": Refusal.INSUFFICIENT_BALANCE,
    "submit_failed": Refusal.UNAVAILABLE, "journal_error": Refusal.UNAVAILABLE,
    "unknown_id": Refusal.UNKNOWN_ORDER, "nothing_to_do": Refusal.UNKNOWN_ORDER, "timeout": Refusal.UNAVAILABLE,
}  # fmt: skip
_ENABLE: Final = "enable it at the platform"
#: MetaTrader's code of disabled trading -> action
_DISABLED: Final[Mapping[str, str]] = {
    "10026": "the broker's server forbids automated trading: ask the broker",
    "10027": "press Algo Trading in the terminal",
}
#: Codes that say that the bridge has, or had, an order under this id: no refusal of it.
EXISTS: Final = frozenset({"duplicate_mismatch", "duplicate_recovered"})


@dataclass(frozen=True, slots=True)
class OrderName:
    """Name of an order at the platform. `leg`: its name among the legs of the signal (S, T2), "" for the order
    itself."""

    signal_id: str
    role: str  # E, S or T
    number: int

    @property
    def leg(self) -> str:
        return "" if self.role == "E" else self.role + (str(self.number) if self.number > 1 else "")

    @property
    def client_order_id(self) -> str:
        """Return our id of it: of a leg the one made of the entry's id and the leg's name.

        A signal that another program sent to the bridge has an id of another form, and its legs have their names.
        """
        if self.leg and _OURS.fullmatch(self.signal_id) is None:
            return str(self)
        return ids.leg_id(self.signal_id, self.leg) if self.leg else self.signal_id

    def __str__(self) -> str:
        return f"FKS:{self.signal_id}:{self.leg or 'E'}"


def parse_name(name: str) -> OrderName | None:
    """Return the parts of a platform order's name; None for an order that is not of FKS."""
    found = _NAME.fullmatch(name)
    return None if found is None else OrderName(found[1], found[2], int(found[3] or 1))


def load_calendars(now_ns: int) -> None:
    """Load what the check of an entry's contract needs: the first one would stop its caller for seconds.

    Sessions of several accounts open at once: one of them loads, the others wait for it.
    """
    with _LOADING:
        for root in SPECS:
            with contextlib.suppress(InputError):
                check_entry(front_month(root, trade_date(now_ns)), now_ns)


# ── orders out ───────────────────────────────────────────────────────────────────────────────────
def is_closing(order: Order) -> bool:
    """Return whether an order only closes: it goes out as `exit`, for which the bridge ends the legs by itself."""
    if order.role in _CLOSING:
        return True
    return order.is_reduce_only and order.type is OrderType.MARKET and not (order.stop_loss or order.take_profit)


def name_at(symbol: str, platform: BridgePlatform) -> str | None:
    """Return the name of an instrument at a platform; None for a symbol that cannot be one there."""
    if platform.has_lots:
        return symbol
    contract = contract_of(symbol)
    return None if contract is None else contract.name


def signal_body(order: Order, account: str, now_ns: int, platform: BridgePlatform = NINJA) -> dict[str, Any] | Answer:
    """Return the fields of the `signal` message of an order, or why it cannot be sent: nothing of it has left then.

    Prices are put on the contract's tick: a limit is never worse, a stop never nearer than asked. Prices and lots of an
    instrument that the platform lists were put on its steps before, and go out as they are.
    """
    if platform.has_lots:
        return _lots_body(order, account)
    contract = contract_of(order.symbol)
    if contract is None or contract.name != order.symbol:
        known = "" if contract is None else f": write {contract.name}"
        return refused(Code.INSTRUMENT_UNKNOWN, Refusal.OTHER, f"{order.symbol!r} is no futures contract{known}")
    if order.quantity % 1:
        return refused(Code.QTY_STEP, Refusal.QUANTITY, f"{order.quantity:f} contracts: only whole ones trade")
    body: dict[str, Any] = {"account": account, "instrument": contract.name, "qty": int(order.quantity)}
    if order.instance:
        body["strategy"] = order.instance[:32]
    if is_closing(order):
        return body | {"action": "exit", "type": "market"}
    if order.time_in_force not in _TIFS:
        return refused(Code.TYPE_UNSUPPORTED, Refusal.OTHER, f"{order.time_in_force.value} is not offered here")
    try:
        check_entry(contract, now_ns)
    except InputError as error:
        return refused("expired_contract", Refusal.OTHER, f"{error.message}; {error.remedy}")
    return body | {
        "action": order.side.value,
        "type": order.type.value,
        "tif": _TIFS[order.time_in_force],
        **_prices(order, contract),
    }


def _lots_body(order: Order, account: str) -> dict[str, Any] | Answer:
    body: dict[str, Any] = {"account": account, "instrument": order.symbol, "qty": plain(order.quantity)}
    if order.instance:
        body["strategy"] = order.instance[:32]
    if is_closing(order):
        return body | {"action": "exit", "type": "market"}
    if order.time_in_force not in _TIFS:
        return refused(Code.TYPE_UNSUPPORTED, Refusal.OTHER, f"{order.time_in_force.value} is not offered here")
    prices = {
        "price": order.price,
        "stop_price": order.stop_price,
        "sl_price": order.stop_loss,
        "tp_price": order.take_profit,
    }
    return body | {
        "action": order.side.value,
        "type": order.type.value,
        "tif": _TIFS[order.time_in_force],
        **{name: plain(value) for name, value in prices.items() if value is not None},
    }


def disabled(code: object, title: str) -> str:
    """Return why a platform executes nothing, and what to do. `code`: the platform's."""
    return f"trading is disabled at {title} ({code}); {_DISABLED.get(str(code), _ENABLE)}"


def _prices(order: Order, contract: Contract) -> dict[str, str]:
    rules, side, away = futures_instrument(contract, VENUE), order.side.value, order.side.opposite.value
    found = {
        "price": order.price and rules.round_price(order.price, side=side),
        "stop_price": order.stop_price and rules.round_price(order.stop_price, side=side, is_stop=True),
        "sl_price": order.stop_loss and rules.round_price(order.stop_loss, side=away, is_stop=True),
        "tp_price": order.take_profit and rules.round_price(order.take_profit, side=away),
    }
    return {name: plain(value) for name, value in found.items() if value is not None}


# ── answers ──────────────────────────────────────────────────────────────────────────────────────
def refusal_of(code: str, detail: str) -> Answer:
    """Return what a nack means: the id exists at the bridge, or a definitive no."""
    if code in EXISTS:
        return Answer(Outcome.EXISTS, code=code, detail=detail)
    return Answer(Outcome.REFUSED, code=code, detail=detail, refusal=REFUSALS.get(code, Refusal.OTHER))


def acknowledged(order_id: str, symbol: str, answer: Mapping[str, Any]) -> Report:
    """Return the report in an `ack` (or a `sigstate` that answered in its place). Executions come as events.

    What was shown to a person has ended, as far as orders go: the bridge never submits it.
    """
    is_shown = answer.get("state") == RELAYED
    state = _SIGNAL_STATES.get(str(answer.get("state")), State.ACCEPTED)
    if state in (State.PARTIAL, State.FILLED):
        state = State.WORKING  # the executions say how much; an order that has ended is reported by its own event
    return Report(
        order_id,
        str(OrderName(order_id, "E", 1)),
        symbol,
        state,
        _ZERO,
        _ns(answer.get("at_ms")),
        code=Code.RELAYED.value if is_shown else _text(answer.get("code")),
        detail=_SHOWN if is_shown else None,
        refusal=_refusal(state, str(answer.get("state"))),
    )


def shown_report(event: NinjaEvent, symbol: str) -> Report:
    """Return the report of a signal in a `relay` event: a person has seen it, and the bridge submits nothing."""
    assert event.signal_id is not None
    return acknowledged(event.signal_id, symbol, {"state": RELAYED, "at_ms": event.at_ns // MS_NS})


def shown(account: str) -> Answer:
    """Return the answer to a signal that was shown to a person."""
    return refused(Code.RELAYED, Refusal.PERMISSION, f"{_SHOWN} (account {account})")


def _refusal(state: State, said: str) -> Refusal | None:
    if state is not State.REJECTED:
        return None
    if said == RELAYED:
        return Refusal.PERMISSION
    return Refusal.NOT_SENT if said in ("not_submitted", "nacked") else Refusal.OTHER


# ── events and snapshots ─────────────────────────────────────────────────────────────────────────
def report_of(name: OrderName, fields: Mapping[str, Any], symbol: str, time_ns: int, source: str) -> Report | None:
    """Return what an order event, or an order in a status, says; None when it proves no state."""
    state = _ORDER_STATES.get(str(fields.get("state")))
    if state is None:
        return None
    filled, quantity = _decimal(fields.get("filled")) or _ZERO, _decimal(fields.get("qty"))
    limit, stop = _decimal(fields.get("limit")), _decimal(fields.get("stop"))
    error = _text(fields.get("error"))
    leg = None
    if name.leg:
        role = _LEG_ROLES[name.role]
        is_stop = role is Role.STOP_LOSS
        leg = BracketLeg(name.signal_id, role, name.number, stop if is_stop else None)
        limit = None if is_stop else limit
    return Report(
        name.client_order_id,
        str(name),
        symbol,
        state,
        filled,
        time_ns,
        side=Side(str(fields["side"])) if fields.get("side") else None,  # in a status
        quantity=quantity,
        price=limit or None,
        source=source,
        code=error,
        detail=_text(fields.get("comment")),
        refusal=Refusal.OTHER if state is State.REJECTED else None,
        leg=leg,
    )


def signal_report(event: NinjaEvent, symbol: str) -> Report | None:
    """Return what the end of a signal says of its order; None for states that its order events say themselves."""
    said = str(event.body.get("state"))
    state = _SIGNAL_STATES.get(said)
    if event.signal_id is None or state not in (State.REJECTED, State.EXPIRED, State.CANCELLED):
        return None
    return Report(
        event.signal_id,
        str(OrderName(event.signal_id, "E", 1)),
        symbol,
        state,
        _ZERO,
        event.at_ns,
        source="stream",
        code=_text(event.body.get("code")) or (said if said == "not_submitted" else None),
        detail=_text(event.body.get("detail")),
        refusal=_refusal(state, said),
    )


def first_leg_report(name: OrderName, event: NinjaEvent, symbol: str) -> Report:
    """Return the report of a leg of which an execution is the first that is known: its own order event follows."""
    return Report(
        name.client_order_id,
        str(name),
        symbol,
        State.WORKING,
        _ZERO,
        0,  # older than what the leg's own events say
        quantity=_decimal(event.body.get("qty")),
        source="stream",
        leg=BracketLeg(name.signal_id, _LEG_ROLES[name.role], name.number),
    )


def fill_of(
    event: NinjaEvent,
    symbol: str,
    *,
    account_id: int,
    identity: VenueIdentity,
    source: str,
    venue: str = VENUE,
    currency: str = CURRENCY,
) -> Fill | None:
    """Return the execution in an `exec` event; None for amendments, start-of-day positions and empty ones."""
    body = event.body
    quantity = _decimal(body.get("qty")) or _ZERO
    price = _decimal(body.get("price"))
    if body.get("op") != "add" or body.get("sod") or quantity <= 0 or price is None:
        return None
    name = parse_name(str(body.get("name") or ""))
    exec_id = str(body["exec_id"])
    return Fill(
        fill_id=ids.fill_id_v2(identity.uid, identity.environment.value, identity.network_epoch, symbol, exec_id),
        client_order_id=None if name is None else name.client_order_id,
        venue_order_id=None if name is None else str(name),
        venue_trade_id=exec_id,
        account_id=account_id,
        venue=venue,
        symbol=symbol,
        side=Side(str(body["side"])),
        quantity=quantity,
        price=price,
        fee=(_decimal(body.get("commission")) or _ZERO) + (_decimal(body.get("fee")) or _ZERO),
        fee_currency=currency,
        time_ns=_ns(body.get("time_ms")) or event.at_ns,
        source=source,
    )


@dataclass(frozen=True, slots=True)
class AccountReading:
    """One account in a status. `at_ns`: the bridge's clock."""

    fields: Mapping[str, Any]
    at_ns: int

    def balances(self, currency: str = CURRENCY) -> dict[str, Balance]:
        """Return the account's money in its `currency`, and the quantities that it holds (signed) by the base of their
        instrument: a contract's code, or the symbol of an instrument in lots."""
        values = self.fields.get("values") or {}
        cash = _decimal(values.get("CashValue"))
        found = {} if cash is None else {currency: Balance(currency, cash, _ZERO)}
        for position in self.fields.get("positions") or ():
            contract = contract_of(str(position["instrument"]))
            code = str(position["instrument"]) if contract is None else contract.code
            sign = {"long": 1, "short": -1}.get(str(position["side"]), 0)
            quantity = sign * (_decimal(position["qty"]) or _ZERO)
            held = found.get(code)
            found[code] = Balance(code, quantity + (_ZERO if held is None else held.free), _ZERO)
        return found

    def orders(self) -> Iterable[tuple[OrderName | None, Mapping[str, Any]]]:
        """Yield the live orders; the name is None for those that are not of FKS."""
        for order in self.fields.get("orders") or ():
            yield parse_name(str(order.get("name") or "")), order


def account_in(status: Mapping[str, Any], account: str) -> AccountReading | None:
    """Return an account of a status; None when the platform does not list it."""
    for fields in status.get("accounts") or ():
        if fields.get("name") == account:
            return AccountReading(fields, _ns(status.get("at_ms")))
    return None


def _decimal(value: object) -> Decimal | None:
    if value is None or isinstance(value, bool):
        return None
    found = Decimal(str(value))
    return found if found.is_finite() else None


def _ns(value: object) -> int:
    return int(value) * MS_NS if isinstance(value, int) else 0


def _text(value: object) -> str | None:
    return str(value) if value else None
