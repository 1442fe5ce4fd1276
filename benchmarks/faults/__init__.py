"""Faults of benchmarks/recovery.py and their observation: rows of PostgreSQL, lines of logs, answers of the gateway."""
