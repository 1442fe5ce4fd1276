"""Client order ids whose bytes may have left before: in this process, or in a part of the journal that a failover lost.

With asynchronous replication, a promoted standby may lack the last order rows of the old primary. The signal is `ready`
there, its client order id is computed again, and a venue accepts an id twice once the first order has ended. So each id
leaves a process once, and after a failover each intent of the time before it is looked up at the venue first.

An intent counts as old by the time its signal came into the journal. A signal may be lost with its order: a client that
repeats its request, and a strategy worker whose cursor went back, insert the same signal id again after the failover.
Therefore intents of the first `REPEAT_S` seconds after it are looked up as well.
"""

from __future__ import annotations

import uuid

from fks.model.order import Order

#: how long after a failover a signal may still be a repetition of one that was lost with it, seconds
REPEAT_S = 600.0
#: sent ids that are remembered, the newest: hours of the fastest trading
SENT_MAX = 200_000
_NS = 1_000_000_000


class SentIds:
    """Remembers which ids left, and decides which ones have to be looked up at the venue before they may."""

    def __init__(self, ask_before_ns: int = 0, *, sent_max: int = SENT_MAX) -> None:
        """`ask_before_ns`: the time (ns UTC) of the last failover, or of the first start on this node; 0 = there was
        none."""
        self.ask_before_ns = ask_before_ns
        self._repeats_until_ns = ask_before_ns + round(REPEAT_S * _NS) if ask_before_ns else 0
        self._sent_max = sent_max
        self._sent: dict[bytes, None] = {}
        self._old_signals: set[uuid.UUID] = set()

    def learn(self, signal_id: uuid.UUID, created_ns: int) -> None:
        """Note a signal that is about to be decided. Only those older than the failover are kept."""
        if created_ns < self.ask_before_ns:
            self._old_signals.add(signal_id)

    def is_sent(self, client_order_id: str) -> bool:
        """Return whether this process has let the id leave before."""
        return _key(client_order_id) in self._sent

    def note_sent(self, client_order_id: str) -> None:
        """Note that the bytes leave now."""
        self._sent[_key(client_order_id)] = None
        if len(self._sent) > self._sent_max:
            del self._sent[next(iter(self._sent))]

    def answers_needed(self, order: Order, parent: Order | None, polls: int) -> int:
        """Return how many "not found" answers of the venue an order needs before its bytes may leave; 0 = none.

        `polls` is the number that proves absence (C5), for an order that may have been sent shortly before the
        failover. A leg is as old as its parent.
        """
        if not self.ask_before_ns:
            return 0
        known_ns = order.created_ns if parent is None else min(parent.created_ns, order.created_ns)
        if known_ns < self.ask_before_ns or order.signal_id in self._old_signals:
            return polls
        return 1 if known_ns < self._repeats_until_ns else 0


def _key(client_order_id: str) -> bytes:
    return client_order_id.encode()
