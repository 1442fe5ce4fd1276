"""The history behind lots: executions, deposits and withdrawals, holdings before FKS, and past exchange rates; and the
rows that were made of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from itertools import islice

from fks.model.accounting.lots import (
    FlowKind,
    LotBook,
    LotFlow,
    LotMethod,
    LotTrade,
    RateAt,
    match_lots,
    without_busts,
)
from fks.model.futures import EXCHANGES, instrument_of_symbol
from fks.model.timeframe import NS, TIMEFRAMES, to_datetime, to_ns
from fks.store.base import columns_of
from fks.store.db import Database, Row, Transaction, sql

_BATCH = 2_000  # rows taken at once, some 10 ms of CPU: other requests are served in between
_LEGS_MAX = 3
_PATHS_MAX = 6
#: a bar is the rate of a moment until it ended so long before; of a bar longer than that, for the length of a bar
_AGE = timedelta(hours=1)
_MINUTE_NS = 60 * NS
_ONE = Decimal(1)
_MARGIN_VENUES = frozenset({"ninja", "mt5"})


@dataclass(frozen=True, slots=True)
class LotAccount:
    """An account as lots need it. `mode` is paper or live."""

    id: int
    name: str
    currency: str
    mode: str


@dataclass(frozen=True, slots=True)
class LotHistory:
    """All events that lots are made of, as of one moment. `unknown_symbols`: traded ones whose assets are not known;
    their executions are left out. `changed_ns`: executions that were added since another moment are not older."""

    accounts: list[LotAccount]
    trades: list[LotTrade]
    flows: list[LotFlow]
    unknown_symbols: list[str]
    changed_ns: int = 0


class LotStore:
    """Reads of the events that lots are made of. Errors of all methods: OutageError."""

    def __init__(self, db: Database, home: str) -> None:
        """`home`: the exchange of the venue, preferred where several list a symbol."""
        self._db, self._home = db, home

    async def history(self, account_ids: list[int] | None, known_trade_id: int | None = None) -> LotHistory:
        """Return the history of accounts, None: of all, as of one moment; with the time from which executions after the
        number `known_trade_id` change it."""
        changed_ns = 0
        async with self._db.transaction(isolation="repeatable_read", is_readonly=True) as tx:
            if known_trade_id is not None and (new := await tx.fetchrow("lots.changed", known_trade_id)):
                changed_ns = 0 if new["is_bust"] or new["time"] is None else to_ns(new["time"])
            accounts = [LotAccount(**dict(row)) for row in await tx.fetch("lots.accounts", account_ids)]
            names = {account.id: account.name for account in accounts}
            assets = _Assets(await tx.fetch("lots.instruments"), self._home)
            trades: list[LotTrade] = []
            busts: list[tuple[str, Decimal, Decimal]] = []
            async for rows in _batches(tx, account_ids):
                for row in rows:
                    _, number, _, account, venue, exchange, symbol, _, quantity, _, fee, _, source = row
                    if source == "bust":
                        busts.append((number.split(":")[1], quantity, -fee))
                    elif (found := assets.of((venue, exchange, symbol))) is not None:
                        trades.append(_trade(row, names[account], found))
            flows = [_flow(row, names[row["account_id"]]) for row in await tx.fetch("lots.flows", account_ids)]
            for row in await tx.fetch("lots.splits", account_ids):
                if (found := assets.of(("", row["exchange"], row["symbol"]))) is not None:
                    flows.append(_split(row, names[row["account_id"]], found[0]))
        return LotHistory(accounts, without_busts(trades, busts), flows, sorted(assets.unknown), changed_ns)

    async def book(self, history: LotHistory, currency: str, method: LotMethod, *, is_shared: bool) -> LotBook:
        """Return the lots and disposals of a history. `is_shared`: accounts of one mode share their lots."""
        pools = {item.name: item.mode for item in history.accounts} if is_shared else {}
        asked: set[tuple[str, int]] = set()

        def ask(asset: str, _: str, time_ns: int) -> Decimal | None:
            asked.add((asset, time_ns))
            return None

        def match(rate: RateAt) -> LotBook:
            return match_lots(
                history.trades,
                history.flows,
                currency=currency,
                method=method,
                rate=rate,
                pools=pools,
                since_ns=history.changed_ns,
            )

        found = await asyncio.to_thread(match, ask)
        if asked:  # most histories are in one currency, and need no rate
            found = await asyncio.to_thread(match, await self.rates(asked, currency))
        return found

    async def rebuild(self) -> str:
        """Write the lots and disposals of all accounts, where their inputs changed, and return a line about it.

        Each book (currency of an account, method, shared or not) is one transaction with the fingerprint of its inputs:
        the run after one that was killed writes the same rows. The fingerprint is read before the history, so that what
        is written meanwhile changes it for the next run. Where executions alone were added, the disposals before them
        are the same, and not written.
        """
        stamp = await self._stamp()
        stored = {tuple(row)[:3]: row["fingerprint"] for row in await self._db.fetch("lots.books")}
        accounts = await self._db.fetch("lots.accounts", None)
        currencies = sorted({row["currency"] for row in accounts})
        await self._db.execute("lots.drop_books", currencies)
        books = [(one, method, is_shared) for one in currencies for method in LotMethod for is_shared in (False, True)]
        left = [key for key in books if stored.get(key) != stamp]
        if left:
            base, *others = {stored.get(key, "") for key in left}
            is_grown = not others and base.count("|") == stamp.count("|") and await self._stamp(base) == base
            history = await self.history(None, _newest_of(base)[1] if is_grown else None)
            for currency, method, is_shared in left:
                book = await self.book(history, currency, method, is_shared=is_shared)
                key = currency, method.value, is_shared
                await self._put(key, base, stamp, book, history.unknown_symbols)
        return f"{len(left)} of {len(books)} books of lots rebuilt"

    async def _stamp(self, base: str = "") -> str:
        """Return the fingerprint of all inputs, or of those that `base` was the fingerprint of."""
        row = await self._db.fetchrow("lots.fingerprint", *(_newest_of(base)[::-1] if base else (None, None)))
        assert row is not None
        return f"{self._home}|{row['digest']}|{row['last_at']}|{row['trade_id']}"

    async def _put(
        self, key: tuple[str, str, bool], base: str, stamp: str, book: LotBook, unknown_symbols: list[str]
    ) -> None:
        common = ("pool", "asset", "kind")
        async with self._db.transaction() as tx:
            is_base = await tx.fetchval("lots.lock_book", *key) == base  # else another run was faster
            skip = book.before if is_base else 0
            lots, counts = enumerate(book.lots(), 1), [0, skip]
            disposals = ((item.number, item) for item in book.disposals(skip))
            await tx.execute("lots.begin_book", *key, stamp, unknown_symbols)
            while rows := list(islice(lots, _BATCH)):
                counts[0] = rows[-1][0]
                columns = columns_of([lot for _, lot in rows], *common, "acquired_ns", "id", "quantity", "cost", "note")
                await tx.execute("lots.put_lots", *key, [number for number, _ in rows], *columns)
            while parts := list(islice(disposals, _BATCH)):
                counts[1] = parts[-1][0]
                names = ("disposed_ns", "disposal_id", "acquired_ns", "lot_id", "realized_ns")
                amounts = ("quantity", "proceeds", "cost", "gain", "note")
                columns = columns_of([item for _, item in parts], *common, *names, *amounts)
                await tx.execute("lots.put_disposals", *key, [number for number, _ in parts], *columns)
            await tx.execute("lots.trim_book", *key, *counts)

    async def rates(self, wanted: Iterable[tuple[str, int]], currency: str) -> RateAt:
        """Return the rates of assets into a currency, from stored bars, at (asset, time ns) pairs.

        A rate goes through at most three pairs. Each pair's rate is the close of the newest bar that had ended, of the
        finest stored timeframe that has one no older than an hour (or than a longer bar). No such bar: no rate.
        """
        moments: dict[str, set[int]] = {}
        for asset, time_ns in wanted:
            moments.setdefault(asset, set()).add(time_ns - time_ns % _MINUTE_NS)
        pairs = _Pairs(await self._db.fetch("lots.pairs"), self._home)
        closes: dict[tuple[str, str, int], Decimal] = {}
        known: dict[tuple[str, int], Decimal] = {}
        for asset, times in moments.items():
            for path in pairs.paths(asset, currency):
                left = {at for at in times if (asset, at) not in known}
                if not left:
                    break
                for exchange, symbol, _ in path:
                    await self._load(closes, pairs, (exchange, symbol), left)
                for at in left:
                    if (rate := _along(path, closes, at)) is not None:
                        known[asset, at] = rate

        def rate_at(asset: str, into: str, time_ns: int) -> Decimal | None:
            return known.get((asset, time_ns - time_ns % _MINUTE_NS)) if into == currency else None

        return rate_at

    async def _load(
        self, closes: dict[tuple[str, str, int], Decimal], pairs: _Pairs, place: tuple[str, str], times: set[int]
    ) -> None:
        for timeframe in pairs.timeframes[place]:
            left = sorted(at for at in times if (*place, at) not in closes)
            if not left:
                return
            length = timedelta(seconds=TIMEFRAMES[timeframe])
            moments = [to_datetime(at) for at in left]
            for row in await self._db.fetch("lots.closes", *place, timeframe, moments, length, max(_AGE, length)):
                closes[*place, left[row["place"] - 1]] = Decimal(repr(row["close"]))


def _newest_of(stamp: str) -> tuple[str, int]:
    """Return the time of the last event and the number of the newest execution of a fingerprint."""
    *_, last, trade_id = stamp.split("|")
    return last, int(trade_id)


async def _batches(tx: Transaction, account_ids: list[int] | None) -> AsyncIterator[list[Row]]:
    cursor = await tx.connection.cursor(sql("lots.trades"), account_ids)
    while rows := await cursor.fetch(_BATCH):
        yield rows


#: base, quote, multiplier, whether it is a contract
_Traded = tuple[str, str, Decimal, bool]


class _Assets:
    """The assets of traded symbols. `unknown` collects symbols that no instrument names, or several with other
    assets."""

    def __init__(self, rows: Iterable[Row], home: str) -> None:
        self.unknown: set[str] = set()
        self._home = home
        self._listed: dict[str, dict[str, tuple[str, str, Decimal]]] = {}
        self._known: dict[tuple[str, str, str], _Traded | None] = {}
        for row in rows:
            self._listed.setdefault(row["symbol"], {})[row["exchange"]] = row["base"], row["quote"], row["multiplier"]

    def of(self, key: tuple[str, str, str]) -> _Traded | None:
        """Return the assets of an execution, or None. `key`: its venue, its order's exchange ("": no order), symbol."""
        if key not in self._known:
            self._known[key] = self._find(*key)
            if self._known[key] is None:
                self.unknown.add(key[2])
        return self._known[key]

    def _find(self, venue: str, exchange: str, symbol: str) -> _Traded | None:
        listed = self._listed.get(symbol, {})
        is_margin = venue.partition(":")[0] in _MARGIN_VENUES
        at = exchange if exchange in listed else self._home
        every = {listed[at]} if at in listed else set(listed.values())
        if not every and (contract := instrument_of_symbol("", symbol)) is not None:
            return contract.base, contract.quote, contract.multiplier, True
        if len(every) != 1:
            return None
        ((base, quote, multiplier),) = every
        is_future = at in EXCHANGES if at in listed else listed.keys() <= EXCHANGES
        return base, quote, multiplier, is_margin or is_future or multiplier != 1


def _trade(row: Row, account: str, assets: _Traded) -> LotTrade:
    at_us, number, id, _, _, _, symbol, is_buy, quantity, price, fee, fee_asset, _ = row
    base, quote, multiplier, is_contract = assets
    sequence = int(number) if number.isascii() and number.isdigit() else 0
    return LotTrade(
        at_us * 1000,
        sequence,
        id,
        account,
        symbol,
        base,
        quote,
        is_buy,
        quantity,
        price,
        fee,
        fee_asset,
        multiplier,
        is_contract,
    )


def _flow(row: Row, account: str) -> LotFlow:
    kind, reference = FlowKind(row["kind"]), row["reference"]
    return LotFlow(
        to_ns(row["time"]),
        f"{account}:{kind.value}:{reference}",
        account,
        kind,
        row["asset"],
        row["amount"],
        row["fee"],
        reference,
    )


def _split(row: Row, account: str, asset: str) -> LotFlow:
    time_ns, symbol = to_ns(row["effective_at"]), row["symbol"]
    id = f"{account}:{FlowKind.SPLIT.value}:{symbol}:{time_ns}"
    return LotFlow(time_ns, id, account, FlowKind.SPLIT, asset, row["change"], reference=symbol)


#: a leg of a rate: exchange, symbol, and whether the pair is read the other way round
_Path = tuple[tuple[str, str, bool], ...]


class _Pairs:
    """Ways from one asset to another through pairs with stored bars."""

    def __init__(self, rows: Iterable[Row], home: str) -> None:
        #: by exchange and symbol, finest first; those of seconds are kept for days only
        self.timeframes: dict[tuple[str, str], list[str]] = {}
        self._legs: dict[str, dict[str, tuple[str, str, bool]]] = {}
        for row in sorted(rows, key=lambda row: (row["exchange"] != home, row["exchange"], row["symbol"])):
            place, base, quote = (row["exchange"], row["symbol"]), row["base"], row["quote"]
            if TIMEFRAMES[row["timeframe"]]:  # a month is too long for a rate
                self.timeframes.setdefault(place, []).append(row["timeframe"])
                self._legs.setdefault(base, {}).setdefault(quote, (*place, False))
                self._legs.setdefault(quote, {}).setdefault(base, (*place, True))
        for names in self.timeframes.values():
            names.sort(key=lambda name: TIMEFRAMES[name])

    def paths(self, asset: str, currency: str) -> list[_Path]:
        """Return the ways with the fewest legs first, at most _LEGS_MAX legs and _PATHS_MAX ways."""
        found: list[_Path] = []
        ways: list[tuple[str, tuple[str, ...], _Path]] = [(asset, (asset,), ())]
        for _ in range(_LEGS_MAX):
            longer = [
                (other, (*passed, other), (*path, leg))
                for here, passed, path in ways
                for other, leg in sorted(self._legs.get(here, {}).items())
                if other not in passed
            ]
            found += [path for here, _, path in longer if here == currency]
            ways = [way for way in longer if way[0] != currency]
        return found[:_PATHS_MAX]


def _along(path: _Path, closes: Mapping[tuple[str, str, int], Decimal], at_ns: int) -> Decimal | None:
    rate = _ONE
    for exchange, symbol, is_inverse in path:
        close = closes.get((exchange, symbol, at_ns))
        if close is None:
            return None
        rate = rate / close if is_inverse else rate * close
    return rate
