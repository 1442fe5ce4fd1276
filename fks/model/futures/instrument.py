"""Futures contracts as FKS instruments, and the calendar of their bars."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal

from fks.model.errors import InputError
from fks.model.futures.contract import Contract
from fks.model.futures.specs import SPECS
from fks.model.instrument import Instrument

#: exchanges whose symbols are contracts: live prices of the bridge, NinjaTrader's exports, files of other sources
EXCHANGES = frozenset({"ninja", "ninjatrader", "cme", "cbot", "nymex", "comex", "globex"})
CALENDAR = "CMES"  # of a contract whose root has no specification
_CONTRACTS_MAX = Decimal(10_000)  # no exchange's limit; an account's is far smaller
_NAME = re.compile(r"[A-Z0-9]{1,6} \d{2}-\d{2}")
_CODE = re.compile(r"[A-Z0-9]{1,4}[FGHJKMNQUVXZ]\d{2}")
_ANY_DAY = date(2000, 1, 1)  # a name whose year has two digits needs none


def contract_of(symbol: str) -> Contract | None:
    """Return the contract that a symbol names (`ES 03-25`, `ESH25`); None for another symbol or an unknown root."""
    wanted = symbol.strip().upper()
    if not _NAME.fullmatch(wanted) and not _CODE.fullmatch(wanted):
        return None
    try:
        return Contract.parse(wanted, _ANY_DAY)
    except InputError:
        return None


def stored_name(exchange: str, symbol: str) -> str:
    """Return a symbol as bars are stored: `ESH25` as `ES 03-25` at an exchange of futures, else unchanged."""
    contract = contract_of(symbol) if exchange in EXCHANGES else None
    return symbol if contract is None else contract.name


def futures_calendar(exchange: str, symbol: str) -> str | None:
    """Return the calendar of a futures contract, or of all contracts of a root (`NQ`); None for another symbol.

    A contract of an unknown root has CMES. Where no exchange is known ("") only a known contract has one.
    """
    wanted = symbol.strip().upper()
    contract = contract_of(wanted)
    if exchange not in EXCHANGES:
        return None if exchange or contract is None else contract.spec.calendar
    spec = SPECS.get(wanted) if contract is None else contract.spec
    if spec is not None:
        return spec.calendar
    return CALENDAR if _NAME.fullmatch(wanted) else None


def instrument_of_symbol(exchange: str, symbol: str) -> Instrument | None:
    """Return the trading rules of a symbol that is a known contract at an exchange of futures (or at none, ""), else
    None."""
    contract = contract_of(symbol) if exchange in EXCHANGES or not exchange else None
    return None if contract is None else futures_instrument(contract, exchange, symbol=symbol)


def futures_instrument(contract: Contract, exchange: str, *, symbol: str = "", updated_ns: int = 0) -> Instrument:
    """Return the trading rules of a contract at `exchange`: whole contracts, no smallest value.

    `symbol`: its name there, if that is not `contract.name`.

    `base` is the contract's code (ESH25), so that two months are never one asset. Units: `tick` in price units,
    `multiplier` is the point value in USD.
    """
    spec = contract.spec
    one = Decimal(1)
    return Instrument(
        exchange,
        symbol or contract.name,
        contract.code,
        spec.currency,
        spec.tick,
        one,
        one,
        _CONTRACTS_MAX,
        Decimal(0),
        multiplier=spec.point_value,
        updated_ns=updated_ns,
    )
