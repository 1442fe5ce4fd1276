"""Research: backtests, searches over them, and the durable jobs that run both.

A backtest decides with the strategy object, the sizing and the fill rule of live trading, and with those of its checks
that bars can answer (`backtest/limits.py`): backtest, paper and live replay agree trade by trade (guarantee G6). A
search tries parameters and estimates how much of the best result is luck. A job survives its process: it is a row with
a lease, and runs in a process of its own, code of users in a confined one.

- backtest: one strategy or an account of several on bars, its result, statistics and report
- search: plans, objectives, validation, stability and the ledger of earlier searches; pure
- jobs: the queue, schedules and everything that runs as a job: backtests, syncs, training, documents

Imported by: interfaces
Begin with: `backtest/run.py`
Most important: `backtest/reference.py`, `search/run.py`, `jobs/runner.py`
"""
