"""Strategies: pydantic models of their parameters with one vectorised method from bars to wanted position.

A strategy reads no table, clock or venue: it gets bars and gives a position with its protections, the same for a
backtest, on paper and live.

- base: what every strategy file needs (Strategy, Decisions, protections)
- registry: finds built-in ones, a user's files and installed entry points
- check: proves that a strategy neither looks ahead nor needs more history than it declares
- each other module is one strategy, but for template, from which a new one is made

Imported by: lab, system, trading, research, interfaces
Begin with: `sma_cross.py`
Most important: `base/strategy.py`, `registry.py`, `check.py`
"""
