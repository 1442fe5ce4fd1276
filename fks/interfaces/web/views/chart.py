"""Chart: bars of one symbol with an indicator and the forecasts of a model, and its signals, orders and fills at their
bars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from fks.interfaces.web import formats
from fks.interfaces.web.visits import ReadResult, Visit
from fks.model.errors import InputError
from fks.model.timeframe import bar_end, bar_start, check_timeframe, iso, to_ns

TIMEFRAMES = ("1s", "1m", "5m", "15m", "1h", "4h", "1d")
AVERAGES = (20, 50)
#: Groups of indicators that are drawn over the prices; the others have a pane of their own.
OVER_PRICES = ("Overlap Studies", "Price Transform", "Sessions")
_BARS, _AROUND = 300, 150


async def load(visit: Visit) -> dict[str, Any]:
    """Return the bars around a time, or the newest, and what happened in them."""
    asked = visit.request.query_params
    timeframe = _timeframe(asked.get("timeframe", ""))
    at = formats.moment(asked.get("at", ""))
    exchange = asked.get("exchange", "")[:64] or None
    chosen, params = asked.get("indicator", "")[:64], asked.get("params", "")[:200]
    is_whole = visit.request.headers.get("hx-target") != "region"  # the form stands outside of the region
    model = asked.get("forecast", "")[:64]
    known = await visit.read_all(
        listed="/assets",
        **({"indicators": "/indicators"} if is_whole else {}),
        **({"models": "/ai/models"} if is_whole or model else {}),
    )
    names = [row["symbol"] for row in known["listed"].items]
    symbol = asked.get("symbol", "")[:64] or next(iter(names), "")
    found: dict[str, ReadResult] = {name: ReadResult() for name in ("bars", "signals", "orders", "fills", "latest")}
    if symbol:
        span: dict[str, Any] = {"exchange": exchange}
        here = {"symbol": symbol, "exchange": exchange, "limit": 200}
        found = await visit.read_all(
            bars=(
                f"/historical/{quote(symbol, safe='')}",
                {**span, "timeframe": timeframe, "limit": _BARS + max(AVERAGES), **_span(at, timeframe)},
            ),
            signals=("/signals", here),
            orders=("/orders", here),
            fills=("/fills", here),
            latest=(f"/market-data/{quote(symbol, safe='')}", span),
        )
    bars = with_averages(found["bars"].get("bars", []))
    rows = bars[-_BARS:]
    drawn = ReadResult()
    if chosen and rows:
        where = {"symbol": symbol, "exchange": exchange, "timeframe": timeframe, "params": params or None}
        path = f"/indicators/{quote(chosen, safe='')}"
        drawn = (await visit.read_all(drawn=(path, {**where, "from": rows[0]["time"], "limit": len(rows)})))["drawn"]
    forecasts = ReadResult()
    if model and rows:
        path = f"/forecasts/{quote(symbol, safe='')}"
        where = {"model": model, "from": rows[0]["time"], "limit": len(rows)}
        forecasts = (await visit.read_all(forecasts=(path, where)))["forecasts"]
    versions = known.get("models", ReadResult()).items
    by_time = {one["time"]: one["values"] for one in drawn.items}
    rows = [{**row, "values": by_time.get(row["time"], ())} for row in rows]
    instrument = {"exchange": found["bars"].get("exchange"), "symbol": found["bars"].get("symbol") or symbol}
    places = formats.places_by_symbol(known["listed"].items)
    digits = places.get((instrument["exchange"] or "", instrument["symbol"]), {}).get("tick")
    if digits is None:
        digits = min(formats.PLACES_MAX, max((formats.places_of(row["close"]) for row in rows), default=2))
    marks = marks_of(bars, timeframe, found)
    marked = "" if at is None else iso(bar_start(to_ns(at), timeframe))
    return {
        **known,
        **found,
        "symbol": symbol,
        "places": places,
        "instrument": instrument,
        "digits": digits,
        "exchange": exchange or found["bars"].get("exchange", ""),
        "timeframe": timeframe,
        "timeframes": TIMEFRAMES,
        "averages": AVERAGES,
        "symbols": names,
        "rows": rows,
        "chosen": chosen,
        "params": params,
        "choices": one_series(known.get("indicators", ReadResult()).items),
        "drawn": drawn,
        "is_over_prices": drawn.get("group") in OVER_PRICES,
        "models": sorted({one["model"] for one in versions}),
        "model": model,
        "forecasts": forecasts,
        "predicted": levels_of(forecasts.items, [one for one in versions if one["model"] == model], rows, timeframe),
        "marks": marks,
        "at": at,
        "marked": marked,
    }


def one_series(indicators: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the indicators that read one series: the chart has no second one."""
    found = (one for one in indicators if not any(name.startswith("other.") for name in one["columns"]))
    return sorted(found, key=lambda one: (str(one["group"]), str(one["name"])))


def levels_of(
    predictions: Iterable[Mapping[str, Any]],
    versions: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    timeframe: str,
) -> list[dict[str, Any]]:
    """Return predictions of returns as prices at the bar that they are about, newest first: `at` (its open time),
    `level`, `low` and `high`. Those of another timeframe, without a value or of another label have none."""
    specs = {one["version"]: one["spec"] for one in versions if one["timeframe"] == timeframe}
    closes = {bar_end(to_ns(_moment(bar["time"])), timeframe): float(bar["close"]) for bar in rows}
    found = []
    for one in predictions:
        end = to_ns(_moment(one["time"]))
        spec, close = specs.get(one["version"]), closes.get(end)
        row = {**one, "at": None, "level": None, "low": None, "high": None}
        if spec is not None and spec.get("label") == "return" and close is not None and one["value"] is not None:
            at = bar_start(end - 1, timeframe)
            at += spec["horizon"] * (bar_end(at, timeframe) - at)
            levels = (close * (1 + float(one[name])) for name in ("value", "lower", "upper"))
            row |= {"at": iso(at)} | dict(zip(("level", "low", "high"), levels, strict=True))
        found.append(row)
    return found


def _timeframe(text: str) -> str:
    try:
        return check_timeframe(text) if text else "1m"
    except InputError:
        return "1m"


def _span(at: datetime | None, timeframe: str) -> dict[str, str]:
    """Return the `from` of the bars around a time; nothing for the newest."""
    if at is None:
        return {}
    start = bar_start(to_ns(at), timeframe)
    length = bar_end(start, timeframe) - start
    return {"from": iso(bar_start(max(0, start - (_AROUND + max(AVERAGES)) * length), timeframe))}


def with_averages(bars: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the bars with the simple averages of their closes (`average20`, …); None while there are too few."""
    closes = [bar["close"] for bar in bars]
    found = []
    for place, bar in enumerate(bars):
        row = dict(bar)
        for count in AVERAGES:
            chosen = closes[place - count + 1 : place + 1] if place + 1 >= count else []
            row[f"average{count}"] = sum(chosen) / count if len(chosen) == count else None
        found.append(row)
    return found


def marks_of(
    bars: Sequence[Mapping[str, Any]], timeframe: str, found: Mapping[str, ReadResult]
) -> list[dict[str, Any]]:
    """Return signals, orders and fills within the bars, newest first, each with the open time of its bar."""
    if not bars:
        return []
    first = to_ns(_moment(bars[0]["time"]))
    end = bar_end(to_ns(_moment(bars[-1]["time"])), timeframe)
    rows = [*_signals(found["signals"].items), *_orders(found["orders"].items), *_fills(found["fills"].items)]
    kept = []
    for row in rows:
        when = formats.moment(row["time"])
        if when is not None and first <= (ns := to_ns(when)) < end:
            kept.append({**row, "bar": iso(bar_start(ns, timeframe))})
    return sorted(kept, key=lambda row: str(row["time"]), reverse=True)


def _moment(text: Any) -> datetime:
    found = formats.moment(text)
    assert found is not None, "a bar has a time"
    return found


def _signals(rows: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    for row in rows:
        code = f", {row['code']}" if row["code"] else ""
        text = f"{row['kind']} {row['side']}, {row['state']}{code}"
        price = row["reference_price"] or row["limit_price"]
        yield _mark("signal", row["created_at"], row["side"], price, row["size"], text, str(row["id"]))


def _orders(rows: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    for row in rows:
        text = f"{row['role'] or ''} {row['type']}, {row['state'] or row['signal_state']}".strip()
        price = row["price"] or row["stop_price"] or row["average_price"]
        id = str(row["client_order_id"] or row["id"])
        yield _mark("order", row["created_at"], row["side"], price, row["quantity"], text, id)


def _fills(rows: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    for row in rows:
        id = str(row["client_order_id"] or "")
        yield _mark("fill", row["time"], row["side"], row["price"], row["quantity"], "executed", id)


def _mark(kind: str, time: Any, side: Any, price: Any, quantity: Any, text: str, id: str) -> dict[str, Any]:
    return {"kind": kind, "time": time, "side": side, "price": price, "quantity": quantity, "text": text, "id": id}
