"""These tests parse sources, and must not do so while garbage is collected."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.support.garbage import no_finalizers


@pytest.fixture(autouse=True, scope="module")
def _no_finalizers_while_parsing() -> Iterator[None]:
    gc.collect()
    with no_finalizers():
        yield
