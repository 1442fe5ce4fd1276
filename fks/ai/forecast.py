"""Forecasts of returns by boosted trees: the spec, features and labels of bars, walk-forward training, and evaluation.

Pure: bars in, a trained model as bytes out. A row of a panel is a closed bar of one symbol; its features use bars up to
it, its label the bars after it. `label_end` is the end of the last bar that the label uses: a model may predict the
bars that end at or after the `label_end` of everything that trained it.

Trainers of other packages are entry points of the group `fks.trainers`; `train` alone loads them. A model of theirs is
data that FKS itself evaluates: LightGBM's text, an ONNX graph, or the numbers of a linear model.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import io
import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from math import ceil, sqrt
from pathlib import Path
from typing import Any, Final, Literal, Protocol, Self

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fks.indicators.registry import compute, indicator
from fks.model.bar import Bars, Floats, Ints
from fks.model.errors import InputError, unprocessable
from fks.model.timeframe import NS, TIMEFRAMES, check_timeframe, iso, to_ns

#: levels of the intervals; rows of predictions have the first one
LEVELS: Final = (0.8, 0.95)
FORMAT: Final = "fks.forecast/1"
#: group of the entry points of trainers
TRAINERS: Final = "fks.trainers"
BUILTIN: Final = "lightgbm"
_MEAN = "mean"
_GRAPH_MAX = 64 * 2**20  # bytes
_ZIP = b"PK\x03\x04"  # how npz files begin
_HEADERS_MAX = 4096  # bytes of those of the arrays in an npz file
VOLATILITY_BARS = 20  # whose standard deviation is the width of a barrier of 1
_ROWS_MIN = 100  # that a model is trained on
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


class FeatureSpec(BaseModel):
    """An indicator as a feature. `output`: of one with several (default: the first). `relative`: divided by the close,
    less 1 for outputs in units of the price. `shift`: its value so many bars ago."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(max_length=64)
    params: dict[str, float] = Field(default_factory=dict, max_length=20)
    output: str | None = Field(None, max_length=64)
    relative: bool = False
    shift: int = Field(0, ge=0, le=10_000)

    @model_validator(mode="after")
    def _known(self) -> FeatureSpec:
        row = indicator(self.name)
        if row.warmup in ("path", "session") or any(column.startswith("other.") for column in row.columns):
            raise ValueError(f"{self.name} needs more than a bounded number of bars of the symbol itself")
        if self.output is not None and self.output not in row.outputs:
            raise ValueError(f"{self.name} has the outputs {' '.join(row.outputs)}, not {self.output}")
        given: dict[str, Any] = dict(self.params)
        compute(self.name, Bars("", "1m", np.zeros(0, np.int64), *[np.zeros(0)] * 5), **given)  # checks them
        return self

    @property
    def bars(self) -> int:
        """Return how many bars the value needs, so that a longer history changes nothing."""
        row = indicator(self.name)
        values = {key: self.params.get(key, one.default) for key, one in row.params.items()}
        return int(row.settled(values)) + self.shift + 1


_DEFAULT_FEATURES = (
    *(FeatureSpec(name="rocp", params={"period": period}) for period in (1, 2, 5, 20)),
    *(FeatureSpec(name="rocp", params={"period": 1}, shift=shift) for shift in (1, 2)),
    FeatureSpec(name="rsi", params={"period": 14}),
    FeatureSpec(name="sma", params={"period": 50}, relative=True),
    FeatureSpec(name="atr", params={"period": 14}, relative=True),
)


class MarketSpec(BaseModel):
    """The name of a model, which is that of its column, and the bars that it predicts. A base of other specs."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: str
    symbols: tuple[str, ...] = Field(min_length=1, max_length=50)
    exchange: str | None = Field(None, max_length=64)
    timeframe: str = "1h"

    @field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        if _NAME.fullmatch(name) is None:
            raise ValueError("use up to 32 small letters, digits and _, a letter first")
        return name

    @model_validator(mode="after")
    def _of_bars(self) -> Self:
        check_timeframe(self.timeframe)
        if not TIMEFRAMES[self.timeframe]:
            raise ValueError(f"{self.timeframe} has no fixed length")
        if len(set(self.symbols)) < len(self.symbols):
            raise ValueError("symbols differ")
        return self

    @property
    def bar_ns(self) -> int:
        return TIMEFRAMES[self.timeframe] * NS

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values, from which it can be made again."""
        return self.model_dump(mode="json", by_alias=True)


class HasFeatures(Protocol):
    """A spec whose model reads features of bars."""

    @property
    def features(self) -> tuple[FeatureSpec, ...]: ...


def utc(moment: datetime | None) -> datetime | None:
    """Return a moment of a spec in UTC, which one without a zone is in."""
    if moment is None:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class ForecastSpec(MarketSpec):
    """A model of forecasts, and the bars that train it.

    `label`: the return over `horizon` bars; its direction (-1, 0, 1); or `triple_barrier`: the first barrier that is
    reached within the horizon (1 above, -1 below, 0 none), `barrier` standard deviations of the last 20 bars times
    sqrt(horizon) away. `quantiles`: trained ones; the outer two make the interval. The bars are split into `folds` test
    windows behind the first training window, which is as long as `train_windows` of them. `purge` bars (None: the
    horizon) and `embargo` bars before each test window train nothing. `trainer`: lightgbm, which takes `trees`, or the
    name of an installed one, which reads its `trainer_params`.
    """

    start: datetime | None = Field(None, alias="from")
    end: datetime | None = Field(None, alias="to")
    features: tuple[FeatureSpec, ...] = Field(_DEFAULT_FEATURES, min_length=1, max_length=200)
    label: Literal["return", "direction", "triple_barrier"] = "return"
    barrier: float = Field(1.0, gt=0, le=100)
    horizon: int = Field(1, ge=1, le=10_000)
    quantiles: tuple[float, ...] = Field((0.1, 0.5, 0.9), min_length=2, max_length=20)
    folds: int = Field(5, ge=2, le=100)
    train_windows: int = Field(3, ge=1, le=100)
    purge: int | None = Field(None, ge=0, le=100_000)
    embargo: int = Field(0, ge=0, le=100_000)
    trainer: str = Field(BUILTIN, min_length=1, max_length=64)
    trainer_params: dict[str, bool | int | float | str] = Field(default_factory=dict, max_length=50)
    trees: int = Field(100, ge=1, le=10_000)
    seed: int = Field(1, ge=0, le=2**31 - 1)

    _utc = field_validator("start", "end")(utc)

    @model_validator(mode="after")
    def _consistent(self) -> ForecastSpec:
        if list(self.quantiles) != sorted(set(self.quantiles)) or not 0 < self.quantiles[0] < self.quantiles[-1] < 1:
            raise ValueError("quantiles grow, between 0 and 1")
        if self.purge is not None and self.purge < self.horizon:
            raise ValueError(f"purge ({self.purge}) must be at least the horizon ({self.horizon})")
        if self.trainer == BUILTIN and self.trainer_params:
            raise ValueError(f"trainer_params are for other trainers than {BUILTIN}, which takes trees")
        if not all(isinstance(value, str) or abs(value) < 2**63 for value in self.trainer_params.values()):
            raise ValueError("a number of trainer_params is not finite, or has more than 64 bits")
        return self

    @property
    def gap(self) -> int:
        """Return the bars before a test window that train nothing."""
        return (self.horizon if self.purge is None else self.purge) + self.embargo

    @property
    def bars(self) -> int:
        """Return how many bars a prediction needs."""
        return max(one.bars for one in self.features)


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────
def features(bars: Bars, spec: HasFeatures) -> Floats:
    """Return the features of bars; row i uses the bars up to i, and is NaN where there are too few.

    Shapes: (len(bars), number of features). Errors: InputError of an indicator.
    """
    found = np.full((len(bars), len(spec.features)), np.nan)
    for number, one in enumerate(spec.features):
        given: dict[str, Any] = dict(one.params)
        outputs = compute(one.name, bars, **given)
        values = np.asarray(outputs[one.output or next(iter(outputs))], dtype=np.float64)
        if one.relative:
            values = values / bars.close
        if one.shift:
            values = np.concatenate([np.full(min(one.shift, len(bars)), np.nan), values[: -one.shift]])
        found[:, number] = values
    return found


def inputs_hashes(x: Floats, spec: HasFeatures) -> list[str]:
    """Return the SHA-256 of each row of features: the names of the features, as JSON of the spec, and the row's float64
    values, least significant byte first. Shapes: `x` (n, features)."""
    names = [one.model_dump(mode="json") for one in spec.features]
    prefix = hashlib.sha256(orjson.dumps(names, option=orjson.OPT_SORT_KEYS))
    found = []
    for row in np.ascontiguousarray(x, dtype="<f8"):
        digest = prefix.copy()
        digest.update(row.tobytes())
        found.append(digest.hexdigest())
    return found


def labels(bars: Bars, spec: ForecastSpec) -> tuple[Floats, Ints]:
    """Return the label of each bar, NaN where bars are missing behind it, and its `label_end` (UTC ns).

    Shapes: both (len(bars),).
    """
    rows, ahead = len(bars), spec.horizon
    ends = bars.time_ns + spec.bar_ns
    values, label_ends = np.full(rows, np.nan), np.full(rows, np.iinfo(np.int64).max)
    if rows <= ahead:
        return values, label_ends
    change = bars.close[ahead:] / bars.close[:-ahead] - 1
    label_ends[:-ahead] = ends[ahead:]
    if spec.label == "return":
        values[:-ahead] = change
    elif spec.label == "direction":
        values[:-ahead] = np.sign(change)
    else:
        values[:-ahead] = 0.0
        width = spec.barrier * sqrt(ahead) * _volatility(bars.close)
        is_open = np.arange(rows) < rows - ahead
        for step in range(1, ahead + 1):
            after = np.minimum(np.arange(rows) + step, rows - 1)
            # of two barriers in one bar the lower one counts
            is_below = is_open & (bars.low[after] <= bars.close * (1 - width))
            is_above = is_open & ~is_below & (bars.high[after] >= bars.close * (1 + width))
            values[is_below], values[is_above] = -1.0, 1.0
            reached = is_below | is_above
            label_ends[reached] = ends[after][reached]
            is_open &= ~reached
        values[np.isnan(width)] = np.nan
    return values, label_ends


def _volatility(close: Floats) -> Floats:
    """Return the standard deviation of the last returns up to each bar, NaN where there are too few."""
    found = np.full(len(close), np.nan)
    if len(close) > VOLATILITY_BARS:
        steps = np.lib.stride_tricks.sliding_window_view(np.diff(close) / close[:-1], VOLATILITY_BARS)
        found[VOLATILITY_BARS:] = steps.std(axis=1)
    return found


MakeFeatures = Callable[[Bars, ForecastSpec], Floats]


@dataclass(frozen=True, slots=True)
class Panel:
    """Rows of all symbols, oldest first: features, label, the end of the bar and of the label. `symbol`: its number in
    the spec. Shapes: `x` (n, features), the rest (n,)."""

    x: Floats
    y: Floats
    end_ns: Ints
    label_end_ns: Ints
    symbol: Ints

    def where(self, chosen: np.ndarray[Any, np.dtype[np.bool_]]) -> Panel:
        return Panel(*(getattr(self, name)[chosen] for name in self.__slots__))

    @property
    def is_complete(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return which rows have every feature."""
        return np.asarray(np.isfinite(self.x).all(axis=1))


def panel_of(series: Mapping[str, Bars], spec: ForecastSpec, make_features: MakeFeatures = features) -> Panel:
    """Return the rows of the bars of each symbol. `make_features` replaces `features` in proofs of the checks."""
    parts = []
    for number, symbol in enumerate(spec.symbols):
        bars = series[symbol]
        y, label_end_ns = labels(bars, spec)
        end_ns = bars.time_ns + spec.bar_ns
        parts.append(Panel(make_features(bars, spec), y, end_ns, label_end_ns, np.full(len(bars), number)))
    joined = Panel(*(np.concatenate([getattr(one, name) for one in parts]) for name in Panel.__slots__))
    order = np.lexsort((joined.symbol, joined.end_ns))
    return Panel(*(getattr(joined, name)[order] for name in Panel.__slots__))


def data_hash(series: Mapping[str, Bars]) -> str:
    """Return the SHA-256 of bars by symbol: times and values."""
    digest = hashlib.sha256()
    for symbol in sorted(series):
        bars = series[symbol]
        digest.update(f"{symbol}\0{bars.timeframe}\0{len(bars)}\0".encode())
        for name in ("time_ns", "open", "high", "low", "close", "volume"):
            digest.update(np.ascontiguousarray(getattr(bars, name)).tobytes())
    return digest.hexdigest()


# ── training ─────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class Fold:
    """Rows that train end by `train_end_ns`, their labels by `test_ns`: the end of the first bar that is tested. The
    last one ends at `test_end_ns`; without it the fold trains the model that predicts what comes after."""

    train_end_ns: int
    test_ns: int
    test_end_ns: int | None

    def train(self, panel: Panel) -> Panel:
        """Return the rows that train."""
        is_known = (panel.end_ns <= self.train_end_ns) & (panel.label_end_ns <= self.test_ns)
        return panel.where(is_known & panel.is_complete & np.isfinite(panel.y))

    def test(self, panel: Panel) -> Panel:
        """Return the rows that are predicted, those without a label too."""
        is_after = panel.end_ns >= self.test_ns
        return panel.where(is_after if self.test_end_ns is None else is_after & (panel.end_ns <= self.test_end_ns))


@dataclass(frozen=True, slots=True)
class LinearModel:
    """A model x @ weights + bias. `weights` by feature, and `bias`: a number for the mean and each quantile."""

    weights: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]

    @staticmethod
    def read(data: bytes, features: int, outputs: int) -> LinearModel:
        """Return the model of an npz file with the arrays `weights` (features, outputs) and `bias` (outputs,).

        Errors: ValueError for other arrays, also of objects, whose pickles are never loaded, and for a file that
        unpacks to more.
        """
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            size, most = sum(item.file_size for item in packed.infolist()), 16 * (features + 1) * outputs + _HEADERS_MAX
        if size > most:
            raise ValueError(f"a model of {size:,} bytes unpacked; at most {most:,}")
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            if set(file.files) != {"weights", "bias"}:
                raise ValueError(f"the arrays {', '.join(sorted(file.files))}, not bias and weights")
            weights, bias = (np.asarray(file[name], dtype=np.float64) for name in ("weights", "bias"))
        if (weights.shape, bias.shape) != ((features, outputs), (outputs,)):
            wanted = f"({features}, {outputs}) and ({outputs},)"
            raise ValueError(f"weights and bias of the shapes {weights.shape} and {bias.shape}, not {wanted}")
        if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
            raise ValueError("weights or a bias that are not finite")
        return LinearModel(tuple(map(tuple, weights.tolist())), tuple(bias.tolist()))

    def output(self, x: Floats) -> Floats:
        """Return the outputs of rows of features, summed in the order of the features: the same bits everywhere."""
        found = np.tile(np.array(self.bias), (len(x), 1))
        for column, weights in zip(x.T, self.weights, strict=True):
            found += column[:, None] * np.array(weights)
        return found


@dataclass(frozen=True, slots=True)
class ForecastModel:
    """A trained model. `boosters`: LightGBM's text by quantile, and of the mean; or `graph`: an ONNX graph, whose input
    is (n, features) and whose output (n, 1 + quantiles), the mean first, both float32; or `linear`. `scale`: the unit
    of the output; `offsets`: by which the interval of each level is wider than the outer quantiles; `label_end_ns`: end
    of the last label that trained it."""

    spec: ForecastSpec
    boosters: Mapping[str, str]
    scale: float
    offsets: Mapping[str, float]
    label_end_ns: int
    graph: bytes = b""
    linear: LinearModel | None = None

    def dump(self) -> bytes:
        """Return the artifact: JSON, the same bytes for the same model."""
        document = {
            "format": FORMAT,
            "spec": self.spec.as_json(),
            "boosters": dict(self.boosters),
            "scale": self.scale,
            "offsets": dict(self.offsets),
            "label_end": iso(self.label_end_ns),
        }
        if self.graph:
            document["onnx"] = base64.b64encode(self.graph).decode()
        if self.linear is not None:
            document["linear"] = {"weights": self.linear.weights, "bias": self.linear.bias}
        return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)

    @property
    def hash(self) -> str:
        """Return the SHA-256 of the artifact."""
        return hashlib.sha256(self.dump()).hexdigest()

    @staticmethod
    def load(artifact: bytes, wanted_hash: str) -> ForecastModel:
        """Return the model of an artifact. Errors: InputError ARTIFACT_WRONG when its hash is another one."""
        found = hashlib.sha256(artifact).hexdigest()
        if found != wanted_hash:
            raise InputError(
                f"the artifact has the hash {found[:12]}, and its version {wanted_hash[:12]}",
                code="ARTIFACT_WRONG",
                status=409,
                remedy="train the model again: the same data and spec make the same artifact",
            )
        document = orjson.loads(artifact)
        end_ns = to_ns(datetime.fromisoformat(document["label_end"]))
        spec = ForecastSpec.model_validate(document["spec"])
        graph = base64.b64decode(document.get("onnx", ""))
        numbers, linear = document.get("linear"), None
        if numbers is not None:
            linear = LinearModel(tuple(map(tuple, numbers["weights"])), tuple(numbers["bias"]))
        return ForecastModel(spec, document["boosters"], document["scale"], document["offsets"], end_ns, graph, linear)

    def predict(self, x: Floats) -> Prediction:
        """Return the forecasts of rows of features. Shapes: (n, features). Errors: InputError AI_NOT_INSTALLED."""
        if self.linear is not None:
            made = self.scale * self.linear.output(x)
        elif self.graph:
            made = self.scale * _output(self.graph, x, 1 + len(self.spec.quantiles))
        else:
            names = (_MEAN, *(f"{q:g}" for q in self.spec.quantiles))
            made = self.scale * np.stack([_predicted(self.boosters[name], x) for name in names], axis=1)
        # trained one by one, two quantiles may cross
        quantiles = np.sort(made[:, 1:], axis=1)
        low, high = quantiles[:, 0], quantiles[:, -1]
        middle, intervals = (low + high) / 2, {}
        for level in LEVELS:
            wider = self.offsets.get(f"{level:g}", 0.0)
            # a negative offset must not turn the interval around
            intervals[level] = np.minimum(low - wider, middle), np.maximum(high + wider, middle)
        return Prediction(made[:, 0], quantiles, intervals)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Forecasts of rows: the mean, quantiles, and by level the interval. Shapes: `value` (n,), `quantiles` (n, q)."""

    value: Floats
    quantiles: Floats
    intervals: Mapping[float, tuple[Floats, Floats]]


def _predicted(text: str, x: Floats) -> Floats:
    if not len(x):
        return np.zeros(0)
    return np.asarray(_booster(text).predict(x, num_threads=1), dtype=np.float64)


@lru_cache(maxsize=64)  # parsing takes longer than the prediction of a bar
def _booster(text: str) -> Any:
    return _lightgbm().Booster(model_str=text)


def _lightgbm() -> Any:
    try:
        import lightgbm  # of the extra `ai`, and half a second to load
    except ImportError as error:
        raise _not_installed(error) from None
    return lightgbm


def _not_installed(error: ImportError) -> InputError:
    text = f"forecasts need LightGBM, which is not installed ({error})"
    return InputError(text, code="AI_NOT_INSTALLED", status=501, remedy="pip install 'fks[ai]'")


def _output(graph: bytes, x: Floats, columns: int) -> Floats:
    if not len(x):
        return np.zeros((0, columns))
    session = onnx_session(graph)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.astype(np.float32)})
    return np.asarray(found, dtype=np.float64)


@lru_cache(maxsize=16)
def onnx_session(graph: bytes) -> Any:
    """Return what evaluates an ONNX graph. Errors: InputError where onnxruntime is not installed."""
    try:
        onnx: Any = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise InputError(
            f"models in ONNX need onnxruntime, which is not installed ({error})",
            code="AI_NOT_INSTALLED",
            status=501,
            remedy="pip install 'fks[ai]'",
        ) from None
    options = onnx.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnx.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def code_of(spec: ForecastSpec) -> tuple[str, str | None, dict[str, str]]:
    """Return the SHA-256 of the sources that train and evaluate: of FKS, and of the trainer's package; the licence that
    the trainer's distribution states, or None; and the versions of libraries on which an artifact depends. Neither
    LightGBM nor the trainer is loaded. Errors: InputError AI_NOT_INSTALLED without LightGBM, TRAINER_UNKNOWN."""
    own, files = Path(__file__), list[Path]()
    if spec.trainer == BUILTIN:
        try:
            distribution = importlib.metadata.distribution("lightgbm")
        except ImportError as error:
            raise _not_installed(error) from None
    else:
        point = trainer_point(spec.trainer)
        assert point.dist is not None
        distribution = point.dist
        found = importlib.util.find_spec(point.module.partition(".")[0])
        places = () if found is None else found.submodule_search_locations or (found.origin or "",)
        files = [file for place in map(Path, places) for file in (place.rglob("*.py") if place.is_dir() else [place])]
    files += [own, own.with_name("forecast_evaluation.py"), own.parents[1] / "research/search/splits.py"]
    files += (own.parents[1] / "indicators").rglob("*.py")
    digest = hashlib.sha256()
    for name, data in sorted((file.name, file.read_bytes()) for file in files if file.is_file()):
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    stated = [text for key in ("License-Expression", "License") for text in distribution.metadata.get_all(key) or ()]
    licence = next((text.strip().split("\n")[0][:200] for text in stated if text.strip()), None)
    return digest.hexdigest(), licence, {distribution.name: distribution.version, "numpy": np.__version__}


# ── trainers ─────────────────────────────────────────────────────────────────────────────────────
#: Complete features (n, f), labels (n,) in units of their standard deviation, and the spec -> LightGBM's texts by
#: name (`mean`, and each quantile, as `0.1`), or the bytes of an ONNX graph, or of an npz file of a linear model. The
#: same arguments give the same result.
Trainer = Callable[[Floats, Floats, ForecastSpec], Mapping[str, str] | bytes]


def trainer_point(name: str) -> importlib.metadata.EntryPoint:
    """Return the entry point of an installed trainer, without loading it. Errors: InputError TRAINER_UNKNOWN."""
    points = importlib.metadata.entry_points(group=TRAINERS)
    found = next((point for point in points if point.name == name), None)
    if found is None:
        known = ", ".join(sorted({BUILTIN, *(point.name for point in points)}))
        raise unprocessable(
            "TRAINER_UNKNOWN", f"there is no trainer {name!r}; there are {known}", "install the package that has it"
        )
    return found


def trainer_gpus(name: str) -> int:
    """Return how many GPUs the training job of a trainer asks Ray for: one where its entry point has the extra `gpu`
    (`my_trainers:train[gpu]`). Nothing of the trainer is loaded. Errors: InputError TRAINER_UNKNOWN."""
    return 0 if name == BUILTIN else int("gpu" in trainer_point(name).extras)


def _made(x: Floats, y: Floats, spec: ForecastSpec) -> ForecastModel:
    """Return the model of the spec's trainer, without scale, offsets and end of its labels.

    Errors: InputError TRAINER_UNKNOWN, AI_NOT_INSTALLED; TRAINER_FAILED for one that raises, or returns anything but a
    model of an allowed format.
    """
    if spec.trainer == BUILTIN:
        return ForecastModel(spec, _boosted(x, y, spec), 1.0, {}, 0)
    point = trainer_point(spec.trainer)
    names = {_MEAN, *(f"{q:g}" for q in spec.quantiles)}
    try:
        with contextlib.redirect_stdout(sys.stderr):  # a command's output is its result alone
            trainer: Trainer = point.load()
            made = trainer(x, y, spec)
        if isinstance(made, bytes):
            model = _model_of_bytes(made, x.shape[1], spec)
        elif set(made) != names or not all(isinstance(text, str) for text in made.values()):
            raise ValueError(f"no text for each of {', '.join(sorted(names))}")
        else:
            model = ForecastModel(spec, dict(made), 1.0, {}, 0)
        first = model.predict(x[:2])
        found = np.column_stack([first.value, first.quantiles])
        if found.shape != (min(2, len(x)), 1 + len(spec.quantiles)) or not np.isfinite(found).all():
            raise ValueError(f"output of the shape {found.shape}, or not finite")
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # another package's code may raise anything
        text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        raise unprocessable(
            "TRAINER_FAILED", f"trainer {spec.trainer} ({point.value}) failed: {text}", "see docs/forecasts.md"
        ) from None
    return model


def _model_of_bytes(made: bytes, features: int, spec: ForecastSpec) -> ForecastModel:
    """Return the model of an npz file or an ONNX graph. Errors: ValueError for one that is not allowed."""
    if not 0 < len(made) <= _GRAPH_MAX:
        raise ValueError(f"a model of {len(made):,} bytes; at most {_GRAPH_MAX:,}")
    if made.startswith(_ZIP):
        return ForecastModel(spec, {}, 1.0, {}, 0, linear=LinearModel.read(made, features, 1 + len(spec.quantiles)))
    if b"location" in made:  # the key by which a tensor names the file that it lies in
        raise ValueError("a graph whose tensors lie in other files, or that names anything 'location'")
    return ForecastModel(spec, {}, 1.0, {}, 0, made)


def train(
    panel: Panel, spec: ForecastSpec, fold: Fold, before: ForecastModel | None = None, before_test: Panel | None = None
) -> ForecastModel:
    """Return the model of a fold. The same rows, spec and libraries make the same bytes.

    `before`: the model of the fold before, whose errors on its test rows (`before_test`) make the intervals conformal;
    None: they are the quantiles as trained. Errors: InputError NO_DATA for too few rows, AI_NOT_INSTALLED.
    """
    rows = fold.train(panel)
    if len(rows.y) < _ROWS_MIN:
        raise InputError(
            f"{len(rows.y)} rows with features and label before {iso(fold.test_ns)} are too few to train on",
            code="NO_DATA",
            status=422,
            remedy=f"take more bars: {_ROWS_MIN} rows are the least",
        )
    # LightGBM's limits are absolute, and returns of a minute are tiny
    scale = float(rows.y.std()) or 1.0
    model = replace(_made(rows.x, rows.y / scale, spec), scale=scale, label_end_ns=int(rows.label_end_ns.max()))
    if before is None or before_test is None:
        return model
    known = before_test.where((before_test.label_end_ns <= fold.test_ns) & np.isfinite(before_test.y))
    known = known.where(known.is_complete)
    if not len(known.y):
        return model
    made = before.predict(known.x).quantiles
    misses = np.sort(np.maximum(made[:, 0] - known.y, known.y - made[:, -1]))
    offsets = {f"{level:g}": float(misses[min(ceil((len(misses) + 1) * level), len(misses)) - 1]) for level in LEVELS}
    return replace(model, offsets=offsets, label_end_ns=max(model.label_end_ns, int(known.label_end_ns.max())))


def _boosted(x: Floats, y: Floats, spec: ForecastSpec) -> Mapping[str, str]:
    lightgbm = _lightgbm()
    params = {
        "seed": spec.seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "learning_rate": 0.05,
        "num_leaves": 7,
        "min_data_in_leaf": max(20, len(y) // 50),
        "lambda_l2": 1.0,
        "verbosity": -1,
    }
    objectives: dict[str, dict[str, Any]] = {_MEAN: {"objective": "regression"}}
    objectives |= {f"{q:g}": {"objective": "quantile", "alpha": q} for q in spec.quantiles}
    made = {}
    for name, objective in objectives.items():
        data = lightgbm.Dataset(x, y, params={"verbosity": -1})
        trained = lightgbm.train({**objective, **params}, data, num_boost_round=spec.trees)
        made[name] = str(trained.model_to_string())
    return made
