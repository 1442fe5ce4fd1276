"""The table `assets`: symbols to collect, decided by configuration, commands and HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fks.store.base import SqlStore
from fks.store.db import Querier


@dataclass(frozen=True, slots=True)
class Asset:
    """One symbol to collect. None: by the settings; `history_days` 0: none. `channels`: trades, quotes, book."""

    exchange: str
    symbol: str
    timeframes: tuple[str, ...] | None = None
    history_days: int | None = None
    channels: tuple[str, ...] | None = None


class AssetStore(SqlStore[Querier], queries="assets"):
    """The table `assets`. Symbols are in the exchange's own spelling. Errors of all methods: OutageError."""

    async def enabled(self, exchange: str) -> list[Asset]:
        """Return the assets to collect from one exchange, by symbol."""
        rows = await self._db.fetch("assets.enabled", exchange)
        return [
            Asset(exchange, row["symbol"], _tuple(row["timeframes"]), row["history_days"], _tuple(row["channels"]))
            for row in rows
        ]

    async def all(self, exchange: str | None = None, symbols: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Return one mapping per asset, of all or of these, with its `status`: backfilling, live, stale or off."""

    async def seed(self, exchange: str, symbols: Sequence[str]) -> None:
        """Enable symbols without a row; one that was disabled stays so."""

    async def enable(self, asset: Asset, timeframes: Sequence[str], history_days: int) -> None:
        """Enable the collection of an asset and of its history: `history_days` of `timeframes`. Idempotent."""
        await self._set(asset, is_enabled=True)
        if history_days and timeframes:
            await self._db.execute("assets.want_history", asset.exchange, asset.symbol, list(timeframes), history_days)

    async def disable(self, asset: Asset) -> None:
        """Stop the collection of an asset; stored data stays."""
        await self._set(asset, is_enabled=False)

    async def add(self, asset: Asset) -> None:
        """Add an asset to the list, not collected; an existing one stays as it is."""
        await self._db.execute("assets.add", asset.exchange, asset.symbol, *_columns(asset))

    async def respell(self, exchange: str, symbol: str, spelled: str) -> None:
        """Rename an asset that was added in another spelling to the exchange's own."""

    async def _set(self, asset: Asset, *, is_enabled: bool) -> None:
        await self._db.execute("assets.set", asset.exchange, asset.symbol, is_enabled, *_columns(asset))


def _columns(asset: Asset) -> tuple[list[str] | None, int | None, list[str] | None]:
    return _list(asset.timeframes), asset.history_days, _list(asset.channels)


def _list(values: Sequence[str] | None) -> list[str] | None:
    return None if values is None else list(values)


def _tuple(values: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)
