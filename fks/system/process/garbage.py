"""Garbage collection of a long-lived process: objects loaded at its start are never scanned again."""

from __future__ import annotations

import gc

#: Objects in addition to those freed before the youngest are looked through. With Python's 700 the collector took an
#: eighth of the order manager's CPU in a burst; the cycles that so many objects may hold are a few megabytes.
YOUNG_MAX = 10_000


def freeze_loaded() -> None:
    """Collect once, leave everything that is alive now out of further collections, and make these rarer."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, *gc.get_threshold()[1:])
