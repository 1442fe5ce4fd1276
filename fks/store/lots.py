"""The history behind lots: executions, deposits and withdrawals, holdings before FKS, and past exchange rates."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from fks.futures import EXCHANGES, instrument_of_symbol
from fks.model.timeframe import NS, TIMEFRAMES, to_datetime, to_ns
from fks.portfolio.lots import FlowKind, LotFlow, LotTrade, RateAt, without_busts
from fks.store.db import Database, Row, Transaction, sql

_BATCH = 2_000  # rows taken at once, some 10 ms of CPU: other requests are served in between
_LEGS_MAX = 3
_PATHS_MAX = 6
#: a bar is the rate of a moment until it ended so long before; of a bar longer than that, for the length of a bar
_AGE = timedelta(hours=1)
_MINUTE_NS = 60 * NS
_ONE = Decimal(1)
_MARGIN_VENUES = frozenset({"ninja"})


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
    their executions are left out."""

    accounts: list[LotAccount]
    trades: list[LotTrade]
    flows: list[LotFlow]
    unknown_symbols: list[str]


class LotStore:
    """Reads of the events that lots are made of. Errors of all methods: OutageError."""

    def __init__(self, db: Database, home: str) -> None:
        """`home`: the exchange of the venue, preferred where several list a symbol."""
        self._db, self._home = db, home

    async def history(self, account_ids: list[int] | None) -> LotHistory:
        """Return the history of accounts, None: of all, as of one moment."""
        async with self._db.transaction(isolation="repeatable_read", is_readonly=True) as tx:
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
        return LotHistory(accounts, without_busts(trades, busts), flows, sorted(assets.unknown))

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
