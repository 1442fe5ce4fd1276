"""The matching engine and its accounts: orders arrive, fill and end; nothing is published before it is on disk.

One call is one transaction: it changes memory, and the journal writes one commit and publishes after it.
Orders fill in one of two ways: against the order book and the market's trades as they come (`live`), or by the rule of
`tapefills`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from fks.lab.sim.atoms import SCALE, times
from fks.lab.sim.entry import NewOrder, affordable, check_filters, check_prices, check_quantity
from fks.lab.sim.errors import ApiError, filter_failure, refusal, reject_reason
from fks.lab.sim.journal import Journal
from fks.lab.sim.ledger import BalanceLedger
from fks.lab.sim.market import RAW_OFFSET
from fks.lab.sim.orders import CONDITIONAL, PROFITS, STOPS, Amendment, OrderList, SimFill, SimOrder
from fks.lab.sim.prints import AggregateTrade
from fks.lab.sim.store import Store
from fks.lab.sim.symbol_state import SymbolState
from fks.lab.sim.tapefills import Entry, TapeBar, Touch, choose, touch, touch_after

GTD_EXPIRED = "GTD_TIME_REACHED"  # the reason of an expiry at the order's own time
_BEYOND = "EXECUTION_RULE_PRICE_RANGE_EXCEEDED"
#: the reason why the rest of an order that may not stay on the book expires, by its time in force
_UNFILLED = {"IOC": "UNFILLED_IOC_QUANTITY_EXPIRED", "FOK": "UNFILLED_FOK_ORDER_EXPIRED"}


@dataclass(frozen=True, slots=True)
class Terms:
    """Trading costs and fill rule. Rates in atoms; `prints`: our trades become part of the public tape."""

    maker_rate: int
    taker_rate: int
    by_tape: bool = False
    prints: bool = True


class Engine:
    """All trading of the one account."""

    def __init__(
        self,
        states: dict[str, SymbolState],
        store: Store,
        ledger: BalanceLedger,
        journal: Journal,
        terms: Terms,
        wall_ms: Callable[[], int],
        is_thin: Callable[[SimOrder], bool],
    ) -> None:
        """`is_thin`: whether an order finds half of its quantity in the book."""
        self.states = states
        self.store = store
        self.ledger = ledger
        self.terms = terms
        self._wall_ms = wall_ms
        self._is_thin = is_thin
        self._journal = journal
        self.lists: dict[int, OrderList] = {item.list_id: item for item in store.lists("is_open = 1")}
        self._order_id, self._list_id = store.max_ids()
        self.cancel_all_ms = int(store.meta("cancel_all_ms", "0"))
        self.bars: dict[str, TapeBar] = {}  # by_tape: the open bar of each symbol (high and low not yet known)
        self._trade_id = max(
            (fill.trade_id for s in states for fill in store.fills("symbol = ?", (s,), limit=1, last=True)), default=0
        )
        for order in store.orders("is_open = 1"):
            if order.symbol in states:
                states[order.symbol].orders[order.order_id] = order

    # -- coming in ---------------------------------------------------------------------------------------------------

    def check(self, new: NewOrder, *, before: Sequence[NewOrder] = (), is_pending: bool = False) -> None:
        """Refuse an order by filters, duplicates or the market's state, without effects. Errors: ApiError.

        `before` are the orders of the same list that are taken first: they count as open. A pending order is compared
        with the market when it gets to the book.
        """
        state = self.states[new.symbol]
        closed = state.market.listing.status == "CANCEL_ONLY" or (self.terms.by_tape and new.symbol not in self.bars)
        if closed:
            raise refusal("market_closed")
        algos = state.algos() + sum(1 for leg in before if leg.type in CONDITIONAL)
        check_filters(new, state.market.listing, state.average_price(), len(state.orders) + len(before), algos)
        if new.client_id and (
            state.by_client_id(new.client_id) or new.client_id in {other.client_id for other in before}
        ):
            raise refusal("duplicate")
        if not is_pending:
            self._check_market(state, new, self.last_price(state), may_trigger=new.may_trigger)

    def _check_market(
        self, state: SymbolState, order: NewOrder | SimOrder, last: int, *, may_trigger: bool = False
    ) -> None:
        """Refuse a stop that would trigger at once, unless it may, and a maker that would take."""
        if order.stop_price and not may_trigger and self._is_passed(order, last):
            raise refusal("would_trigger")
        if order.type == "LIMIT_MAKER" and self._crosses(state, order.side, order.price, last):
            raise refusal("would_take")

    def place(self, new: NewOrder) -> tuple[SimOrder, list[SimFill]]:
        """Take an order; return it with its immediate fills. Errors: ApiError, without effects."""
        self.check(new)
        state = self.states[new.symbol]
        order = self._make(new)
        listing = state.market.listing
        if order.type == "MARKET":
            self._check_market_funds(state, order)
        else:
            asset, amount = self._to_lock(order)
            self.ledger.lock(asset, amount)
            order.locked = amount
        assert listing.symbol == order.symbol
        self._open(state, order)
        self._enter(state, order, self.last_price(state))
        fills = [fill for fill in self._journal.fills if fill.order_id == order.order_id]
        self._journal.settle()
        return order, fills

    def _enter(self, state: SymbolState, order: SimOrder, price: int) -> None:
        """Let an order that was opened act: at once, or by its trigger if `price`, the market's, has passed that."""
        if order.is_working:
            self._arrive(state, order)
        elif not self.terms.by_tape:
            self._maybe_trigger(state, order, price)
        elif self._is_passed(order, price):
            is_bad = order.has_limit and (price > order.price if order.is_buy else price < order.price)
            self._meet(state, order, Touch(price, at_open=False, rests=is_bad), self.bars[state.symbol])

    def place_list(
        self, client_id: str, legs: list[NewOrder], working: NewOrder | None = None
    ) -> tuple[OrderList, list[SimOrder], list[SimFill]]:
        """Take a one-cancels-the-other pair: above, below; return its orders as placed, and their immediate fills.

        With `working` the pair waits for that order's complete fill. Legs without a quantity sell what it receives.
        Errors: ApiError, without effects.
        """
        members = [*([working] if working else []), *legs]
        for place, new in enumerate(members):
            self.check(new, before=members[:place], is_pending=new is not working and working is not None)
        symbol = legs[0].symbol
        state = self.states[symbol]
        same = [pair for pair in self.lists.values() if pair.symbol == symbol]
        if len(same) >= state.market.listing.order_lists_max:
            raise filter_failure("MAX_NUM_ORDER_LISTS")
        if client_id and any(pair.client_id == client_id for pair in self.lists.values()):
            raise refusal("duplicate")
        self._list_id += 1
        orders = [self._make(new, self._list_id) for new in members]
        wanted = [self._to_lock(order) for order in (orders[:1] if working else orders)]
        asset, amount = wanted[0][0], max(item[1] for item in wanted)
        self.ledger.lock(asset, amount)
        pair = OrderList(
            self._list_id,
            legs[0].symbol,
            client_id or f"list{self._list_id}",
            legs[0].side,
            [order.order_id for order in orders],
            [order.client_id for order in orders],
            self._wall_ms(),
            amount,
        )
        if working is not None:
            pair.contingency, pair.is_pending, pair.is_opo, pair.locked = "OTO", True, not legs[0].quantity, 0
            orders[0].locked = amount
            for leg in orders[1:]:
                leg.status, leg.is_working, leg.working_ms = "PENDING_NEW", False, -1
        self.lists[pair.list_id] = pair
        self._journal.note_list(pair)
        for order in orders:
            self._open(state, order)
        if working is not None:
            orders[1:] = [replace(leg) for leg in orders[1:]]  # the answer shows them as pending, in any case
            self._arrive(state, orders[0])
        fills = [fill for fill in self._journal.fills if fill.order_id == orders[0].order_id]
        self._journal.settle()
        return pair, orders, fills

    def transfer(self, kind: str, asset: str, amount: int, fee: int = 0, *, is_listed: bool = True) -> str:
        """Carry out a deposit or withdrawal; return its id. Errors: −2010 when a withdrawal is not covered.

        An unlisted one moves the balance alone: an unexplained drift of the account.
        """
        if kind == "deposit":
            self.ledger.deposit(asset, amount)
        else:
            self.ledger.withdraw(asset, amount + fee)
        number = self._journal.note_transfer(kind, asset, amount, fee, is_listed=is_listed)
        self._journal.settle()
        return number

    def _make(self, new: NewOrder, list_id: int = -1) -> SimOrder:
        self._order_id += 1
        now = self._wall_ms()
        waits = new.type in STOPS + PROFITS
        bar = self.bars.get(new.symbol)
        return SimOrder(
            order_id=self._order_id,
            time_ms=now,
            list_id=list_id,
            update_ms=now,
            working_ms=-1 if waits else now,
            is_working=not waits,
            placed_row=bar.row if bar else -1,
            is_named=bool(new.client_id),
            **new.terms() | {"client_id": new.client_id or f"sim{now:x}{self._order_id:x}"},
        )

    def _open(self, state: SymbolState, order: SimOrder) -> None:
        state.orders[order.order_id] = order
        self._journal.note(order, "NEW")

    def _to_lock(self, order: SimOrder) -> tuple[str, int]:
        listing = self.states[order.symbol].market.listing
        if order.is_buy:
            return listing.quote, self._with_fee(
                order, listing.quote, times(order.price or order.stop_price, order.remaining)
            )
        return listing.base, self._with_fee(order, listing.base, order.remaining)

    def _with_fee(self, order: SimOrder, asset: str, amount: int) -> int:
        """Return what spending `amount` takes at most: with the commission if the same asset pays it.

        Rounded up, while a commission beside the amount is rounded down: parts of an order never need more than it.
        """
        if order.fee_asset != asset:
            return amount
        return amount - -amount * max(self.terms.maker_rate, self.terms.taker_rate) // SCALE

    def amend(self, order: SimOrder, quantity: int, client_id: str = "") -> Amendment:
        """Reduce an open order and the other one of its pair, which keep their ids and their places in the queue.

        One that has executed as much expires. `client_id` may be the order's present one; "" is a new random one.
        Errors: −2038, −1013, without effects.
        """
        state, pair = self.states[order.symbol], self.lists.get(order.list_id)
        listing, known = state.market.listing, state.by_client_id(client_id)
        for refused, error in (
            (listing.status == "CANCEL_ONLY", "market_closed"),
            (not listing.amend_allowed, "amend_unsupported"),
            (order.is_pending and pair is not None and pair.is_opo, "amend_pending"),
            (quantity > order.quantity, "amend_larger"),
            (quantity == order.quantity, "amend_same"),
            (order.amends >= listing.amends_max, "amend_too_often"),
            (known is not None and known is not order, "amend_duplicate"),
        ):
            if refused:
                raise refusal(error)
        if pair is not None and order.order_id not in pair.pair_ids:
            pair = None  # the order that the pair waits for
        legs = [order] + [state.orders[i] for i in (pair.pair_ids if pair else ()) if i != order.order_id]
        for leg in legs:
            check_quantity(replace(leg, quantity=quantity), listing, state.average_price())
        found: list[Amendment] = []
        for leg in legs:
            leg.former_id, leg.update_ms = leg.client_id, self._wall_ms()
            if leg is order:
                leg.client_id = client_id or f"sim{leg.update_ms:x}{leg.order_id:x}a{leg.amends:x}"
            old, leg.quantity, leg.amends = leg.quantity, max(quantity, leg.executed), leg.amends + 1
            found.append(self._journal.note_amendment(leg, old))
        holder = order if pair is None else pair
        if holder.locked:
            asset, kept = self._to_lock(order)[0], max(self._to_lock(leg)[1] for leg in legs)
            self.ledger.unlock(asset, holder.locked - kept)
            holder.locked = kept
        in_list = self.lists.get(order.list_id)
        if in_list is not None:
            in_list.client_ids[in_list.order_ids.index(order.order_id)] = order.client_id
            self._journal.keep_list(in_list)
            if order.client_id != order.former_id:
                self._journal.note_list(in_list, "UPDATED")
        if not order.remaining:
            self._end(state, order, "EXPIRED")
        self._journal.settle()
        return found[0]

    def change(
        self, order: SimOrder, *, quantity: int, price: int, stop_price: int, must_rest: bool = False
    ) -> Amendment:
        """Change an open order of no list; it keeps its ids, and its place in the queue unless price or quantity rises.

        With a new price it may fill or trigger at once, which `must_rest` refuses. One that has executed as much as
        `quantity` is cancelled. Errors: −1013, −2010, −2038, without effects.
        """
        state = self.states[order.symbol]
        listing = state.market.listing
        if listing.status == "CANCEL_ONLY":
            raise refusal("market_closed")
        if order.list_id in self.lists or not listing.amend_allowed:
            raise refusal("amend_unsupported")
        wanted = replace(order, quantity=max(quantity, order.executed), price=price, stop_price=stop_price)
        check_prices(wanted, listing, state.average_price())
        if wanted.remaining:
            check_quantity(wanted, listing, state.average_price())
        if must_rest or order.type == "LIMIT_MAKER":
            self._check_market(state, replace(wanted, type="LIMIT_MAKER", stop_price=0), self.last_price(state))
        asset, amount = self._to_lock(wanted)
        if amount > order.locked:
            self.ledger.lock(asset, amount - order.locked)
        else:
            self.ledger.unlock(asset, order.locked - amount)
        moves = price != order.price or wanted.quantity > order.quantity
        old, order.former_id, order.update_ms = order.quantity, order.client_id, self._wall_ms()
        order.quantity, order.price, order.stop_price, order.locked = wanted.quantity, price, stop_price, amount
        order.amends += 1
        done = self._journal.note_amendment(order, old)
        if not order.remaining:
            self._end(state, order, "CANCELED")
        elif moves or not order.is_working:
            self._enter(state, order, self.last_price(state))
        self._journal.settle()
        return done

    # -- filling -----------------------------------------------------------------------------------------------------

    def last_price(self, state: SymbolState) -> int:
        """Return the price that triggers are compared with: the last trade, or the open of the tape's bar."""
        return self.bars[state.symbol].open if self.terms.by_tape else state.market.last_price

    def _crosses(self, state: SymbolState, side: str, price: int, last: int) -> bool:
        if self.terms.by_tape:
            return price >= last if side == "BUY" else price <= last
        bid, ask = state.book.best()
        tick = state.market.listing.tick
        return price >= ask * tick if side == "BUY" else price <= bid * tick

    def _plan(self, state: SymbolState, order: SimOrder) -> list[tuple[int, int]]:
        """Return (price, quantity) pairs at which the order can fill at once."""
        listing = state.market.listing
        budget, left = order.quote_wanted, order.remaining
        if self.terms.by_tape:
            price = self.bars[state.symbol].open
            return [(price, affordable(budget, price, listing.step) if budget else left)]
        plan: list[tuple[int, int]] = []
        for ticks, lots in state.book.levels("ask" if order.is_buy else "bid", state.market.now_ms):
            price = ticks * listing.tick
            if order.has_limit and (price > order.price if order.is_buy else price < order.price):
                break
            quantity = min(lots * listing.step, affordable(budget, price, listing.step) if order.quote_wanted else left)
            if quantity <= 0:
                break
            plan.append((price, quantity))
            left -= quantity
            budget -= times(price, quantity)
        return plan

    def _check_market_funds(self, state: SymbolState, order: SimOrder) -> None:
        plan, listing = self._plan(state, order), state.market.listing
        if order.is_buy:
            needed = max(sum(times(price, quantity) for price, quantity in plan), order.quote_wanted)
            asset = listing.quote
        else:
            asset, needed = listing.base, max(sum(quantity for _, quantity in plan), order.quantity)
        if self.ledger.free(asset) < self._with_fee(order, asset, needed):
            raise refusal("no_funds")

    def _arrive(self, state: SymbolState, order: SimOrder) -> None:
        """Execute the fills that are possible at once; leave the rest on the book, or end the order."""
        is_beyond = self._take(state, order)
        if not order.is_open:
            return
        if is_beyond:
            self._end(state, order, "EXPIRED", _BEYOND)
        elif not order.has_limit or order.tif != "GTC":
            self._end(state, order, "EXPIRED", _UNFILLED.get(order.tif, "INSUFFICIENT_LIQUIDITY"))
        elif not self.terms.by_tape:
            ticks = order.price // state.market.listing.tick
            side = "bid" if order.is_buy else "ask"
            order.queue = dict(state.book.levels(side, state.market.now_ms)).get(ticks, 0)

    def _take(self, state: SymbolState, order: SimOrder) -> bool:
        """Fill what the order finds at once; return whether the price range rule kept it from filling more."""
        rests = self.terms.by_tape and order.has_limit
        if rests and not self._crosses(state, order.side, order.price, self.last_price(state)):
            return False
        plan = self._plan(state, order)
        if order.tif == "FOK" and sum(quantity for _, quantity in plan) < order.remaining:
            return False
        time_ms = self.bars[state.symbol].time_ms if self.terms.by_tape else state.market.now_ms
        if order.quote_wanted:
            order.quantity = sum(quantity for _, quantity in plan)
        allowed = list(takewhile(lambda level: self._may_execute(state, order, level[0]), plan))
        is_beyond = len(allowed) < len(plan)
        plan = [] if is_beyond and order.tif == "FOK" else allowed
        for price, quantity in plan if self.terms.by_tape else self._found(plan, order):
            if order.is_buy and not order.has_limit:
                # a triggered stop that costs more than the account has fills as far as the balance goes
                quantity = min(quantity, self._affordable(state, order, price))
            if quantity > 0:
                state.book.take(
                    price // state.market.listing.tick, quantity // state.market.listing.step, state.market.now_ms
                )
                self._fill(state, order, price, quantity, is_maker=False, time_ms=time_ms)
        return is_beyond

    def _affordable(self, state: SymbolState, order: SimOrder, price: int) -> int:
        """Return the quantity that a buy can pay for at `price`, with its commission if that is paid beside it."""
        listing = state.market.listing
        funds = order.locked + self.ledger.free(listing.quote)
        return affordable(funds * SCALE // self._with_fee(order, listing.quote, SCALE), price, listing.step)

    @staticmethod
    def _may_execute(state: SymbolState, order: SimOrder, price: int) -> bool:
        listing = state.market.listing
        return not listing.price_range() or listing.may_execute(order.side, price, state.average_price())

    def _found(self, plan: list[tuple[int, int]], order: SimOrder) -> list[tuple[int, int]]:
        """Return what the order finds of `plan` in the book: everything, or half of it while the book is thin."""
        step = self.states[order.symbol].market.listing.step
        left = sum(quantity for _, quantity in plan) // step // 2 * step
        if not left or order.tif == "FOK" or not self._is_thin(order):
            return plan
        found = []
        for price, quantity in plan:
            found.append((price, min(quantity, left)))
            left -= found[-1][1]
        return found

    def _fill(
        self, state: SymbolState, order: SimOrder, price: int, quantity: int, *, is_maker: bool, time_ms: int
    ) -> None:
        listing, terms = state.market.listing, self.terms
        self._claim(state, order)
        quote = times(price, quantity)
        rate = terms.maker_rate if is_maker else terms.taker_rate
        order.executed += quantity
        order.quote += quote
        order.status = "FILLED" if order.remaining <= 0 else "PARTIALLY_FILLED"
        keep = self._to_lock(order)[1] if order.locked and order.remaining > 0 else 0
        keep = min(keep, order.locked)
        released, order.locked = order.locked - keep, keep
        spent, received = (quote, quantity) if order.is_buy else (quantity, quote)
        paid, gained = (listing.quote, listing.base) if order.is_buy else (listing.base, listing.quote)
        asset = order.fee_asset or gained
        is_beside = asset == paid  # the commission does not come out of the amount received
        commission = spent * rate // SCALE if is_beside else times(received, rate)
        order.fee += commission
        self.ledger.spend(paid, spent + commission if is_beside else spent, locked=released)
        if order.is_buy:
            self._receive(order, gained, received, 0 if is_beside else commission)
        else:
            self.ledger.receive(gained, received if is_beside else received - commission)
        trade_id, place, time_ms = self._number(state, order, price, quantity, is_maker, time_ms)
        fill = SimFill(
            trade_id,
            order.symbol,
            order.order_id,
            order.list_id,
            time_ms,
            self._wall_ms(),
            price,
            quantity,
            quote,
            commission,
            asset,
            order.is_buy,
            is_maker,
            place,
        )
        order.update_ms = fill.wall_ms
        self._journal.note(order, "TRADE", fill)
        if not order.is_open:
            self._gone(state, order)
            pair = self.lists.get(order.list_id)
            if pair is not None and pair.is_pending:
                self._activate(state, pair, price)
        if order.close_type:
            self._close(state, order, quantity, price if self.terms.by_tape else state.market.last_price)

    def _close(self, state: SymbolState, order: SimOrder, quantity: int, price: int) -> None:
        """Make the conditional close of one fill: its quantity, the other side, an order of its own from then on.

        One that the balance or the filters refuse is cancelled as soon as it is made.
        """
        listing, average = state.market.listing, state.average_price()
        made = self._make(
            NewOrder(
                order.symbol,
                "SELL" if order.is_buy else "BUY",
                order.close_type,
                quantity=quantity,
                price=order.close_price,
                stop_price=order.close_stop,
                fee_asset=order.fee_asset,
                parent_id=order.order_id,
            )
        )
        self._open(state, made)
        try:
            check_prices(made, listing, average)
            check_quantity(made, listing, average)
            asset, amount = self._to_lock(made)
            self.ledger.lock(asset, amount)
        except ApiError as error:
            made.reject = reject_reason(error)
            self._end(state, made, "CANCELED", error.text)
            return
        made.locked = amount
        self._enter(state, made, price)

    def _receive(self, order: SimOrder, asset: str, amount: int, commission: int) -> None:
        """Add what a buy received. Where a pair waits to sell it, it is locked for that pair, and the free balance
        pays the commission if it can and the asset is not BNB."""
        pair = self.lists.get(order.list_id)
        if pair is None or not (pair.is_pending and pair.is_opo):
            self.ledger.receive(asset, amount - commission)
            return
        is_deducted = asset == "BNB" or self.ledger.free(asset) < commission
        kept = amount - commission if is_deducted else amount
        self.ledger.receive(asset, amount)
        self.ledger.lock(asset, kept)
        self.ledger.spend(asset, commission, locked=0)
        pair.locked += kept
        self._journal.keep_list(pair)

    def _activate(self, state: SymbolState, pair: OrderList, last: int) -> None:
        """Put a list's pending pair on the book once the order that it waits for is filled, at the price `last`.

        The pair is checked now. If one of the two is refused, both expire.
        """
        listing, legs, bar = state.market.listing, [state.orders[i] for i in pair.pair_ids], self.bars.get(state.symbol)
        pair.is_pending = False
        if pair.is_opo:
            lots = (min(pair.locked, listing.qty_max) - listing.lot_min) // listing.step
            for leg in legs:
                leg.quantity = max(0, listing.lot_min + lots * listing.step)
        refused = legs[0]
        try:
            asset, wanted = self._to_lock(refused)[0], max(self._to_lock(leg)[1] for leg in legs)
            if wanted > pair.locked:
                self.ledger.lock(asset, wanted - pair.locked)
            elif wanted < pair.locked:
                self.ledger.unlock(asset, pair.locked - wanted)
            pair.locked = wanted
            for refused in legs:
                check_prices(refused, listing, state.average_price())
                check_quantity(refused, listing, state.average_price())
                self._check_market(state, refused, last)
        except ApiError as error:
            refused.reject = reject_reason(error)
            self._end_list(state, pair, {refused.order_id: "REJECTED"}, "OCO_TRIGGER")
            return
        for leg in legs:
            leg.status, leg.is_working, leg.update_ms = "NEW", not leg.is_conditional, self._wall_ms()
            leg.working_ms = leg.update_ms if leg.is_working else -1
            leg.placed_row = bar.row if bar else -1
            self._journal.note(leg, "NEW")
        self._journal.keep_list(pair)

    def _number(
        self, state: SymbolState, order: SimOrder, price: int, quantity: int, is_maker: bool, time_ms: int
    ) -> tuple[int, int, int]:
        """Return the trade id of a fill, its place in the public tape (−1: not there) and its time."""
        if not self.terms.prints:
            self._trade_id += 1
            return self._trade_id, -1, time_ms
        listing = state.market.listing
        buyer_rests = order.is_buy == is_maker
        trade = state.market.print(price // listing.tick, quantity // listing.step, buyer_rests, time_ms)
        self._journal.note_print(state, trade)
        return trade.id + RAW_OFFSET, state.market.prints.place[-1], trade.time_ms

    def _claim(self, state: SymbolState, order: SimOrder) -> None:
        """Give an order of a list the list's locked amount and end the other order, before it acts."""
        pair = self.lists.get(order.list_id)
        if pair is None or pair.is_pending:
            return
        order.locked, pair.locked = pair.locked, 0
        self._close_list(pair)
        for other in pair.pair_ids:
            if other != order.order_id and other in state.orders:
                self._end(state, state.orders[other], "EXPIRED", "OCO_TRIGGER")
        self._journal.note_list(pair)

    def _close_list(self, pair: OrderList) -> None:
        pair.status_type, pair.order_status = "ALL_DONE", "ALL_DONE"
        self.lists.pop(pair.list_id, None)
        if pair.locked:
            listing = self.states[pair.symbol].market.listing
            self.ledger.unlock(listing.quote if pair.side == "BUY" else listing.base, pair.locked)
            pair.locked = 0

    def _end_list(self, state: SymbolState, pair: OrderList, reasons: Mapping[int, str], other: str) -> None:
        """Let the open orders of a list expire, by order id for one of `reasons` or for the `other` one."""
        self._close_list(pair)
        for number in pair.order_ids:
            if number in state.orders:
                self._end(state, state.orders[number], "EXPIRED", reasons.get(number, other))
        self._journal.note_list(pair)

    # -- the market moves --------------------------------------------------------------------------------------------

    def on_trades(self, state: SymbolState, trades: list[AggregateTrade]) -> None:
        """Match the market's trades with our resting orders."""
        if not state.orders or not trades:
            return
        tick, step = state.market.listing.tick, state.market.listing.step
        for trade in trades:
            price, left = trade.price * tick, trade.lots
            for order in list(state.orders.values()):
                if not order.is_open or order.is_pending:
                    continue
                if not order.is_working:
                    self._maybe_trigger(state, order, price)
                elif order.has_limit and (price < order.price if order.is_buy else price > order.price):
                    self._fill(state, order, order.price, order.remaining, is_maker=True, time_ms=trade.time_ms)
                elif order.has_limit and price == order.price and trade.is_maker == order.is_buy:
                    ahead = min(order.queue, left)
                    order.queue -= ahead
                    left -= ahead
                    quantity = min(left * step, order.remaining)
                    if quantity > 0:
                        left -= quantity // step
                        self._fill(state, order, order.price, quantity, is_maker=True, time_ms=trade.time_ms)
        self._journal.settle()

    def resume(self) -> None:
        """Fill or trigger, after a restart, the orders that the market has passed meanwhile, each at its own price.

        First end those whose time was over while the exchange was down.
        """
        self.on_time()
        if self.terms.by_tape:
            return
        for state in self.states.values():
            price = state.market.last_price
            for order in list(state.orders.values()):
                if not order.is_open or order.is_pending:
                    continue
                if not order.is_working:
                    self._maybe_trigger(state, order, price)
                elif order.has_limit and (price < order.price if order.is_buy else price > order.price):
                    self._fill(state, order, order.price, order.remaining, is_maker=True, time_ms=state.market.now_ms)
        self._journal.settle()

    def _maybe_trigger(self, state: SymbolState, order: SimOrder, price: int) -> None:
        if self._is_passed(order, price):
            self._trigger(state, order)
            self._arrive(state, order)

    @staticmethod
    def _is_passed(order: NewOrder | SimOrder, price: int) -> bool:
        """Return whether the market's price triggers a conditional order."""
        rises = (order.side == "BUY") == (order.type in STOPS)
        return price >= order.stop_price if rises else price <= order.stop_price

    def _trigger(self, state: SymbolState, order: SimOrder) -> None:
        self._claim(state, order)
        order.is_triggered = order.is_working = True
        order.working_ms = order.update_ms = self._wall_ms()
        self._journal.note(order, "NEW")

    def on_bar(self, state: SymbolState, bar: TapeBar) -> None:
        """Match a complete bar of the tape with the resting orders, oldest first, one of each pair at most.

        A pair that waited for an order which this bar filled is matched with it, too, and so is a conditional close.
        """
        entries: dict[int, Entry] = {}  # of this bar, by the list, or the order, whose fill brought others
        waiting = list(state.orders.values())
        while waiting:
            order = waiting.pop(0)
            if not order.is_open or order.is_pending:
                continue
            last_id = self._order_id
            pair = self.lists.get(order.list_id)
            waits = pair is not None and pair.is_pending
            legs = [order] if pair is None or waits else [state.orders[i] for i in pair.pair_ids if i in state.orders]
            entry = entries.get(order.list_id if pair is not None else -order.parent_id)
            found = [(leg, touch(leg, bar) if entry is None else touch_after(entry, leg, bar)) for leg in legs]
            touches = [(leg, met) for leg, met in found if met is not None]
            if touches:
                chosen, met = choose(touches)
                if waits or chosen.close_type:
                    entries[order.list_id if waits else -chosen.order_id] = Entry.of(chosen, met)
                self._meet(state, chosen, met, bar)
                waiting += [made for number, made in state.orders.items() if number > last_id]
        self._journal.settle()

    def _meet(self, state: SymbolState, order: SimOrder, met: Touch, bar: TapeBar) -> None:
        waited = not order.is_working
        if waited:
            self._trigger(state, order)
        if met.rests:
            order.placed_row = bar.row
            return
        if waited and not self._may_execute(state, order, met.price):
            self._end(state, order, "EXPIRED", _BEYOND)
            return
        if order.is_buy:
            self._claim(state, order)
            cost = self._with_fee(order, state.market.listing.quote, times(met.price, order.remaining))
            if cost > order.locked + self.ledger.free(state.market.listing.quote):
                self._end(state, order, "EXPIRED", "REJECTED")  # a stop that gapped beyond what the account can pay
                return
        self._fill(state, order, met.price, order.remaining, is_maker=order.has_limit, time_ms=bar.time_ms)

    def on_time(self) -> None:
        """End the orders whose time is over, and every order once the moment of `cancel_all_at` has come."""
        now = self._wall_ms()
        is_due = 0 < self.cancel_all_ms <= now
        if is_due:
            self.cancel_all_at(0)
        for state in self.states.values():
            for order in list(state.orders.values()):
                if is_due and order.is_open:
                    self.cancel(order)
                elif order.is_open and 0 < order.expire_ms <= now:
                    self._end(state, order, "EXPIRED", GTD_EXPIRED)
        self._journal.settle()

    def cancel_all_at(self, time_ms: int) -> None:
        """Cancel every order at a wall time, also one in which the exchange is down; 0: never."""
        self.cancel_all_ms = time_ms
        self.store.set_meta("cancel_all_ms", str(time_ms))

    # -- ending ------------------------------------------------------------------------------------------------------

    def cancel(self, order: SimOrder, cancel_id: str = "") -> list[SimOrder]:
        """Cancel an open order, and with it the list it belongs to; return what was cancelled, `order` first."""
        state, pair = self.states[order.symbol], self.lists.get(order.list_id)
        order.cancel_id = cancel_id or f"c{self._wall_ms():x}{order.order_id:x}"
        members = [order]
        if pair is not None:
            self._close_list(pair)
            members += [state.orders[i] for i in pair.order_ids if i != order.order_id and i in state.orders]
        for member in members:
            member.cancel_id = member.cancel_id or order.cancel_id
            self._end(state, member, "CANCELED")
        if pair is not None:
            self._journal.note_list(pair)
        self._journal.settle()
        return members

    def _end(self, state: SymbolState, order: SimOrder, status: str, reason: str = "NONE") -> None:
        """End an order, and with it a pair that waits for it. `reason` is that of an expiry."""
        order.status, order.expiry = status, reason
        order.update_ms = self._wall_ms()
        if order.locked:
            self.ledger.unlock(self._to_lock(order)[0], order.locked)
            order.locked = 0
        self._journal.note(order, status)
        self._gone(state, order)
        pair = self.lists.get(order.list_id)
        if pair is not None and pair.is_pending:
            self._end_list(state, pair, {}, "OTO_PHASE_ONE_EXPIRED")

    def _gone(self, state: SymbolState, order: SimOrder) -> None:
        state.orders.pop(order.order_id, None)
