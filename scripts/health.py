"""Read `fks status --json` and say it in one line; exit 0 healthy, 1 starting or degraded, 3 not running."""

from __future__ import annotations

import json
import sys


def verdict(document: dict[str, object]) -> tuple[str, int]:
    """Return the line and the exit code."""
    state, reasons = str(document["state"]), document.get("reasons")
    if state == "healthy":
        return state, 0
    if state == "down" and not document.get("components"):
        return "not running: make up", 3
    return f"{state}: {'; '.join(map(str, reasons)) if isinstance(reasons, list) else ''}", 1


if __name__ == "__main__":
    line, code = verdict(json.load(sys.stdin))
    sys.stdout.write(f"{line}\n")
    sys.exit(code)
