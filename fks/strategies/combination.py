"""Combines other strategies: a vote, a weighted mean, and a regime in which they may trade."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from importlib import import_module
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from fks.model.bar import Bars, Floats
from fks.strategies.base import Decisions, Protected, Strategy, evaluate
from fks.strategies.base.remote import RemoteStrategy

Make = Callable[[str, Mapping[str, Any]], Strategy]


class CombinationMember(BaseModel):
    """A strategy by its name in the catalogue, its parameters and its weight."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    strategy: str = Field(min_length=1, max_length=200)
    params: dict[str, Any] = Field(default_factory=dict)
    weight: float = Field(1.0, gt=0, le=1_000)

    def __str__(self) -> str:
        params = ",".join(f"{key}={value}" for key, value in self.params.items())
        return f"{self.strategy}{f'({params})' if params else ''}{f'*{self.weight:g}' if self.weight != 1 else ''}"


class Combination(Protected):
    """Long (short) when more than half of `members` are, or when the mean of their targets by weight reaches
    `threshold`; with `regime`, only while that strategy is on the same side.

    Members decide on the same bars; their own stops, take profits and shares of the size are not used. Ties: half of
    the members are no majority, a mean on the threshold (to 1e-9) reaches it. The warm-up is the longest of all.
    """

    name: ClassVar[str] = "combination"
    members: tuple[CombinationMember, ...] = Field(
        (
            CombinationMember(strategy="sma_cross"),
            CombinationMember(strategy="donchian"),
            CombinationMember(strategy="macd"),
        ),
        min_length=1,
        max_length=32,
        description='names ("rsi macd"), or JSON: [{"strategy": "rsi", "params": {"period": 7}, "weight": 2}]',
    )
    rule: Literal["vote", "weights"] = Field("vote", description="vote: more than half; weights: mean of targets")
    threshold: float = Field(0.5, gt=0, le=1, description="least mean of targets, by weight, for a position")
    regime: CombinationMember | None = Field(None, description="strategy that must be on the same side: a name or JSON")
    allow: Literal["same", "any"] = Field("same", description="same: its side only; any: every side while it has one")

    _members: tuple[Strategy, ...] = PrivateAttr(())
    _regime: Strategy | None = PrivateAttr(None)

    @field_validator("members", mode="before")
    @classmethod
    def _parsed(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith(("[", "{")):
            found = _json(value)
            return found if isinstance(found, list) else [found]
        return [{"strategy": name} for name in value.replace(",", " ").split()]

    @field_validator("regime", mode="before")
    @classmethod
    def _parsed_one(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return _json(value) if value.lstrip().startswith("{") else {"strategy": value.strip()}

    @model_validator(mode="after")
    def _made(self, info: ValidationInfo) -> Combination:
        make: Make = (info.context or {}).get("make", _built_in)
        self._members = tuple(_bare(make(member.strategy, member.params)) for member in self.members)
        self._regime = None if self.regime is None else _bare(make(self.regime.strategy, self.regime.params))
        return self

    @classmethod
    def of(
        cls,
        members: Sequence[Strategy],
        *,
        weights: Sequence[float] | None = None,
        regime: Strategy | None = None,
        **params: Any,
    ) -> Combination:
        """Return a combination of strategies that exist already. Errors: ValueError, as for any parameters."""
        made = [*members, *([] if regime is None else [regime])]
        described = [
            {"strategy": one.name, "params": one.model_dump(mode="json"), "weight": weight}
            for one, weight in zip(made, [*(weights or [1.0] * len(members)), *([1.0] if regime else [])], strict=True)
        ]
        left = iter(made)
        found = {"members": described[: len(members)], "regime": described[-1] if regime else None, **params}
        return cls.model_validate(found, context={"make": lambda name, params: next(left)})

    def parts(self) -> tuple[Strategy, ...]:
        return (*self._members, *(() if self._regime is None else (self._regime,)))

    def warmup(self) -> int:
        return max(part.warmup() for part in self.parts())

    def decide(self, bars: Bars) -> Decisions:
        targets = [np.sign(evaluate(member, bars).target) for member in self._members]
        if self.rule == "vote":
            half = len(targets) / 2
            longs, shorts = (_sum((t == side).astype(float) for t in targets) for side in (1.0, -1.0))
            target = (longs > half).astype(float) - (shorts > half)
        else:
            weights = [member.weight for member in self.members]
            mean = np.round(_sum(w * t for w, t in zip(weights, targets, strict=True)) / sum(weights), 9)
            target = (mean >= self.threshold).astype(float) - (mean <= -self.threshold)
        if self._regime is not None:
            side = np.sign(evaluate(self._regime, bars).target)
            target = np.where((side == target) if self.allow == "same" else (side != 0.0), target, 0.0)
        return self.protect(bars, target)


def _sum(columns: Iterable[Any]) -> Floats:
    """Return the sum of columns, one after the other: a matrix product rounds differently for other lengths."""
    total: Floats = reduce(np.add, columns)
    return total


def _built_in(name: str, params: Mapping[str, Any]) -> Strategy:
    """Return a built-in strategy: all that is known without a catalogue. Errors: ValueError for any other."""
    try:
        module = import_module(f"fks.strategies.{name}") if name.isidentifier() else None
    except ModuleNotFoundError:
        module = None
    for kind in vars(module).values() if module else ():
        if isinstance(kind, type) and issubclass(kind, Strategy) and kind.__dict__.get("name") == name:
            return kind.model_validate(dict(params))
    raise ValueError(
        f"there is no built-in strategy {name!r}; others are found by load_catalogue(folder).make('combination', …), "
        "or given to Combination.of(…)"
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON: {error}") from None


def has_protections(strategy: Strategy) -> bool:
    """Return whether a strategy has protections of its own."""
    if isinstance(strategy, RemoteStrategy):
        return strategy.facts.has_protections
    return isinstance(strategy, Protected) and any((strategy.sl_pct, strategy.tp_pct, strategy.trail_pct))


def _bare(strategy: Strategy) -> Strategy:
    """Return a member without protections of its own. Errors: ValueError when it has some, which nothing would use."""
    if has_protections(strategy):
        raise ValueError(f"set sl_pct, tp_pct and trail_pct on the combination, not on its member {strategy.name}")
    return strategy
