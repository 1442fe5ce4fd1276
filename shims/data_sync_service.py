"""The data service that FKS replaced, under its old name: `fks data sync` and `fks.data` do the work.

python data_sync_service.py init|update|continuous|status
from data_sync_service import DataSyncService
"""

from __future__ import annotations

import sys

from fks.data.notebook import Service as DataSyncService

__all__ = ["DataSyncService"]
_COMMANDS = ("init", "update", "continuous", "status")


def main(argv: list[str]) -> int:
    """Run `fks data sync` with these arguments and return its exit code."""
    if not argv or argv[0] not in _COMMANDS:
        sys.stderr.write(f"usage: python data_sync_service.py {'|'.join(_COMMANDS)}\n")
        return 2
    from fks.interfaces.cli import cli
    from fks.interfaces.cli.base import run

    return run(cli, ["data", "sync", *argv])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
