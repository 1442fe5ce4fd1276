"""The bad behaviours of the simulated platform, each with a switch, and a seeded draw of them.

Source: NinjaTrader's documents, reflected metadata and public NinjaScript code.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

KINDS = {
    "order_id_replaced": "OrderId is empty, then a local id, then the broker's, changed once more when accepted",
    "order_id_unstable": "OrderId changes with each Change (Feature.NoStableOrderId)",
    "update_inside_submit": "OrderUpdate is raised inside Submit",
    "update_late": "the first OrderUpdate comes 2 s after Submit",
    "executions_first": "ExecutionUpdate comes before OrderUpdate",
    "positions_first": "PositionUpdate comes before both",
    "working_after_filled": "a late OrderUpdate Working follows Filled",
    "updates_doubled": "OrderUpdates come twice with equal content",
    "order_ahead_of_event": "the live order has already the next state when its event is handled",
    "executions_replayed": "after a reconnect all executions of the day are raised again as Add",
    "order_missing": "after a reconnect one order is missing for 3 s",
    "names_lost": "after a reconnect one order has an empty name (undocumented: no second submit may follow)",
    "execution_amended": "the broker amends an execution later (Operation.Update)",
    "position_carried_over": "a position of yesterday is handed over as a start-of-day execution",
    "execution_without_order": "Execution.Order is null",
    "partial_fills": "orders fill in several executions",
    "fill_during_cancel": "an order fills between Cancel and Cancelled",
    "overfill": "an order fills one contract too many",
    "submit_rejected": "the broker rejects an entry",
    "stop_rejected": "the broker rejects a stop",
    "change_rejected": "the broker rejects a Change (UnableToChangeOrder)",
    "cancel_rejected": "the broker rejects a Cancel (UnableToCancelOrder)",
    "oco_partner_kept": "the OCO partner of a filled order is not cancelled",
    "oco_cancels_on_partial": "the OCO partner is cancelled at the first partial fill",
    "state_unknown": "an order reports the state Unknown for a while",
    "stop_held_on_pc": "a stop stays TriggerPending: held on the PC",
    "stop_only_accepted": "a stop never goes beyond Accepted: held at the broker",
    "price_feed_lost": "the price feed is lost at times",
    "order_feed_lost": "the order feed is lost at times",
    "connection_flaps": "the connection is lost five times in a second",
    "account_late": "the account appears 10 s after the start",
    "create_returns_null": "CreateOrder returns null",
    "create_throws": "CreateOrder throws",
    "submit_throws_before": "Submit throws, and the order did not reach the broker",
    "submit_throws_after": "Submit throws after the order reached the broker",
    "flatten_slow": "Flatten takes 3 s",
    "flatten_rejected_once": "the closing order of Flatten is rejected once",
    "flatten_leaves_entry": "Flatten leaves an entry that fills later",
    "clock_jumps": "the clock of the PC jumps by up to 10 s",
}


@dataclass(frozen=True, slots=True)
class Unkindness:
    """The behaviours that are switched on; without any the platform does everything at once and in order.

    A behaviour that concerns single orders or fills happens with probability `chance` each time.
    """

    chance: float = 0.3
    on: frozenset[str] = frozenset()

    def switched_on(self) -> list[str]:
        """Return the names of the behaviours that are on."""
        return [name for name in KINDS if name in self.on]


KIND = Unkindness()


def drawn(seed: int, share: float = 0.4) -> Unkindness:
    """Return a draw in which each behaviour is on with probability `share`; the same for the same seed."""
    dice = random.Random(seed)  # noqa: S311
    return Unkindness(on=frozenset(name for name in KINDS if dice.random() < share))


def only(*names: str, chance: float = 0.3) -> Unkindness:
    """Return the behaviours `names` switched on. Errors: KeyError for a name that is none of `KINDS`."""
    for name in names:
        KINDS[name]
    return Unkindness(chance, frozenset(names))
