"""News of a day's loss: reported once, and not lost when the work beside it fails."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from fks.config.risk import Risk
from fks.config.settings import Settings
from fks.model.account import Account, Position
from fks.model.errors import OutageError
from fks.model.instrument import Instrument
from fks.model.order import Order
from fks.model.timeframe import NS, to_ns
from fks.store.facts import Mark
from fks.trading.order_manager.account_values import AccountValues
from fks.trading.order_manager.correlations import Correlations
from fks.trading.risk.intent import intent_of
from tests.support.order_values import an_instrument, an_order
from tests.support.strategies import START_NS

D = Decimal
DAY_NS = 86_400 * NS
NOON_NS = START_NS - START_NS % DAY_NS + DAY_NS // 2


class Day:
    """The stored day in memory. `fails_for`: writes of that account's loss fail."""

    def __init__(self) -> None:
        self.saved: dict[int, Decimal] = {}
        self.fails_for: int | None = None

    async def turnover(self, day_ns: int) -> list[Any]:
        return []

    async def start_prices(self, day_ns: int) -> dict[tuple[str, str], Decimal]:
        return {("binance", "BTCUSDT"): D(100), ("ninja", "MNQH26"): D(100), ("binance", "ETHUSDT"): D(40)}

    async def losses(self, day_ns: int) -> dict[int, Decimal]:
        return dict(self.saved)

    async def save_loss(self, account_id: int, day_ns: int, loss: Decimal) -> None:
        if account_id == self.fails_for:
            raise OutageError("the database is away")
        self.saved[account_id] = loss


class Failing(Correlations):
    """Correlations whose reads fail while `is_away`."""

    is_away = True

    async def refresh(self, keys: Collection[tuple[str, str]], limits: Risk, now_ns: int) -> None:
        if self.is_away:
            raise OutageError("the database is away")


@dataclass
class Cache:
    """Accounts 1 and 2, each with one coin that fell from 100 to 40."""

    settings: Settings = field(default_factory=lambda: Settings(risk=Risk(loss_day_max=D(50))))
    instances: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        key = ("binance", "BTCUSDT")
        self.accounts = {id: Account(id, f"a{id}", "personal", "paper", "paper", "USDT", D(1000)) for id in (1, 2)}
        self.instruments: dict[tuple[str, str], Instrument] = {key: an_instrument()}
        self.marks = {key: Mark(*key, D(40), NOON_NS)}
        self.positions = {
            (id, "paper", "BTCUSDT", "one"): Position(id, "paper", "BTCUSDT", "one", D(1), D(100), D(0), D(0))
            for id in (1, 2)
        }

    def open_of(self, account_id: int) -> tuple[Order, ...]:
        return ()

    def held_by(self, account_id: int) -> Mapping[str, Decimal]:
        return {"BTCUSDT": D(1)}

    def owned(self, account_id: int) -> list[Position]:
        return [held for key, held in self.positions.items() if key[0] == account_id]

    def mark(self, exchange: str, symbol: str) -> Decimal | None:
        return self.marks[exchange, symbol].price

    def position(self, account_id: int, venue: str, symbol: str, instance: str) -> Position:
        return self.positions[account_id, venue, symbol, instance]


async def reported(values: AccountValues, cache: Cache) -> Mapping[int, Decimal]:
    return (await values.refresh(cache, NOON_NS)).reached


async def test_a_loss_is_reported_once_although_correlations_cannot_be_read() -> None:
    day, correlations, cache = Day(), Failing(), Cache()
    values = AccountValues(day, correlations)  # type: ignore[arg-type]
    assert await reported(values, cache) == {1: D(60), 2: D(60)}
    with pytest.raises(OutageError):  # without news the failure is raised
        await values.refresh(cache, NOON_NS)
    correlations.is_away = False
    assert await reported(values, cache) == {}


async def test_a_stored_loss_is_reported_when_that_of_another_account_failed() -> None:
    day, correlations, cache = Day(), Failing(), Cache()
    correlations.is_away, day.fails_for = False, 2
    values = AccountValues(day, correlations)  # type: ignore[arg-type]
    with pytest.raises(OutageError):
        await values.refresh(cache, NOON_NS)
    assert day.saved == {1: D(60)}
    day.fails_for = None
    news = await values.refresh(cache, NOON_NS)
    assert (news.begun_ns, news.reached) == (NOON_NS - DAY_NS // 2, {1: D(60), 2: D(60)})
    assert await reported(values, cache) == {}


@pytest.mark.parametrize(
    ("exchange", "symbol", "day", "age_s", "is_known"),
    [
        ("binance", "BTCUSDT", "2026-01-07", 60, True),
        ("binance", "BTCUSDT", "2026-01-07", 61, False),
        ("binance", "BTCUSDT", "2026-01-10", 61, False),
        ("ninja", "MNQH26", "2026-01-07", 61, False),  # a Wednesday
        ("ninja", "MNQH26", "2026-01-10", 15 * 3600, True),  # a Saturday: the market is closed
    ],
)
async def test_an_old_price_of_what_is_held_values_nothing_while_its_market_is_open(
    exchange: str, symbol: str, day: str, age_s: int, is_known: bool
) -> None:
    now_ns = to_ns(datetime.fromisoformat(f"{day}T12:00:00+00:00"))
    cache, correlations = Cache(), Failing()
    correlations.is_away = False
    cache.instruments = {(exchange, symbol): an_instrument(exchange=exchange, symbol=symbol)}
    cache.marks = {(exchange, symbol): Mark(exchange, symbol, D(40), now_ns - age_s * NS)}
    cache.held_by = lambda account_id: {symbol: D(1)}  # type: ignore[method-assign]
    values = AccountValues(Day(), correlations)  # type: ignore[arg-type]
    await values.refresh(cache, now_ns)
    profit, exposure = values.figures(cache, now_ns)["a1"]
    assert ((profit is not None), (exposure is not None)) == (is_known, is_known)


OF_COINS = [
    # held, whether its metadata are gone, the price's age; the exposure that counts, None: entries are denied
    ("1.24", True, 61, "49.6"),
    ("1.25", True, 61, None),  # 50 USDT: as much as may be lost in a day
    ("5", True, 60, "200"),  # its feed lives
    ("1.24", False, 61, None),
    ("-1", True, 61, None),  # of what was sold short no price bounds the loss
]


@pytest.mark.parametrize(("held", "is_gone", "age_s", "expected"), OF_COINS)
@pytest.mark.parametrize("is_restarted", [False, True], ids=["", "restarted"])
async def test_coins_without_metadata_deny_entries_where_their_loss_could_matter(
    held: str, is_gone: bool, age_s: int, expected: str | None, *, is_restarted: bool
) -> None:
    key, day, correlations, cache = ("binance", "ETHUSDT"), Day(), Failing(), Cache()
    correlations.is_away = False
    cache.instruments = {key: an_instrument(symbol="ETHUSDT", base="ETH"), ("binance", "BTCUSDT"): an_instrument()}
    cache.marks |= {key: Mark(*key, D(40), NOON_NS - age_s * NS)}
    cache.held_by = lambda account_id: {"ETHUSDT": D(held)}  # type: ignore[method-assign]
    values = AccountValues(day, correlations)  # type: ignore[arg-type]
    await values.refresh(cache, NOON_NS)
    if is_gone:
        cache.instruments = {("binance", "BTCUSDT"): an_instrument()}
    if is_restarted:
        values = AccountValues(day, correlations)  # type: ignore[arg-type]
        await values.refresh(cache, NOON_NS)
    found = values.of(cache, intent_of(an_order(instance="")), NOON_NS)
    is_valued = expected is not None and not (is_restarted and is_gone)
    assert found["unvalued"] == (() if is_valued else ("ETHUSDT",))
    if is_valued and expected is not None:
        assert found["exposures"] == {"ETHUSDT": D(expected)}
    is_shown = is_valued and age_s == 60
    assert values.figures(cache, NOON_NS)["a1"] == ((D(0), found["exposures"]["ETHUSDT"]) if is_shown else (None, None))


async def test_a_loss_beside_coins_without_metadata_lasts_for_the_day() -> None:
    key, day, correlations, cache = ("binance", "ETHUSDT"), Day(), Failing(), Cache()
    correlations.is_away = False
    cache.instruments |= {key: an_instrument(symbol="ETHUSDT", base="ETH")}
    cache.marks |= {key: Mark(*key, D(40), NOON_NS - 61 * NS)}
    cache.held_by = lambda account_id: {"ETHUSDT": D(1), "BTCUSDT": D(1)}  # type: ignore[method-assign]
    values = AccountValues(day, correlations)  # type: ignore[arg-type]
    values.rates(cache, "binance", NOON_NS)  # its metadata are read, and then gone
    del cache.instruments[key]
    cache.instruments = dict(cache.instruments)
    assert await reported(values, cache) == {1: D(60), 2: D(60)}
    cache.marks = cache.marks | {("binance", "BTCUSDT"): Mark("binance", "BTCUSDT", D(100), NOON_NS)}
    assert values.of(cache, intent_of(an_order(instance="")), NOON_NS)["loss_today"] == D(60)
