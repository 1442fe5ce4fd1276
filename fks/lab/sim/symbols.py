"""Listed markets, their grids and filters, and their description on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fks.lab.sim.atoms import SCALE, parse, show

ORDER_TYPES = (
    "LIMIT",
    "LIMIT_MAKER",
    "MARKET",
    "STOP_LOSS",
    "STOP_LOSS_LIMIT",
    "TAKE_PROFIT",
    "TAKE_PROFIT_LIMIT",
)


@dataclass(frozen=True, slots=True)
class Listing:
    """One market. Prices, quantities and money in atoms (1e-8).

    `minute_sigma` is the typical standard deviation of a minute's log return, `minute_volume` its volume in lots,
    `minute_trades` its number of trades, `spread_ticks` best ask minus best bid, `level_ticks` the book's grid.
    """

    symbol: str
    base: str
    quote: str
    tick: int
    step: int
    start_price: float
    minute_sigma: float = 0.0009
    minute_volume: int = 1_000_000
    minute_trades: int = 240
    spread_ticks: int = 1
    level_ticks: int = 10
    qty_min: int = 0
    qty_max: int = 9_000 * SCALE
    market_qty_max: int = 1_000 * SCALE
    price_max: int = 1_000_000 * SCALE
    notional_min: int = 5 * SCALE
    notional_max: int = 9_000_000 * SCALE
    market_qty_min: int = 0
    market_step: int = 0
    bid_up: int = 5 * SCALE  # multipliers of the average price, in atoms: buy and sell limits lie between down and up
    bid_down: int = SCALE // 5
    ask_up: int = 5 * SCALE
    ask_down: int = SCALE // 5
    orders_max: int = 200
    algo_orders_max: int = 5
    order_lists_max: int = 20
    amends_max: int = 10
    amend_allowed: bool = True
    oco_allowed: bool = True
    oto_allowed: bool = True
    opo_allowed: bool = True
    status: str = "TRADING"
    bid_limit_up: int = 0  # multipliers of the reference price within which orders may take, in atoms; 0: no limit
    bid_limit_down: int = 0
    ask_limit_up: int = 0
    ask_limit_down: int = 0
    reference_price: int = 0  # 0: the average price of the last minutes

    def __post_init__(self) -> None:
        """Refuse grids on which a price times a quantity would not be whole atoms."""
        assert self.tick * self.step % SCALE == 0, self.symbol

    @property
    def quote_factor(self) -> int:
        """Return the atoms of quote in one tick times one lot."""
        return self.tick * self.step // SCALE

    @property
    def lot_min(self) -> int:
        """Return the smallest quantity of an order."""
        return self.qty_min or self.step

    def price_range(self) -> dict[str, int]:
        """Return the multipliers of the price range rule that are set, as `executionRules` names them."""
        found = {
            "bidLimitMultUp": self.bid_limit_up,
            "bidLimitMultDown": self.bid_limit_down,
            "askLimitMultUp": self.ask_limit_up,
            "askLimitMultDown": self.ask_limit_down,
        }
        return {name: atoms for name, atoms in found.items() if atoms}

    def may_execute(self, side: str, price: int, average: int) -> bool:
        """Return whether the price range rule lets a taker execute at `price`; without a rule it may."""
        reference = self.reference_price or average
        is_buy = side == "BUY"
        up, down = (self.bid_limit_up, self.bid_limit_down) if is_buy else (self.ask_limit_up, self.ask_limit_down)
        return reference * down <= price * SCALE and (not up or price * SCALE <= reference * up)

    def filters(self) -> list[dict[str, object]]:
        """Return the filters as `exchangeInfo` lists them."""
        return [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": show(self.tick),
                "maxPrice": show(self.price_max),
                "tickSize": show(self.tick),
            },
            {
                "filterType": "LOT_SIZE",
                "minQty": show(self.lot_min),
                "maxQty": show(self.qty_max),
                "stepSize": show(self.step),
            },
            {"filterType": "ICEBERG_PARTS", "limit": 10},
            {
                "filterType": "MARKET_LOT_SIZE",
                "minQty": show(self.market_qty_min),
                "maxQty": show(self.market_qty_max),
                "stepSize": show(self.market_step),
            },
            {
                "filterType": "PERCENT_PRICE_BY_SIDE",
                "bidMultiplierUp": _short(self.bid_up),
                "bidMultiplierDown": _short(self.bid_down),
                "askMultiplierUp": _short(self.ask_up),
                "askMultiplierDown": _short(self.ask_down),
                "avgPriceMins": 5,
            },
            {
                "filterType": "NOTIONAL",
                "minNotional": show(self.notional_min),
                "applyMinToMarket": True,
                "maxNotional": show(self.notional_max),
                "applyMaxToMarket": False,
                "avgPriceMins": 5,
            },
            {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": self.orders_max},
            {"filterType": "MAX_NUM_ALGO_ORDERS", "maxNumAlgoOrders": self.algo_orders_max},
            {"filterType": "MAX_NUM_ORDER_LISTS", "maxNumOrderLists": self.order_lists_max},
            {"filterType": "MAX_NUM_ORDER_AMENDS", "maxNumOrderAmends": self.amends_max},
        ]

    def info(self, *, status: str = "") -> dict[str, object]:
        """Return the symbol as `exchangeInfo` describes it, with its own status or another."""
        return {
            "symbol": self.symbol,
            "status": status or self.status,
            "baseAsset": self.base,
            "baseAssetPrecision": 8,
            "quoteAsset": self.quote,
            "quotePrecision": 8,
            "quoteAssetPrecision": 8,
            "baseCommissionPrecision": 8,
            "quoteCommissionPrecision": 8,
            "orderTypes": list(ORDER_TYPES),
            "icebergAllowed": False,
            "ocoAllowed": self.oco_allowed,
            "otoAllowed": self.oto_allowed,
            "opoAllowed": self.opo_allowed,
            "quoteOrderQtyMarketAllowed": True,
            "allowTrailingStop": False,
            "cancelReplaceAllowed": True,
            "amendAllowed": self.amend_allowed,
            "pegInstructionsAllowed": False,
            "isSpotTradingAllowed": True,
            "isMarginTradingAllowed": False,
            "filters": self.filters(),
            "permissions": [],
            "permissionSets": [["SPOT"]],
            "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
            "allowedSelfTradePreventionModes": ["NONE", "EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH"],
        }


#: what `POST /sim/filters` may set: amounts are decimal texts, counts whole numbers, flags true or false
FILTER_AMOUNTS = (
    "qty_min",
    "qty_max",
    "market_qty_min",
    "market_qty_max",
    "market_step",
    "price_max",
    "notional_min",
    "notional_max",
    "bid_up",
    "bid_down",
    "ask_up",
    "ask_down",
    "bid_limit_up",
    "bid_limit_down",
    "ask_limit_up",
    "ask_limit_down",
    "reference_price",
)
FILTER_COUNTS = ("orders_max", "algo_orders_max", "order_lists_max", "amends_max")
FILTER_FLAGS = ("amend_allowed", "oco_allowed", "oto_allowed", "opo_allowed")
STATUSES = ("TRADING", "CANCEL_ONLY")


def with_filters(listing: Listing, values: Mapping[str, object]) -> Listing:
    """Return the listing with other filters. Errors: ValueError when a name or a value is not one."""
    changes: dict[str, object] = {}
    for name, value in values.items():
        is_flag = (name in FILTER_FLAGS and isinstance(value, bool)) or (name == "status" and value in STATUSES)
        is_count = name in FILTER_COUNTS and not isinstance(value, bool) and isinstance(value, int) and value >= 0
        if name in FILTER_AMOUNTS:
            changes[name] = parse(str(value))
        elif is_flag or is_count:
            changes[name] = value
        else:
            raise ValueError(f"{name}: {value!r}")
    return replace(listing, **changes)  # type: ignore[arg-type]


def _short(atoms: int) -> str:
    """Return a multiplier as the exchange writes it: without zeros at the end."""
    return show(atoms).rstrip("0").rstrip(".")


def _listing(base: str, tick: str, step: str, price: float, volume: int, level_ticks: int, trades: int) -> Listing:
    return Listing(
        f"{base}USDT",
        base,
        "USDT",
        parse(tick),
        parse(step),
        price,
        minute_volume=volume,
        minute_trades=trades,
        level_ticks=level_ticks,
        qty_max=9_000_000 * SCALE,
        market_qty_max=1_000_000 * SCALE,
    )


#: The generated markets: grids as on the real exchange, but for AVAX, whose real tick would hide a second's moves.
LISTINGS: tuple[Listing, ...] = (
    _listing("BTC", "0.01", "0.00001", 65_000.0, 1_500_000, 250, 300),
    _listing("ETH", "0.01", "0.0001", 3_200.0, 3_000_000, 15, 240),
    _listing("SOL", "0.01", "0.001", 180.0, 3_000_000, 2, 200),
    _listing("AVAX", "0.001", "0.01", 35.0, 800_000, 4, 180),
    _listing("SUI", "0.0001", "0.1", 3.5, 900_000, 4, 180),
)


def tape_listing(symbol: str, price_places: int, volume_places: int, price: float, volume: int) -> Listing:
    """Return the listing of a tape's symbol: the tape's own grid, quoted in whichever known asset ends its name."""
    quote = next((q for q in ("USDT", "USDC", "FDUSD", "BTC", "ETH", "EUR", "USD") if symbol.endswith(q)), "")
    assert quote not in ("", symbol), symbol
    known = next((item for item in LISTINGS if item.symbol == symbol), None)
    tick, step = 10 ** (8 - price_places), 10 ** (8 - volume_places)
    return Listing(
        symbol,
        symbol[: -len(quote)],
        quote,
        tick,
        step,
        price,
        minute_volume=max(volume, 1),
        minute_trades=40,
        level_ticks=known.level_ticks if known else max(1, int(price * 5e-5 * SCALE / tick)),
        qty_max=9_000_000 * SCALE,
        market_qty_max=1_000_000 * SCALE,
    )
