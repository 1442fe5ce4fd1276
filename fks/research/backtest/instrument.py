"""Trading rules and a setup derived from bars, for symbols that no instrument row describes."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import numpy as np

from fks.config.risk import Risk
from fks.market.bars.splits import NO_SHARES, tick_of
from fks.model.bar import Bars, Floats
from fks.model.cash_flows import InstrumentEvents
from fks.model.errors import InputError, unprocessable
from fks.model.futures import contract_of, instrument_of_symbol
from fks.model.instrument import NO_LARGEST, GivenRules, Instrument
from fks.model.margin import Margin
from fks.model.ticks import ensure_finite, places_of, places_within, shown_places
from fks.research.backtest.limits import UNLIMITED
from fks.research.backtest.result import Setup
from fks.research.backtest.rows import AMOUNT_MAX
from fks.trading.matching import Borrow, Commission, CostModel, Slippage
from fks.trading.risk.sizing import Sizing

_QUOTES = ("USDT", "USDC", "FDUSD", "BUSD", "TUSD", "BTC", "ETH", "BNB", "EUR", "USD")
_DOLLAR = {"BTC": Decimal("1E-5"), "ETH": Decimal("1E-4"), "BNB": Decimal("1E-3")}  # about one, in these quotes
_LEAST_ORDER = 5  # about as many dollars: the minimum of Binance spot
_DEAREST_LOT = 2  # dollars: one euro is a lot
_SHOWN = 1000  # newest bars from which tick and lot are derived
_LOT_PLACES = 8
_REBATE_MOST = Decimal("-0.01")  # as a rate of makers


def currencies_of(symbol: str) -> tuple[str, str]:
    """Return base and quote that a symbol names: BTC and USD of BTC-USD, EUR and JPY of EURJPY or EURJPY=X; the quote
    is USD where it names none (AAPL)."""
    name = symbol.upper().removesuffix("=X")
    quote = _named_quote(name) or "USD"
    return name.removesuffix(quote).rstrip("/-"), quote


def _named_quote(name: str) -> str:
    found = next((quote for quote in _QUOTES if name.endswith(quote) and len(name) > len(quote)), "")
    return name[-3:] if not found and len(name) == 6 and name.isalpha() else found


def instrument_of(bars: Bars, *, tick: Decimal | None = None, lot_step: Decimal | None = None) -> Instrument:
    """Return trading rules derived from bars: those of stored bars, files, tapes and trades that no instrument row
    describes.

    A futures contract (`ES 03-25`) has the rules of its specification. Else the currencies are those of the symbol, the
    tick is that of the prices' decimals, the least order is about 5 dollars, and there is no largest one. Shares (bars
    of a stock exchange's calendar) and contracts without a specification have the lot that the volumes' decimals
    show. Volumes of anything else may count money or ticks: its lot is worth about a dollar at most at the highest
    price, down to 1e-8; bars without volume have that one. Decimals are those of the newest 1,000 bars, or `tick`
    and `lot_step` where these are known.
    Errors: InputError NO_DATA without a bar, PRICE_UNKNOWN for a price that is NaN or infinite.
    """
    if not len(bars):
        raise unprocessable("NO_DATA", "no bars to derive trading rules from", "give some bars")
    future = instrument_of_symbol(bars.exchange, bars.symbol)
    if future is not None:
        return future
    newest = (bars if bars.raw is None else bars.raw)[-_SHOWN:]
    columns = (newest.open, newest.high, newest.low, newest.close)
    for column in (*columns, bars.high):
        ensure_finite(column)
    if tick is None:
        finest = places_within(float(newest.low.min()), float(newest.high.max()))
        tick = _step(columns, finest)
    if lot_step is None:
        lot_step = _step((newest.volume,), _LOT_PLACES) if newest.volume.any() else Decimal(1).scaleb(-_LOT_PLACES)
    base, quote = currencies_of(bars.symbol)
    dollar = _DOLLAR.get(quote, Decimal(1))
    highest = Decimal(repr(float(bars.high.max())))
    if highest > 0 and not _has_whole_lots(bars):  # at a price of 0 any lot is worth nothing
        coarsest = Decimal(1).scaleb((_DEAREST_LOT * dollar / highest).adjusted())
        lot_step = min(lot_step, max(coarsest, Decimal(1).scaleb(-_LOT_PLACES)))
    tick, least = tick_of(bars, tick), _LEAST_ORDER * dollar
    return Instrument(
        bars.exchange, bars.symbol, base, quote, tick, lot_step, lot_step, NO_LARGEST, least, has_oto=True
    )


def _has_whole_lots(bars: Bars) -> bool:
    """Return whether the volumes of bars count shares or contracts: an index (`^GSPC`), a currency pair and Yahoo's
    continuous future (`GC=F`) may keep to a stock exchange's hours, too."""
    name = bars.symbol.upper()
    is_share = bars.calendar not in NO_SHARES and not name.startswith("^") and "=" not in name
    return (is_share and not _named_quote(name)) or contract_of(name) is not None


def _step(columns: Sequence[Floats], finest: int) -> Decimal:
    """Return the step of the decimals that columns show, 10^-finest at least."""
    places = max(places_of(column) for column in columns)
    if places >= min(finest, _LOT_PLACES):  # some have the noise of arithmetic, or are small
        places = shown_places(np.concatenate(columns))
    return Decimal(1).scaleb(-min(places, finest))


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
    lot: object = None,
    tick: object = None,
    largest: object = None,
) -> Setup:
    """Return the setup that `run` takes when none is given, with some of its values changed.

    Units: `cash` and, for `notional` sizing, `size` in quote; `size` in base for `quantity`, in percent for the
    others (`fks.trading.risk.sizing`); `fee_rate` is a fraction of each fill, of makers `fee_rate_maker` (None: the
    same, below 0: a rebate); `slippage` is `none`, `2 ticks`, `5 bps`, `0.1 range`; `commission` is `none`, `2.25
    each`, `0.005 each min 1`. Numbers may be int, float, Decimal or text. `can_short` takes fees in quote, as
    derivatives do. `margin` is what a position needs, '0.1' of its value or '22000 each' contract, and behind a slash
    what it keeps, or another text of `Margin.parse` (None: its value in full); `borrow` is a yearly rate of short
    positions, '0.03', and behind a slash that of cash below 0. `limits=True` holds entries to the default limits of
    [risk]. With `collar_pct` a market entry with SL or TP expires beyond that many percent from the close. `events`:
    dividends, funding and delisting. `lot` (the step of quantities, and the least one), `tick` and `largest`
    (the largest order) stand for those of `instrument_of(bars)`.
    Errors: InputError for a value that is no number or is out of range.
    """
    rules = GivenRules.parse(lot=lot, tick=tick, largest=largest)
    instrument = rules.of(instrument_of(bars), float(bars.high.max(initial=0.0)))
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
