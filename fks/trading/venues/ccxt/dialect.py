"""Dialects: an exchange's order API as one value, and the one function that reads its answers. Pure.

A dialect holds requests, error table, success predicate and proof of absence of one exchange. Requests are parameters
of the exchange's own endpoints, sent through ccxt's endpoint methods: ccxt's unified order methods invent client ids,
drop ours, and raise the same exception for a refusal and for an unknown outcome (docs/venues.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeVar

from fks.model import ids
from fks.model.account import Balance, Transfer, TransferKind, VenueIdentity
from fks.model.decimals import number_of
from fks.model.errors import PeerError
from fks.model.order import Fill, Order, OrderType, Outcome, Refusal, Report, Side, TimeInForce
from fks.model.ports import KeyRights, VenueCapabilities
from fks.trading.venues.base import gate_refusal
from fks.trading.venues.binance.classify import GATE_STATUSES, CallCourse, Classification, describe, unsent_of
from fks.trading.venues.ccxt.brackets import Brackets, Closes

T = TypeVar("T")


class Basis(StrEnum):
    """Source of a fact about an exchange, weakest first."""

    DOCUMENTED = "documented"  # the exchange's documentation says so
    RECORDED = "recorded"  # a body of the exchange shows it (tests/tapes/venues)
    STAND_IN = "stand-in"  # tests run it against a local server of ours
    LIVE = "live"  # an order was traded at the exchange itself


@dataclass(frozen=True, slots=True)
class VenueFact:
    """One fact about an exchange that decides about orders, and its source."""

    topic: str
    text: str
    basis: Basis


@dataclass(frozen=True, slots=True)
class CcxtCall:
    """One request. `endpoint` is ccxt's method for it, `params` are the exchange's own; `headers` are added to ccxt's.

    `weight`: its part of the request limit of the address. `is_write`: it sends or cancels an order.
    """

    endpoint: str
    params: Mapping[str, Any] = field(default_factory=dict)
    weight: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)
    is_write: bool = False

    @property
    def is_signed(self) -> bool:
        return "rivate" in self.endpoint


@dataclass(frozen=True, slots=True)
class VenueFault:
    """One error in an answer, in the exchange's words."""

    code: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class FaultRow:
    """One row of an error table: a fault whose code is `code`, or begins with it (`is_prefix`), and whose text holds
    `text`, means `outcome` and `refusal`."""

    code: str
    outcome: Outcome
    refusal: Refusal | None = None
    text: str = ""
    is_prefix: bool = False

    def fits(self, fault: VenueFault) -> bool:
        is_code = fault.code.startswith(self.code) if self.is_prefix else fault.code == self.code
        return is_code and self.text.lower() in fault.text.lower()


@dataclass(frozen=True, slots=True)
class PairNames:
    """Names of one market at the exchange. `symbol` is ours, requests carry `request`, answers one of `answers`.
    `base` and `quote` are our currency codes, `base_id` and `quote_id` the exchange's."""

    symbol: str
    request: str
    answers: tuple[str, ...]
    base: str
    quote: str
    base_id: str = ""
    quote_id: str = ""


@dataclass(frozen=True, slots=True)
class VenueExecution:
    """One execution as the exchange's history shows it, before it has a fill id. Units: those of `Fill`."""

    trade_id: str
    venue_order_id: str
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_currency: str
    time_ns: int
    is_maker: bool = False

    def as_fill(self, *, owner: VenueIdentity, venue: str, account_id: int, client_order_id: str | None) -> Fill:
        """Return the fill, named after the account's owner, the market and the exchange's id of the execution."""
        return Fill(
            fill_id=ids.fill_id_v2(owner.uid, owner.environment.value, owner.network_epoch, self.symbol, self.trade_id),
            client_order_id=client_order_id,
            venue_order_id=self.venue_order_id,
            venue_trade_id=self.trade_id,
            account_id=account_id,
            venue=venue,
            symbol=self.symbol,
            side=self.side,
            quantity=self.quantity,
            price=self.price,
            fee=self.fee,
            fee_currency=self.fee_currency,
            time_ns=self.time_ns,
            is_maker=self.is_maker,
            source="rest",
        )


@dataclass(frozen=True, slots=True)
class AccountReads:
    """Reads that trading needs, and their readers. A reader takes the whole answer without faults and raises PeerError
    when it cannot be read.

    `orders_of` gives reports under the exchange's own order id where an order has no client id. `by_ids` reads several
    orders by the exchange's ids, at most `ids_max`. `next_page` returns the read of the page behind a call's answer,
    None on the last one. `listing` reads the orders of a market made from a time (ns) on; an exchange has it whose
    dialect has no `lookups`. `clock_of` returns the earliest and the latest ns that the exchange's clock may have
    shown. `transfers` is None where deposits and withdrawals are not read.
    """

    markets: CcxtCall
    markets_of: Callable[[Any], list[PairNames]]
    open_orders: CcxtCall
    orders_of: Callable[[Any, Mapping[str, PairNames]], list[Report]]
    by_ids: Callable[[Sequence[str]], CcxtCall]
    ids_max: int
    history: Callable[[int], CcxtCall]
    history_of: Callable[[Any, Mapping[str, PairNames]], list[VenueExecution]]
    next_page: Callable[[CcxtCall, Any], CcxtCall | None]
    balances: CcxtCall
    balances_of: Callable[[Any, Mapping[str, str]], list[Balance]]
    owner: CcxtCall
    owner_of: Callable[[Any], str]
    rights_of: Callable[[Any], KeyRights]
    clock: CcxtCall
    clock_of: Callable[[Any], tuple[int, int]]
    price: Callable[[str], CcxtCall]
    price_of: Callable[[Any], Decimal]
    transfers: Callable[[TransferKind, int], CcxtCall] | None = None
    transfers_of: Callable[[Any, Mapping[str, str]], list[Transfer]] = lambda body, currencies: []
    listing: Callable[[str, int], CcxtCall] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIn:
    """The local server that the cases of a venue run against (`fks.trading.venues.conformance`).

    `front`: `module:Class` of its wire (`fks.lab.sim.front`), "" for a wire of `fks sim exchange --wire`. `symbol`: our
    symbol of BTC in USDT there. `place` and `open_orders`: paths of the requests that make orders and list open ones,
    "" where events come by a stream.
    `guardian_key`: prefix of the second key in its addresses, "" where processes share one. `unkind`: further faults of
    a new order that leave its outcome open, and whether the order is taken all the same.
    """

    symbol: str
    place: str
    open_orders: str
    front: str = ""
    guardian_key: str = ""
    unkind: tuple[tuple[Mapping[str, Any], bool], ...] = ()


@dataclass(frozen=True, slots=True)
class Dialect:
    """The order API of one exchange.

    `faults_of` finds the errors in a body (any JSON value, or None for a body that is no JSON) and `order_id_of` the
    exchange's id of the order that a body acknowledges under our client id, else None; neither raises. A fault without
    a row is ambiguous. `place` takes the order, the market's name in requests and the deadline (ns, exchange clock).
    `cancelled_of` says whether a body proves that the order has ended. `deadline_s`: shortest and longest time that the
    exchange's engine lets a request live, None where it has no such parameter. `lookups`: the reads that prove together
    that the exchange does not know a client id, in the order in which an order moves through them; None where no read
    and no cancel takes a client id: `reads.listing` proves then. `ends_order` says of
    an order, by type and time in force, whether the exchange ends it at `until_ns` (the last argument) when it is sent
    at `from_ns`; None where it has no good-till-date, or none that was tried: the order manager cancels then. `reads`
    is None while the dialect is held only to recorded bodies: such an exchange is not traded. `is_key_exclusive`: the
    nonces of a key (microseconds) must grow, so that a key serves one process. `key_refused`: faults that
    mean that the key is unknown, or its secret wrong. `brackets`: None where no order is a stop and a take profit.
    `closes`: None where no fill makes a stop by itself.
    `client` returns the class that signs and sends, a subclass of ccxt's `Exchange`; None: ccxt's class of that name.
    `test_hosts`: hosts of networks where money is not real. `fee_in_received_asset`: an execution's fee is taken from
    what it brings. `market_range`: None where a market order has no price; else the exchange takes it as a limit order
    that ends at once, and `place` gets it with the last price, made worse by this part of it. `validate`: the request
    that has an order checked and makes none, from the arguments of `place`; None where FKS uses none. `reprice`: the
    request that moves an order's trigger, or its limit where it has none, to a price in place, from the order, the
    price and the deadline; `repriced_of` says whether a body proves that it did.
    """

    name: str
    source: str
    types: Mapping[OrderType, str]
    times_in_force: frozenset[TimeInForce]
    faults_of: Callable[[Any], tuple[VenueFault, ...]]
    order_id_of: Callable[[Any, Order], str | None]
    errors: tuple[FaultRow, ...]
    place: Callable[[Order, str, int], CcxtCall]
    cancel: Callable[[Order, str], CcxtCall]
    cancelled_of: Callable[[Any, Order], bool]
    unknown_order: frozenset[str]
    lookups: Callable[[str, str], tuple[CcxtCall, ...]] | None
    deadline_s: tuple[float, float] | None = None
    ends_order: Callable[[OrderType, TimeInForce, int, int], bool] | None = None
    stop_namespace: str | None = None
    amend: str | None = None
    timer: str | None = None
    facts: tuple[VenueFact, ...] = ()
    reads: AccountReads | None = None
    is_key_exclusive: bool = False
    key_refused: frozenset[str] = frozenset()
    brackets: Brackets | None = None
    closes: Closes | None = None
    client: Callable[[], type] | None = None
    test_hosts: frozenset[str] = frozenset()
    fee_in_received_asset: bool = False
    market_range: Decimal | None = None
    validate: Callable[[Order, str, int], CcxtCall] | None = None
    reprice: Callable[[Order, Decimal, int], CcxtCall] | None = None
    repriced_of: Callable[[Any], bool] = lambda body: False

    @property
    def capabilities(self) -> VenueCapabilities:
        """Return the capabilities of a session. No dialect reduces quantities in place: see `facts`."""
        return VenueCapabilities(
            types=frozenset(self.types),
            times_in_force=self.times_in_force,
            has_oco=self.brackets is not None,
            attaches_exits=self.brackets is not None,
            fee_in_received_asset=self.fee_in_received_asset,
            has_good_till_date=self.ends_order is not None,
            can_reprice=self.reprice is not None,
            closes_fills=self.closes is not None,
        )

    def row_of(self, fault: VenueFault) -> FaultRow | None:
        """Return the row of the error table for a fault, or None."""
        return next((row for row in self.errors if row.fits(fault)), None)

    def deadline_ns(self, now_ns: int, wanted_s: float) -> int:
        """Return the time until which the engine may take a request, `wanted_s` from `now_ns` on (exchange clock),
        within the exchange's bounds."""
        least_s, most_s = self.deadline_s or (wanted_s, wanted_s)
        return now_ns + round(min(max(wanted_s, least_s), most_s) * 1e9)


def classify_answer(
    dialect: Dialect, wire: CallCourse, error: BaseException | None, *, is_network: bool = False
) -> Classification:
    """Return the outcome of a send or a cancel that was not acknowledged.

    Guarantees: a value for any body and status. REFUSED only if no byte left, or each fault of the exchange's own JSON
    has a row that says so; one fault without a row makes the outcome AMBIGUOUS, and so does every 5xx. `error` and
    `is_network`: as for Binance's `classify`.
    """
    if (unsent := unsent_of(wire, error, is_network=is_network)) is not None:
        return unsent
    detail = describe(wire, error)
    faults = dialect.faults_of(wire.payload)
    shown = "; ".join(fault.code for fault in faults)[:200] or None
    if not faults or wire.status is None or wire.status >= 500:
        return Classification(Outcome.AMBIGUOUS, shown, detail, wire.retry_after_s)
    rows = [dialect.row_of(fault) for fault in faults]
    known = [row for row in rows if row is not None]
    if len(known) < len(rows) or any(row.outcome is Outcome.AMBIGUOUS for row in known):
        return Classification(Outcome.AMBIGUOUS, shown, detail, wire.retry_after_s)
    if any(row.outcome is Outcome.EXISTS for row in known):
        return Classification(Outcome.EXISTS, shown, detail, wire.retry_after_s)
    refusal = gate_refusal(wire.status) if wire.status in GATE_STATUSES else known[0].refusal or Refusal.OTHER
    return Classification(Outcome.REFUSED, shown, detail, wire.retry_after_s, refusal)


def refused_rows(refusal: Refusal, *codes: str, is_prefix: bool = False) -> tuple[FaultRow, ...]:
    """Return rows that say that these codes are definitive refusals."""
    return tuple(FaultRow(code, Outcome.REFUSED, refusal, is_prefix=is_prefix) for code in codes)


def ambiguous_rows(*codes: str, is_prefix: bool = False) -> tuple[FaultRow, ...]:
    """Return rows that say that these codes prove nothing."""
    return tuple(FaultRow(code, Outcome.AMBIGUOUS, is_prefix=is_prefix) for code in codes)


def known_rows(*codes: str) -> tuple[FaultRow, ...]:
    """Return rows that say that the exchange knows the client id already."""
    return tuple(FaultRow(code, Outcome.EXISTS) for code in codes)


def needed(value: Decimal | None) -> Decimal:
    """Return a price of an order; the venue checks before it builds a request that the order has it."""
    assert value is not None, "the venue checks the order's fields before it makes parameters"
    return value


def read_row(subject: str, row: Any, reader: Callable[[], T]) -> T:
    """Return the reader's value. Errors: PeerError, with the subject and the row, for whatever cannot be read."""
    try:
        return reader()
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        shown = f"{type(error).__name__}: {error}): {str(row)[:300]}"
        raise PeerError(f"{subject} cannot be read ({shown}") from error


def amount_in(row: Mapping[str, Any], name: str) -> Decimal:
    """Return a number of a row. Errors: KeyError, and those of `number_of`."""
    return number_of(row[name])


def mapping_in(value: Any, *names: str) -> Mapping[str, Any]:
    """Return the object at a path of names within a JSON value; an empty one where there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def text_in(value: Any, name: str) -> str:
    """Return a text or number of an object as text; "" where there is none."""
    found = value.get(name) if isinstance(value, Mapping) else None
    return str(found) if isinstance(found, str | int) and not isinstance(found, bool) else ""
