"""Loading of a backtest's bars from the database or a tape file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from importlib import resources
from pathlib import Path

import numpy as np

from fks.market.bars.columns import volume_bars
from fks.market.bars.splits import adjusted, tick_of
from fks.market.exchanges.registry import EXCHANGES, capabilities_of
from fks.market.files.bars import ImportOptions, read_bars
from fks.market.history.gaps import calendar_for
from fks.model.bar import Bars
from fks.model.errors import InputError, invalid, not_found, unprocessable
from fks.model.futures import continuous, continuous_root, contract_of
from fks.model.instrument import Instrument, find_instrument
from fks.model.market import TradeIds
from fks.model.tape import Tape, unpack_tape
from fks.model.timeframe import TIMEFRAMES, bar_end, bar_start, iso, to_ns, volume_of
from fks.research.backtest import resample
from fks.research.backtest.instrument import instrument_of
from fks.research.backtest.resample import trades_needed
from fks.research.jobs.backtest import BarsRequest, LoadedBars, joined
from fks.store.bars import BarStore
from fks.store.columns import ColumnCache
from fks.store.corporate_actions import CorporateActionStore
from fks.store.db import Database
from fks.store.feature_values import FeatureStore
from fks.store.gaps import GapStore
from fks.store.instruments import InstrumentStore
from fks.store.reading import Listed, ReadingStore, ambiguous

_TRADES_MAX = 2_000_000  # stored trades of one run: about 1 GB while they are read


async def load_stored(db: Database, request: BarsRequest, columns: ColumnCache | None = None) -> LoadedBars:
    """Return bars from `ohlcv_data`: the timeframe itself, or resampled from stored minutes where those reach further.

    Shares that were split are in shares of the end (`fks.market.bars.splits`). With `columns` bars are mapped from its
    files instead of read. Volume bars are made of the stored trades. Errors: InputError SYMBOL_UNKNOWN,
    NO_DATA, SPLIT_IN_BAR, FEATURE_UNKNOWN, FEATURE_KNOWLEDGE, TRADES_NEEDED, TRADES_GAP; OutageError.
    """
    if continuous_root(request.symbol.rpartition(":")[2]) is not None:
        return await _load_continuous(db, request, columns)
    found = await _found(db, request)
    listed = await _listed(db, found)
    store = columns or BarStore(db)
    is_volume = volume_of(request.timeframe) is not None
    if is_volume:
        native = await _volume_bars(db, found, request)
    else:
        native = await _read(db, store, found, request, request.timeframe, request.warmup)
    made, stored_minutes = native, None
    if is_volume:
        pass
    elif TIMEFRAMES[request.timeframe] > 60 or request.timeframe == "1M":
        minutes = (request.warmup + 2) * ((TIMEFRAMES[request.timeframe] or 31 * 86400) // 60)
        stored_minutes = await _read(db, store, found, request, "1m", minutes)
        made = resample(stored_minutes, request.timeframe)
        if request.start_ns is not None:
            made = made[max(0, int(np.searchsorted(made.time_ns, request.start_ns)) - request.warmup) :]
    actions = CorporateActionStore(db)
    splits = await actions.splits(found.exchange, found.symbol)
    is_native = len(made) <= len(native)
    bars = adjusted(native if is_native else made, splits)
    if stored_minutes is not None and len(bars):
        stored_minutes = adjusted(stored_minutes, splits, until_ns=bar_end(int(bars.time_ns[-1]), bars.timeframe))
    if not len(bars) or int(bars.time_ns[-1]) < (request.start_ns or 0):
        raise _no_data(request, found.symbol, await _stored(BarStore(db), found, request))
    source = "database, made of trades" if is_volume else "database" if is_native else "database, made from 1m bars"
    has_finer = stored_minutes is not None and len(stored_minutes) > 0
    instrument = await _derived(db, bars) if listed is None else replace(listed, tick=tick_of(bars, listed.tick))
    own, begin_ns = FeatureStore(db), int(bars.time_ns[0]) if request.start_ns is None else request.start_ns
    await own.check_knowledge(request.features, found.symbol, begin_ns)
    bars = await own.aligned(request.features, found.symbol, bars)
    events = await actions.instrument_events(found.exchange, found.symbol, request.end_ns)
    return LoadedBars(bars, instrument, source, stored_minutes if has_finer else None, events, listed is None)


async def stored_contracts(db: Database, symbol: str, exchange: str | None) -> list[tuple[str, str]]:
    """Return exchange and name of the stored contracts of a continuous future (`ES ##-##`), by exchange and expiry."""
    prefix, _, name = symbol.rpartition(":")
    wanted, root = (prefix or exchange or "").lower(), continuous_root(name)
    found = {
        (one.exchange, contract.last_trading_day): one.symbol
        for one in await GapStore(db).series()
        if one.candles
        and (contract := contract_of(one.symbol)) is not None
        and contract.root == root
        and wanted in ("", one.exchange)
    }
    return [(key[0], found[key]) for key in sorted(found)]


async def find_continuous(db: Database, symbol: str, exchange: str | None) -> tuple[str, str]:
    """Return exchange and name of a continuous future of which contracts are stored. Errors: InputError
    SYMBOL_UNKNOWN, SYMBOL_AMBIGUOUS."""
    places = sorted({place for place, _ in await stored_contracts(db, symbol, exchange)})
    name = symbol.rpartition(":")[2].strip().upper()
    if len(places) > 1:
        raise ambiguous(name, [f"{place}:{name}" for place in places])
    if not places:
        raise not_found("SYMBOL_UNKNOWN", f"no contract of {name} is stored", "import some ('fks data import')")
    return places[0], name


async def _load_continuous(db: Database, request: BarsRequest, columns: ColumnCache | None) -> LoadedBars:
    """Return the bars of the stored contracts of a product (`ES ##-##`), each as it was traded, joined at rolls by
    volume; the first and last ones without bars up to the end of the request are left out. Errors: InputError NO_DATA,
    FEATURE_KNOWLEDGE; those of `find_continuous` and `fks.model.futures.continuous`."""
    _, name = await find_continuous(db, request.symbol, request.exchange)
    contracts = await stored_contracts(db, request.symbol, request.exchange)
    whole = replace(request, start_ns=None, warmup=0, features=())
    parts, missing = list[LoadedBars](), None
    for place, symbol in contracts:
        try:
            part = await load_stored(db, replace(whole, symbol=symbol, exchange=place), columns)
        except InputError as error:
            if error.code != "NO_DATA":
                raise
            missing = error if parts else None
            continue
        if missing is not None:
            raise missing
        parts.append(part)
    if not parts:
        raise _no_data(request, name, f"stored are {len(contracts)} contracts")
    bars = continuous(name, [part.bars for part in parts], adjust="none").bars
    if request.start_ns is not None:
        bars = bars[max(0, int(np.searchsorted(bars.time_ns, request.start_ns)) - request.warmup) :]
    if not len(bars) or int(bars.time_ns[-1]) < (request.start_ns or 0):
        raise _no_data(request, bars.symbol, f"stored are {len(parts)} contracts")
    own, begin_ns = FeatureStore(db), int(bars.time_ns[0]) if request.start_ns is None else request.start_ns
    await own.check_knowledge(request.features, bars.symbol, begin_ns)
    bars = await own.aligned(request.features, bars.symbol, bars)
    instrument = replace(parts[-1].instrument, symbol=bars.symbol)
    return LoadedBars(bars, instrument, f"database, {len(parts)} contracts")


async def _volume_bars(db: Database, found: Listed, request: BarsRequest) -> Bars:
    """Return the volume bars of a request, and `warmup` before it, counted from the first stored trade on. Errors:
    InputError TRADES_NEEDED without trades, TRADES_GAP where some are missing or that cannot be known."""
    exchange, symbol = found.exchange, found.symbol
    rows = await ReadingStore(db).trades(exchange, symbol, request.end_ns, _TRADES_MAX + 1)
    if not rows:
        there_is = await _stored(BarStore(db), found, replace(request, timeframe="1m"))
        raise trades_needed(request.timeframe, there_is)
    missing = sum(row["missing"] or 0 for row in rows)
    is_whole = exchange in EXCHANGES and capabilities_of(exchange).trade_ids is TradeIds.CONTIGUOUS
    if missing or not is_whole or len(rows) > _TRADES_MAX:
        why = f"{missing} are missing" if missing else f"there are more than {_TRADES_MAX}"
        why = why if missing or is_whole else f"the ids of {exchange} do not show whether one is missing"
        raise unprocessable(
            "TRADES_GAP",
            f"{request.timeframe} bars of {symbol} cannot be made of the stored trades: {why}",
            "run on a file of trades: --tape FILE",
        )
    columns = (np.array([row[name] for row in rows], dtype=np.float64) for name in ("price", "quantity"))
    time_ns = np.array([to_ns(row["time"]) for row in rows], dtype=np.int64)
    bars = volume_bars(symbol, request.timeframe, time_ns, *columns)
    first = 0 if request.start_ns is None else int(np.searchsorted(bars.time_ns, request.start_ns)) - request.warmup
    return replace(bars[max(0, first) :], calendar=calendar_for(exchange, None, symbol), exchange=exchange)


def load_trades(path: Path, request: BarsRequest, *, now_ns: int) -> LoadedBars:
    """Return the volume bars of a file of trades. Errors: InputError TAPE_MISSING, those of `read_bars` and of
    `load_tape`."""
    if not path.is_file():
        raise invalid("TAPE_MISSING", f"no file of trades at {path}", "give Binance's trades or aggTrades, or a table")
    symbol = request.symbol.rpartition(":")[2]
    options = ImportOptions(exchange=request.exchange or "", symbol=symbol, timeframe=request.timeframe)
    file = read_bars(path, options, now_ns=now_ns)
    bars = replace(file.bars, calendar=file.calendar, exchange=file.exchange)
    return _part(bars, instrument_of(bars), str(path), request)


async def load_stored_joined(db: Database, request: BarsRequest, symbols: Iterable[str]) -> LoadedBars:
    """Return `load_stored` with the bars of further symbols of the exchange (`Strategy.inputs`) beside its own."""
    loaded = await load_stored(db, request)
    others = {symbol: await load_stored(db, replace(request, symbol=symbol, features=())) for symbol in symbols}
    return joined(loaded, others)


async def _listed(db: Database, found: Listed) -> Instrument | None:
    """Return a symbol's instrument as it is listed; None where only bars of it are stored."""
    return await InstrumentStore(db).get(found.exchange, found.symbol) if found.is_listed else None


async def _derived(db: Database, bars: Bars) -> Instrument:
    """Return the rules derived from stored bars, with those that an import gave for the series or its minutes. Errors:
    InputError RULE_WRONG."""
    instrument, highest = instrument_of(bars), float(bars.high.max())
    for timeframe in ("1m", bars.timeframe):
        series = await BarStore(db).series(bars.symbol, timeframe, exchange=bars.exchange)
        if series is not None:
            instrument = series.rules.of(instrument, highest)
    return instrument


async def _found(db: Database, request: BarsRequest) -> Listed:
    """Return the symbol that a request names; ESH25 is ES 03-25 too. Errors: those of `ReadingStore.find`."""
    store = ReadingStore(db)
    try:
        return await store.find(request.symbol, request.exchange)
    except InputError as error:
        prefix, _, rest = request.symbol.rpartition(":")
        contract = contract_of(rest)
        if error.code != "SYMBOL_UNKNOWN" or contract is None or contract.name == rest.strip().upper():
            raise
    return await store.find(f"{prefix}:{contract.name}" if prefix else contract.name, request.exchange)


async def _read(
    db: Database,
    store: BarStore | ColumnCache,
    found: Listed,
    request: BarsRequest,
    timeframe: str,
    warmup: int,
) -> Bars:
    """Return the stored bars of a request and `warmup` bars before it, with the calendar of their market."""
    start_ns, symbol, exchange = request.start_ns or 0, found.symbol, found.exchange
    bars = await store.read(symbol, timeframe, start_ns, request.end_ns, exchange=exchange)
    if start_ns and warmup:
        before_ns = bar_start(start_ns, timeframe)
        head = await store.read(symbol, timeframe, 0, before_ns, warmup, exchange=exchange, is_newest=True)
        names = ("time_ns", "open", "high", "low", "close", "volume")
        bars = Bars(symbol, timeframe, *(np.concatenate([getattr(head, n), getattr(bars, n)]) for n in names))
    series = await BarStore(db).series(symbol, timeframe, exchange=exchange)
    return replace(
        bars,
        calendar=calendar_for(exchange, None if series is None else series.calendar, symbol, bars),
        exchange=exchange,
    )


async def _stored(store: BarStore, found: Listed, request: BarsRequest) -> str:
    """Return in words what there is of the series, or of its minutes."""
    for timeframe in (request.timeframe, "1m"):
        count, oldest, newest = await store.edges(found.symbol, timeframe, exchange=found.exchange)
        if oldest is not None and newest is not None:
            return f"stored are {count} {timeframe} bars, {iso(oldest)} to {iso(newest)}"
    return "nothing is stored of it"


def load_tape(tape: Tape, name: str, request: BarsRequest) -> LoadedBars:
    """Return bars from a tape. Errors: InputError SYMBOL_UNKNOWN when it is of another symbol or exchange,
    TIMEFRAME_FINER, NO_DATA, FEATURE_UNKNOWN for a strategy with columns of its own."""
    played = tape.bars()
    played = replace(played, calendar=calendar_for(tape.exchange, None, tape.symbol, played))
    places = (tape.price_places, tape.volume_places)
    tick, lot_step = (Decimal(1).scaleb(-many) for many in places)
    instrument = instrument_of(played, tick=tick, lot_step=lot_step)
    find_instrument(request.symbol, [instrument])
    if request.exchange not in (None, tape.exchange):
        raise not_found(
            "SYMBOL_UNKNOWN", f"{name} is of {tape.exchange}, not of {request.exchange}", "leave the exchange out"
        )
    bars = resample(played, request.timeframe)
    return _part(bars, instrument, name, request, None if played.timeframe == bars.timeframe else played)


def _part(bars: Bars, instrument: Instrument, name: str, request: BarsRequest, finer: Bars | None = None) -> LoadedBars:
    """Return the bars of a file that a request asks for. Errors: InputError NO_DATA, FEATURE_UNKNOWN."""
    if request.features:
        raise unprocessable(
            "FEATURE_UNKNOWN",
            f"{name} has no column {' '.join(request.features)}",
            "run on stored bars ('fks data import', 'fks data import-features')",
        )
    end = len(bars) if request.end_ns is None else int(np.searchsorted(bars.time_ns, request.end_ns))
    start = 0 if request.start_ns is None else int(np.searchsorted(bars.time_ns, request.start_ns))
    part = bars[max(0, start - request.warmup) : end]
    if end <= start:
        raise _no_data(
            request, instrument.symbol, f"the tape has {iso(int(bars.time_ns[0]))} to {iso(int(bars.time_ns[-1]))}"
        )
    return LoadedBars(part, instrument, name, finer, is_derived=True)


def read_tape(where: str) -> tuple[Tape, str]:
    """Return the tape `sample` (the shipped minutes) or the one in a file, and its name.

    Errors: InputError TAPE_MISSING, TAPE_BROKEN.
    """
    if where == "sample":
        data = (resources.files("fks.market.files") / "sample_data" / "BTCUSDT-1m.fksbars").read_bytes()
        return unpack_tape(data), "the shipped sample"
    path = Path(where).expanduser()
    if not path.is_file():
        raise invalid("TAPE_MISSING", f"no tape at {where}", "give 'sample' or an .fksbars file")
    return unpack_tape(path.read_bytes()), str(path)


def _no_data(request: BarsRequest, symbol: str, there_is: str) -> InputError:
    start = "the beginning" if request.start_ns is None else iso(request.start_ns)
    end = "the end" if request.end_ns is None else iso(request.end_ns)
    return unprocessable(
        "NO_DATA",
        f"no {request.timeframe} bars of {symbol} from {start} to {end}: {there_is}",
        "choose another range, or load data with 'fks data sample' or 'fks data sync'",
    )
