"""Parsing sources in a process that has run other tests before."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_finalizers() -> Iterator[None]:
    """Collect no garbage within the block, which parses sources: a finalizer that raises has its traceback formatted by
    `ast.parse`, which Python 3.11 cannot do inside of `ast.parse`."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
