"""Write fks/store/migrations/versions/0001_initial.py again from fks/store/schema.py. Until the first release only:
`python -m tests.support.initial_migration`. What autogenerate cannot know (partitions, the view) is added here.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

from fks.store import migrate
from tests.support import servers

FILE = Path(migrate.__file__).parent / "migrations" / "versions" / "0001_initial.py"
BEFORE_DOWN = """\
    op.execute("DROP MATERIALIZED VIEW daily_account_performance")
"""
AFTER_UP = """\
    for table in ("ohlcv_data", "market_trades"):  # rows outside the partitions made ahead fall in here
        op.execute(f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT")
    op.execute(DAILY_ACCOUNT_PERFORMANCE)
    op.execute("CREATE UNIQUE INDEX uq_daily_account_performance ON daily_account_performance (account_id, day)")
"""
VIEW = '''
# realised PnL and fees in quote currency: a fee taken in the base asset counts at the trade's own price
DAILY_ACCOUNT_PERFORMANCE = """
CREATE MATERIALIZED VIEW daily_account_performance AS
SELECT account_id,
       date_trunc('day', time, 'UTC') AS day,
       count(*) AS trades,
       count(*) FILTER (WHERE realized_pnl > 0) AS wins,
       count(*) FILTER (WHERE realized_pnl < 0) AS losses,
       (count(*) FILTER (WHERE realized_pnl > 0))::float8
           / NULLIF(count(*) FILTER (WHERE realized_pnl <> 0), 0) AS win_rate,
       sum(realized_pnl) AS total_pnl,
       sum(realized_pnl) / NULLIF(count(*) FILTER (WHERE realized_pnl <> 0), 0) AS average_trade,
       sum(CASE WHEN fee_currency <> '' AND starts_with(symbol, fee_currency) THEN fee * price ELSE fee END) AS fees,
       sum(quantity * price) AS volume
FROM trades
GROUP BY account_id, date_trunc('day', time, 'UTC')
"""

'''


async def _generate(url: str, folder: Path) -> str:
    return (await migrate.make_revision(url, "initial", folder=folder)).read_text()


def main() -> None:
    """Write the file, in one step: tests of others may be reading it."""
    with servers.home() as paths, servers.running_postgres(paths) as server:
        text = asyncio.run(_generate(server.url(), paths.run))
    text = re.sub(r"\n\s*# (###|please adjust).*", "", text)
    text = text.replace('"""initial."""', '"""The tables of the first release, their partitions and the daily view."""')
    text = text.replace("\n\ndef downgrade() -> None:\n", f"\n{AFTER_UP}\n\ndef downgrade() -> None:\n{BEFORE_DOWN}", 1)
    text = text.replace("\n\ndef upgrade() -> None:", f"{VIEW}\ndef upgrade() -> None:", 1)
    for step in (("check", "-q", "--fix-only"), ("format", "-q")):
        command = [sys.executable, "-m", "ruff", *step, "--stdin-filename", str(FILE), "-"]
        text = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    fresh = FILE.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(FILE)


if __name__ == "__main__":
    main()
