"""Bridges to trading platforms that run beside FKS: NinjaTrader 8 and MetaTrader 5, on one wire, `fks1`.

A bridge holds its own journal and answers twice what it was asked twice, so a link that was cut in the middle of an
order finds out what became of it. Both ends are here; the AddOn of NinjaTrader, in C#, is in `nt8/`.

- ninja: the wire, its state machines and its signals; pure
- ninja_link: the sockets of FKS's end, for the venue, the exchange and the guardian
- peer: the platform's end of the wire, behind one port
- mt5: the agent beside MetaTrader 5, on that end; it is shipped alone, as a zip

Imported by: lab, market, trading, interfaces
Begin with: `ninja/machine.py`
Most important: `ninja/signals.py`, `ninja_link/service.py`, `peer/bridge.py`
"""
