"""Assets: the symbols to collect (the owner's /assets)."""

from __future__ import annotations

from pydantic import Field

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.query import Body, BodyOf, Exchange, Gate, Reader, Trader, page
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import AssetView, Page
from fks.market.history.assets import HISTORY_MAX_DAYS, AssetSelection, Choice
from fks.model.errors import unprocessable
from fks.store.assets import AssetStore

router = Router(tags=["market data"])


class AssetBody(Body):
    """Symbols to collect, in any spelling; one, or several. Omitted fields stay, or follow the settings."""

    symbol: str | None = None
    symbols: tuple[str, ...] = ()
    exchange: str | None = Field(None, max_length=64, description="default: data.exchange, or the one that lists it")
    timeframes: tuple[str, ...] | None = Field(None, description="bars to build, 1s … 1M; default data.timeframes")
    history: int | None = Field(None, ge=0, le=HISTORY_MAX_DAYS, description="days to fetch; default data.history_days")
    channels: tuple[str, ...] | None = Field(None, description="trades, quotes, book; default trades")


Wanted = BodyOf[AssetBody]


@router.get("/assets", response_model=Page[AssetView])
async def assets(gate: Gate, caller: Reader, exchange: Exchange = None) -> ExactJson:
    """List assets: status (backfilling, live, stale, off), the newest price and its age."""
    return ExactJson(page(await AssetStore(gate.db).all(exchange)))


@router.post("/assets/enable")
async def enable(gate: Gate, caller: Trader, body: Wanted) -> ExactJson:
    """Start to collect symbols and fetch their history; a running system begins within seconds. Idempotent."""
    return ExactJson({"items": await _selection(gate).enable(_choice(body))})


@router.post("/assets/disable")
async def disable(gate: Gate, caller: Trader, body: Wanted) -> ExactJson:
    """Stop to collect symbols; stored data stays."""
    return ExactJson({"items": await _selection(gate).disable(_choice(body))})


def _selection(gate: Replica) -> AssetSelection:
    from fks.market.exchanges.registry import EXCHANGES

    return AssetSelection(gate.db, gate.deps.settings.data, EXCHANGES)


def _choice(body: AssetBody) -> Choice:
    wanted = (*((body.symbol,) if body.symbol else ()), *body.symbols)
    if not wanted or len(wanted) > 100:
        raise unprocessable("INVALID", "symbol: 1 to 100 are needed", 'send {"symbol": "BTC/USDT"}')
    return Choice(wanted, body.exchange, body.timeframes, body.history, body.channels)
