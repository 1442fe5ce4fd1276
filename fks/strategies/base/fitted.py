"""Strategies with an estimator: `fit` makes a state of bars before the first decision, and `decide` reads it.

The state is a parameter of the strategy. So it is in the fingerprint of a result, in the parameters that a search
promotes, in each version of an instance and in what a roll back restores: live reads the numbers that research judged.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from fks.model.bar import Bars
from fks.model.errors import FksError
from fks.model.timeframe import iso
from fks.strategies.base.location import defined_at
from fks.strategies.base.strategy import Strategy, StrategyError, raised, readonly, warmup_of

#: bars by parts, oldest first; no bar is missing inside a part
Panel = tuple[Bars, ...]
TRAINING_MAX = 10_000_000  # bars: the check makes as many
STATE_BYTES_MAX = 256_000  # of a state as JSON: it is a row of each version of an instance


class FittedState(BaseModel):
    """A state: its values as JSON, the end of the last bar that it was fitted on, and the SHA-256 of the parameters
    that it was fitted with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    values: dict[str, Any]
    until: AwareDatetime
    params: str


def is_state(value: object) -> bool:
    """Return whether a parameter's JSON is a fitted state."""
    return isinstance(value, Mapping) and value.keys() == FittedState.model_fields.keys()


def shown_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters without those that are none, a state as a line of text shows it."""
    shown = {name: shown_state(value) if is_state(value) else value for name, value in params.items()}
    return {name: value for name, value in shown.items() if value is not None}


def shown_state(state: Mapping[str, Any]) -> str:
    """Return a state's JSON for a line of text: the start of its SHA-256, and until when it was fitted."""
    return f"{_digest(state)[:8]} until {state['until']}"


class Fitted(Strategy):
    """A strategy whose `decide` reads the `fitted` values that its `fit` made of earlier bars."""

    #: made by `fit`, and in no form: None = it is fitted before the first decision
    state: SkipJsonSchema[FittedState | None] = Field(None, exclude_if=lambda value: value is None)

    @abstractmethod
    def training(self) -> int:
        """Return how many bars before the first decision `fit` is given. A search gives all bars that choose."""

    @abstractmethod
    def fit(self, panel: Panel) -> Mapping[str, object]:
        """Return the values of the state: numbers, text, lists, mappings and arrays, without NaN. A pure function of
        the parts of the panel, to the bit; a label that looks ahead ends with its part."""

    @property
    def fitted(self) -> Mapping[str, Any]:
        """Return the values of the state; arrays are lists. Errors: StrategyError STATE_MISSING without a state."""
        if self.state is None:
            raise StrategyError(
                f"strategy {self.name} has no fitted state",
                code="STATE_MISSING",
                remedy="run a backtest or a search, which fit it, or 'fks strategies set ID state=' for an instance",
            )
        return self.state.values

    @model_validator(mode="after")
    def _is_of_these_parameters(self) -> Self:
        count: object = self.training()
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 1 <= count <= TRAINING_MAX:
            raise ValueError(f"training() returned {count!r}, which is no number of bars from 1 to {TRAINING_MAX}")
        if self.state is not None and self.state.params != _params_digest(self):
            raise ValueError("the state was fitted with other parameters; leave it out (state=) to fit again")
        return self


def _digest(document: object) -> str:
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _params_digest(strategy: Strategy) -> str:
    return _digest({name: value for name, value in strategy.model_dump(mode="json").items() if name != "state"})


def is_unfitted(strategy: Strategy) -> bool:
    """Return whether the strategy needs a state and has none."""
    return strategy.training() > 0 and getattr(strategy, "state", None) is None


def history_of(strategy: Strategy) -> int:
    """Return how many bars before its first decision a strategy needs: to warm up, and to be fitted."""
    return max(warmup_of(strategy), strategy.training() if is_unfitted(strategy) else 0)


def fitted_on(strategy: Strategy, panel: Panel) -> Strategy:
    """Return the strategy with the state that its `fit` makes of a panel, in place of one that it has. Errors:
    StrategyError when `fit` raises or returns no state."""
    state = {
        "values": state_values(strategy, panel),
        "until": iso(max(part.ended_ns(len(part) - 1) for part in panel)),
        "params": _params_digest(strategy),
    }
    return type(strategy).model_validate({**strategy.model_dump(mode="json"), "state": state})


def state_values(strategy: Strategy, panel: Panel) -> dict[str, Any]:
    """Return the values that `fit` makes of a panel, as JSON has them. Errors: StrategyError."""
    try:
        values = strategy.fit(tuple(map(readonly, panel)))  # type: ignore[attr-defined]  # it has `training`
    except FksError:
        raise
    except (Exception, SystemExit) as error:  # user code may raise anything
        raise raised(strategy, f"fit() with {sum(map(len, panel))} bars", error) from error
    remedy = f"correct {defined_at(type(strategy), 'fit')}"
    try:
        text = json.dumps(values, allow_nan=False, default=lambda one: one.tolist())
        made: dict[str, Any] = json.loads(text)
        if b"\\u0000" in orjson.dumps(made):  # which refuses what no row of JSON holds: 65 bits, half a surrogate
            raise ValueError("a text has a NUL character")
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise StrategyError(f"strategy {strategy.name}: fit() returned no JSON: {error}", remedy=remedy) from None
    if not isinstance(values, Mapping) or len(text) > STATE_BYTES_MAX:
        found = f"{len(text)} bytes" if isinstance(values, Mapping) else type(values).__name__
        raise StrategyError(
            f"strategy {strategy.name}: fit() returned {found}; it may be a mapping of up to {STATE_BYTES_MAX} bytes",
            remedy=remedy,
        )
    return made
