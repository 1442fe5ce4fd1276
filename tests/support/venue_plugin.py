"""The template of a venue plug-in, installed as a package manager would: metadata beside the code, on the path."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fks.trading.venues import plugins

CODE = Path(__file__).parents[2] / "scripts" / "venue_template"
NAME, PACKAGE, VERSION = "template", "fks_venue_template", "0.1.0"


@contextmanager
def installed(
    folder: Path,
    code: Path = CODE,
    *,
    points: str = f"{NAME} = {PACKAGE}:VENUE",
    version: str = VERSION,
    package: str = PACKAGE,
) -> Iterator[None]:
    """Install a distribution whose entry points of `fks.venues` are `points`, until the block ends."""
    info = folder / f"{package}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{points}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(code))
        patch.syspath_prepend(str(folder))
        importlib.invalidate_caches()
        plugins.forget()
        try:
            yield
        finally:
            plugins.forget()
            for name in [name for name in sys.modules if name.partition(".")[0] == package]:
                del sys.modules[name]
