"""`python -m fks.node HOME`: the keeper of `fks up --detach`, without a terminal. It prints only why it failed."""

from __future__ import annotations

import asyncio
import signal
import sys

from fks.model.errors import ConfigError, FksError, OutageError
from fks.node.build import check_host, make_keeper, open_site
from fks.node.lock import keeper_lock


async def _run(home: str) -> None:
    paths = check_host(home)
    with keeper_lock(paths.run / "keeper.lock"):
        keeper = make_keeper(open_site(paths))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, keeper.request_stop)
        await keeper.run()


def main(argv: list[str]) -> int:
    """Run until stopped. Exit 0 after an orderly end, 2 for a wrong setting, 3 when a dependency is unavailable, else
    1."""
    try:
        asyncio.run(_run(argv[0]))
    except FksError as error:
        sys.stderr.write(f"{error}\n")
        return 2 if isinstance(error, ConfigError) else 3 if isinstance(error, OutageError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
