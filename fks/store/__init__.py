"""PostgreSQL and Redis: SQL by name in files, values in and out, no decision.

What an action needs is on disk before the action: an order and its event are one statement, fenced by the lease of the
process that writes. Redis wakes readers, caches and counts; no order, signal or bar is lost with it.

- sql: the statements; schema, migrations: the tables
- db, base, bus: connections, methods that are made of statements; several orders share one commit in orders
- leases, facts, grants: epochs, limits of trading at this moment, roles of the database
- each other module has the rows of one subject

Imported by: system, market, trading, data, research, interfaces
Begin with: `base.py`
Most important: `orders.py`, `leases.py`, `schema.py`
"""
