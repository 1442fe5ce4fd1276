"""Models of predictions that were trained elsewhere: the spec that feeds their named inputs with features of bars, and
its check against the inputs and outputs that an ONNX file declares. Pure but for the reading of the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from pydantic import Field, field_validator

from fks.ai.engines.encoder_files import DeclaredTensor, declared_tensors
from fks.ai.forecast import FeatureSpec, MarketSpec, features, utc
from fks.model.bar import Bars, Floats
from fks.model.errors import InputError, PeerError, unprocessable

#: numbers of the element types that an input or output may have, as onnx.proto3 has them
_KINDS: Final = {1: "float", 11: "double"}


_InputName = Annotated[str, Field(min_length=1, max_length=200)]
_Features = Annotated[tuple[FeatureSpec, ...], Field(min_length=1, max_length=200)]


class PredictorSpec(MarketSpec):
    """The bars that a model predicts, and the features of each of its inputs, in their order.

    `trained_to`: end of the data that trained it; bars that end before are never predicted. `output`: the output that
    is the prediction, "" for the only one.
    """

    trained_to: datetime
    inputs: dict[_InputName, _Features] = Field(min_length=1, max_length=50)
    output: str = Field("", max_length=200)

    _utc = field_validator("trained_to")(utc)

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        """Return the features of all inputs, in the order of the inputs' names."""
        return tuple(one for name in sorted(self.inputs) for one in self.inputs[name])

    @property
    def bars(self) -> int:
        """Return how many bars a prediction needs; it is made of exactly so many."""
        return max(one.bars for one in self.features)

    def row(self, bars: Bars) -> Floats | None:
        """Return the features of the last bar, made of it and those before; None where there are too few bars, or a
        feature is not finite. Live and history make a row of the same bars, so that its bits are the same."""
        if len(bars) < self.bars:
            return None
        found = features(bars[-self.bars :], self)[-1]
        return found if bool(np.isfinite(found).all()) else None

    def named(self, row: Floats) -> dict[str, list[float]]:
        """Return the features of a row by input."""
        found, at = {}, 0
        for name in sorted(self.inputs):
            found[name] = row[at : at + len(self.inputs[name])].tolist()
            at += len(self.inputs[name])
        return found


def check_file(spec: PredictorSpec, model: Path) -> None:
    """Refuse an ONNX file whose inputs are not those of the spec. Errors: InputError AI_DEPLOYMENT."""
    try:
        inputs, outputs = declared_tensors(model)
    except PeerError as error:
        raise _wrong(str(error), "give an ONNX file") from error
    check_tensors(spec, inputs, outputs)


def check_tensors(spec: PredictorSpec, inputs: Sequence[DeclaredTensor], outputs: Sequence[DeclaredTensor]) -> None:
    """Refuse inputs and outputs that are not those of the spec. Errors: InputError AI_DEPLOYMENT."""
    by_name = {one.name: one for one in inputs}
    if by_name.keys() != spec.inputs.keys():
        raise _wrong(
            f"the model has the inputs {_listed(by_name)}, and the spec {_listed(spec.inputs)}",
            "give each input of the model its features, by its name",
        )
    for name, own in spec.inputs.items():
        _check_shape(by_name[name], "input", len(own), "give it as many features as it has columns")
    named = {one.name: one for one in outputs}
    if spec.output not in named if spec.output else len(named) != 1:
        raise _wrong(
            f"the model has the outputs {_listed(named)}; the spec means {spec.output or 'the only one'}",
            "name one as output",
        )
    output = named[spec.output or next(iter(named))]
    _check_shape(output, "output", 1, "name an output with one number for each row")


def _check_shape(tensor: DeclaredTensor, role: str, columns: int, remedy: str) -> None:
    if tensor.kind not in _KINDS:
        raise _wrong(f"the {role} {tensor.name} is of neither float nor double", "export the model with float inputs")
    sides = tensor.sides
    if sides is None:
        return  # the process finds out
    is_row = len(sides) == 2 or (role == "output" and len(sides) == 1)
    if not is_row or sides[0] not in (None, 0, 1) or (len(sides) == 2 and sides[1] not in (None, 0, columns)):
        shape = " × ".join(
            "rows" if side is None and not place else str(side or "any") for place, side in enumerate(sides)
        )
        raise _wrong(f"the {role} {tensor.name} has the shape {shape}, not rows × {columns}", remedy)


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names)) or "(none)"


def _wrong(text: str, remedy: str) -> InputError:
    return unprocessable("AI_DEPLOYMENT", text, remedy)
