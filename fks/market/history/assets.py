"""Assets to collect: choices of people, in any spelling of a symbol, and the instruments that an exchange lists."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fks.clock import Clock
from fks.config.settings import Data
from fks.market.bars.aggregate import by_length, length_of
from fks.model.errors import InputError, OutageError, PeerError, invalid, not_found
from fks.model.futures import EXCHANGES as FUTURES_EXCHANGES
from fks.model.futures import contract_of
from fks.model.instrument import Instrument, find_instrument, folded
from fks.model.market import Channel, Subscription
from fks.model.ports import Exchange, Log
from fks.model.timeframe import check_timeframe, check_together
from fks.store.assets import Asset, AssetStore
from fks.store.db import Database
from fks.store.instruments import InstrumentStore
from fks.store.reading import ambiguous
from fks.store.sync import SyncStore

LISTED_S = 3600.0  # interval of fetching the listing: rules and trading states change rarely
RELIST_FIRST_S, RELIST_MAX_S = 1.0, 60.0  # after a failure: a second, doubled each time
# channels that can be chosen; the exchange's own bars are always subscribed
CHANNELS = (Channel.TRADES, Channel.QUOTES, Channel.BOOK)
HISTORY_MAX_DAYS = 7300


@dataclass(frozen=True, slots=True)
class Choice:
    """A request to collect symbols, or to stop; symbols are in any spelling; None leaves a value as it is."""

    symbols: tuple[str, ...]
    exchange: str | None = None
    timeframes: tuple[str, ...] | None = None
    history_days: int | None = None
    channels: tuple[str, ...] | None = None


class AssetSelection:
    """Applies choices. Guarantees: all symbols of a choice are known before any is changed; twice equals once.

    Errors of all methods: OutageError; InputError naming the unknown value and the known ones.
    """

    def __init__(self, db: Database, data: Data, exchanges: Collection[str]) -> None:
        """`exchanges` are the names of the registry."""
        self._db = db
        self._data = data
        self._exchanges = exchanges

    async def enable(self, choice: Choice) -> list[dict[str, Any]]:
        """Enable collecting the assets and fetching their history; a running system begins within seconds."""
        assets = await self._chosen(choice)
        async with self._db.transaction() as tx:
            for asset in assets:
                days = self._data.history_days if asset.history_days is None else asset.history_days
                await AssetStore(tx).enable(asset, history_timeframes(asset.timeframes or self._data.timeframes), days)
        return await self._shown(assets)

    async def disable(self, choice: Choice) -> list[dict[str, Any]]:
        """Stop collecting the assets; stored data stays. A symbol without an exchange means the one that is
        collected."""
        symbols = [await self._collected(text) if choice.exchange is None else text for text in choice.symbols]
        assets = await self._chosen(replace(choice, symbols=tuple(symbols)))
        async with self._db.transaction() as tx:
            for asset in assets:
                await AssetStore(tx).disable(asset)
        return await self._shown(assets)

    async def add(self, choice: Choice) -> list[dict[str, Any]]:
        """Add assets to the list without collecting them."""
        assets = await self._chosen(choice)
        async with self._db.transaction() as tx:
            for asset in assets:
                await AssetStore(tx).add(asset)
        return await self._shown(assets)

    async def _shown(self, assets: Sequence[Asset]) -> list[dict[str, Any]]:
        shown = []
        for exchange in sorted({asset.exchange for asset in assets}):
            shown += await AssetStore(self._db).all(exchange, [a.symbol for a in assets if a.exchange == exchange])
        return shown

    async def _chosen(self, choice: Choice) -> list[Asset]:
        checked = check_choice(choice, self._exchanges)
        listed = await InstrumentStore(self._db).all(choice.exchange)
        return [
            Asset(exchange, symbol, checked.timeframes, checked.history_days, checked.channels)
            for exchange, symbol in dict.fromkeys(self._find(text, choice.exchange, listed) for text in choice.symbols)
        ]

    async def _collected(self, text: str) -> str:
        """Return `text` with the exchange at which it is collected, unchanged when no exchange does. Errors:
        InputError."""
        rows = [row for row in await AssetStore(self._db).all() if row["is_enabled"]]
        places = [
            f"{row['exchange']}:{row['symbol']}"
            for row in rows
            if folded(text) in (folded(row["symbol"]), folded(row["name"]))
        ]
        if len(places) > 1:
            raise ambiguous(text, places)
        return places[0] if places else text

    def _find(self, text: str, exchange: str | None, listed: Sequence[Instrument]) -> tuple[str, str]:
        """Return (exchange, symbol). The listing of an exchange that was never collected is unknown: its collector
        checks the symbol later."""
        prefix, _, rest = text.rpartition(":")
        named = exchange or prefix.lower() or None
        if named is not None and named not in self._exchanges:
            raise _unknown_exchange(named, self._exchanges)
        if (named or self._data.exchange) in FUTURES_EXCHANGES:
            contract = contract_of(rest)
            if contract is None:
                raise not_found(
                    "SYMBOL_UNKNOWN",
                    f"{rest!r} is no futures contract",
                    "write it as ES 03-25; 'fks instruments futures' shows the front months",
                )
            text = rest = contract.name
        own = [item for item in listed if item.exchange == (named or self._data.exchange)]
        if not own and named is not None:
            return named, rest.strip().upper()
        if not own and not listed:
            raise invalid(
                "SYMBOL_UNKNOWN",
                "no instruments are known yet",
                "start once with 'fks up': the collector lists them; or name the exchange",
            )
        found = find_instrument(rest if own else text, own or listed)
        return found.exchange, found.symbol


def check_choice(choice: Choice, exchanges: Collection[str]) -> Choice:
    """Return `choice` with sorted timeframes and channels. Errors: InputError."""
    if choice.exchange is not None and choice.exchange not in exchanges:
        raise _unknown_exchange(choice.exchange, exchanges)
    if choice.history_days is not None and not 0 <= choice.history_days <= HISTORY_MAX_DAYS:
        raise invalid("INVALID", f"history: {choice.history_days} days", f"say 0 to {HISTORY_MAX_DAYS}")
    unknown = [name for name in choice.channels or () if name not in CHANNELS]
    if unknown:
        raise invalid("CHANNEL_UNKNOWN", f"unknown channel {unknown[0]!r}", f"use {' '.join(CHANNELS)}")
    frames = None if not choice.timeframes else by_length(check_timeframe(name) for name in choice.timeframes)
    check_together(frames or ())
    channels = (
        None if not choice.channels else tuple(c for c in CHANNELS if c in choice.channels or c is Channel.TRADES)
    )
    return replace(choice, timeframes=frames, channels=channels)


def history_timeframes(timeframes: Sequence[str]) -> list[str]:
    """Return the timeframes whose history is fetched on enabling: exchanges keep short ones only briefly."""
    return [frame for frame in by_length(timeframes) if length_of(frame) >= 60]


def timeframes_of(asset: Asset, default: Sequence[str]) -> tuple[str, ...]:
    """Return the timeframes to build of an asset, smallest first. Errors: InputError for an unknown one."""
    return by_length(check_timeframe(frame) for frame in asset.timeframes or default)


def subscriptions(asset: Asset, frames: Sequence[str], exchange: Exchange) -> tuple[Subscription, ...]:
    """Return the subscriptions of an asset: its channels that the exchange has, and the exchange's own smallest bars,
    which report the end of a bar."""
    chosen = {Channel.TRADES, *(Channel(name) for name in asset.channels or ())} & exchange.capabilities.channels
    found = [Subscription(channel, asset.symbol) for channel in CHANNELS if channel in chosen]
    if Channel.BARS in exchange.capabilities.channels:
        live = exchange.capabilities.streamed_bars
        ends = [f for f in by_length({frames[0], "1m"}) if f in frames and f in live] or [
            f for f in by_length(live) if f in frames
        ][:1]
        found += [Subscription(Channel.BARS, asset.symbol, frame) for frame in ends]
    return tuple(found)


def _unknown_exchange(name: str, exchanges: Collection[str]) -> InputError:
    return not_found("EXCHANGE_UNKNOWN", f"unknown exchange {name!r}", f"use one of {' '.join(sorted(exchanges))}")


class Assets:
    """Assets of one exchange: keeps the table `instruments` up to date and reads `assets`. Errors: OutageError,
    PeerError."""

    def __init__(self, exchange: Exchange, db: Database, clock: Clock, log: Log, symbols: Sequence[str] = ()) -> None:
        """`symbols` of the configuration are collected, except those that a person disabled before."""
        self._exchange = exchange
        self._instruments = InstrumentStore(db)
        self._store = AssetStore(db)
        self._syncs = SyncStore(db)
        self._clock = clock
        self._log = log
        self._seeds = tuple(symbols)
        self._known: dict[str, Instrument] = {}
        self._list_at_s = float("-inf")
        self._relist_s = RELIST_FIRST_S
        self._warned: set[str] = set()
        self.is_listed = False  # a listing is known, perhaps an older one
        self.problem = ""  # why the current one is unknown

    async def wanted(self) -> list[Asset]:
        """Return the enabled and listed assets, in the exchange's spelling; each unlisted one is logged once.

        While the exchange does not answer, its last known listing is used.
        """
        if self._clock.monotonic() >= self._list_at_s:
            await self._list()
        if not self.is_listed:
            return []
        enabled = await self._store.enabled(self._exchange.name)
        if [asset for asset in enabled if asset.symbol not in self._known and await self._respelled(asset.symbol)]:
            enabled = await self._store.enabled(self._exchange.name)
        return [asset for asset in enabled if asset.symbol in self._known]

    async def _list(self) -> None:
        try:
            instruments = await self._exchange.instruments()
            await self._instruments.merge(instruments)
        except (OutageError, PeerError) as error:
            self._log.warning("collector.assets", exchange=self._exchange.name, error=str(error), wait_s=self._relist_s)
            self._list_at_s = self._clock.monotonic() + self._relist_s
            self._relist_s = min(2 * self._relist_s, RELIST_MAX_S)
            self.problem = str(error)
            if self.is_listed:
                return
            instruments = await self._instruments.all(self._exchange.name)
            if not instruments:
                return
        else:
            self._list_at_s, self._relist_s, self.problem = self._clock.monotonic() + LISTED_S, RELIST_FIRST_S, ""
        self.is_listed = True
        self._known = {item.symbol: item for item in instruments}
        if self._seeds:
            found = [self._find(text) for text in self._seeds]
            await self._store.seed(self._exchange.name, [item.symbol for item in found if item is not None])

    async def _respelled(self, symbol: str) -> bool:
        found = self._find(symbol)
        if found is None:
            return False
        # first: it is not looked for again once the asset is renamed
        await self._syncs.respell(self._exchange.name, symbol, found.symbol)
        await self._store.respell(self._exchange.name, symbol, found.symbol)
        return True

    def _find(self, text: str) -> Instrument | None:
        try:
            return find_instrument(text, self._known.values())
        except InputError:
            if text not in self._warned:
                self._warned.add(text)
                self._log.warning("asset.unknown", exchange=self._exchange.name, symbol=text)
            return None
