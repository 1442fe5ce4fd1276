"""A position with a stop alone that trails: its entry, the closes that move the stop, and the stops that rest."""

from __future__ import annotations

from decimal import Decimal

from fks.model.order import State
from fks.model.timeframe import bar_end, to_ns
from fks.store.bus import BARS
from tests.support.order_rig import Rig
from tests.support.scripted_venue import Held
from tests.support.strategies import bars_of, seal
from tests.support.waiting import until

D = Decimal


async def trailed(rig: Rig) -> Held:
    """Enter with a stop alone that trails by 10 and return it once it rests."""
    assert await rig.outcome(await rig.signal(stop_loss=D(90), take_profit=None, trail=D(10))) == ("ordered", None)
    await until(lambda: rig.venue.by_role("sl"))
    (stop,) = rig.venue.by_role("sl")
    await rig.becomes(stop.order.client_order_id, State.ACCEPTED)
    return stop


async def close_at(rig: Rig, *closes: float) -> None:
    """Seal bars with these closes, the first one after the decision."""
    (signal,) = await rig.db.sql("SELECT ts_event FROM signals WHERE kind = 'enter' AND instance = 'one'")
    await seal(rig.db, bars_of(closes, start_ns=bar_end(to_ns(signal["ts_event"]), "1m")))
    rig.venue.prices["BTCUSDT"] = D(str(closes[-1]))
    await rig.bus.publish(BARS, {"type": "bar", "symbol": "BTCUSDT", "timeframe": "1m"})


def resting(rig: Rig) -> list[Decimal | None]:
    """Return the prices of the stops that rest at the venue."""
    return [held.order.stop_price for held in rig.venue.by_role("sl") if held in rig.venue.live()]
