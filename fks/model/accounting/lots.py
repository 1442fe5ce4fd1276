"""Lots: acquisitions with their cost, matched with disposals by FIFO or average cost. Pure.

Every asset but the reporting currency has lots. A trade moves two assets: it acquires one and disposes of the other,
at the value of the trade. A fee is part of the cost of a purchase and lowers the proceeds of a sale; paid in an asset,
it is a disposal of that asset too. A disposal beyond the lots is a short: a lot of negative quantity that later
acquisitions cover. Contracts (futures, perpetuals, CFDs) have no lots: closing them gives a realised result.

A cost that is not known is None, never zero: of deposits, of holdings before FKS, and of trades whose currency has no
rate. Quantities and costs are exact: each acquisition is in open lots and disposals, to the last digit.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Context, Decimal, localcontext
from enum import StrEnum
from itertools import chain, islice
from typing import Any, Final, NamedTuple, cast

#: value of one unit of an asset in a currency at a time (UTC ns); None: not known
RateAt = Callable[[str, str, int], Decimal | None]

#: longest time from a withdrawal to the deposit that it arrives as
TRANSIT_NS: Final = 3 * 24 * 3600 * 10**9
_ZERO, _ONE = Decimal(0), Decimal(1)
_STEP = Decimal("1e-8")  # of shares of an amount and of converted amounts; the rest stays in the last share
_CONTEXT = Context(prec=60, rounding=ROUND_HALF_EVEN)  # sums and products of numbers of 30 digits are exact
_NEVER_NS = 1 << 63
_POOL = "pool"
_OUT = 3  # rank of a flow that leaves the accounts: after the trades of its moment
_SPLIT = -1  # rank of a split: before all else of its moment
_PART = Decimal("1e-18")  # of the quantity of a lot after a split; the rest stays in the last lot


class LotMethod(StrEnum):
    """Rule that chooses the lots that a disposal uses up. `average`: all lots of known cost are one pool."""

    FIFO = "fifo"
    AVERAGE = "average"


class FlowKind(StrEnum):
    """Cause of a movement that is no trade. `opening` is the holding before FKS, `adopted` a difference that a person
    accepted, `income` a dividend, funding, interest or swap: it comes at its value, and what is paid counts as sold."""

    OPENING = "opening"
    ADOPTED = "adopted"
    SPLIT = "split"
    DEPOSIT = "deposit"
    WITHDRAWAL = "withdrawal"
    INCOME = "income"


_NO_SALE = frozenset((FlowKind.WITHDRAWAL, FlowKind.ADOPTED, FlowKind.OPENING, FlowKind.SPLIT))
_NO_COST = frozenset((FlowKind.DEPOSIT, FlowKind.ADOPTED, FlowKind.OPENING, FlowKind.SPLIT))


class LotTrade(NamedTuple):
    """One execution. Trades are in order of time, of `sequence` (the venue's trade number), then of the unique `id`.

    Units: `quantity` base (contracts where `is_contract`), `price` quote, `fee` `fee_asset` (negative: a rebate).
    """

    time_ns: int
    sequence: int
    id: str
    account: str
    symbol: str
    base: str
    quote: str
    is_buy: bool
    quantity: Decimal
    price: Decimal
    fee: Decimal = _ZERO
    fee_asset: str = ""
    multiplier: Decimal = _ONE
    is_contract: bool = False


class LotFlow(NamedTuple):
    """A movement of one asset that is no trade. `amount` is signed: above zero it came in. `fee` is paid beside it, in
    the same asset. `id` is unique, `reference` what the venue or a person calls it."""

    time_ns: int
    id: str
    account: str
    kind: FlowKind
    asset: str
    amount: Decimal
    fee: Decimal = _ZERO
    reference: str = ""


@dataclass(frozen=True, slots=True)
class OpenLot:
    """A quantity that is still held. `quantity` is below zero for a short, and `cost` then what its sale brought in.

    `pool` is an account, or the name of the accounts that share their lots. `acquired_ns` and `id` (of the trade or
    flow that made it) are None and "" for the pool of the average method. `cost` None: not known, `note` says why.
    """

    pool: str
    asset: str
    kind: str  # trade | rebate | settlement | a FlowKind | short | pool
    acquired_ns: int | None
    id: str
    quantity: Decimal
    cost: Decimal | None

    @property
    def note(self) -> str:
        """Return what a reader must know: `short`, `cost unknown`, `no rate`, or ""."""
        if self.quantity < 0:
            return "short"
        return "" if self.cost is not None else _why_unknown(self.kind)


@dataclass(frozen=True, slots=True)
class LotDisposal:
    """The part of a disposal that one lot covers.

    `acquired_ns` is None where the lot is the pool of the average method. A sale beyond the lots is a `short` without
    cost until an acquisition covers it. Then it is a `cover`, whose `disposed_ns` is before its `acquired_ns`; the
    later one is when the gain is realised. Of contracts only `gain` is given. Amounts are in the reporting currency;
    None: not known, `note` says why.
    """

    number: int  # 1 is the first one realised
    pool: str
    asset: str
    kind: str  # sale | fee | cover | short | withdrawal | settlement | adopted | opening | contract | contract_fee
    disposed_ns: int
    disposal_id: str
    acquired_ns: int | None
    lot_id: str
    quantity: Decimal
    proceeds: Decimal | None
    cost: Decimal | None
    gain: Decimal | None
    note: str

    @property
    def realized_ns(self) -> int:
        """Return when the gain was realised."""
        return max(self.disposed_ns, self.acquired_ns or 0)


_Source = LotTrade | LotFlow
#: quantity, cost (of a short: proceeds), source (None: the pool), kind; a list, as a part of it may be used
_Lot = list[Any]
#: the stack, kind, source of the disposal, source and kind of the lot, quantity, proceeds, cost
#: the rows of all disposals are one flat list: the garbage collector would visit 100,000 tuples again and again
_WIDTH = 8
_Row = tuple["_Stack", str, _Source, _Source | None, str, Decimal, Decimal | None, Decimal | None]


class _Stack:
    """The lots and shorts of one asset in one pool, oldest first."""

    __slots__ = ("asset", "lots", "pool", "shorts")

    def __init__(self, pool: str, asset: str) -> None:
        self.pool, self.asset = pool, asset
        self.lots: deque[_Lot] = deque()
        self.shorts: deque[_Lot] = deque()


class LotBook:
    """The lots and disposals of a history. Made by `match_lots`."""

    def __init__(self, stacks: Iterable[_Stack], rows: Sequence[object], before: int = 0) -> None:
        self._stacks, self._rows = list(stacks), rows
        #: disposals by events before `since_ns` of `match_lots`; they are the first ones
        self.before = before

    def lots(self) -> list[OpenLot]:
        """Return what is held, by pool, asset and time; shorts among them."""
        found = [
            OpenLot(
                stack.pool,
                stack.asset,
                kind,
                None if source is None else source.time_ns,
                "" if source is None else source.id,
                sign * quantity,
                cost,
            )
            for stack in self._stacks
            for sign, lots in ((1, stack.lots), (-1, stack.shorts))
            for quantity, cost, source, kind in lots
        ]
        return sorted(found, key=lambda lot: (lot.pool, lot.asset, lot.acquired_ns or 0, lot.id, lot.quantity))

    def disposals(self, skip: int = 0) -> Iterator[LotDisposal]:
        """Yield the disposals in the order of the events that made them, then sales that no acquisition covers yet;
        without the first `skip`."""
        shorts: list[_Row] = [
            (stack, "short", source, None, "", quantity, proceeds, None)
            for stack in self._stacks
            for quantity, proceeds, source, _ in stack.shorts
        ]
        shorts.sort(key=lambda row: (row[2].time_ns, row[0].pool, row[0].asset, row[2].id))
        made = islice(self._rows, skip * _WIDTH, None)
        return (_disposal(number, row) for number, row in enumerate(chain(_rows_of(made), shorts), skip + 1))


def match_lots(
    trades: Iterable[LotTrade],
    flows: Iterable[LotFlow] = (),
    *,
    currency: str,
    method: LotMethod,
    rate: RateAt,
    pools: Mapping[str, str] | None = None,
    since_ns: int = 0,
) -> LotBook:
    """Return the lots and disposals of a history in `currency`.

    The order in which events are given is of no consequence. `pools`: account -> name of its pool; accounts of one name
    share their lots; an account without one is a pool of its own. A withdrawal that arrives in another account moves
    its lots there with their cost (`paired_transfers`). Trades from `since_ns` on change none of the disposals before.
    """
    with localcontext(_CONTEXT):
        matching = _Matching(currency, method, rate, pools or {})
        ordered = sorted(trades)
        first = bisect_left(ordered, since_ns, key=lambda trade: trade.time_ns)
        matching.run([ordered[:first], ordered[first:]], list(flows))
        return LotBook(matching.pooled.values(), matching.rows, matching.before)


def without_busts(trades: Iterable[LotTrade], busts: Iterable[tuple[str, Decimal, Decimal]]) -> list[LotTrade]:
    """Return the trades less what venues took back of them. `busts`: id of the trade, quantity, its part of the fee.

    A trade that was taken back whole is left out: it never moved a lot.
    """
    taken: dict[str, tuple[Decimal, Decimal]] = {}
    for id, quantity, fee in busts:
        before = taken.get(id, (_ZERO, _ZERO))
        taken[id] = before[0] + quantity, before[1] + fee
    if not taken:
        return list(trades)
    found = []
    for trade in trades:
        quantity, fee = taken.get(trade.id, (_ZERO, _ZERO))
        if quantity < trade.quantity:
            found.append(trade._replace(quantity=trade.quantity - quantity, fee=trade.fee - fee))
    return found


def paired_transfers(flows: Iterable[LotFlow]) -> dict[str, str]:
    """Return the ids of withdrawals and the deposits that they arrive as, in both directions.

    Such a pair has one asset and amount, two accounts, and at most TRANSIT_NS between. One reference decides; without
    one the oldest withdrawal that fits is taken.
    """
    left: dict[tuple[str, Decimal], list[LotFlow]] = {}
    found: dict[str, str] = {}
    for flow in sorted(flows, key=lambda flow: (flow.time_ns, flow.amount > 0, flow.id)):
        if flow.kind is FlowKind.WITHDRAWAL:
            left.setdefault((flow.asset, -flow.amount), []).append(flow)
        elif flow.kind is FlowKind.DEPOSIT:
            sent = left.get((flow.asset, flow.amount), [])
            fits = [w for w in sent if w.account != flow.account and w.time_ns >= flow.time_ns - TRANSIT_NS]
            if fits:
                source = min(fits, key=lambda w: not (w.reference and w.reference == flow.reference))
                sent.remove(source)
                found[source.id], found[flow.id] = flow.id, source.id
    return found


class _Matching:
    """One pass over a history."""

    def __init__(self, currency: str, method: LotMethod, rate: RateAt, pools: Mapping[str, str]) -> None:
        self.pooled: dict[tuple[str, str], _Stack] = {}
        self.rows: list[object] = []
        self._add = self.rows.extend
        self._stacks: dict[tuple[str, str], _Stack] = {}  # the same by account
        self._contracts: dict[tuple[str, str], _Stack] = {}
        self._currency, self._rate, self._pools = currency, rate, pools
        self._is_average = method is LotMethod.AVERAGE
        self._pairs: dict[str, str] = {}
        self._inner: set[str] = set()  # ids of transfers within one pool, which move no lot
        self._in_transit: dict[str, list[_Lot]] = {}  # by the id of the deposit
        self.before = 0  # disposals before the last part of the trades

    def run(self, parts: Sequence[Sequence[LotTrade]], flows: Sequence[LotFlow]) -> None:
        """Take in all events. `parts`: the trades, sorted. A flow that brings something in comes before the trades of
        its moment, another one after them."""
        flows = self._splits_of_pools(flows)
        self._pairs = paired_transfers(flows)
        pool_of = {flow.id: self._pools.get(flow.account, flow.account) for flow in flows}
        self._inner = {id for id, other in self._pairs.items() if pool_of[id] == pool_of[other]}
        waiting = iter(sorted(flows, key=self._order))
        flow = next(waiting, None)
        flow_ns = _NEVER_NS if flow is None else flow.time_ns
        currency, stacks, take, put = self._currency, self._stacks, self._take, self._put
        for trades in parts:
            self.before = len(self.rows) // _WIDTH
            for trade in trades:
                (time_ns, _, _, account, _, base, quote, is_buy, quantity, price, fee, fee_asset, _, is_contract) = (
                    trade
                )
                while flow_ns <= time_ns and flow is not None and (flow_ns < time_ns or self._order(flow)[1] < _OUT):
                    self._flow(flow)
                    flow = next(waiting, None)
                    flow_ns = _NEVER_NS if flow is None else flow.time_ns
                if is_contract:
                    self._contract(trade)
                    continue
                if quote != currency:
                    self._crossed(trade)
                    continue
                amount = quantity * price
                value: Decimal | None = amount
                if fee:
                    worth = fee if fee_asset == currency or not fee_asset else self._worth(trade, amount, amount)
                    value = None if worth is None else amount + worth if is_buy else amount - worth
                stack = stacks.get((account, base)) or self._stack(account, base)
                if is_buy:
                    put(stack, quantity, value, trade, "trade")
                else:
                    take(stack, quantity, value, trade, "sale")
                if fee and fee_asset not in (currency, ""):
                    self._pay_fee(account, fee_asset, fee, worth, trade)
        while flow is not None:
            self._flow(flow)
            flow = next(waiting, None)

    def _order(self, flow: LotFlow) -> tuple[int, int, str, str]:
        """Return the place of a flow: of a transfer between own accounts the withdrawal comes before the deposit."""
        is_in, is_pair = flow.amount > 0, flow.id in self._pairs
        rank = (2 if is_in else 1) if is_pair else 0 if is_in else _OUT
        if flow.kind is FlowKind.SPLIT:
            rank = _SPLIT
        return flow.time_ns, rank, flow.asset, flow.id

    # ── events ───────────────────────────────────────────────────────────────────────────────────
    def _crossed(self, trade: LotTrade) -> None:
        """Take in a trade whose quote is not the reporting currency: the quote has lots as well, unless the base is the
        currency."""
        account, amount = trade.account, trade.quantity * trade.price
        value = self._value(trade, amount)
        fee, fee_asset = trade.fee, trade.fee_asset or trade.quote
        worth = self._worth(trade, amount, value) if fee else _ZERO
        quote = self._stack(account, trade.quote)
        net = None if value is None or worth is None else value + worth if trade.is_buy else value - worth
        if trade.base == self._currency:
            # the currency itself was bought with the quote, or sold for it: the fee counts there
            if trade.is_buy:
                paid = None if value is None or worth is None else value - worth
                self._take(quote, amount, paid, trade, "sale")
            else:
                cost = None if value is None or worth is None else value + worth
                self._put(quote, amount, cost, trade, "trade")
        elif trade.is_buy:
            self._take(quote, amount, value, trade, "sale")
            self._put(self._stack(account, trade.base), trade.quantity, net, trade, "trade")
        else:
            self._take(self._stack(account, trade.base), trade.quantity, net, trade, "sale")
            self._put(quote, amount, value, trade, "trade")
        if fee and fee_asset != self._currency:
            self._pay_fee(account, fee_asset, fee, worth, trade)

    def _value(self, trade: LotTrade, amount: Decimal) -> Decimal | None:
        """Return the value of a trade. `amount`: in quote."""
        if trade.base == self._currency:
            return trade.quantity
        if trade.quote == self._currency:
            return amount
        return self._converted(trade.quote, amount, trade.time_ns)

    def _worth(self, trade: LotTrade, amount: Decimal, value: Decimal | None) -> Decimal | None:
        """Return the value of the fee: of a fee in base or quote by the price of the trade."""
        asset = trade.fee_asset or trade.quote
        if asset == self._currency:
            return trade.fee
        if asset == trade.base and trade.quote == self._currency:
            return trade.fee * trade.price
        if asset in (trade.base, trade.quote):
            whole = trade.quantity if asset == trade.base else amount
            return None if value is None or not whole else _share(value, trade.fee, whole)
        return self._converted(asset, trade.fee, trade.time_ns)

    def _converted(self, asset: str, amount: Decimal, time_ns: int) -> Decimal | None:
        if asset == self._currency:
            return amount
        rate = self._rate(asset, self._currency, time_ns)
        return None if rate is None else (amount * rate).quantize(_STEP)

    def _pay_fee(self, account: str, asset: str, fee: Decimal, worth: Decimal | None, source: _Source) -> None:
        stack = self._stack(account, asset)
        if fee > 0:
            self._take(stack, fee, worth, source, "fee")
        else:
            self._put(stack, -fee, None if worth is None else -worth, source, "rebate")

    def _contract(self, trade: LotTrade) -> None:
        """Take in an execution of a contract: closing gives its result, in quote, at the rate of that moment."""
        account, symbol, quote, time_ns = trade.account, trade.symbol, trade.quote, trade.time_ns
        pool = self._pools.get(account, account)
        stack = self._contracts.setdefault((pool, symbol), _Stack(pool, symbol))
        amount = trade.quantity * trade.price * trade.multiplier
        start = len(self.rows)
        if trade.is_buy:
            self._put(stack, trade.quantity, amount, trade, "trade")
        else:
            self._take(stack, trade.quantity, amount, trade, "sale")
        parts = self.rows[start:]
        del self.rows[start:]
        settled = _ZERO
        for _, _, disposal, lot, _, quantity, proceeds, cost in _rows_of(parts):
            assert proceeds is not None
            assert cost is not None
            settled += proceeds - cost
            gain = self._converted(quote, proceeds - cost, time_ns)
            self._add((stack, "contract", disposal, lot, "", quantity, gain, None))
        if trade.fee:
            fee_asset = trade.fee_asset or quote
            worth = self._converted(fee_asset, trade.fee, time_ns)
            paid = None if worth is None else -worth
            self._add((stack, "contract_fee", trade, None, "", _ZERO, paid, None))
            if fee_asset != self._currency:
                self._pay_fee(account, fee_asset, trade.fee, worth, trade)
        if settled and quote != self._currency:
            value = self._converted(quote, abs(settled), time_ns)
            if settled > 0:
                self._put(self._stack(account, quote), settled, value, trade, "settlement")
            else:
                self._take(self._stack(account, quote), -settled, value, trade, "settlement")

    def _flow(self, flow: LotFlow) -> None:
        """Take in a flow. Without its other half an incoming one has no known cost, and an outgoing one no proceeds; of
        an income both are its value at its time."""
        if flow.asset == self._currency:
            return
        if flow.kind is FlowKind.SPLIT:
            self._split(flow)
            return
        stack = self._stack(flow.account, flow.asset)
        partner = self._pairs.get(flow.id)
        worth = self._converted(flow.asset, abs(flow.amount), flow.time_ns) if flow.kind is FlowKind.INCOME else None
        if flow.id in self._inner:
            pass
        elif flow.amount > 0:
            arrived = self._in_transit.pop(flow.id, None)
            if partner is None or arrived is None:
                self._put(stack, flow.amount, worth, flow, flow.kind.value)
            for quantity, cost, source, kind in arrived or ():
                self._put(stack, quantity, cost, source, kind)
        elif flow.amount and partner is not None:
            self._in_transit[partner] = self._lift(stack, -flow.amount, flow)
        elif flow.amount:
            self._take(stack, -flow.amount, worth, flow, flow.kind.value)
        if flow.fee:
            worth = self._converted(flow.asset, flow.fee, flow.time_ns)
            self._pay_fee(flow.account, flow.asset, flow.fee, worth, flow)

    def _splits_of_pools(self, flows: Iterable[LotFlow]) -> list[LotFlow]:
        """Return the flows; the splits of accounts that share their lots are one at a moment. Of a long and a short
        account, one after the other, the lots of both would be none in between."""
        found, splits = [], dict[tuple[int, str, str, str], LotFlow]()
        for flow in sorted(flows, key=lambda flow: flow.id):
            if flow.kind is not FlowKind.SPLIT:
                found.append(flow)
                continue
            key = (flow.time_ns, self._pools.get(flow.account, flow.account), flow.asset, flow.reference)
            before = splits.get(key)
            splits[key] = flow if before is None else before._replace(amount=before.amount + flow.amount)
        return [*found, *splits.values()]

    def _split(self, flow: LotFlow) -> None:
        """Spread the shares that a split brings, or takes, over the lots and shorts in proportion; costs stay. Shares
        without a lot have no known cost; a holding that it takes whole has no proceeds, and a contract no result."""
        pool = self._pools.get(flow.account, flow.account)
        contract = self._contracts.get((pool, flow.reference))
        stack = contract or self._stack(flow.account, flow.asset)
        lots = [*stack.lots, *stack.shorts]
        total = sum((lot[0] for lot in lots), _ZERO)
        left = total + (-flow.amount if stack.shorts else flow.amount)
        if lots and left > 0:
            factor = left / total
            for lot in lots[:-1]:
                lot[0] = (lot[0] * factor).quantize(_PART, ROUND_DOWN)
                left -= lot[0]
            lots[-1][0] = left
        elif contract is not None:
            contract.lots.clear()
            contract.shorts.clear()
        elif flow.amount > 0:
            self._put(stack, flow.amount, None, flow, flow.kind.value)
        elif flow.amount:
            self._take(stack, -flow.amount, None, flow, flow.kind.value)

    def _lift(self, stack: _Stack, quantity: Decimal, flow: LotFlow) -> list[_Lot]:
        """Return lots of that quantity, taken away with their cost. A rest without a lot arrives without a cost, and is
        a short here."""
        found: list[_Lot] = []
        while quantity and stack.lots:
            lot = stack.lots[0]
            if lot[0] > quantity:
                cost = None if lot[1] is None else _share(lot[1], quantity, lot[0])
                found.append([quantity, cost, *lot[2:]])
                lot[0] -= quantity
                lot[1] = None if cost is None else lot[1] - cost
                return found
            found.append(stack.lots.popleft())
            quantity -= lot[0]
        if quantity:
            found.append([quantity, None, flow, FlowKind.DEPOSIT.value])
            self._take(stack, quantity, None, flow, flow.kind.value)
        return found

    # ── one asset ────────────────────────────────────────────────────────────────────────────────
    def _stack(self, account: str, asset: str) -> _Stack:
        """Return the lots of an asset that an account shares."""
        stack = self._stacks.get((account, asset))
        if stack is None:
            pool = self._pools.get(account, account)
            stack = self.pooled.setdefault((pool, asset), _Stack(pool, asset))
            self._stacks[account, asset] = stack
        return stack

    def _take(self, stack: _Stack, quantity: Decimal, proceeds: Decimal | None, source: _Source, kind: str) -> None:
        """Dispose of a quantity, oldest lot first; the rest is a short."""
        lots, add = stack.lots, self._add
        while lots:
            lot = lots[0]
            held, cost, origin, lot_kind = lot
            if held > quantity:
                if cost is not None:
                    part = (cost * quantity / held).quantize(_STEP)
                    lot[1], cost = cost - part, part
                lot[0] = held - quantity
                add((stack, kind, source, origin, lot_kind, quantity, proceeds, cost))
                return
            lots.popleft()
            if held == quantity:
                add((stack, kind, source, origin, lot_kind, held, proceeds, cost))
                return
            if proceeds is None:
                add((stack, kind, source, origin, lot_kind, held, None, cost))
            else:
                part = (proceeds * held / quantity).quantize(_STEP)
                add((stack, kind, source, origin, lot_kind, held, part, cost))
                proceeds -= part
            quantity -= held
        shorts = stack.shorts
        if self._is_average and shorts and proceeds is not None and shorts[0][1] is not None:
            shorts[0][0] += quantity
            shorts[0][1] += proceeds
        else:
            shorts.append([quantity, proceeds, source, "short"])

    def _put(self, stack: _Stack, quantity: Decimal, cost: Decimal | None, source: _Source | None, kind: str) -> None:
        """Acquire a quantity: it covers shorts first, oldest first; the rest is a lot. `source` None: of the pool."""
        shorts, add = stack.shorts, self._add
        while shorts:
            short = shorts[0]
            uncovered, proceeds, sale, _ = short
            if uncovered > quantity:
                if proceeds is not None:
                    part = (proceeds * quantity / uncovered).quantize(_STEP)
                    short[1], proceeds = proceeds - part, part
                short[0] = uncovered - quantity
                add((stack, "cover", sale, source, kind, quantity, proceeds, cost))
                return
            shorts.popleft()
            if uncovered == quantity:
                add((stack, "cover", sale, source, kind, uncovered, proceeds, cost))
                return
            if cost is None:
                add((stack, "cover", sale, source, kind, uncovered, proceeds, None))
            else:
                part = (cost * uncovered / quantity).quantize(_STEP)
                add((stack, "cover", sale, source, kind, uncovered, proceeds, part))
                cost -= part
            quantity -= uncovered
        lots = stack.lots
        if self._is_average and cost is not None:
            if lots and lots[0][3] == _POOL:
                lots[0][0] += quantity
                lots[0][1] += cost
            else:
                lots.appendleft([quantity, cost, None, _POOL])
            return
        if lots and source is not None and (newest := lots[-1][2]) is not None and newest.time_ns > source.time_ns:
            # a lot that moved here keeps its time, and takes the place of that time
            later = (n for n, lot in enumerate(lots) if lot[2] is not None and lot[2].time_ns > source.time_ns)
            lots.insert(next(later), [quantity, cost, source, kind])
        else:
            lots.append([quantity, cost, source, kind])


def _share(amount: Decimal, part: Decimal, whole: Decimal) -> Decimal:
    """Return the share of an amount that a part of the quantity has."""
    return (amount * part / whole).quantize(_STEP)


def _rows_of(flat: Iterable[object]) -> Iterator[_Row]:
    """Yield the rows of a flat list."""
    values = iter(flat)
    return cast("Iterator[_Row]", zip(*[values] * _WIDTH, strict=True))


def _disposal(number: int, row: _Row) -> LotDisposal:
    stack, kind, source, origin, lot_kind, quantity, proceeds, cost = row
    if kind in ("contract", "contract_fee"):
        gain, proceeds = proceeds, None
        note = "no rate" if gain is None else ""
    elif kind == "short":
        gain, note = None, "short"
    elif kind in _NO_SALE:
        gain, note = None, "no sale"
    else:
        gain = None if proceeds is None or cost is None else proceeds - cost
        note = "" if gain is not None else "no rate" if cost is not None else _why_unknown(lot_kind)
    acquired_ns, lot_id = (None, "") if origin is None else (origin.time_ns, origin.id)
    return LotDisposal(
        number,
        stack.pool,
        stack.asset,
        kind,
        source.time_ns,
        source.id,
        acquired_ns,
        lot_id,
        quantity,
        proceeds,
        cost,
        gain,
        note,
    )


def _why_unknown(kind: str) -> str:
    return "cost unknown" if kind in _NO_COST else "no rate"
