"""Fingerprint of submitted work: everything that decides its result, so that the same work is done once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

import fks
from fks.backtest.instrument import guess_instrument
from fks.config.settings import Risk
from fks.model.cash_flows import InstrumentEvents
from fks.model.errors import InputError
from fks.model.instrument import folded
from fks.store.bars import BarStore
from fks.store.corporate_actions import CorporateActionStore
from fks.store.db import Database
from fks.store.feature_values import FeatureStore
from fks.store.instruments import InstrumentStore
from fks.strategies.registry import Catalogue, source_hash

if TYPE_CHECKING:
    from fks.jobs.backtest import BacktestSpec
    from fks.search.space import Space
    from fks.strategies.base import Strategy

_NOT = ("workers",)  # in a spec, and nothing in a result depends on it


async def fingerprint(db: Database, kind: str, spec: Mapping[str, Any], catalogue: Catalogue, limits: Risk) -> str:
    """Return the SHA-256 of a checked spec, the strategy's source, the version, the [risk] limits, and the stored data.

    The data is named by the revision of its series and its newest bar, up to the end of the spec: a bar that was
    corrected, one more bar in an open range, a split, a dividend, a funding rate, or a value of an own column, is other
    work. Errors: OutageError; InputError for an unknown strategy.
    """
    if "members" in spec:
        return await _of_account(db, kind, spec, catalogue, limits)
    from fks.jobs.backtest import parse_spec, rate_symbols
    from fks.jobs.optimization import KIND, parse_optimization

    parsed = parse_optimization(spec) if kind == KIND else parse_spec(spec)
    series = []
    exchange = parsed.exchange or "binance"
    reads = _reads(catalogue, parsed)
    rates: tuple[str, ...] = ()
    if parsed.limits and parsed.limits_currency is not None:
        name, one = folded(parsed.symbol), Decimal(1)
        item = await InstrumentStore(db).get(exchange, name) or guess_instrument(exchange, name, one, one)
        rates = rate_symbols(parsed.limits_currency, item.quote)
    wanted = [parsed.symbol, *map(folded, reads.inputs()), *rates]
    for symbol, timeframe in ((symbol, tf) for symbol in wanted for tf in sorted({parsed.timeframe, "1m"})):
        found = await BarStore(db).series(symbol, timeframe, exchange=exchange)
        if found is not None and found.newest_ns is not None:
            newest = found.newest_ns if parsed.end_ns is None else min(found.newest_ns, parsed.end_ns)
            series.append([timeframe, found.revision, newest])
    actions = CorporateActionStore(db)
    splits = {symbol: list(map(str, known)) for symbol in wanted if (known := await actions.splits(exchange, symbol))}
    events = await actions.instrument_events(exchange, parsed.symbol, parsed.end_ns)
    features = await FeatureStore(db).state(reads.features(), parsed.symbol)
    plain = parsed.model_dump(mode="json", by_alias=True)
    document = {
        "kind": kind,
        "fks": fks.__version__,
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
    from fks.jobs.account import parse_account

    parsed = parse_account(spec)
    held_to = parsed.risk_of(limits)
    members = []
    for member in parsed.members:
        alone = member.model_dump(mode="json", by_alias=True, exclude={"name"})
        members.append([member.name, await fingerprint(db, kind, alone, catalogue, held_to)])
    document = {"members": members, "cash": str(parsed.cash), "limits": held_to.model_dump(mode="json")}
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _reads(catalogue: Catalogue, spec: BacktestSpec) -> Strategy | Space:
    """Return what says which symbols and columns are read. Errors: InputError for an unknown strategy."""
    from fks.jobs.optimization import OptimizationSpec, searched

    return (
        searched(spec, catalogue) if isinstance(spec, OptimizationSpec) else catalogue.make(spec.strategy, spec.params)
    )


def _source(catalogue: Catalogue, name: str, params: Mapping[str, Any]) -> str:
    """Return the hash of a strategy's source and of its members'. Errors: InputError for an unknown strategy."""
    try:
        return source_hash(catalogue.make(name, params))
    except InputError:  # parameters that are right only with those that a search adds
        return source_hash(catalogue.kind(name))
