"""`fks ninja package`: the zip that NinjaTrader 8 imports, made of the C# sources in nt8/.

Entry names have back slashes and there are no directory entries, as in NinjaTrader's own exports. Sources get a UTF-8
mark and CRLF, because an older compiler reads a file without the mark in the code page of the PC. Equal sources give an
equal file.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import click

from fks.interfaces.cli.base import result
from fks.model.errors import InputError, invalid

PARTS = ("AddOns", "Indicators", "Strategies")
_LINKED = Path(__file__).with_name("nt8")  # a link in a checkout, a folder in an installed wheel
_CHECKOUT = Path(__file__).resolve().parents[4] / "nt8"  # where the link is a text file, as on Windows
_MARK = b"\xef\xbb\xbf"
_STAMP = (2025, 1, 1, 0, 0, 0)


@click.command()
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path), default=Path("fks-nt8.zip"))
@click.option(
    "--source",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with AddOns, Indicators, Strategies and Info.xml. Default: those of this release.",
)
@result(
    "fks.ninja.package/1", lambda done, **_: f"{done['file']}: {len(done['entries'])} files, SHA-256 {done['sha256']}"
)
def package(_: click.Context, target: Path, source: Path | None) -> Any:
    """Write the zip for Control Center > Tools > Import > NinjaScript Add-On, by default fks-nt8.zip.

    An existing file is replaced. Equal sources give an equal file, so the SHA-256 names what was imported. Needs no
    running system.
    """
    found = entries(source or source_folder())
    write(target, found)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    return {"file": str(target), "sha256": digest, "entries": [name for name, _ in found]}


def source_folder() -> Path:
    """Return the folder with the C# sources. Errors: InputError when this installation has none."""
    for folder in (_LINKED, _CHECKOUT):
        if (folder / "Info.xml").is_file():
            return folder
    raise InputError(
        "this installation has no C# sources",
        code="NT8_MISSING",
        remedy="name the folder nt8 of a checkout of FKS with --source",
    )


def entries(folder: Path) -> list[tuple[str, bytes]]:
    """Return names and contents of the zip, in a fixed order. Errors: InputError for a folder without sources."""
    made = [
        (f"{part}\\{path.name}", _windows(path)) for part in PARTS for path in sorted((folder / part).glob("FKS*.cs"))
    ]
    info = folder / "Info.xml"
    if not made or not info.is_file():
        raise invalid(
            "NT8_MISSING",
            f"{folder} has no FKS*.cs in {', '.join(PARTS)}, or no Info.xml",
            "name the folder nt8 of a checkout of FKS with --source",
        )
    return [*made, ("Info.xml", info.read_bytes())]


def write(target: Path, found: list[tuple[str, bytes]]) -> None:
    """Write the zip."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in found:
            info = zipfile.ZipInfo("x", _STAMP)
            info.filename = name  # the constructor would turn back slashes round on some systems
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)


def _windows(path: Path) -> bytes:
    """Return a source file with the UTF-8 mark and CRLF."""
    text = path.read_text(encoding="utf-8-sig").replace("\r\n", "\n").replace("\n", "\r\n")
    return _MARK + text.encode()
