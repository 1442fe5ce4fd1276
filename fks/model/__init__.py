"""Shared values and ports: frozen types that every other package uses, and the rules that belong to a value alone.

An order, a bar, an instrument or an account is the same type everywhere, in memory, in rows and in answers. Ids are
functions of the values that they name. The package imports the standard library, numpy, msgspec and pydantic; a
calendar loads exchange_calendars on first use.

- ports, order, signal, bar, instrument, account: the values that parts exchange, and the interfaces they meet by
- ids, codes, errors, kill, margin, calendars, untrusted: rules of one value
- accounting: lots, valuation, attribution, periods; futures: rules of contracts (expiry, front month, roll)

Imported by: config, indicators, bridge, strategies, ai, store, lab, system, market, trading, data, research, interfaces
Begin with: `order.py`
Most important: `ports.py`, `ids.py`, `codes.py`
"""
