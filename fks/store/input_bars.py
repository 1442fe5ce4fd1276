"""Bars of the further symbols that a strategy reads, sealed as far as its own, and its own columns: row by row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fks.model.bar import Bars
from fks.store.bars import BarStore
from fks.store.db import Database
from fks.store.facts import FactStore
from fks.store.feature_values import FeatureStore
from fks.store.reading import ReadingStore
from fks.store.strategies import Instance

_US = 1_000  # the database counts microseconds: the smallest step after a bar


class InputBars:
    """Reads what `Strategy.inputs` names, at the instance's exchange and in its timeframe. Errors: OutageError."""

    def __init__(self, db: Database) -> None:
        self._bars, self._facts, self._reading = BarStore(db), FactStore(db), ReadingStore(db)
        self._features = FeatureStore(db)

    async def places(self, exchange: str, names: Iterable[str]) -> dict[str, str]:
        """Return the exchange's symbol of each name. Errors: InputError SYMBOL_UNKNOWN; INPUT_MISSING when one is not
        collected."""
        return {name: (await self._reading.find_collected(name, exchange)).symbol for name in names}

    async def sealed(self, row: Instance, places: Mapping[str, str]) -> tuple[int | None, str]:
        """Return up to which open time the bars of all symbols are sealed, and the input that is behind the others;
        None when one of them has no sealed bar, "" when the instance's own symbol is the last."""
        sealed_ns, behind = row.sealed_ns, ""
        for symbol in places.values():
            through_ns = await self._facts.sealed_through(row.exchange, symbol, row.timeframe)
            if through_ns is None:
                return None, symbol
            if sealed_ns is None or through_ns < sealed_ns:
                sealed_ns, behind = through_ns, symbol
        return sealed_ns, behind

    async def joined(self, exchange: str, bars: Bars, places: Mapping[str, str], features: Iterable[str] = ()) -> Bars:
        """Return sealed bars of an instance with those of its inputs and its own columns beside them, aligned as in a
        backtest. Errors: InputError FEATURE_UNKNOWN."""
        bars = await self._features.aligned(features, bars.symbol, bars)
        if not places:
            return bars
        from_ns, to_ns = (int(bars.time_ns[0]), int(bars.time_ns[-1]) + _US) if len(bars) else (0, 0)
        return bars.joined(
            {
                name: await self._bars.read(symbol, bars.timeframe, from_ns, to_ns, exchange=exchange)
                for name, symbol in places.items()
            }
        )
