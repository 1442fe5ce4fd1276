"""Strategies whose code runs in another process: here are their parameters, there are their methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import new_class
from typing import Any, ClassVar, Protocol, Self

from pydantic import ConfigDict, PrivateAttr

from fks.model.bar import Bars
from fks.model.signal import EntryGroup
from fks.strategies.base.fitted import Panel
from fks.strategies.base.strategy import Decisions, Strategy


@dataclass(frozen=True, slots=True)
class RemoteKind:
    """Description of a strategy's class: the schema and the `fields_of` its parameters, the SHA-256 of its file, and
    the places of its methods for messages."""

    name: str
    origin: str
    where: str
    summary: str
    schema: Mapping[str, Any]
    fields: Mapping[str, Any]
    source: str
    places: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RemoteFacts:
    """Answers of a strategy that was made with parameters. `source` includes the files of its parts."""

    params: Mapping[str, Any]
    warmup: int
    inputs: tuple[str, ...]
    features: tuple[str, ...]
    entries_max: int
    source: str
    has_protections: bool
    training: int = 0


@dataclass(frozen=True, slots=True)
class RemoteGiven:
    """A strategy that was asked for: its name, the parameters as they were given, and a number of its own. Strategies
    that were made twice share no state, and their validators see what was given."""

    kind: str
    params: Mapping[str, Any]
    number: int


class RemotePort(Protocol):
    """The process that has the code. Errors of all methods: StrategyError, InputError of the strategy's own."""

    def make(self, kind: str, params: Mapping[str, Any]) -> tuple[RemoteGiven, RemoteFacts]: ...

    def decide(self, given: RemoteGiven, bars: Bars) -> Decisions: ...

    def group(self, given: RemoteGiven, symbol: str) -> EntryGroup | None: ...

    def fit(self, given: RemoteGiven, panel: Panel) -> dict[str, Any]: ...

    def check(self, check: str, given: RemoteGiven, tapes: Sequence[Bars], count: int) -> list[Any]:
        """Return the violations that a function of `fks.strategies.check` finds, as lists of their members."""
        ...


class RemoteStrategy(Strategy):
    """A strategy whose code runs in another process; its subclasses are made by `remote_class`."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    described: ClassVar[RemoteKind]
    port: ClassVar[RemotePort]
    _facts: RemoteFacts = PrivateAttr()
    _given: RemoteGiven = PrivateAttr()

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Return the strategy with these parameters. Errors: InputError PARAM_WRONG; StrategyError."""
        given, facts = cls.port.make(cls.name, dict(obj))
        made: Self = cls.model_construct(**facts.params)  # type: ignore[assignment]
        made._facts, made._given = facts, given
        return made

    @classmethod
    def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
        return dict(cls.described.schema)

    @property
    def facts(self) -> RemoteFacts:
        return self._facts

    def warmup(self) -> int:
        return self._facts.warmup

    def inputs(self) -> tuple[str, ...]:
        return self._facts.inputs

    def features(self) -> tuple[str, ...]:
        return self._facts.features

    def entries_max(self) -> int:
        return self._facts.entries_max

    def group(self, symbol: str) -> EntryGroup | None:
        return self.port.group(self._given, symbol)

    def training(self) -> int:
        return self._facts.training

    def fit(self, panel: Panel) -> dict[str, Any]:
        return self.port.fit(self._given, panel)

    def decide(self, bars: Bars) -> Decisions:
        return self.port.decide(self._given, bars)

    def violations(self, check: str, tapes: Sequence[Bars], count: int = 0) -> list[Any]:
        """Return the violations that a function of `fks.strategies.check` finds, as lists of their members."""
        return self.port.check(check, self._given, tapes, count)


def remote_class(described: RemoteKind, port: RemotePort) -> type[RemoteStrategy]:
    """Return the class of a strategy whose code `port` has."""
    members = {"name": described.name, "described": described, "port": port}
    return new_class(
        described.name,
        (RemoteStrategy,),
        exec_body=lambda body: body.update(members, __module__=__name__, __doc__=described.summary),
    )
