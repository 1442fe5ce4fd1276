"""Executions that a read of a venue's balances holds, and those that it may hold. Pure.

A venue reports balances and executions separately, and their clocks differ. So the order of events here decides, and
the quantity that the venue has reported of each order:

* what was booked, or reported as executed, before the question is in the answer;
* what an order executes that was sent after the answer is not;
* of all else it is unknown until the next read, unless one of both cases explains the balances to the last digit. The
  balances follow the likelier case, by how much more or less of the base the read shows than executions explain.
  Entries are given the smaller amount of both cases (`least`), exits the greater one (`most`).

More coins than executions explain may belong to an order at the venue that has executed (`unexplained`). They count as
its own until its executions are booked, or all executions of before have been read and the coins are still there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

from fks.model.account import Balance
from fks.model.instrument import Instrument
from fks.model.order import Fill, Side

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class BalanceQuery:
    """A question for the balances of a venue, made before it is sent. `number` grows with each question, `booked` is
    the number of executions that were booked before it, `unbooked` what the venue had reported as executed of each
    order and was not booked. `settled`: an earlier read of which all executions have been booked since, or None."""

    venue: str
    asked_ns: int
    number: int
    booked: int
    unbooked: Mapping[str, Decimal]
    settled: BalanceRead | None = None


@dataclass(frozen=True, slots=True)
class BookedFill:
    """An execution that was booked; `number` counts those of all venues, `was_resting` is true where its money was
    locked."""

    number: int
    fill: Fill
    instrument: Instrument
    was_resting: bool

    @property
    def spent(self) -> str:
        return self.instrument.quote if self.fill.side is Side.BUY else self.instrument.base

    @property
    def got(self) -> str:
        return self.instrument.base if self.fill.side is Side.BUY else self.instrument.quote

    @property
    def amounts(self) -> tuple[Decimal, Decimal]:
        """Return the amounts that it spent and got, without the fee."""
        fill, value = self.fill, self.fill.quantity * self.fill.price * self.instrument.multiplier
        return (value, fill.quantity) if fill.side is Side.BUY else (fill.quantity, value)

    def move(self, balances: dict[str, Balance]) -> None:
        """Bring balances up to it."""
        self.spend(balances)
        self.receive(balances)

    def spend(self, balances: dict[str, Balance]) -> None:
        """Take its cost, and a fee that was not taken from the amount it got."""
        out, fill = self.amounts[0], self.fill
        held = balances.get(self.spent, Balance(self.spent, _ZERO, _ZERO))
        from_locked = min(held.locked, out) if self.was_resting else _ZERO
        balances[self.spent] = replace(held, locked=held.locked - from_locked, free=held.free - (out - from_locked))
        if fill.fee_currency != self.got and (paid := balances.get(fill.fee_currency)) is not None:
            balances[fill.fee_currency] = replace(paid, free=paid.free - fill.fee)

    def receive(self, balances: dict[str, Balance], sign: int = 1) -> None:
        """Add the amount it got less the fee that was taken from it; `sign` -1 takes it away again."""
        got = self.amounts[1] - (self.fill.fee if self.fill.fee_currency == self.got else _ZERO)
        gained = balances.get(self.got, Balance(self.got, _ZERO, _ZERO))
        balances[self.got] = replace(gained, free=gained.free + sign * got)


@dataclass(slots=True)
class BalanceRead:
    """A read of a venue's balances. `balances`: as reported, with the executions booked since."""

    query: BalanceQuery
    balances: dict[str, Balance]
    unsent: set[str]  # orders of which no byte had left at the answer
    #: the last read of which all executions were booked, brought up to all that were booked since: the balances that
    #: executions alone explain; None = not known yet
    explained: BalanceRead | None = None
    booked: list[BookedFill] = field(default_factory=list)  # since the question
    _unbooked: dict[str, Decimal] = field(init=False)  # of orders: held by the read, and not booked yet
    _unsure: list[tuple[BookedFill, bool]] = field(default_factory=list)  # and whether the balances follow it

    def __post_init__(self) -> None:
        self._unbooked = dict(self.query.unbooked)

    @staticmethod
    def of(
        query: BalanceQuery,
        balances: Mapping[str, Balance],
        unsent: Iterable[str],
        before: BalanceRead | None,
        settled: BalanceRead | None,
    ) -> BalanceRead:
        """Return the read of an answer that comes now, after the read `before`. It takes over `settled`, a read of
        which all executions have been booked."""
        read = BalanceRead(query, dict(balances), set(unsent))
        if before is None:
            return read
        read.explained = before.explained
        if settled is not None and not settled._unsure and settled._unbooked == query.unbooked:
            read.explained, settled.explained = settled, None
        read.booked = [item for item in before.booked if item.number > query.booked]
        for item in read.booked:
            if not read._holds_reported(item.fill):
                read._note_unsure(item, is_likely=False)
        read._settle()
        return read

    def pushed(self, balances: Iterable[Balance], unsent: Iterable[str]) -> BalanceRead:
        """Return the read after balances that the venue pushed, unless they may lack an execution that was booked since
        the question."""
        if self.booked:
            return self
        known = self.balances | {balance.currency: balance for balance in balances}
        return BalanceRead(self.query, known, set(unsent), self.explained)

    def explain(self, item: BookedFill) -> None:
        """Count an execution that is booked now among those that explain the balances, unless it was among them."""
        if self.explained is not None and not self.explained._holds_reported(item.fill):
            item.move(self.explained.balances)

    def book(self, item: BookedFill) -> None:
        """Bring the balances up to an execution that is booked now, and explained."""
        self.booked.append(item)
        if not self._holds_reported(item.fill):
            if item.fill.client_order_id in self.unsent:
                item.move(self.balances)
            else:
                self._note_unsure(item, is_likely=True)
        self._settle()

    def _holds_reported(self, fill: Fill) -> bool:
        """Return whether the venue had reported the execution before the question: once for each."""
        name = fill.client_order_id or ""
        left = self._unbooked.get(name, _ZERO) - fill.quantity
        if left < 0:
            return False
        self._unbooked.pop(name, None)
        if left:
            self._unbooked[name] = left
        return True

    def _note_unsure(self, item: BookedFill, *, is_likely: bool) -> None:
        """Note an execution that the balances may hold. They follow it if they lack it as far as is known; `is_likely`:
        also if nothing is known."""
        fill, more = item.fill, self.unexplained(item.instrument.base)
        is_followed = is_likely if self.explained is None else -fill.side.sign * more >= fill.quantity / 2
        self._unsure.append((item, is_followed))
        if is_followed:
            item.move(self.balances)

    def _settle(self) -> None:
        """Forget unsure executions once the balances are, to the last digit, as executions explain. Those that only one
        of both is known to hold could make up for another."""
        if self.explained is None or self._unbooked != self.explained._unbooked:
            return
        currencies = {name for item, _ in self._unsure for name in (item.spent, item.got, item.fill.fee_currency)}
        if not any(self.unexplained(name) for name in currencies):
            self._unsure.clear()

    # ── views ────────────────────────────────────────────────────────────────────────────────────
    def unexplained(self, currency: str) -> Decimal:
        """Return how much more is held of a currency than booked executions explain; 0 where that is not known."""
        if self.explained is None:
            return _ZERO
        held, known = (of.get(currency) for of in (self.balances, self.explained.balances))
        return (held.total if held is not None else _ZERO) - (known.total if known is not None else _ZERO)

    def surplus(self) -> dict[str, Decimal]:
        """Return what is held of each currency beyond what booked executions explain, where that is more."""
        found = {currency: self.unexplained(currency) for currency in self.balances if self.explained is not None}
        return {currency: more for currency, more in found.items() if more > 0}

    def unbooked(self, client_order_id: str) -> Decimal:
        """Return what of an order the read holds as executed, surely, that is not booked."""
        return self._unbooked.get(client_order_id, _ZERO)

    def explained_unbooked(self, client_order_id: str) -> Decimal:
        """Return the quantity of an order that explains the balances, and is not booked."""
        return _ZERO if self.explained is None else self.explained.unbooked(client_order_id)

    def is_unsure(self, currency: str) -> bool:
        """Return whether it is unknown if the balance of a currency holds an execution."""
        return any(currency in (item.spent, item.got, item.fill.fee_currency) for item, _ in self._unsure)

    def least(self) -> dict[str, Balance]:
        """Return the balances for entries: of each currency the amount that is there in any case."""
        least = dict(self.balances)
        for item, is_followed in self._unsure:
            if is_followed:
                item.receive(least, -1)
            else:
                item.spend(least)
        return least

    def most(self, currency: str) -> Balance | None:
        """Return the balance of a currency for exits: the most that may be there."""
        most = dict(self.balances)
        for item, is_followed in self._unsure:
            if not is_followed and item.got == currency:
                item.receive(most)
            elif is_followed and item.spent == currency:
                held = most[currency]
                most[currency] = replace(held, free=held.free + item.amounts[0])
        return most.get(currency)
