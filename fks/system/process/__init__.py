"""The parts that every process of FKS has: log, metrics, heartbeat, self-checks, crash files, process handles."""
