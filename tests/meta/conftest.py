"""These tests parse sources, and must not do so while garbage is collected."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _no_finalizers_while_parsing() -> Iterator[None]:
    """A finalizer that raises has its traceback formatted by `ast.parse`, which Python 3.11 cannot do inside of
    `ast.parse`."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
