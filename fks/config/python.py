"""Commands that start our own modules."""

from __future__ import annotations

import sys


def module(name: str, *args: str) -> list[str]:
    """Return the command that runs one of our modules with this Python.

    -P: a folder called fks or actors in the working directory must not be run in place of the installed package.
    """
    return [sys.executable, "-P", "-m", name, *args]
