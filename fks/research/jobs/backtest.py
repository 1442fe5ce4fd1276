"""Backtests as jobs: a spec in, a document out. The same for `fks backtest run`, a Ray task and a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from fks.config.settings import Costs, Risk
from fks.model.bar import Bars
from fks.model.cash_flows import InstrumentEvents
from fks.model.errors import InputError, unprocessable
from fks.model.instrument import GivenRules, Instrument
from fks.model.margin import Margin
from fks.model.timeframe import bar_end, check_bar_kind, iso, to_ns
from fks.model.untrusted import Exact
from fks.research.backtest import Result, Setup, run
from fks.research.backtest.limits import UNLIMITED, in_quote
from fks.research.backtest.report import document_of
from fks.research.backtest.rows import AMOUNT_MAX
from fks.research.backtest.run import check_tape
from fks.research.jobs.spec import checked_spec
from fks.strategies.base import history_of
from fks.strategies.registry import Catalogue, load_catalogue
from fks.trading.matching import Borrow, Commission, CostModel, Slippage
from fks.trading.risk.sizing import Sizing

KIND = "backtest"


#: how the fields are read that name costs or a margin
_TEXTS: dict[str, type[Slippage] | type[Commission] | type[Margin] | type[Borrow]] = {
    "slippage": Slippage,
    "commission": Commission,
    "margin": Margin,
    "borrow": Borrow,
}


class BacktestSpec(BaseModel):
    """Strategy, bars and costs of a backtest. `from` is the first decided bar, `to` is exclusive; both optional. Times
    without a zone are UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    strategy: str
    params: dict[str, Any] = Field(default_factory=dict)
    symbol: str
    exchange: str | None = Field(None, max_length=64)
    timeframe: str = "1m"
    start: datetime | None = Field(None, alias="from")
    end: datetime | None = Field(None, alias="to")
    sizing: str = "notional"
    size: Exact = Field(Decimal(1000), gt=0, le=AMOUNT_MAX)
    cash: Exact = Field(Decimal(10_000), gt=0, le=AMOUNT_MAX)
    fee_rate: Exact = Field(Decimal("0.001"), ge=0, lt=1)
    #: None: as fee_rate; below 0: a rebate
    fee_rate_maker: Exact | None = Field(None, ge=Decimal("-0.01"), lt=1)
    fee_in: Literal["received", "quote"] = "received"
    slippage: str = "none"
    commission: str = Field("none", exclude_if=lambda value: value == "none")
    #: percent from the close beyond which a market entry expires whose exits the venue holds; None: it never does
    collar_pct: Exact | None = Field(None, ge=0, le=10, exclude_if=lambda value: value is None)
    #: as `fks.model.margin.Margin.parse` reads it; None: positions are paid in full
    margin: str | None = Field(None, max_length=8_000, exclude_if=lambda value: value is None)
    #: as `fks.trading.matching.Borrow.parse` reads it
    borrow: str = Field("none", exclude_if=lambda value: value == "none")
    #: of a perpetual: the stored rates, or none on purpose
    funding: Literal["stored", "none"] = Field("stored", exclude_if=lambda value: value == "stored")
    allow_gaps: bool = False
    allow_short: bool = False
    limits: bool = False  # whether the node's [risk] limits hold
    #: the account's currency, in which these limits are; None: the quote currency
    limits_currency: str | None = Field(None, pattern="^[A-Z0-9]{1,20}$", exclude_if=lambda value: value is None)
    #: rules instead of the instrument's own: the step of quantities and the least one, the largest order, in base, and
    #: the step of prices
    lot: Exact | None = Field(None, gt=0, le=AMOUNT_MAX, exclude_if=lambda value: value is None)
    tick: Exact | None = Field(None, gt=0, le=AMOUNT_MAX, exclude_if=lambda value: value is None)
    largest: Exact | None = Field(None, gt=0, le=AMOUNT_MAX, exclude_if=lambda value: value is None)
    finer: bool = True  # stored minutes decide the order of prices within a bar

    @field_validator("start", "end")
    @classmethod
    def _utc(cls, moment: datetime | None) -> datetime | None:
        if moment is None:
            return None
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)

    @field_validator("sizing")
    @classmethod
    def _sizes(cls, text: str) -> str:
        return str(Sizing.parse(text))

    @field_validator("collar_pct")
    @classmethod
    def _collars(cls, percent: Decimal | None) -> Decimal | None:
        return percent or None

    @field_validator("slippage", "commission", "margin", "borrow")
    @classmethod
    def _texts(cls, text: str | None, info: ValidationInfo) -> str | None:
        return None if text is None else str(_TEXTS[info.field_name or ""].parse(text))

    @model_validator(mode="after")
    def _ordered(self) -> BacktestSpec:
        check_bar_kind(self.timeframe)
        _ = self.rules
        if self.start and self.end and self.start >= self.end:
            raise ValueError(f"from ({self.start:%Y-%m-%dT%H:%MZ}) must be before to ({self.end:%Y-%m-%dT%H:%MZ})")
        return self

    @property
    def rules(self) -> GivenRules:
        """Return the rules that stand for the instrument's own. Errors: InputError RULE_WRONG."""
        return GivenRules.parse(lot=self.lot, tick=self.tick, largest=self.largest)

    def inside(self, loaded: LoadedBars) -> Bars | None:
        """Return the stored minutes that decide within the bars of a run; None where there are none, or the spec leaves
        them out."""
        return loaded.finer if self.finer else None

    @property
    def start_ns(self) -> int | None:
        return None if self.start is None else to_ns(self.start)

    @property
    def end_ns(self) -> int | None:
        return None if self.end is None else to_ns(self.end)


@dataclass(frozen=True, slots=True)
class BarsRequest:
    """The bars of a backtest: [start, end) of a series, and `warmup` bars before it. `exchange` None: the one that is
    collected, or has bars. `features`: own columns of the strategy beside them."""

    symbol: str
    exchange: str | None
    timeframe: str
    start_ns: int | None
    end_ns: int | None
    warmup: int
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadedBars:
    """Loaded data: bars, the instrument's rules, and their source in words."""

    bars: Bars
    instrument: Instrument
    source: str
    finer: Bars | None = None  # bars of a shorter timeframe inside them, where some are stored
    events: InstrumentEvents = field(default_factory=InstrumentEvents)
    is_derived: bool = False  # the instrument is that of `instrument_of`, as no row describes it


LoadBars = Callable[[BarsRequest], LoadedBars]
Progress = Callable[[float], None]


def parse_spec(spec: Mapping[str, Any]) -> BacktestSpec:
    """Return a checked spec. Errors: InputError SPEC_WRONG naming the field, or TIMEFRAME_UNKNOWN."""
    return checked_spec(BacktestSpec, spec, "backtest", remedy="see 'fks backtest run --help'")


def with_costs(spec: Mapping[str, Any], costs: Costs, collar_pct: Decimal | None = None) -> dict[str, Any]:
    """Return a spec, or that of an account or a portfolio, with the settings' costs where it names none.

    Its own `fee_rate` alone is the maker's too; a strategy that may go short pays its fees in quote, as derivatives do,
    unless the spec says otherwise.
    """
    own = {name: value for name, value in spec.items() if value is not None}
    if "instruments" in own:  # a portfolio's orders are market orders for coins
        return {**costs.model_dump(include={"fee_rate", "fee_in", "slippage"}), **own}
    maker = {"fee_rate_maker": None} if "fee_rate" in own else {}
    collar = {} if collar_pct is None else {"collar_pct": collar_pct}
    members = own.get("members")
    if not isinstance(members, list | tuple):
        own = _with_fee(own, is_short=None)
    elif "fee_in" not in own:
        own["members"] = [_with_fee(member, own.get("allow_short")) for member in members]
    return {**costs.model_dump(), **collar, **maker, **own}


def _with_fee(spec: Any, is_short: Any) -> Any:
    """Return a spec with its fees in quote where it may go short. `is_short`: what all members of an account have."""
    if isinstance(spec, Mapping) and spec.get("allow_short", is_short) is True:
        return {"fee_in": "quote", **spec}
    return spec


def rate_symbols(currency: str, quote: str) -> tuple[str, str]:
    """Return the symbols whose bars price an account's currency in quote: directly, or by the reciprocal."""
    return currency + quote, quote + currency


def limits_of(
    spec: BacktestSpec, loaded: LoadedBars, limits: Risk, load_bars: LoadBars, *, first_ns: int | None = None
) -> Risk:
    """Return the limits of a run in quote, at the last stored close before its first decided bar (`first_ns`; None: the
    spec's start, or the first bar). Errors: InputError LIMITS_CURRENCY when no bars price the account's currency."""
    currency, quote, exchange = spec.limits_currency, loaded.instrument.quote, loaded.instrument.exchange
    if not spec.limits or currency in (None, quote):
        return limits
    assert currency is not None
    first_ns = first_ns or spec.start_ns or int(loaded.bars.time_ns[0])
    symbols, timeframe = rate_symbols(currency, quote), "1m" if loaded.bars.end_ns is not None else spec.timeframe
    for symbol in symbols:
        request = BarsRequest(symbol, exchange, timeframe, first_ns, bar_end(first_ns, timeframe), 1)
        try:
            found = load_bars(request)
        except InputError:
            continue
        pair, bars = (found.instrument.base, found.instrument.quote), found.bars
        before = [index for index, at in enumerate(bars.time_ns) if bar_end(int(at), bars.timeframe) <= first_ns]
        if before and pair in ((currency, quote), (quote, currency)):
            price = Decimal(repr(float(bars.close[before[-1]])))
            return in_quote(limits, price if pair == (currency, quote) else 1 / price)
    raise unprocessable(
        "LIMITS_CURRENCY",
        f"limits in {currency} cannot be converted into {quote}: no {timeframe} bar of {' or '.join(symbols)} on "
        f"{exchange} before {iso(first_ns)}",
        f"store bars of one of them (fks sync), or give limits in {quote} without a currency",
    )


def setup_of(spec: BacktestSpec, loaded: LoadedBars, limits: Risk | None) -> Setup:
    """Return the setup of a spec on its data. `limits`: those of the run in quote (None: the defaults of [risk]), used
    where the spec has them on. Errors: those of `GivenRules.of`."""
    is_left_out = spec.funding == "none"
    funding = () if is_left_out else loaded.events.funding
    instrument = spec.rules.of(loaded.instrument, float(loaded.bars.high.max(initial=0.0)))
    return Setup(
        instrument,
        CostModel.of(spec, instrument),
        spec.sizing,
        spec.size,
        spec.cash,
        spec.allow_short,
        spec.allow_gaps,
        (limits or Risk()) if spec.limits else UNLIMITED,
        start_ns=spec.start_ns,
        collar_pct=spec.collar_pct,
        margin=None if spec.margin is None else Margin.parse(spec.margin),
        borrow=Borrow.parse(spec.borrow),
        events=replace(loaded.events, funding=funding, is_funding_left_out=is_left_out),
    )


def load_joined(symbols: Sequence[str], request: BarsRequest, load_bars: LoadBars) -> LoadedBars:
    """Return the bars of a request, with those of further symbols (`Strategy.inputs`) beside them.

    Errors: as `load_bars`.
    """
    others = {symbol: load_bars(replace(request, symbol=symbol, features=())) for symbol in symbols}
    return joined(load_bars(request), others)


def joined(loaded: LoadedBars, others: Mapping[str, LoadedBars]) -> LoadedBars:
    """Return what was loaded with the bars of further symbols, by name, beside its own."""
    if not others:
        return loaded
    return replace(loaded, bars=loaded.bars.joined({symbol: other.bars for symbol, other in others.items()}))


def run_spec(
    spec: BacktestSpec,
    load_bars: LoadBars,
    progress: Progress = lambda share: None,
    *,
    catalogue: Catalogue | None = None,
    limits: Risk | None = None,
) -> tuple[Result, str]:
    """Run one backtest and return its result and the source of its bars.

    `limits` are the node's [risk] settings (None: their defaults).

    `progress` is called with shares of the work (0 to 1) and may raise to stop it. Errors: InputError for a wrong spec,
    strategy or tape (including TapeRefused).
    """
    strategy = (catalogue or load_catalogue()).make(spec.strategy, spec.params)
    progress(0.05)
    span = (spec.start_ns, spec.end_ns)
    request = BarsRequest(
        spec.symbol, spec.exchange, spec.timeframe, *span, history_of(strategy), features=strategy.features()
    )
    loaded = load_joined(strategy.inputs(), request, load_bars)
    progress(0.3)
    check_tape(strategy, loaded.bars, spec.start_ns)
    progress(0.4)
    setup = setup_of(spec, loaded, limits_of(spec, loaded, limits or Risk(), load_bars))
    result = run(strategy, loaded.bars, setup, check=False, finer=spec.inside(loaded))
    progress(0.9)
    return result, loaded.source


def run_job(
    spec: Mapping[str, Any],
    load_bars: LoadBars,
    progress: Progress = lambda share: None,
    *,
    catalogue: Catalogue | None = None,
    limits: Risk | None = None,
) -> dict[str, Any]:
    """Run the backtest of a job's spec and return its document. Errors: as `parse_spec` and `run_spec`."""
    result, source = run_spec(parse_spec(spec), load_bars, progress, catalogue=catalogue, limits=limits)
    return document_of(result, source=source)
