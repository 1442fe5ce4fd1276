"""The section [risk] of the settings, apart from the others: a backtest needs it and none of them."""

from __future__ import annotations

from decimal import Decimal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator

from fks.model.timeframe import TIMEFRAMES


class Section(BaseModel):
    """A section of fks.toml: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Risk(Section):
    notional_max_order: Decimal = Field(Decimal(50000), gt=0, description="largest order, account currency")
    exposure_max_instrument: Decimal = Field(
        Decimal(100000), gt=0, description="largest exposure in one instrument, account currency"
    )
    exposure_max_account: Decimal = Field(
        Decimal(250000), gt=0, description="largest exposure of an account, account currency"
    )
    exposure_max_correlated: Decimal | None = Field(
        None,
        gt=0,
        description="largest exposure in one instrument and what moves with it, account currency; unset = no limit",
    )
    correlation_min: float = Field(
        0.7, gt=0, le=1, description="correlation of returns from which on two positions move with each other"
    )
    correlation_timeframe: str = Field("1h", description="interval of the returns that are correlated, up to 1d")
    correlation_returns: int = Field(168, ge=10, le=5000, description="newest returns that are correlated")
    orders_open_max: int = Field(100, ge=1, description="most open orders per account")
    price_band_pct: Decimal = Field(Decimal(10), gt=0, description="furthest limit price from the mark, percent")
    slippage_max_pct: Decimal = Field(
        Decimal("0.5"),
        gt=0,
        le=10,
        description="furthest from the price of its decision (the close of the bar, else the mark) that a market "
        "entry may fill whose SL and TP the venue holds, percent; beyond it the entry expires "
        "(venue.entry_protection)",
    )
    loss_day_max: Decimal = Field(
        Decimal(10000),
        gt=0,
        description="loss of a trading day (realised, open and fees) that stops entries until its end, account "
        "currency",
    )
    day_zone: str = Field(
        "UTC", description="time zone of the trading day, a name of the IANA database (Europe/Berlin)"
    )
    day_start_hour: int = Field(0, ge=0, le=23, description="hour in day_zone at which a trading day begins")
    rate_age_max_s: float = Field(
        300.0, gt=0, description="a price older than this gives no rate between currencies, seconds"
    )
    mark_age_max_s: float = Field(
        60.0,
        gt=0,
        description="PRICE_MISSING for entries while the last price of a held symbol is older than this and its market "
        "is open, seconds",
    )
    decision_age_max_s: float = Field(
        60.0,
        gt=0,
        description="STALE_DECISION: an entry is traded for one bar of its timeframe (at least 5 s) after its bar's "
        "end, at most this long, seconds",
    )
    request_age_max_s: float = Field(
        10.0,
        gt=0,
        description="STALE_DECISION: a request without valid_until is traded for this long after it came in, seconds",
    )
    orders_per_minute: int = Field(600, ge=1, description="order budget per account and minute")
    drift_tolerance: Decimal = Field(
        Decimal(1),
        ge=0,
        description="difference between what the venue holds of an asset and what is expected that opens no incident, "
        "in the account's currency",
    )
    drift_confirm_s: float = Field(
        30.0, gt=0, description="seconds for which a difference must stay the same before it opens an incident"
    )
    feed_age_max_s: float = Field(15.0, gt=0, description="FEED_STALE beyond this age of the last message, seconds")
    guardian_age_max_s: float = Field(
        4.0, gt=0, description="GUARDIAN_DOWN beyond this age of the guardian's last heartbeat, seconds"
    )
    instrument_age_max_h: float = Field(
        24.0, gt=0, description="INSTRUMENT_UNKNOWN beyond this age of its metadata, hours"
    )

    @field_validator("correlation_timeframe")
    @classmethod
    def _fixed(cls, value: str) -> str:
        """Refuse an interval that is unknown or longer than a day."""
        if not 0 < TIMEFRAMES.get(value, 0) <= 86_400:
            known = " ".join(name for name, seconds in TIMEFRAMES.items() if 0 < seconds <= 86_400)
            raise ValueError(f"{value!r} is no timeframe of up to a day; use one of {known}")
        return value

    @field_validator("day_zone")
    @classmethod
    def _known(cls, value: str) -> str:
        """Refuse a zone that this machine does not know."""
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"{value!r} is no time zone here; use a name such as UTC or America/Chicago") from error
        return value
