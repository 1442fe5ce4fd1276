"""Names of a market on Kraken's wire, and its numbers as Kraken writes them: fixed places, trailing zeros kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from fks.lab.sim.atoms import SCALE, show
from fks.lab.sim.symbol_state import SymbolState
from fks.lab.sim.symbols import Listing

_OLD_NAMES = {"BTC": "XBT", "DOGE": "XDG"}  # REST's names; the websocket's version 2 uses ours
#: REST's names of assets that were listed early, by their short name there: X for coins, Z for money
_ASSETS = {name: f"X{name}" for name in ("XBT", "XDG", "ETH", "LTC", "XRP", "XLM", "XMR", "ETC", "ZEC")}
_ASSETS |= {name: f"Z{name}" for name in ("USD", "EUR", "GBP", "CAD", "JPY", "AUD")}


@dataclass(frozen=True, slots=True)
class Pair:
    """One market. `symbol` is version 2's name (BTC/USDT), `altname` REST's short one (XBTUSDT, XBTUSD), `name` the id
    under which REST lists it (XBTUSDT, XXBTZUSD), `base` and `quote` its assets there (XXBT, ZUSD)."""

    state: SymbolState
    symbol: str
    altname: str
    wsname: str
    name: str
    base: str
    quote: str
    price_places: int
    lot_places: int

    @property
    def listing(self) -> Listing:
        """Return the market's listing, with the filters set last."""
        return self.state.market.listing

    def price_text(self, ticks: int) -> str:
        """Return a price with the pair's places."""
        return _fixed(ticks * self.listing.tick, self.price_places)

    def amount_price(self, atoms: int) -> str:
        """Return a price in atoms with the pair's places."""
        return _fixed(atoms, self.price_places)

    def lots_text(self, lots: int) -> str:
        """Return a quantity with eight places, as every volume of Kraken's has."""
        return show(lots * self.listing.step)

    def price(self, ticks: int) -> orjson.Fragment:
        """Return a price as a JSON number."""
        return orjson.Fragment(self.price_text(ticks))

    def lots(self, lots: int) -> orjson.Fragment:
        """Return a quantity as a JSON number."""
        return orjson.Fragment(self.lots_text(lots))

    def average(self, quote: int, lots: int) -> str:
        """Return a volume-weighted price: `quote` in ticks times lots; "0.0" for no volume, as Kraken's REST has it."""
        return _fixed(quote * self.listing.tick // lots, self.price_places) if lots else "0.0"


def pair_of(state: SymbolState) -> Pair:
    """Return the names and places of a market."""
    listing = state.market.listing
    base, quote = short_name(listing.base), short_name(listing.quote)
    is_old = base in _ASSETS and quote in _ASSETS
    return Pair(
        state,
        f"{listing.base}/{listing.quote}",
        base + quote,
        f"{base}/{quote}",
        _ASSETS[base] + _ASSETS[quote] if is_old else base + quote,
        asset_name(listing.base),
        asset_name(listing.quote),
        _places(listing.tick),
        _places(listing.step),
    )


def asset_name(asset: str) -> str:
    """Return REST's name of an asset: XXBT for BTC, ZUSD for USD."""
    short = _OLD_NAMES.get(asset, asset)
    return _ASSETS.get(short, short)


def short_name(asset: str) -> str:
    """Return REST's short name of an asset: XBT for BTC."""
    return _OLD_NAMES.get(asset, asset)


def iso_us(time_ms: int) -> str:
    """Return a time as version 2 writes it, with six digits of the second."""
    moment = datetime.fromtimestamp(time_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}000Z"


def _places(grid: int) -> int:
    """Return the decimal places of a grid in atoms."""
    return next(places for places in range(9) if grid % 10 ** (8 - places) == 0)


def _fixed(atoms: int, places: int) -> str:
    whole, rest = divmod(atoms, SCALE)
    return f"{whole}.{rest:08d}"[: -(8 - places) or None] if places else str(whole)
