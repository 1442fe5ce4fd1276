"""A process that froze what it had loaded collects only what came later."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from fks.system.process.garbage import YOUNG_MAX, freeze_loaded


class Node:
    """An object that refers to itself."""

    def __init__(self) -> None:
        self.own = self


@pytest.fixture
def collector() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)


@pytest.mark.usefixtures("collector")
def test_what_was_loaded_is_frozen_and_later_cycles_are_collected() -> None:
    loaded = Node()
    freeze_loaded()
    assert gc.get_freeze_count() > 0
    assert gc.get_threshold()[0] == YOUNG_MAX
    assert not any(found is loaded for found in gc.get_objects())
    later = weakref.ref(Node())
    gc.collect()
    assert later() is None
