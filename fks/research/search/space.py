"""Parameter space of a strategy: dimensions taken from its own fields, narrowed to the searched ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import prod
from typing import Any, Literal

from pydantic import ValidationError

from fks.model.errors import InputError, unprocessable
from fks.model.untrusted import check_text, decimal_of, number_of, shown
from fks.strategies.base import Strategy

Value = int | float | bool | str | None
Params = Mapping[str, Any]
#: Values of one dimension; each is then exact as a float.
VALUES_MAX = 2**53


@dataclass(frozen=True, slots=True)
class Dimension:
    """Values that one parameter may take: `low` to `high` (inclusive) by `step`, or `choices`.

    A float without a step is continuous: it has no list of values, so a grid refuses it.
    """

    name: str
    kind: Literal["int", "float", "choice"]
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    is_log: bool = False
    choices: tuple[Value, ...] = ()

    @property
    def is_continuous(self) -> bool:
        return self.kind == "float" and self.step is None

    @property
    def size(self) -> int:
        """Return how many values there are. Errors: InputError SPACE_WRONG for a continuous one."""
        if self.kind == "choice":
            return len(self.choices)
        if self.step is None:
            raise _wrong(
                f"{self.name} is continuous, and a grid needs steps",
                f"give a step, as in {self.name}={self.low:g}:{self.high:g}:STEP, or search with --method random",
            )
        return int((_exact(self.high) - _exact(self.low)) / _exact(self.step)) + 1

    def at(self, index: int) -> Value:
        """Return value `index`, exact: the third of 0.1 by 0.1 is 0.3."""
        if self.kind == "choice":
            return self.choices[index]
        assert self.step is not None
        found = _exact(self.low) + index * _exact(self.step)
        return int(found) if self.kind == "int" else float(found)

    def end(self, place: int) -> Value:
        """Return the lowest value, or the first choice, for place 0; the highest or last one for place -1."""
        if self.kind == "choice":
            return self.choices[place]
        value = self.high if place else self.low
        return int(value) if self.kind == "int" else value

    def as_dict(self) -> dict[str, Any]:
        if self.kind == "choice":
            return {"choices": list(self.choices)}
        found: dict[str, Any] = {"low": self.low, "high": self.high}
        if self.kind == "int":
            found = {"low": int(self.low), "high": int(self.high)}
        if self.step is not None:
            found["step"] = int(self.step) if self.kind == "int" else self.step
        return {**found, "log": True} if self.is_log else found


@dataclass(frozen=True, slots=True)
class Space:
    """Dimensions of a search over one strategy, and the parameters that stay `fixed`. `context`: of the catalogue."""

    strategy: type[Strategy]
    dimensions: tuple[Dimension, ...]
    fixed: Params
    context: dict[str, Any] | None = None

    @property
    def size(self) -> int:
        """Return the number of combinations, valid or not. Errors: InputError SPACE_WRONG when one is continuous."""
        return prod(dimension.size for dimension in self.dimensions)

    def at(self, index: int) -> dict[str, Value]:
        """Return combination `index`; the last dimension changes fastest."""
        found: dict[str, Value] = {}
        for dimension in reversed(self.dimensions):
            index, place = divmod(index, dimension.size)
            found[dimension.name] = dimension.at(place)
        return {dimension.name: found[dimension.name] for dimension in self.dimensions}

    def make(self, params: Params) -> Strategy | None:
        """Return the strategy with these parameters, or None where its own rules refuse the combination."""
        try:
            return self.strategy.model_validate({**self.fixed, **params}, context=self.context)
        except ValidationError:
            return None
        except InputError as error:  # of a strategy whose code is in another process
            if error.code != "PARAM_WRONG":
                raise
            return None

    def inputs(self) -> tuple[str, ...]:
        """Return the further symbols whose bars the combinations read: at both ends of each range, and at each choice
        with the others at an end."""
        return tuple(dict.fromkeys(symbol for one in self._corners() for symbol in one.inputs()))

    def features(self) -> tuple[str, ...]:
        """Return the own columns that the combinations read, asked as `inputs`."""
        return tuple(dict.fromkeys(name for one in self._corners() for name in one.features()))

    def _corners(self) -> Iterator[Strategy]:
        ends = [{one.name: one.end(place) for one in self.dimensions} for place in (0, -1)]
        chosen = [{**end, one.name: value} for end in ends for one in self.dimensions for value in one.choices]
        yield from (one for params in (*ends, *chosen) if (one := self.make(params)) is not None)

    def as_dict(self) -> dict[str, Any]:
        return {dimension.name: dimension.as_dict() for dimension in self.dimensions}


def space_of(
    strategy: type[Strategy],
    wanted: Mapping[str, Any],
    fixed: Params | None = None,
    *,
    context: dict[str, Any] | None = None,
) -> Space:
    """Return the space over the parameters in `wanted`; all others keep `fixed` or their defaults. The dimensions have
    the order of the strategy's fields, whatever that of `wanted` is (a stored spec does not keep it).

    `context`: `Catalogue.context`, with which a combination finds a user's strategies.

    `wanted` maps a parameter to a range "LOW:HIGH", "LOW:HIGH:STEP" or "LOW:HIGH:log", to choices "A,B,C" or a list of
    them, to {"low", "high", "step", "log"} or {"choices"}, or to None for all that the field allows: its bounds and
    `multiple_of`, both values of a bool, the members of a Literal or Enum.
    Errors: InputError SPACE_WRONG naming the parameter: unknown, without bounds, outside of the field's own bounds.
    """
    if not wanted:
        raise _wrong("there is nothing to search", "name at least one parameter, as in --param fast=5:50:5")
    schema = strategy.model_json_schema()
    fields, shared = schema.get("properties", {}), schema.get("$defs", {})
    fixed = dict(fixed or {})
    for name in wanted:
        if name not in fields:
            raise _wrong(f"strategy {strategy.name} has no parameter {name!r}", f"parameters: {' '.join(fields)}")
        if name in fixed:
            raise _wrong(f"{name} is both fixed and searched", "leave out one of the two")
    dimensions = [_dimension(name, wanted[name], _Field.of(fields[name], shared)) for name in fields if name in wanted]
    return Space(strategy, tuple(dimensions), fixed, context)


@dataclass(frozen=True, slots=True)
class _Field:
    """The values that a strategy's field allows, read from its JSON schema."""

    kind: str
    low: Decimal | None
    high: Decimal | None
    is_low_open: bool
    is_high_open: bool
    step: Decimal | None
    members: tuple[Value, ...]

    @staticmethod
    def of(schema: Mapping[str, Any], shared: Mapping[str, Any]) -> _Field:
        parts = [dict(part) for part in (schema, *schema.get("anyOf", ()), *schema.get("allOf", ()))]
        for part in list(parts):
            if "$ref" in part:
                parts.append(dict(shared.get(str(part["$ref"]).rpartition("/")[2], {})))
        found: dict[str, Any] = {}
        for part in parts:
            found = {**part, **found, **({"type": part["type"]} if part.get("type") not in (None, "null") else {})}
        low = found.get("minimum", found.get("exclusiveMinimum"))
        high = found.get("maximum", found.get("exclusiveMaximum"))
        members = tuple(found.get("enum", ())) or ((found["const"],) if "const" in found else ())
        return _Field(
            str(found.get("type", "string")),
            None if low is None else _exact(low),
            None if high is None else _exact(high),
            "minimum" not in found,
            "maximum" not in found,
            None if "multipleOf" not in found else _exact(found["multipleOf"]),
            (False, True) if found.get("type") == "boolean" else members,
        )

    def allows(self, value: Decimal) -> bool:
        if self.low is not None and (value < self.low or (self.is_low_open and value == self.low)):
            return False
        return self.high is None or not (value > self.high or (self.is_high_open and value == self.high))

    @property
    def bounds(self) -> str:
        return f"{'' if self.low is None else self.low} to {'' if self.high is None else self.high}"


def _dimension(name: str, given: Any, field: _Field) -> Dimension:
    if isinstance(given, Mapping):
        if isinstance(given.get("choices"), list | tuple):
            return _choices(name, list(given["choices"]), field)
        unknown = set(given) - {"low", "high", "step", "log"}
        if unknown or not {"low", "high"} <= set(given):
            raise _wrong(f"{name}: a range has low, high, step and log, not {sorted(given)}", _FORMS.format(name=name))
        return _range(name, given["low"], given["high"], given.get("step"), bool(given.get("log")), field)
    if isinstance(given, str):
        if ":" in given:
            parts = given.split(":")
            if len(parts) > 3:
                raise _wrong(f"{name}: {given!r} is no range", _FORMS.format(name=name))
            third = parts[2] if len(parts) == 3 else None
            return _range(name, parts[0], parts[1], None if third == "log" else third, third == "log", field)
        return _choices(name, [_parsed(part.strip()) for part in given.split(",")], field)
    if isinstance(given, Sequence):
        return _choices(name, list(given), field)
    if given is not None:
        return _choices(name, [given], field)
    if field.members:
        return Dimension(name, "choice", choices=field.members)
    if field.kind not in ("integer", "number") or field.low is None or field.high is None:
        raise _wrong(f"{name} has no bounds of its own to search", _FORMS.format(name=name))
    step = field.step if field.step is not None else (Decimal(1) if field.kind == "integer" else None)
    low, high = field.low, field.high
    if step is not None:  # the first and the last multiple of the step that the field allows
        low, high = -(-low // step) * step, high // step * step
        low, high = low + step * (not field.allows(low)), high - step * (not field.allows(high))
    return _range(name, low, high, step, False, field, is_own=True)


_FORMS = "give {name}=LOW:HIGH, {name}=LOW:HIGH:STEP, {name}=LOW:HIGH:log or {name}=A,B,C"


def _range(
    name: str, low: Any, high: Any, step: Any, is_log: bool, field: _Field, *, is_own: bool = False
) -> Dimension:
    first, last = _number(name, low), _number(name, high)
    by = None if step is None else _number(name, step)
    if field.kind not in ("integer", "number"):
        raise _wrong(f"{name} is no number and has no range", f"give choices: {name}=A,B")
    if first > last or (by is not None and by <= 0) or (is_log and first <= 0):
        raise _wrong(
            f"{name}: {low} to {high} by {step or 'log' if is_log else step} is no range",
            "the low end comes first, a step is positive, a logarithmic range starts above 0",
        )
    if field.kind == "integer":
        by = by or Decimal(1)
        if any(part != part.to_integral_value() for part in (first, last, by)):
            raise _wrong(f"{name} takes whole numbers", _FORMS.format(name=name))
        if max(-first, last) > VALUES_MAX:
            raise _wrong(f"{name}: {shown(low)} to {shown(high)} is beyond {VALUES_MAX}", "narrow the range")
    if not is_own and not (field.allows(first) and field.allows(last)):
        raise _wrong(f"{name}: {first} to {last} leaves its own bounds, {field.bounds}", "narrow the range")
    if by is not None:
        if (last - first) / by > VALUES_MAX:
            raise _wrong(f"{name}: {shown(low)} to {shown(high)} has too many values", "take larger steps")
        last = first + ((last - first) // by) * by
    return Dimension(
        name,
        "int" if field.kind == "integer" else "float",
        float(first),
        float(last),
        None if by is None or (is_log and field.kind == "number") else float(by),
        is_log,
    )


def _choices(name: str, values: list[Any], field: _Field) -> Dimension:
    if not values or len(set(map(repr, values))) != len(values):
        raise _wrong(f"{name}: the choices {values} are empty or repeated", _FORMS.format(name=name))
    for value in values:
        if isinstance(value, str):
            check_text(value)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and field.kind in ("integer", "number") and not field.allows(_number(name, value)):
            raise _wrong(f"{name}: {value} leaves its own bounds, {field.bounds}", "leave it out")
    return Dimension(name, "choice", choices=tuple(values))


def _parsed(text: str) -> Value:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.lower() in ("none", "null", ""):
        return None
    check_text(text)
    try:
        return number_of(text)
    except ValueError:
        return text


def _number(name: str, value: Any) -> Decimal:
    try:
        return decimal_of(value)
    except ValueError as error:
        raise _wrong(f"{name}: {shown(value)} {error}", _FORMS.format(name=name)) from None


def _exact(value: float) -> Decimal:
    """Return the number of a strategy's own field, or of a dimension that is bounded already."""
    return Decimal(repr(value))


def _wrong(message: str, remedy: str) -> InputError:
    return unprocessable("SPACE_WRONG", f"search space: {message}", remedy)
