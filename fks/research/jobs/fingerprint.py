"""Fingerprint of submitted work: everything that decides its result, so that the same work is done once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import orjson

import fks
from fks.config.settings import Risk
from fks.model.cash_flows import InstrumentEvents
from fks.model.errors import InputError
from fks.model.futures import continuous_root
from fks.model.instrument import NO_RULES, folded
from fks.model.timeframe import to_ns, volume_of
from fks.research.backtest.fingerprint import RULES
from fks.research.backtest.instrument import currencies_of
from fks.store.bars import BarStore
from fks.store.corporate_actions import CorporateActionStore
from fks.store.db import Database
from fks.store.feature_values import FeatureStore
from fks.store.instruments import InstrumentStore
from fks.store.reading import ReadingStore
from fks.strategies.registry import Catalogue, source_hash

if TYPE_CHECKING:
    from fks.research.jobs.backtest import BacktestSpec
    from fks.research.search.space import Space
    from fks.strategies.base import Strategy

_NOT = ("workers",)  # in a spec, and nothing in a result depends on it


async def fingerprint(db: Database, kind: str, spec: Mapping[str, Any], catalogue: Catalogue, limits: Risk) -> str:
    """Return the SHA-256 of a checked spec, the strategy's source, the version, the rules of results, the [risk]
    limits, and the stored data.

    The data is named by the revision of its series and its newest bar, up to the end of the spec (of volume bars by the
    ids of the stored trades): a bar that was
    corrected, one more bar in an open range, a split, a dividend, a funding rate, or a value of an own column, is other
    work. Errors: OutageError; InputError for an unknown strategy.
    """
    if "members" in spec:
        return await _of_account(db, kind, spec, catalogue, limits)
    if "instruments" in spec:
        return await _of_portfolio(db, kind, spec)
    from fks.research.jobs.backtest import parse_spec, rate_symbols
    from fks.research.jobs.bars import stored_contracts
    from fks.research.jobs.optimization import KIND, parse_optimization

    parsed = parse_optimization(spec) if kind == KIND else parse_spec(spec)
    exchange = parsed.exchange or "binance"
    reads = _reads(catalogue, parsed)
    rates: tuple[str, ...] = ()
    if parsed.limits and parsed.limits_currency is not None:
        name = folded(parsed.symbol)
        item = await InstrumentStore(db).get(exchange, name)
        rates = rate_symbols(parsed.limits_currency, currencies_of(name)[1] if item is None else item.quote)
    wanted = [parsed.symbol, *map(folded, reads.inputs()), *rates]
    series = [one for symbol in wanted for one in await _series(db, symbol, exchange, parsed.timeframe, parsed.end_ns)]
    if continuous_root(parsed.symbol.rpartition(":")[2]) is not None:
        for place, symbol in await stored_contracts(db, parsed.symbol, parsed.exchange):
            series += [
                [place, symbol, *one] for one in await _series(db, symbol, place, parsed.timeframe, parsed.end_ns)
            ]
    if volume_of(parsed.timeframe) is not None:
        ids = await ReadingStore(db).trade_ids(exchange, folded(parsed.symbol))
        series.append(["trades", *(0 if one is None else one for one in ids)])
    actions = CorporateActionStore(db)
    splits = {symbol: list(map(str, known)) for symbol in wanted if (known := await actions.splits(exchange, symbol))}
    events = await actions.instrument_events(exchange, parsed.symbol, parsed.end_ns)
    features = await FeatureStore(db).state(reads.features(), parsed.symbol)
    plain = parsed.model_dump(mode="json", by_alias=True)
    document = {
        "kind": kind,
        "fks": fks.__version__,
        "rules": RULES,
        "spec": {name: value for name, value in plain.items() if name not in _NOT},
        "source": _source(catalogue, parsed.strategy, parsed.params),
        "limits": limits.model_dump(mode="json") if parsed.limits else None,
        "series": series,
        **({"splits": splits} if splits else {}),
        **({} if events == InstrumentEvents() else {"events": str(events)}),
        **({"features": features} if features else {}),
    }
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)).hexdigest()


async def _of_account(db: Database, kind: str, spec: Mapping[str, Any], catalogue: Catalogue, limits: Risk) -> str:
    """Return the SHA-256 of the fingerprints of an account's members, in order, with their names, cash and limits."""
    from fks.research.jobs.account import parse_account

    parsed = parse_account(spec)
    held_to = parsed.risk_of(limits)
    members = []
    for member in parsed.members:
        alone = member.model_dump(mode="json", by_alias=True, exclude={"name"})
        members.append([member.name, await fingerprint(db, kind, alone, catalogue, held_to)])
    document = {"members": members, "cash": str(parsed.cash), "limits": held_to.model_dump(mode="json")}
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()


async def _of_portfolio(db: Database, kind: str, spec: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a portfolio's checked spec, the version and the stored data of its instruments."""
    from fks.research.jobs.portfolio_backtest import parse_portfolio

    parsed = parse_portfolio(spec)
    end_ns = None if parsed.end is None else to_ns(parsed.end)
    series = [
        [one.symbol, *await _series(db, one.symbol, one.exchange or "binance", parsed.timeframe, end_ns)]
        for one in parsed.instruments
    ]
    plain = parsed.model_dump(mode="json", by_alias=True)
    document = {"kind": kind, "fks": fks.__version__, "rules": RULES, "spec": plain, "series": series}
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()


async def _series(
    db: Database, symbol: str, exchange: str, timeframe: str, end_ns: int | None
) -> list[list[str | int]]:
    """Return the revision, the newest bar, up to an end, and an import's rules of a series and of its minutes."""
    series: list[list[str | int]] = []
    for one in sorted({timeframe, "1m"}):
        found = await BarStore(db).series(symbol, one, exchange=exchange)
        if found is not None and found.newest_ns is not None:
            newest = found.newest_ns if end_ns is None else min(found.newest_ns, end_ns)
            rules = [str(rule) for rule in astuple(found.rules)] if found.rules != NO_RULES else []
            series.append([one, found.revision, newest, *rules])
    return series


def _reads(catalogue: Catalogue, spec: BacktestSpec) -> Strategy | Space:
    """Return what says which symbols and columns are read. Errors: InputError for an unknown strategy."""
    from fks.research.jobs.optimization import OptimizationSpec, searched

    return (
        searched(spec, catalogue) if isinstance(spec, OptimizationSpec) else catalogue.make(spec.strategy, spec.params)
    )


def _source(catalogue: Catalogue, name: str, params: Mapping[str, Any]) -> str:
    """Return the hash of a strategy's source and of its members'. Errors: InputError for an unknown strategy."""
    try:
        return source_hash(catalogue.make(name, params))
    except InputError:  # parameters that are right only with those that a search adds
        return source_hash(catalogue.kind(name))
