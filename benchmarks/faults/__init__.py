"""What benchmarks/recovery.py breaks, and how it watches: rows of PostgreSQL, lines of logs, answers of the gateway."""
