"""The notebooks of docs/notebooks/ run, and print what is stored in them."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from tests.support.notebooks import NOTEBOOKS, executed, outputs


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_prints_what_is_stored_in_it(path: Path) -> None:
    stored = outputs(nbformat.read(path, as_version=4))
    found = outputs(executed(path, with_long=False))
    assert len(found) >= 5
    assert found == {cell: stored[cell] for cell in found}
