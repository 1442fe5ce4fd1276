"""The wheel holds all that FKS runs on, as it is in the checkout, and nothing else."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fks.interfaces.cli.ninja.package import PARTS
from fks.interfaces.web.assets import VENDOR
from tests.support.programs import leave_out
from tests.support.wheel import ROOT, build_wheel

DOCS = "fks/ai/docs/"  # a link to docs/, of which the wheel has the pages that 'fks ai ask' quotes
NT8 = "fks/interfaces/cli/ninja/nt8/"  # a link to nt8/, of which the wheel has what NinjaTrader imports


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(build_wheel(tmp_path_factory.mktemp("wheel"))) as found:
        yield found


def files() -> Iterator[Path]:
    """Give the files of the packages in the checkout, through links too."""
    yield ROOT / "serve_app.py"
    for package in ("fks", "actors"):
        for folder, folders, names in os.walk(ROOT / package, followlinks=True):
            folders[:] = [name for name in folders if name != "__pycache__"]
            yield from (Path(folder, name) for name in names)


def is_shipped(name: str) -> bool:
    if name.startswith(DOCS):
        return name.endswith(".md") and "/" not in name.removeprefix(DOCS)
    if not name.startswith(NT8):
        return True
    part, _, file = name.removeprefix(NT8).partition("/")
    return part == "Info.xml" or (part in PARTS and file.endswith(".cs"))


def test_wheel_and_checkout_hold_the_same_files(wheel: zipfile.ZipFile) -> None:
    held = {name: wheel.read(name) for name in wheel.namelist() if ".dist-info/" not in name}
    named = {path.relative_to(ROOT).as_posix(): path for path in files()}
    wanted = {name: path.read_bytes() for name, path in named.items() if is_shipped(name)}
    assert sorted(wanted.keys() - held.keys()) == []
    assert sorted(held.keys() - wanted.keys()) == []
    assert [name for name in wanted if wanted[name] != held[name]] == []
    assert sum(name.startswith(NT8) for name in held) > len(PARTS)
    (entry,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert "fks = fks.interfaces.cli:main" in wheel.read(entry).decode()


def test_wheel_has_the_npm_files_of_the_pages(wheel: zipfile.ZipFile) -> None:
    missing = [name for name in VENDOR if f"fks/interfaces/web/vendor/{name}" not in wheel.namelist()]
    if missing and not (ROOT / "fks/interfaces/web/vendor/package-lock.json").is_file():
        leave_out("the npm packages of the pages are not installed: make web-assets")
    assert missing == []
