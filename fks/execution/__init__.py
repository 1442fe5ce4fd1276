"""The order path's driver: asyncio over the ports, group commit, timers, reconciliation."""
