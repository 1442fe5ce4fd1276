"""Print shell lines that export where a running head's PostgreSQL and Redis are: for workers on the same machine."""

from __future__ import annotations

import shlex
import sys

from fks.config.endpoints import load_node
from fks.config.paths import Paths
from fks.model.errors import FksError


def main(home: str) -> int:
    try:
        node = load_node(Paths.of(home))
    except FksError as error:
        sys.stderr.write(f"error: {error}\n")
        return 3
    print(f"export FKS_DATABASE_URL={shlex.quote(node.database_url)} FKS_REDIS_URL={shlex.quote(node.redis_url)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
