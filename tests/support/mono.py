"""Compile the C# side in `nt8/` with mono and run its programs."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

NT8 = Path(__file__).resolve().parents[2] / "nt8"
FLAGS = ["-nologo", "-langversion:5", "-warnaserror", "-r:System.Core.dll"]
PARTS = ("AddOns", "Indicators", "Strategies")
HOST = ("Host.cs", "Broker.cs")  # of the stubs; the others are the platform


@dataclass(frozen=True)
class Build:
    """Folder with `platform.dll` (the simulated NinjaTrader), `fks.dll` (the scripts), `tests.exe` and `host.exe`."""

    folder: Path

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of the programs to its end, at most 60 s."""
        command = ["mono", str(self.folder / program), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def compile_all(folder: Path) -> Build:
    """Compile platform, scripts, tests and host program as C# 5; a warning is an error."""
    scripts = [path for part in PARTS for path in sorted((NT8 / part).glob("*.cs"))]
    stubs = sorted((NT8 / "stubs").glob("*.cs"))
    host = [path for path in stubs if path.name in HOST]
    library = ["-target:library"]
    platform = f"-r:{folder / 'platform.dll'}"
    fks = f"-r:{folder / 'fks.dll'}"
    _compile(folder / "platform.dll", [path for path in stubs if path not in host], library)
    _compile(folder / "fks.dll", scripts, [*library, platform])
    _compile(folder / "tests.exe", sorted((NT8 / "tests").glob("*.cs")), [platform, fks])
    shutil.copy(NT8 / "tests" / "calendar.txt", folder)
    if host:
        _compile(folder / "host.exe", host, [platform, fks])
    return Build(folder)


def _compile(target: Path, sources: list[Path], options: list[str]) -> None:
    command = ["mcs", *FLAGS, *options, f"-out:{target}", *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"mcs {target.name}\n{done.stdout}{done.stderr}"
