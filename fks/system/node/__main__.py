"""`python -m fks.system.node HOME [RESTARTS ENDED]`: the keeper of `fks up --detach`. It prints only why it failed.

RESTARTS and ENDED come from its parent (`fks.system.node.parent`): how often it was started again, and why the last
time.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from fks.config.paths import FULL_ERRORS, Paths
from fks.model.errors import ConfigError, FksError, OutageError
from fks.system.node.build import begin_again, check_host, make_keeper, open_site
from fks.system.node.cluster_driver import KeeperStart
from fks.system.node.head import BeginAgainError
from fks.system.node.home_disk import REMEDY
from fks.system.node.lock import keeper_lock


async def _run(home: str, start: KeeperStart) -> None:
    paths = check_host(home)
    with keeper_lock(paths.run / "keeper.lock"):
        keeper = make_keeper(open_site(paths), start=start)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, keeper.request_stop)
        await keeper.run()


def main(argv: list[str]) -> int:
    """Run until stopped. Exit 0 after an orderly end, 2 for a wrong setting, 3 when a dependency is unavailable, else
    1."""
    start = KeeperStart(True, int(argv[1]), argv[2]) if len(argv) > 2 else KeeperStart()
    try:
        asyncio.run(_run(argv[0], start))
    except BeginAgainError as error:
        begin_again(Paths.of(argv[0]), error)
    except FksError as error:
        sys.stderr.write(f"{error}\n")
        return 2 if isinstance(error, ConfigError) else 3 if isinstance(error, OutageError) else 1
    except OSError as error:
        if error.errno not in FULL_ERRORS:
            raise
        sys.stderr.write(f"the disk of FKS_HOME is full ({error}); {REMEDY}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
