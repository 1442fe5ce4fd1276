"""Cache of indicators over stored series: never stale after a correction.

A cached column is keyed by indicator, parameters and version of the code. It is used only while its series has the
revision and newest bar that it was computed from (`series.revision` changes when any process corrects or deletes a bar
or adds one before the newest). Indicators are computed over the whole series, since recursive ones depend on its first
bar. The result was correct at one moment during the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson

from fks import __version__
from fks.indicators import INDICATORS, compute
from fks.model.bar import Bars, Floats, Ints
from fks.model.errors import InputError, OutageError
from fks.store.bars import BarStore, SeriesSummary
from fks.store.columns import ColumnCache
from fks.store.db import Database
from fks.store.indicators import IndicatorStore

_TRIES = 5  # of reading a series that is corrected meanwhile: each try takes milliseconds


@dataclass(frozen=True, slots=True)
class Computed:
    """Columns of an indicator, aligned with `time_ns` (open times, oldest first). `is_kept`: they are from the
    cache."""

    exchange: str
    symbol: str
    revision: int
    time_ns: Ints
    columns: dict[str, Floats]
    is_kept: bool = False

    def between(self, start_ns: int | None, end_ns: int | None, limit: int | None) -> Computed:
        """Return the part with start <= open time < end; `limit` keeps its first rows, or its last without a start."""
        first = 0 if start_ns is None else int(np.searchsorted(self.time_ns, start_ns))
        stop = len(self.time_ns) if end_ns is None else int(np.searchsorted(self.time_ns, end_ns))
        if limit is not None:
            first, stop = (max(first, stop - limit), stop) if start_ns is None else (first, min(stop, first + limit))
        part = slice(first, max(first, stop))
        return replace(self, time_ns=self.time_ns[part], columns={name: c[part] for name, c in self.columns.items()})


class IndicatorCache:
    """Computes indicators of stored series and caches them. Safe to share between tasks."""

    def __init__(self, db: Database, columns: ColumnCache | None = None) -> None:
        """`columns`: read bars through mapped copies, which is faster for long series."""
        self._bars = BarStore(db)
        self._columns = columns or self._bars
        self._store = IndicatorStore(db)

    async def compute(self, exchange: str, symbol: str, timeframe: str, name: str, **params: float) -> Computed:
        """Return indicator `name` over the whole series; an empty one gives empty columns.

        Errors: InputError INDICATOR_UNKNOWN or INDICATOR_PARAM with the valid values; OutageError, also when the
        series kept changing.
        """
        if chosen := {"other", "columns"} & params.keys():
            raise InputError(
                f"indicator {name} of a stored series has no parameter {min(chosen)!r}",
                code="INDICATOR_PARAM",
                status=422,
                remedy="read the bars and use fks.indicators.compute",
            )
        given: dict[str, Any] = dict(params)
        empty = compute(name, Bars.of(symbol, timeframe, []), **given)  # refuses what is wrong before anything is read
        key = params_key(name, params)
        kept = await self._store.fresh(exchange, symbol, timeframe, name, key)
        if kept is not None:
            return Computed(exchange, symbol, *kept, is_kept=True)
        state, bars = await self._still(exchange, symbol, timeframe)
        columns = compute(name, bars, **given) if len(bars) else empty
        await self._store.save(exchange, symbol, timeframe, name, key, params, state, bars.time_ns, columns)
        return Computed(exchange, symbol, state.revision, bars.time_ns, columns)

    async def _still(self, exchange: str, symbol: str, timeframe: str) -> tuple[SeriesSummary, Bars]:
        """Return a series and its state, which was the same before and after reading it."""
        before = await self._state(exchange, symbol, timeframe)
        for _ in range(_TRIES):
            bars = await self._columns.read(symbol, timeframe, exchange=exchange)
            after = await self._state(exchange, symbol, timeframe)
            if after == before:
                return after, bars
            before = after
        raise OutageError(f"{symbol} {timeframe} is being written all the time", remedy="try again in a moment")

    async def _state(self, exchange: str, symbol: str, timeframe: str) -> SeriesSummary:
        return await self._bars.series(symbol, timeframe, exchange=exchange) or SeriesSummary(0, 0, None, None)


def params_key(name: str, params: Mapping[str, float]) -> str:
    """Return the key of an indicator's parameters, with defaults, and of the versions of the code."""
    row = INDICATORS[name]
    whole = {key: params.get(key, param.default) for key, param in row.params.items()}
    typed = {
        key: int(value) if isinstance(row.params[key].default, int) else float(value) for key, value in whole.items()
    }
    return f"{orjson.dumps(typed, option=orjson.OPT_SORT_KEYS).decode()} fks {__version__} talib {_talib_version()}"


def _talib_version() -> str:
    from importlib.metadata import version

    return version("TA-Lib")
