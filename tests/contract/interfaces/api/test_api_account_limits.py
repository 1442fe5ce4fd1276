"""GET /limits: the order manager's own figures, each limit's used and remaining amounts, fees, rules of a prop firm."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

from fks.store.bus import Bus
from fks.store.db import Database
from fks.system.process.metrics import TEXT_KEY
from tests.support.gateway import running

GAUGES = (
    '# TYPE fks_account_pnl_day gauge\nfks_account_pnl_day{component="orders",account="demo"} -250.5\n'
    'fks_account_exposure{component="orders",account="demo"} 1200\n'
)


def by_code(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {limit["code"]: limit for limit in row["limits"]}


async def test_limits_fees_and_prop_rules_of_each_account(
    seeded: Database, bus: Bus, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    await seeded.sql("UPDATE accounts SET venue = 'ninja' WHERE name = 'sim'")
    await seeded.sql(
        "INSERT INTO trades (fill_id, account_id, venue, symbol, trade_type, quantity, price, fee, fee_currency, time)"
        " VALUES (gen_random_uuid(), 1, 'paper', 'BTCUSDT', 'BUY', 1, 10, 0.25, 'USDT', now()),"
        " (gen_random_uuid(), 1, 'paper', 'BTCUSDT', 'BUY', 1, 10, 1.5, 'USDT', now() - interval '3 days')"
    )
    await bus.set(TEXT_KEY, GAUGES.encode(), 30.0)
    ninja = {"enabled": True, "account": "Sim101", "rules": "topstep-50k"}
    async with (
        running(seeded, database_url, redis_url, tmp_path, ninja=ninja, risk={"loss_day_max": 1000}) as gateway,
        gateway.client("read") as client,
    ):
        demo, sim = (await client.get("/limits")).json()["items"]
        await seeded.sql(
            "INSERT INTO day_losses (account_id, day_start, loss) VALUES (1, date_trunc('day', now(), 'UTC'), 1100)"
        )
        after = (await client.get("/limits")).json()["items"][0]
    await bus.delete(TEXT_KEY)
    loss, exposure = by_code(demo)["LOSS_DAY"], by_code(demo)["EXPOSURE_ACCOUNT"]
    assert (loss["limit"], loss["used"], loss["left"], loss["unit"]) == ("1000", "250.5", "749.5", "USDT")
    assert (exposure["used"], Decimal(exposure["left"])) == ("1200", Decimal(248800))
    assert by_code(demo)["NOTIONAL_MAX_ORDER"]["used"] is None
    assert by_code(demo)["ORDER_COUNT"]["used"] == "0"
    assert [(fee["currency"], fee["today"], fee["days_30"]) for fee in demo["fees"]] == [("USDT", "0.25", "1.75")]
    assert demo["prop"] is None
    assert by_code(sim)["LOSS_DAY"]["used"] is None, "what the order manager does not report is not known"
    assert (sim["prop"]["group"], sim["prop"]["mode"], sim["prop"]["is_known"]) == ("topstep-50k", "relay", False)
    rules = {rule["rule"]: rule for rule in sim["prop"]["rules"]}
    assert (rules["max_loss"]["limit"], rules["max_loss"]["left"]) == ("2000", None)
    # a loss that reached its limit holds until the day's end, also when the value recovers
    assert (by_code(after)["LOSS_DAY"]["used"], by_code(after)["LOSS_DAY"]["left"]) == ("1100", "-100")
