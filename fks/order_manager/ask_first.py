"""The lookup at the venue before an order is sent that may have been sent before a failover (`fks.orders.sent_ids`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from fks.clock import Clock, ClockSteps
from fks.config.settings import Venue as VenueSettings
from fks.model.order import Lookup, Order, Presence
from fks.orders.absence import AbsenceProof, AbsenceRule, ladder_delay
from fks.orders.sent_ids import SentIds

_TRIES_MAX = 30  # then the order is UNKNOWN, and the usual queries go on


class AskFirst:
    """Decides whether the bytes of an order may leave, once per id. Soft state: `sent`."""

    def __init__(
        self, sent: SentIds, settings: VenueSettings, rule: AbsenceRule, clock: Clock, steps: ClockSteps
    ) -> None:
        self._sent, self._settings, self._rule, self._clock, self._steps = sent, settings, rule, clock, steps

    def is_needed(self, order: Order, parent: Order | None) -> bool:
        """Return whether `refusal` has to be awaited before the order is sent."""
        return self._sent.is_sent(order.client_order_id) or self._needed(order, parent) > 0

    async def refusal(
        self, order: Order, parent: Order | None, query: Callable[[Order], Awaitable[Lookup]]
    ) -> str | None:
        """Return why the order may have left already, or None once the venue has said often enough that it has not.

        May take as long as it takes to prove absence. The caller checks again afterwards whether the order may be sent.
        """
        if self._sent.is_sent(order.client_order_id):
            return "this process has sent it before"
        rule = replace(self._rule, polls=self._needed(order, parent))
        proof = AbsenceProof(rule, self._steps, self._sent.ask_before_ns)
        for tries in range(_TRIES_MAX):
            lookup = await query(order)
            if lookup.presence is Presence.FOUND:
                return "the venue has it: it was sent before the database changed"
            if lookup.presence is Presence.NOT_FOUND and proof.not_found():
                return None
            await self._clock.sleep(ladder_delay(tries, self._settings.poll_delays_s))
        return "the venue did not say that it was not sent before the database changed"

    def note_sent(self, order: Order) -> None:
        """Note that the bytes leave now. No other task may run between this and the send."""
        self._sent.note_sent(order.client_order_id)

    def _needed(self, order: Order, parent: Order | None) -> int:
        return self._sent.answers_needed(order, parent, self._rule.polls)
