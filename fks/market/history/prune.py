"""Pruning: deleting old bars on purpose, so that no sync fetches them again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fks.store.db import Database
from fks.store.gaps import GapStore, Series
from fks.store.prune import PruneStore


@dataclass(frozen=True, slots=True)
class Pruned:
    """Number of deleted bars of a series, or of bars that would be deleted, and of kept ones."""

    exchange: str
    symbol: str
    timeframe: str
    bars: int
    kept: int


async def prune(
    db: Database, before_ns: int, wanted: Callable[[Series], bool], *, is_dry: bool = False
) -> list[Pruned]:
    """Delete the bars that open before `before_ns` of the `wanted` series; return the numbers by series.

    `is_dry` only counts. Guarantees: continuous syncs do not fetch the pruned time. Errors: OutageError.
    """
    store, done = PruneStore(db), []
    for one in await GapStore(db).series():
        if one.oldest_ns is None or one.oldest_ns >= before_ns or not wanted(one):
            continue
        key = (one.exchange, one.symbol, one.timeframe)
        bars = await store.count(*key, before_ns) if is_dry else await store.series(*key, one.oldest_ns, before_ns)
        done.append(Pruned(*key, bars, one.candles - bars))
    if not is_dry:
        await store.outages(before_ns)
    return done
