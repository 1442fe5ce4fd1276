"""Orders: the lifecycle of one order as one table (`machine`), and pure rules about several (`absence`, `protection`).

In come events, out come the next order and what to do. Nothing here knows a clock, a socket or a table of the database.
"""
