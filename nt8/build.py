#!/usr/bin/env python3
"""Build the zip that NinjaTrader 8 imports (Tools > Import > NinjaScript Add-On): `python nt8/build.py fks-nt8.zip`.

Entry names have back slashes and there are no directory entries, as in NinjaTrader's own exports. Sources get a UTF-8
mark and CRLF, because an older compiler reads a file without the mark in the code page of the PC. Equal sources give an
equal file.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PARTS = ("AddOns", "Indicators", "Strategies")
MARK = b"\xef\xbb\xbf"
STAMP = (2025, 1, 1, 0, 0, 0)


def entries() -> list[tuple[str, bytes]]:
    """Names and contents of the zip, in a fixed order."""
    made = [(f"{part}\\{path.name}", windows(path)) for part in PARTS for path in sorted((FOLDER / part).glob("FKS*.cs"))]
    return [*made, ("Info.xml", (FOLDER / "Info.xml").read_bytes())]


def windows(path: Path) -> bytes:
    """A source file with the UTF-8 mark and CRLF."""
    text = path.read_text(encoding="utf-8-sig").replace("\r\n", "\n").replace("\n", "\r\n")
    return MARK + text.encode()


def write(target: Path) -> None:
    """Write the zip."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries():
            info = zipfile.ZipInfo("x", STAMP)
            info.filename = name  # the constructor would turn back slashes round on some systems
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the zip that NinjaTrader 8 imports.")
    parser.add_argument("target", type=Path, nargs="?", default=Path("fks-nt8.zip"))
    target: Path = parser.parse_args().target
    write(target)
    print(f"{target}: {len(entries())} files")


if __name__ == "__main__":
    main()
