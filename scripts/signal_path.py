"""Functions and files that one protected signal runs through, from its row to a live OCO at the exchange.

    python scripts/signal_path.py [--list]

A real order manager on PostgreSQL and Redis trades on the local exchange through our own Binance session. After three
signals, the functions of `fks` called between the next signal's wake-up and the moment at which its stop and its target
are live in the journal are counted, without comprehensions and lambdas. What also runs while no signal comes, such as
the readers' polls, is counted apart. `--list` prints the functions by file.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the rigs of the tests

from benchmarks.order_path import SETTINGS, D, session
from fks.config.settings import DatabaseSettings
from fks.store import migrate
from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.venues.binance.session import BinanceVenue
from tests.support import servers
from tests.support.local_exchange import LocalExchange
from tests.support.order_rig import Rig, seed
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until

PACKAGE = f"{Path(__file__).resolve().parents[1] / 'fks'}/"
WARM, IDLE_S = 3, 3.0  # an instrument takes five stop orders


def recorder(found: set[CodeType]) -> Callable[[FrameType, str, Any], None]:
    """Return a profile function that collects the named functions of the package."""

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE) and not code.co_name.startswith("<"):
            found.add(code)

    return profile


async def protected(rig: Rig, price: Decimal) -> None:
    """Give the order manager a protected signal and wait until both legs live."""
    stop, target = ((price * D(share)).quantize(D("0.01")) for share in ("0.9", "1.1"))
    id = await rig.signal(size=D("0.001"), stop_loss=stop, take_profit=target, reference_price=price)

    async def both() -> bool:
        rows = await rig.db.sql(
            "SELECT count(*) AS n FROM orders o JOIN orders p ON o.parent_id = p.client_order_id"
            " WHERE p.signal_id = $1 AND o.state IN ('ACCEPTED', 'WORKING')",
            id,
        )
        return bool(rows[0]["n"] == 2)

    await until(both)


async def measure(folder: Path) -> tuple[set[CodeType], set[CodeType]]:
    """Return the functions of a signal, and those that run while none comes."""
    signal, idle = set[CodeType](), set[CodeType]()
    with servers.home() as paths, servers.running_postgres(paths) as postgres, servers.running_redis(paths) as redis:
        await migrate.upgrade(postgres.url())
        db = await Database.connect(postgres.url(), DatabaseSettings(), application="path")
        bus = await Bus.connect(redis.url())
        exchange = LocalExchange(folder, ["--rate-limits", "off", "--balance", "USDT=100000000"]).start()
        try:
            await seed(db)
            asked = session(BinanceVenue, exchange)
            price = await asked.last_price("BTCUSDT")
            await asked.close()
            assert price is not None
            await db.sql("UPDATE instruments SET lot_step = 0.00001, qty_min = 0.00001 WHERE symbol = 'BTCUSDT'")
            await db.sql("UPDATE feeds SET last_price = $1 WHERE symbol = 'BTCUSDT'", price)
            rig = Rig(db, bus, ScriptedVenue(), settings=SETTINGS, venues={"ccxt": session(BinanceVenue, exchange)})
            await rig.start()
            for _ in range(WARM):
                await protected(rig, price)
            sys.setprofile(recorder(idle))
            await asyncio.sleep(IDLE_S)
            sys.setprofile(recorder(signal))
            await protected(rig, price)
            sys.setprofile(None)
            await rig.stop()
        finally:
            sys.setprofile(None)
            exchange.stop()
            await bus.close()
            await db.close()
    return signal, idle


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the functions by file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        signal, idle = asyncio.run(measure(Path(folder)))
    alone = signal - idle
    for name, codes in (("of a signal", signal), ("of these, not while no signal comes", alone)):
        print(f"{name}: {len(codes)} functions in {len({code.co_filename for code in codes})} files")
    if options.list:
        for file in sorted({code.co_filename for code in signal}):
            names = sorted(
                code.co_qualname + ("" if code in alone else " (also idle)")
                for code in signal
                if code.co_filename == file
            )
            print(f"{file.removeprefix(PACKAGE)}\n    " + "\n    ".join(names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
