"""Trading: from a signal to an order at a venue, its fills, the position and the protection of it.

What may be sent is decided here, and sent once: a signal becomes a sized intent, an intent becomes approved or denied,
and the journal has the order before the venue has it. An outcome that is not proven is UNKNOWN and never sent again.
Stop and target follow what is held. The guardian can close everything at a real venue without the order manager.

- risk: the checks before an order; matching: the fill and cost model; portfolio: positions from fills; prop_rules:
  rules of prop firms; pure
- orders: the life cycle of an order as a table (machine), the core of a position (core), its stop and target
  (protection), and the one protocol that sends an order (submit); pure
- venues, credentials: sessions of venues and their keys
- strategy_worker, order_manager, guardian: one package per process

Imported by: data, research, interfaces
Begin with: `orders/submit.py`
Most important: `orders/machine.py`, `risk/policy.py`, `order_manager/submission.py`
"""
