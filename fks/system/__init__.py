"""The system that keeps the parts alive: supervision, the servers of a machine, health and alerts.

Each part is a process that may die at any moment. A pure table decides what happens then; a runner starts a successor
under a higher epoch, so that what the dead process still writes fails. The keeper of a machine does the same for
PostgreSQL, Redis and Ray by the same table. The table knows a part by its `ChildSpec` alone; the tree of all parts is
in `actors/tree.py`.

- supervision: the table and the tree, pure; supervisor: what performs it
- process: one process: heartbeat, log, crash files, confinement; runtime: what every process is given
- node, servers: the keeper of a machine, and the servers that it starts
- monitor, alerts: health of all parts, and messages to people
- rate_limits: limits of an exchange that all processes share

Imported by: market, trading, data, research, interfaces
Begin with: `supervision/machine.py`
Most important: `supervisor/child_runner.py`, `node/keeper.py`, `monitor/alert_ends.py`
"""
