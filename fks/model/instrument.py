"""Instruments: their names and the venue's rules for prices and quantities."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

from fks.model.decimals import places
from fks.model.errors import invalid, not_found, unprocessable

_SEPARATORS = str.maketrans("", "", "/-")
NO_LARGEST = Decimal("Infinity")  # the `qty_max` of an instrument that has no largest order
_RULE_MAX = Decimal(10) ** 15
_PLACES_MAX = {"lot": 12, "tick": 18, "largest": 12}  # of the rules that a person gives
_TICKS_MAX = 1e17  # of a price: it and its sums fit 64 bits


@dataclass(frozen=True, slots=True)
class Lot:
    """Allowed quantities (base) of one kind of order: from `least` to `most`, in multiples of `step`."""

    least: Decimal
    most: Decimal
    step: Decimal

    def within(self, other: Lot | None) -> Lot:
        """Return the lot of what must keep to both; a step or a maximum of 0 in `other` is none."""
        if other is None:
            return self
        most = min(self.most, other.most) if other.most > 0 else self.most
        return Lot(max(self.least, other.least), most, max(self.step, other.step))


@dataclass(frozen=True, slots=True)
class PercentPrice:
    """Allowed distance of a price from the exchange's average price, as factors of it: buys and sells apart.

    Source: Binance spot, filters PERCENT_PRICE and PERCENT_PRICE_BY_SIDE.
    """

    buy_down: Decimal
    buy_up: Decimal
    sell_down: Decimal
    sell_up: Decimal

    def range(self, side: str) -> tuple[Decimal, Decimal]:
        """Return the lowest and the highest factor of a side."""
        return (self.buy_down, self.buy_up) if side == "buy" else (self.sell_down, self.sell_up)


@dataclass(frozen=True, slots=True)
class Instrument:
    """One instrument at one exchange. `symbol` is the venue's name (BTCUSDT), `name` the unified one (BTC/USDT).

    Units: `tick`, prices and `notional_min` in `quote`; `lot_step`, `qty_min`, `qty_max` (or `NO_LARGEST`) in `base`.
    The fields with a default are filters that an exchange may have: None (or an empty `order_types`) means that it
    reported none.
    """

    exchange: str
    symbol: str
    base: str
    quote: str
    tick: Decimal
    lot_step: Decimal
    qty_min: Decimal
    qty_max: Decimal
    notional_min: Decimal
    multiplier: Decimal = Decimal(1)
    is_trading: bool = True
    updated_ns: int = 0
    market_lot: Lot | None = None  # for market orders, beside the lot of all orders; a step of 0 is no step
    is_notional_min_for_market: bool = True
    orders_max: int | None = None  # open orders of one account
    algo_orders_max: int | None = None  # of these, orders that wait for a stop price
    percent_price: PercentPrice | None = None
    order_types: frozenset[str] = frozenset()  # values of OrderType
    has_oco: bool = True
    has_oto: bool = False  # takes an entry and the exits that wait for its complete fill as one request
    has_opo: bool = False  # and exits that sell what the entry received

    @property
    def is_contract(self) -> bool:
        """Return whether a unit is a contract on several units of the base, or on a part of one, not the asset itself:
        no fee can be taken from it."""
        return self.multiplier != 1

    def lot(self, *, is_market: bool) -> Lot:
        """Return the lot that a quantity must fit: a market order must fit both lots."""
        return Lot(self.qty_min, self.qty_max, self.lot_step).within(self.market_lot if is_market else None)

    @property
    def name(self) -> str:
        """Return the unified name, BTC/USDT."""
        return f"{self.base}/{self.quote}"

    def round_price(self, price: Decimal, *, side: str, is_stop: bool = False) -> Decimal:
        """Return `price` on the tick grid: buys round down, sells up, stops away from the market."""
        if is_stop:
            rounding = ROUND_CEILING if side == "buy" else ROUND_FLOOR
        else:
            rounding = ROUND_FLOOR if side == "buy" else ROUND_CEILING
        return (price / self.tick).to_integral_value(rounding) * self.tick

    def takes_entry_list(self, *, side: str, has_stop_loss: bool, has_take_profit: bool) -> bool:
        """Return whether an entry and its exits can go out as one request: a buy with one exit, or with an OCO of
        two."""
        is_pair = has_stop_loss and has_take_profit
        return self.has_oto and side == "buy" and (has_stop_loss or has_take_profit) and (self.has_oco or not is_pair)

    def round_quantity(self, quantity: Decimal) -> Decimal:
        """Return `quantity` rounded down onto the lot grid; never up, so it cannot spend more than decided."""
        return (quantity / self.lot_step).to_integral_value(ROUND_FLOOR) * self.lot_step


@dataclass(frozen=True, slots=True)
class GivenRules:
    """Rules that a person gives for an instrument, None: its own. Units: `lot` (the step of all orders, and the least
    one) and `largest` (order) in base, `tick` in quote."""

    lot: Decimal | None = None
    tick: Decimal | None = None
    largest: Decimal | None = None

    @staticmethod
    def parse(*, lot: object = None, tick: object = None, largest: object = None) -> GivenRules:
        """Return the rules of numbers or their texts. Errors: InputError RULE_WRONG for one that is not positive, or
        has more than 12 places (`tick`: 18)."""
        given = {"lot": lot, "tick": tick, "largest": largest}
        return GivenRules(**{name: _rule(name, value) for name, value in given.items() if value is not None})

    def of(self, instrument: Instrument, highest: float) -> Instrument:
        """Return an instrument with these rules instead of its own. `highest`: the highest price of a run. Errors:
        InputError RULE_WRONG for a tick too fine for it, or a largest order below the least one."""
        lot, most = self.lot, instrument.qty_max if self.largest is None else self.largest
        least = instrument.qty_min if lot is None else lot
        if (lot, self.largest) != (None, None) and most < least:
            text = f"a largest order of {most:f} {instrument.base} is below the least one of {least:f}"
            raise unprocessable("RULE_WRONG", text, "give a larger one (--largest), or a finer lot (--lot)")
        if self.tick is not None and highest * 10.0 ** places(self.tick) > _TICKS_MAX:
            text = f"a tick of {self.tick:f} is too fine for a price of {highest!r}"
            raise unprocessable("RULE_WRONG", text, "give a coarser one (--tick)")
        market, none = instrument.market_lot, Decimal(0)
        if market is not None and lot is not None:
            market = Lot(none, market.most, none)
        if market is not None and self.largest is not None:
            market = Lot(market.least, none, market.step)
        step = instrument.lot_step if lot is None else lot
        tick = instrument.tick if self.tick is None else self.tick
        return replace(instrument, lot_step=step, qty_min=least, qty_max=most, tick=tick, market_lot=market)


NO_RULES = GivenRules()


def _rule(name: str, value: object) -> Decimal:
    try:
        number = Decimal(str(value))
    except ArithmeticError:
        number = Decimal("NaN")
    finest = _PLACES_MAX[name]
    if not number.is_finite() or not 0 < number <= _RULE_MAX or places(number) > finest:
        text = f"{name}={str(value)[:40]!r} is no positive number up to {_RULE_MAX:.0e} with at most {finest} places"
        raise unprocessable("RULE_WRONG", text, f"give {name} as 0.001 for example")
    return Decimal(f"{number:f}")


def distance_of(trail: Decimal, tick: Decimal) -> Decimal:
    """Return the distance of a trailing stop, rounded up to whole ticks."""
    return (trail / tick).to_integral_value(ROUND_CEILING) * tick


def money(value: Decimal, places: int = 8) -> Decimal:
    """Return `value` at 1e-8, half-even: the one rounding of fees and cash."""
    return value.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_EVEN)


def folded(symbol: str) -> str:
    """Return the common form of all spellings of a symbol: BTC/USDT, btc-usdt and BTCUSDT are one."""
    return symbol.strip().upper().translate(_SEPARATORS)


def find_instrument(text: str, instruments: Iterable[Instrument]) -> Instrument:
    """Return the one instrument that `text` names, by its symbol or its currencies; see `folded`.

    Errors: InputError SYMBOL_UNKNOWN, or SYMBOL_AMBIGUOUS naming the candidates (prefix `exchange:` to choose).
    """
    wanted = text.strip()
    exchange, _, rest = wanted.rpartition(":")
    key = folded(rest)
    everything = list(instruments)
    found = [
        item
        for item in everything
        if key in (folded(item.symbol), folded(item.name)) and (not exchange or item.exchange == exchange.lower())
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        known = ", ".join(sorted(item.symbol for item in everything)[:12]) or "none yet: is the collector running?"
        raise not_found("SYMBOL_UNKNOWN", f"unknown symbol {text!r}", f"known: {known}")
    names = ", ".join(sorted(f"{item.exchange}:{item.symbol}" for item in found))
    raise invalid("SYMBOL_AMBIGUOUS", f"ambiguous symbol {text!r}", f"say which: {names}")


def assumed_instrument(exchange: str, symbol: str, fee_currency: str) -> Instrument:
    """Return what is assumed of a spot symbol without metadata, to book an execution: units of the base, on no grid.

    The fee's currency is the base where the symbol begins with it, the quote where it ends with it: a position needs
    no more of the two than whether the fee was taken from the bought asset. With a fee in a third asset the quote is
    not known, "".
    """
    name = symbol.replace("/", "").replace("-", "")
    is_base = bool(fee_currency) and name.startswith(fee_currency) and name != fee_currency
    is_quote = not is_base and name.endswith(fee_currency)
    base = fee_currency if is_base else name.removesuffix(fee_currency)
    quote = name.removeprefix(fee_currency) if is_base else fee_currency if is_quote else ""
    none, step = Decimal(0), Decimal("1e-12")
    return Instrument(exchange, symbol, base or symbol, quote, step, step, none, none, none)
