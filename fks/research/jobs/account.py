"""Backtests of several members on one account: a spec in, a document out, in a process of a person or as a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fks.config.settings import Risk
from fks.model.instrument import Instrument
from fks.model.untrusted import Exact
from fks.research.backtest import AccountBacktest, Member, run_account
from fks.research.backtest.account_report import account_document_of
from fks.research.backtest.limits import UNLIMITED
from fks.research.backtest.rows import AMOUNT_MAX
from fks.research.jobs.backtest import BacktestSpec, BarsRequest, LoadBars, Progress, limits_of, load_joined, setup_of
from fks.research.jobs.spec import checked_spec
from fks.strategies.base import history_of
from fks.strategies.registry import Catalogue, load_catalogue

_OF_ACCOUNT = ("cash", "limits", "limits_currency")
_REMEDY = "see docs/backtest-account.md"


class AccountMember(BacktestSpec):
    """A member: the spec of a backtest, with a name. Cash and limits are the account's."""

    name: str = Field("", max_length=100)


class AccountSpec(BaseModel):
    """An account and its members. Every other key of a backtest's spec that is given here is a default of all members.

    `risk`: settings of [risk] that are other than the node's, for this run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    members: tuple[AccountMember, ...] = Field(min_length=1, max_length=100)
    cash: Exact = Field(Decimal(10_000), gt=0, le=AMOUNT_MAX)
    limits: bool = False
    limits_currency: str | None = Field(None, exclude_if=lambda value: value is None)
    risk: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _shared(cls, spec: Any) -> Any:
        """Give each member what is written once for all."""
        if not isinstance(spec, Mapping) or not isinstance(spec.get("members"), list | tuple):
            return spec
        own = {name: spec[name] for name in ("members", *_OF_ACCOUNT, "risk") if name in spec}
        common = {name: value for name, value in spec.items() if name not in own}
        if own.get("risk") and "limits" not in own:
            own["limits"] = True
        account = {name: own[name] for name in _OF_ACCOUNT if name in own}
        members = []
        for number, member in enumerate(own["members"]):
            if not isinstance(member, Mapping):
                raise ValueError(f"members.{number} is no table")
            for name in _OF_ACCOUNT:
                if name in member and str(member[name]) != str(account.get(name, cls.model_fields[name].default)):
                    raise ValueError(f"members.{number} has {name}, which is the account's")
            maker = {"fee_rate_maker": None} if "fee_rate" in member else {}
            members.append({**common, **maker, **member, **account})
        return {**own, "members": members}

    @model_validator(mode="after")
    def _known(self) -> AccountSpec:
        try:
            self.risk_of(Risk())
        except ValidationError as error:
            first = error.errors()[0]
            text = str(first["msg"]).removeprefix("Value error, ")
            raise ValueError(f"risk.{'.'.join(map(str, first['loc']))}: {text[:1].lower()}{text[1:]}") from None
        return self

    def risk_of(self, node: Risk) -> Risk:
        """Return the limits of the run. Errors: ValidationError."""
        return Risk.model_validate({**node.model_dump(), **self.risk}) if self.limits else UNLIMITED


def parse_account(spec: Mapping[str, Any]) -> AccountSpec:
    """Return a checked spec. Errors: InputError SPEC_WRONG naming the field."""
    return checked_spec(AccountSpec, spec, "account", remedy=_REMEDY)


def run_account_spec(
    spec: AccountSpec,
    load_bars: LoadBars,
    progress: Progress = lambda share: None,
    *,
    catalogue: Catalogue | None = None,
    limits: Risk | None = None,
) -> tuple[AccountBacktest, tuple[str, ...]]:
    """Run the members on one account and return the result and the source of each one's bars.

    `limits` are the node's [risk] settings (None: their defaults); `progress` is called with shares of the work and may
    raise to stop it. Errors: InputError for a wrong spec, strategy or tape (including TapeRefused).
    """
    known = catalogue or load_catalogue()
    strategies = [known.make(member.strategy, member.params) for member in spec.members]
    members, sources, firsts = [], [], []
    derived: dict[str, Instrument] = {}  # rules of a symbol's first member: other bars may show other ones
    for number, (wanted, strategy) in enumerate(zip(spec.members, strategies, strict=True)):
        request = BarsRequest(
            wanted.symbol,
            wanted.exchange,
            wanted.timeframe,
            wanted.start_ns,
            wanted.end_ns,
            history_of(strategy),
            features=strategy.features(),
        )
        loaded = load_joined(strategy.inputs(), request, load_bars)
        if loaded.is_derived:
            own = loaded.instrument
            loaded = replace(loaded, instrument=derived.setdefault(f"{own.exchange}:{own.symbol}", own))
        setup = setup_of(wanted, loaded, limits)
        members.append(Member(strategy, loaded.bars, setup, wanted.name, wanted.inside(loaded)))
        sources.append(loaded.source)
        firsts.append(wanted.start_ns or int(loaded.bars.time_ns[0]))
        progress(0.4 * (number + 1) / len(spec.members))
    held_to = limits_of(spec.members[0], loaded, spec.risk_of(limits or Risk()), load_bars, first_ns=min(firsts))
    result = run_account(members, cash=spec.cash, limits=held_to)
    progress(0.9)
    return result, tuple(sources)


def run_account_job(
    spec: Mapping[str, Any],
    load_bars: LoadBars,
    progress: Progress = lambda share: None,
    *,
    catalogue: Catalogue | None = None,
    limits: Risk | None = None,
) -> dict[str, Any]:
    """Run the account of a job's spec and return its document. Errors: as `parse_account` and `run_account_spec`."""
    result, sources = run_account_spec(parse_account(spec), load_bars, progress, catalogue=catalogue, limits=limits)
    return account_document_of(result, sources=sources)
