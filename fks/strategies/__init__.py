"""Strategies: pydantic models of their parameters with one vectorised method from bars to wanted position.

`base` has what every strategy file needs (Strategy, Decisions, protections), a module here is one strategy, `registry`
finds built-in ones, a user's files and installed entry points, `check` proves that one neither looks ahead nor needs
more history than it declares.
"""
