"""Trading: from a signal to an order at a venue, its fills, the position and the protection of it.

What may be sent is decided here, and sent once: a signal becomes a sized intent, an intent becomes approved or denied,
and the journal has the order before the venue has it. An outcome that is not proven is UNKNOWN and never sent again.
Stop and target stay equal to the position; the guardian can close everything without the order manager.

- risk, matching, portfolio, prop_rules: checks, fills and costs, positions, rules of prop firms; all pure
- orders: the life cycle of an order as a table, the core of a position, the one protocol that sends it; pure
- venues, credentials: sessions of venues and their keys
- strategy_worker, order_manager, guardian: one package per process

Imported by: data, research, interfaces
Begin with: `orders/submit.py`
Most important: `orders/machine.py`, `risk/policy.py`, `order_manager/submission.py`
"""
