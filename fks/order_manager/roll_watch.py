"""Positions in futures that near their expiry: an alert from the roll date on, a page some days before the end.

It never trades: an account at a prop firm may not hold the next contract, and two orders at a roll can fill apart.
"""

from __future__ import annotations

import asyncio
from datetime import date
from decimal import Decimal
from typing import Final

from fks.futures import contract_of, trade_date
from fks.futures.roll import roll_notice
from fks.model.copies import is_ninja
from fks.model.errors import InputError
from fks.order_manager.context import OrderManagerContext

_PERIOD_S: Final = 60.0
_ZERO = Decimal(0)


class RollWatch:
    """Looks at the positions. Soft state: the reports of a trade date, so that each is made once a day."""

    def __init__(self, context: OrderManagerContext) -> None:
        self._context = context
        self._days = context.settings.ninja.roll_page_days
        self._reported: dict[tuple[str, str], tuple[date, bool]] = {}

    async def run(self) -> None:
        """Look each minute, for ever."""
        while True:
            held = self._held()
            if held:
                # the first look at a product makes its calendar, which takes seconds
                await asyncio.to_thread(self._warm, [symbol for _, symbol in held])
                self.look()
            await self._context.clock.sleep(_PERIOD_S)

    def look(self) -> None:
        """Report each held contract that is due."""
        on = trade_date(self._context.clock.now_ns())
        for (venue, symbol), quantity in self._held().items():
            contract = contract_of(symbol)
            try:
                due = None if contract is None else roll_notice(contract, on, urgent_days=self._days)
            except InputError as error:
                self._context.log.error("roll.calendar", symbol=symbol, reason=str(error))
                continue
            if due is None or self._reported.get((venue, symbol)) == (on, due.is_urgent):
                continue
            self._reported[venue, symbol] = on, due.is_urgent
            self._context.publisher.alert(
                "page" if due.is_urgent else "warning",
                "futures.expiry_near" if due.is_urgent else "futures.roll_due",
                f"{quantity:f} {due}",
                venue=venue,
                symbol=symbol,
                quantity=str(quantity),
                deadline=due.deadline.isoformat(),
                successor=due.successor.name,
            )

    def _held(self) -> dict[tuple[str, str], Decimal]:
        found: dict[tuple[str, str], Decimal] = {}
        for position in self._context.cache.positions.values():
            if is_ninja(position.venue):
                key = position.venue, position.symbol
                found[key] = found.get(key, _ZERO) + position.quantity
        return {key: quantity for key, quantity in found.items() if quantity}

    def _warm(self, symbols: list[str]) -> None:
        on = trade_date(self._context.clock.now_ns())
        for symbol in symbols:
            if (contract := contract_of(symbol)) is not None:
                try:
                    roll_notice(contract, on, urgent_days=self._days)
                except InputError:
                    continue
