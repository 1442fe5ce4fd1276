"""Backtests of portfolios: a spec in, a document out, in a process of a person or as a job."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fks.model.calendars import calendar_of, is_open_at
from fks.model.errors import ConfigError, unprocessable
from fks.model.instrument import Instrument, find_instrument
from fks.model.timeframe import NS, TIMEFRAMES, bar_start, iso, to_datetime, to_ns
from fks.model.untrusted import Exact
from fks.research.backtest.rebalance import (
    AllocationSchedule,
    PortfolioBacktest,
    PortfolioSetup,
    portfolio_document_of,
    run_portfolio,
)
from fks.research.backtest.rows import AMOUNT_MAX
from fks.research.jobs.allocation import AllocationBody
from fks.research.jobs.backtest import BarsRequest, LoadBars, Progress
from fks.research.jobs.rhythm import Rhythm
from fks.research.jobs.spec import checked_spec
from fks.trading.matching import CostModel, Slippage
from fks.trading.portfolio.allocation import AllocationConstraints, AllocationGroup, AllocationOptions
from fks.trading.portfolio.rebalance import COLLAR_MAX, RebalanceRules, TargetWeight, Trigger, TriggerPolicy

INSTRUMENTS_MAX, REQUESTS_MAX = 100, 100_000
_RULES, _POLICY, _DAY_NS = RebalanceRules(), TriggerPolicy(), 86_400 * NS


def _checked_cron(cron: str | None) -> None:
    if cron is not None:
        Rhythm(cron).checked()


class PortfolioInstrument(BaseModel):
    """An instrument with its target; without `weight` an allocation makes the first targets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    symbol: str = Field(min_length=1, max_length=64)
    exchange: str | None = Field(None, max_length=64)
    weight: Exact | None = Field(None, ge=0, le=1)
    min: Exact | None = Field(None, ge=0, le=1)
    max: Exact | None = Field(None, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> PortfolioInstrument:
        if self.weight is None:
            if self.min is not None or self.max is not None:
                raise ValueError("min and max are the band of a weight: give one")
        elif not (self.min or 0) <= self.weight <= (1 if self.max is None else self.max):
            raise ValueError("0 <= min <= weight <= max <= 1")
        return self


class PortfolioRules(BaseModel):
    """Limits of a rebalancing, as those of the targets of a portfolio."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    band: Exact = Field(_RULES.band, ge=0, le=1)
    band_relative: Exact | None = Field(None, ge=0, le=1)
    trade_min: Exact = Field(_RULES.trade_min, ge=0)
    cash_min: Exact = Field(_RULES.cash_min, ge=0, le=1)
    turnover_max: Exact | None = Field(None, gt=0, le=2)
    price_tolerance: Exact = Field(_RULES.price_tolerance, gt=0, le=1)
    run_max_age_s: float = Field(_RULES.run_max_age_s, ge=1, le=604_800)
    collar: Exact | None = Field(None, gt=0, le=COLLAR_MAX)


class PortfolioTrigger(BaseModel):
    """The cause of the runs: `drift`, or a schedule by `cron` (UTC), with a `calendar` only while its market is
    open."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trigger: Literal["drift", "schedule"] = "drift"
    band: Exact | None = Field(None, ge=0, le=1)
    timeframe: str = Field(_POLICY.timeframe, max_length=4)
    cooldown_s: float = Field(_POLICY.cooldown_s, ge=0, le=31_622_400)
    change_max: Exact = Field(_POLICY.change_max, ge=0, le=1)
    cron: str | None = Field(None, max_length=100)
    calendar: str | None = Field(None, max_length=32)

    @model_validator(mode="after")
    def _due(self) -> PortfolioTrigger:
        if (self.cron is None) == (self.trigger == "schedule"):
            raise ValueError("a schedule has a cron, drift has none")
        _checked_cron(self.cron)
        try:
            if self.calendar is not None:
                calendar_of(self.calendar)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if not TIMEFRAMES.get(self.timeframe):
            raise ValueError(f"timeframe: use one of {' '.join(one for one, seconds in TIMEFRAMES.items() if seconds)}")
        return self


class PortfolioAllocation(AllocationBody):
    """A method that makes the targets, first at the start and then by `cron` (UTC); without one a bar of the trigger's
    timeframe before each request of the schedule, as targets of the last bar start no run."""

    cron: str | None = Field(None, max_length=100)

    @model_validator(mode="after")
    def _due(self) -> PortfolioAllocation:
        if self.as_of is not None or self.instruments is not None:
            raise ValueError("as_of and instruments are those of the backtest: leave them out")
        if self.instances is not None:
            raise ValueError("instances are those of a live portfolio: leave them out")
        _checked_cron(self.cron)
        return self


class PortfolioBacktestSpec(BaseModel):
    """A portfolio, its bars and costs. `from` is the first bar, `to` is exclusive; both optional. `exchange` is that of
    all instruments that name none. Times without a zone are UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    instruments: tuple[PortfolioInstrument, ...] = Field(min_length=1, max_length=INSTRUMENTS_MAX)
    timeframe: str = Field("1h", max_length=4)
    start: datetime | None = Field(None, alias="from")
    end: datetime | None = Field(None, alias="to")
    cash: Exact = Field(Decimal(10_000), gt=0, le=AMOUNT_MAX)
    fee_rate: Exact = Field(Decimal("0.001"), ge=0, lt=1)
    fee_in: Literal["received", "quote"] = "received"
    slippage: str = "none"
    rules: PortfolioRules = PortfolioRules()
    trigger: PortfolioTrigger = PortfolioTrigger()
    allocation: PortfolioAllocation | None = None
    allow_gaps: bool = False

    @model_validator(mode="before")
    @classmethod
    def _shared(cls, spec: Any) -> Any:
        """Give each instrument the exchange that is written once for all."""
        if not isinstance(spec, Mapping) or not isinstance(spec.get("instruments"), list | tuple):
            return spec
        rest = {name: value for name, value in spec.items() if name != "exchange"}
        shared = {} if spec.get("exchange") is None else {"exchange": spec["exchange"]}
        rest["instruments"] = [{**shared, **one} if isinstance(one, Mapping) else one for one in spec["instruments"]]
        return rest

    @field_validator("start", "end")
    @classmethod
    def _utc(cls, moment: datetime | None) -> datetime | None:
        return None if moment is None else moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)

    @field_validator("slippage")
    @classmethod
    def _slippage(cls, text: str) -> str:
        return str(Slippage.parse(text))

    @model_validator(mode="after")
    def _whole(self) -> PortfolioBacktestSpec:
        if not TIMEFRAMES.get(self.timeframe):
            raise ValueError(f"timeframe: use one of {' '.join(one for one, seconds in TIMEFRAMES.items() if seconds)}")
        if self.start and self.end and self.start >= self.end:
            raise ValueError(f"from ({self.start:%Y-%m-%dT%H:%MZ}) must be before to ({self.end:%Y-%m-%dT%H:%MZ})")
        weights = [one.weight for one in self.instruments]
        if None in weights and (self.allocation is None or any(weight is not None for weight in weights)):
            raise ValueError("give each instrument a weight, or none of them and an allocation")
        if self.allocation is not None and self.allocation.cron is None and self.trigger.cron is None:
            raise ValueError("allocation: give its cron, as drift has no times of its own")
        return self


def parse_portfolio(spec: Mapping[str, Any]) -> PortfolioBacktestSpec:
    """Return a checked spec. Errors: InputError SPEC_WRONG naming the field, SCHEDULE_WRONG for a cron."""
    return checked_spec(PortfolioBacktestSpec, spec, "portfolio", remedy="see docs/backtest-portfolio.md")


def run_portfolio_spec(
    spec: PortfolioBacktestSpec, load_bars: LoadBars, progress: Progress = lambda share: None
) -> tuple[PortfolioBacktest, tuple[str, ...]]:
    """Run a portfolio and return the result and the source of each instrument's bars. Errors: InputError for a wrong
    spec or tape, as `run_portfolio`."""
    start_ns, end_ns = (None if time is None else to_ns(time) for time in (spec.start, spec.end))
    length_s, wanted = TIMEFRAMES[spec.timeframe], spec.allocation
    # a day more: the window ends at a whole bar of the allocation's timeframe
    warmup = 0 if wanted is None else (wanted.window_days + 1) * 86_400 // length_s + 1
    loaded = []
    for at, one in enumerate(spec.instruments):
        request = BarsRequest(one.symbol, one.exchange, spec.timeframe, start_ns, end_ns, warmup)
        loaded.append(load_bars(request))
        progress(0.5 * (at + 1) / len(spec.instruments))
    items, bars = [one.instrument for one in loaded], [one.bars for one in loaded]
    if start_ns is None:  # from where all instruments have their bars, and those of a window
        start_ns = max(int(part.time_ns[0]) for part in bars)
        if wanted is not None:
            start_ns += wanted.window_days * _DAY_NS
            if rest := start_ns - bar_start(start_ns, wanted.timeframe):
                start_ns += TIMEFRAMES[wanted.timeframe] * NS - rest
    last_ns = max(int(part.time_ns[-1]) for part in bars)
    requests = [] if spec.trigger.cron is None else _times(spec.trigger.cron, start_ns, last_ns)
    if spec.trigger.calendar is not None:
        market = calendar_of(spec.trigger.calendar)
        requests = [time_ns for time_ns in requests if is_open_at(market, time_ns)]
    given = zip(items, spec.instruments, strict=True)
    setup = PortfolioSetup(
        tuple(items),
        tuple(TargetWeight(item, one.weight, one.min, one.max) for item, one in given if one.weight is not None),
        RebalanceRules(**spec.rules.model_dump()),
        TriggerPolicy(
            Trigger(spec.trigger.trigger),
            spec.trigger.band,
            spec.trigger.timeframe,
            spec.trigger.cooldown_s,
            change_max=spec.trigger.change_max,
        ),
        CostModel(spec.fee_rate, spec.fee_in, slippage=Slippage.parse(spec.slippage)),
        spec.cash,
        tuple(requests),
        None if wanted is None else _allocation(wanted, items, spec, start_ns, last_ns, requests),
        start_ns,
        spec.allow_gaps,
    )
    result = run_portfolio(bars, setup)
    progress(0.9)
    return result, tuple(one.source for one in loaded)


def run_portfolio_job(
    spec: Mapping[str, Any], load_bars: LoadBars, progress: Progress = lambda share: None
) -> dict[str, Any]:
    """Run the portfolio of a job's spec and return its document. Errors: as `parse_portfolio` and
    `run_portfolio_spec`."""
    result, sources = run_portfolio_spec(parse_portfolio(spec), load_bars, progress)
    return portfolio_document_of(result, sources=sources)


def _allocation(
    wanted: PortfolioAllocation,
    items: list[Instrument],
    spec: PortfolioBacktestSpec,
    start_ns: int,
    last_ns: int,
    requests: list[int],
) -> AllocationSchedule:
    """Return the allocation with its times, and its constraints by symbol: a spec may spell instruments in any way."""

    def named(weights: Mapping[str, float]) -> dict[str, float]:
        return {find_instrument(text, items).symbol: weight for text, weight in weights.items()}

    if wanted.cron is not None:
        times = _times(wanted.cron, start_ns, last_ns)
    else:
        before_ns = TIMEFRAMES[spec.trigger.timeframe] * NS
        times = [time_ns - before_ns for time_ns in requests if time_ns - before_ns > start_ns]
    groups = tuple(
        AllocationGroup(group.name, frozenset(named(dict.fromkeys(group.instruments, 0.0))), group.max)
        for group in wanted.groups
    )
    return AllocationSchedule(
        wanted.method,
        tuple(times),
        AllocationConstraints(named(wanted.min), named(wanted.max), groups, float(1 - spec.rules.cash_min)),
        AllocationOptions(named(wanted.fixed), wanted.volatility, wanted.risk_aversion, wanted.turnover_penalty),
        wanted.timeframe,
        wanted.window_days,
        wanted.coverage_min,
    )


def _times(cron: str, start_ns: int, last_ns: int) -> list[int]:
    """Return the due times of a cron from the start to the last bar. Errors: InputError SCHEDULE_WRONG for too many."""
    found, rhythm, at = list[int](), Rhythm(cron), to_datetime(start_ns - 1000)
    while (time_ns := to_ns(at := rhythm.next(at, at))) <= last_ns:
        found.append(time_ns)
        if len(found) > REQUESTS_MAX:
            raise unprocessable(
                "SCHEDULE_WRONG",
                f"{cron} is due more than {REQUESTS_MAX} times until {iso(last_ns)}",
                "give one that is due less often, or a shorter range",
            )
    return found
