"""How this program starts parts of itself."""

from __future__ import annotations

import sys


def module(name: str, *args: str) -> list[str]:
    """Return the command that runs one of our modules with this Python.

    -P: a folder called fks or actors where somebody happens to stand must not be run in place of what is installed.
    """
    return [sys.executable, "-P", "-m", name, *args]
