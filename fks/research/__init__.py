"""Research: backtests, searches over them, and the durable jobs that run both.

A backtest decides with the strategy object, the sizing, the checks and the fill rule of live trading, so its result is
that of live trading on these bars (guarantee G6). A search tries parameters and estimates how much of the best result
is luck. A job survives its process: it is a row with a lease, and runs confined in a process of its own.

- backtest: one strategy or an account of several on bars, its result, statistics and report; pure
- search: plans, objectives, validation, stability and the ledger of earlier searches; pure
- jobs: the queue, schedules and everything that runs as a job: backtests, syncs, training, documents

Imported by: interfaces
Begin with: `backtest/run.py`
Most important: `backtest/reference.py`, `search/run.py`, `jobs/runner.py`
"""
