"""Commands that start our own modules."""

from __future__ import annotations

from fks.config import builds


def module(name: str, *args: str) -> list[str]:
    """Return the command that runs one of our modules with the Python of this build.

    -P: a folder called fks or actors in the working directory must not be run in place of the installed package.
    """
    return [builds.own_python(), "-P", "-m", name, *args]
