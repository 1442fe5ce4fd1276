"""Comparison of followers with their leader: a metric each second, and an alert for a difference that stays."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from fks.model.copies import LEADER, CopyRule, expected
from fks.order_manager.context import OrderManagerContext

_PERIOD_S: Final = 1.0
DIVERGED_S: Final = 30.0  # an order of one account may fill later than the other's
_ZERO = Decimal(0)
_GAUGE: Final = "fks_copy_difference"


class CopyWatch:
    """Compares the positions of followers with those that they should have. Soft state: since when they differ."""

    def __init__(self, context: OrderManagerContext, rules: Iterable[CopyRule]) -> None:
        self._context = context
        self._rules = [rule for rule in rules if rule.mode != "off"]
        self._since: dict[tuple[str, str], float] = {}
        self._alerted: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Compare each second, for ever."""
        while self._rules:
            self.look()
            await self._context.clock.sleep(_PERIOD_S)

    def look(self) -> None:
        """Compare now: set the gauges, and raise an alert for a difference that has lasted for DIVERGED_S."""
        leader = self._held(LEADER)
        for rule in self._rules:
            follower = self._held(rule.venue)
            for symbol in leader.keys() | follower.keys():
                held = follower.get(symbol, _ZERO)
                wanted = expected(rule, leader.get(symbol, _ZERO), held)
                self._note(rule, symbol, wanted, held)

    def _note(self, rule: CopyRule, symbol: str, wanted: Decimal, held: Decimal) -> None:
        where, now_s = (rule.name, symbol), self._context.clock.monotonic()
        self._context.meter.gauge(_GAUGE, float(held - wanted), account=rule.name, symbol=symbol)
        if held == wanted:
            self._since.pop(where, None)
            self._alerted.discard(where)
            return
        since_s = self._since.setdefault(where, now_s)
        if now_s - since_s < DIVERGED_S or where in self._alerted or rule.mode != "auto":
            return
        self._alerted.add(where)
        self._context.publisher.alert(
            "warning",
            "copy.diverged",
            f"account {rule.name} holds {held:f} {symbol} and should hold {wanted:f} by its rule '{rule}'; nothing is "
            "sent for that: see fks ninja status, and close or open it by hand",
            venue=rule.venue,
            symbol=symbol,
            held=str(held),
            expected=str(wanted),
        )

    def _held(self, venue: str) -> dict[str, Decimal]:
        """Return what the account of a venue holds by symbol, persons' own trades included."""
        status = self._context.cache.venues.get(venue)
        found: dict[str, Decimal] = {}
        for position in self._context.cache.positions.values():
            if status is not None and (position.account_id, position.venue) == (status.account_id, venue):
                found[position.symbol] = found.get(position.symbol, _ZERO) + position.quantity
        return found
