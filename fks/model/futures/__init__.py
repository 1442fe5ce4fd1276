"""Futures contracts: specifications, names, expiry and roll dates, the front month, prices in 32nds. Pure."""

from fks.model.bar import ContractRoll
from fks.model.futures.continuous import ContinuousFuture, RollTrade, continuous, roll_trades
from fks.model.futures.contract import (
    Contract,
    ContractState,
    check_entry,
    continuous_root,
    front_month,
    listed_contracts,
)
from fks.model.futures.instrument import (
    EXCHANGES,
    contract_of,
    futures_calendar,
    futures_instrument,
    instrument_of_symbol,
    stored_name,
)
from fks.model.futures.prices import format_price, parse_price
from fks.model.futures.specs import SPECS, ContractSpec, spec_of
from fks.model.futures.trading_days import session_close_ns, trade_date

__all__ = [
    "EXCHANGES",
    "SPECS",
    "ContinuousFuture",
    "Contract",
    "ContractRoll",
    "ContractSpec",
    "ContractState",
    "RollTrade",
    "check_entry",
    "continuous",
    "continuous_root",
    "contract_of",
    "format_price",
    "front_month",
    "futures_calendar",
    "futures_instrument",
    "instrument_of_symbol",
    "listed_contracts",
    "parse_price",
    "roll_trades",
    "session_close_ns",
    "spec_of",
    "stored_name",
    "trade_date",
]
