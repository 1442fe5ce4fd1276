"""Trading rules and a setup derived from bars, for symbols that no instrument row describes."""

from __future__ import annotations

from decimal import Decimal

import numpy as np

from fks.backtest.limits import UNLIMITED
from fks.backtest.result import Setup
from fks.backtest.rows import AMOUNT_MAX
from fks.bars.splits import tick_of
from fks.config.risk import Risk
from fks.futures import instrument_of_symbol
from fks.indicators import places_of
from fks.matching import Borrow, Commission, CostModel, Slippage
from fks.matching.margin import Margin
from fks.model.bar import Bars, Floats
from fks.model.cash_flows import InstrumentEvents
from fks.model.errors import InputError, unprocessable
from fks.model.instrument import Instrument
from fks.risk.sizing import Sizing

_QUOTES = ("USDT", "USDC", "FDUSD", "BUSD", "TUSD", "BTC", "ETH", "BNB", "EUR", "USD")
_SHOWN = 1000  # newest bars from which tick and lot are derived
_REBATE_MOST = Decimal("-0.01")  # as a rate of makers
_QTY_MAX = Decimal(10) ** 9  # bars name no largest order


def guess_instrument(exchange: str, symbol: str, tick: Decimal, lot_step: Decimal) -> Instrument:
    """Return trading rules for a symbol that no instrument row describes: Binance spot's minimum of 5 in quote, and its
    lists of an entry and its exits. No largest order is known."""
    quote = next((q for q in _QUOTES if symbol.endswith(q) and len(symbol) > len(q)), "USD")
    quote = symbol[-3:] if len(symbol) == 6 and symbol.isalpha() and not symbol.endswith(quote) else quote  # EURJPY
    base = symbol.removesuffix(quote).rstrip("/-")
    return Instrument(exchange, symbol, base, quote, tick, lot_step, lot_step, _QTY_MAX, Decimal(5), has_oto=True)


def instrument_of(bars: Bars) -> Instrument:
    """Return trading rules derived from bars: currencies from the symbol (the quote is USD when it names none), tick
    and lot from the decimals of the newest 1,000 bars, a smallest order of 5 in quote, no largest.

    Bars without volume get a lot of 1e-8. A futures contract (`ES 03-25`) has the rules of its specification. Errors:
    InputError NO_DATA without a bar.
    """
    if not len(bars):
        raise unprocessable("NO_DATA", "no bars to derive trading rules from", "give some bars")
    future = instrument_of_symbol(bars.exchange, bars.symbol)
    if future is not None:
        return future
    newest = (bars if bars.raw is None else bars.raw)[-_SHOWN:]
    prices = np.concatenate([newest.open, newest.high, newest.low, newest.close])
    lot = _step(newest.volume) if newest.volume.any() else Decimal("1E-8")
    return guess_instrument(bars.exchange, bars.symbol, tick_of(bars, _step(prices)), lot)


def setup_for(
    bars: Bars,
    *,
    cash: object = 10_000,
    size: object = 1_000,
    sizing: str = "notional",
    fee_rate: object = "0.001",
    fee_rate_maker: object = None,
    slippage: str = "none",
    commission: str = "none",
    can_short: bool = False,
    allow_gaps: bool = False,
    limits: bool = False,
    collar_pct: object = None,
    margin: str | None = None,
    borrow: str = "none",
    events: InstrumentEvents | None = None,
) -> Setup:
    """Return the setup that `run` takes when none is given, with some of its values changed.

    Units: `cash` and, for `notional` sizing, `size` in quote; `size` in base for `quantity`, in percent for the
    others (`fks.risk.sizing`); `fee_rate` is a fraction of each fill, of makers `fee_rate_maker` (None: the same,
    below 0: a rebate); `slippage` is `none`, `2 ticks`, `5 bps`, `0.1 range`; `commission` is `none`, `2.25 each`,
    `0.005 each min 1`. Numbers may be int, float, Decimal or text. `can_short` takes fees in quote, as derivatives
    do. `margin` is what a position needs, '0.1' of its value or '22000 each' contract, and behind a slash what it
    keeps, or another text of `Margin.parse` (None: its value in full); `borrow` is a yearly rate of short positions,
    '0.03', and behind a slash that of cash below 0. `limits=True` holds entries to the default limits of [risk]. With
    `collar_pct` a market entry with SL or TP expires beyond that many percent from the close. `events`: dividends,
    funding and delisting.
    Errors: InputError for a value that is no number or is out of range.
    """
    instrument = instrument_of(bars)
    return Setup(
        instrument,
        CostModel(
            _number("fee_rate", fee_rate, rate_least=Decimal(0)),
            "quote" if can_short or instrument.is_contract else "received",
            None if fee_rate_maker is None else _number("fee_rate_maker", fee_rate_maker, rate_least=_REBATE_MOST),
            Slippage.parse(slippage),
            Commission.parse(commission),
        ),
        str(Sizing.parse(sizing)),
        _number("size", size),
        _number("cash", cash),
        can_short,
        allow_gaps,
        Risk() if limits else UNLIMITED,
        collar_pct=None if collar_pct is None else _number("collar_pct", collar_pct),
        margin=None if margin is None else Margin.parse(margin),
        borrow=Borrow.parse(borrow),
        events=events or InstrumentEvents(),
    )


def _step(values: Floats) -> Decimal:
    return Decimal(1).scaleb(-min(places_of(values), 8))


def _number(name: str, value: object, *, rate_least: Decimal | None = None) -> Decimal:
    """Return a rate (`rate_least` to less than 1), or an amount (above 0, AMOUNT_MAX at most). Errors: InputError."""
    try:
        number = value if isinstance(value, Decimal) else Decimal(str(value))
    except ArithmeticError:
        number = Decimal("NaN")
    is_rate = rate_least is not None
    is_fit = number.is_finite() and (rate_least <= number < 1 if rate_least is not None else 0 < number <= AMOUNT_MAX)
    if not is_fit:
        wanted = f"at least {rate_least} and less than 1" if is_rate else f"a positive number up to {AMOUNT_MAX:.0e}"
        raise InputError(
            f"{name}={value!r} is not {wanted}",
            status=422,
            remedy=f"pass {name} as a number or its text",
        )
    return number
