"""Prices of MetaTrader 5 behind the port `fks.model.ports.Exchange`.

The session, the streams and the history are those of NinjaTrader's exchange. The agent reports the listing:
the symbols of the terminal's Market Watch, with the broker's own spelling.
"""

from __future__ import annotations

from decimal import Decimal

from fks.bridge.ninja.messages import InstrumentMessage
from fks.market.exchanges.mt5.capabilities import CAPABILITIES
from fks.market.exchanges.ninja.exchange import NinjaExchange
from fks.model.instrument import Instrument
from fks.model.ninja import MT5


class Mt5Exchange(NinjaExchange):
    """MetaTrader 5's prices; see `NinjaExchange`."""

    platform = MT5
    name = MT5.name
    capabilities = CAPABILITIES

    async def instruments(self) -> list[Instrument]:
        """Return the symbols of the terminal's Market Watch. Errors: OutageError, PeerError, ConfigError."""
        now_ns = self._clock.now_ns()
        return [instrument_of(row, now_ns) for row in await self._session.instruments()]


def instrument_of(row: InstrumentMessage, now_ns: int) -> Instrument:
    """Return the trading rules of a symbol, quantities in lots.

    `base` is the symbol itself, since a position is none in the currency; `quote` is the currency of profit and loss;
    `multiplier` is the contract size, so that a move by 1 of one lot is worth so much of the quote.
    """
    return Instrument(
        MT5.name,
        row.instrument,
        row.instrument,
        row.currency_profit,
        row.tick_size,
        row.volume_step,
        row.volume_min,
        row.volume_max,
        Decimal(0),
        multiplier=row.contract_size,
        is_trading=row.trading,
        updated_ns=now_ns,
    )
