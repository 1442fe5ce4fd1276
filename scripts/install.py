"""Make the virtualenv and install the pinned packages; one clear line when this machine cannot.

`python scripts/install.py .venv` installs the product; with `dev` as second argument also what tests and linters need,
in the same virtualenv. Every package is checked against its SHA-256 in `deploy/hashes/` (made by `hashes.py`).
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

MINIMUM = (3, 11)
TESTED = (3, 11)
#: `deploy/hashes/` has the hashes of the wheels for these
HASHED_PYTHONS = ("3.11", "3.12", "3.13")
HASHED_MACHINES = ("x86_64", "aarch64")


def fail(text: str) -> None:
    sys.exit(f"error: {text}")


def run(command: list[str]) -> tuple[int, str]:
    """Run a command, pass its output on, and return its status with the output."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        lines.append(line)
    return process.wait(), "".join(lines)


#: a part of pip's output -> what is wrong and what to do; the first that fits
CAUSES = (
    (("No space left on device",), "the disk is full; make room and run make install again"),
    (
        (
            "Temporary failure in name resolution",
            "Name or service not known",
            "Failed to establish a new connection",
            "Network is unreachable",
            "Connection refused",
            "ProxyError",
            "Read timed out",
            "ConnectTimeoutError",
        ),
        "the package index cannot be reached; check the network (HTTPS_PROXY), or set up your own index in pip's "
        "configuration (PIP_INDEX_URL), and run make install again",
    ),
    (
        ("CERTIFICATE_VERIFY_FAILED", "SSLError"),
        "the certificate of the package index is not trusted here; behind a proxy that opens TLS, give pip its root "
        "certificate (PIP_CERT)",
    ),
    (("Permission denied",), "a file cannot be written (see above); do not mix sudo and your own user in one checkout"),
    (
        ("THESE PACKAGES DO NOT MATCH THE HASHES",),
        "a package is not the one that FKS was tested with (its name is above); nothing of it was installed. If pip's "
        "cache or your mirror is at fault, clear it (pip cache purge) or ask its operator",
    ),
    (
        ("error: command 'gcc' failed", "Python.h: No such file", "command 'cc' failed", "Microsoft Visual C++"),
        "a package has no wheel for this machine and cannot be compiled; install a C compiler and the Python headers "
        "(Debian: build-essential python3-dev), or use a machine with x86_64 or aarch64 Linux and Python 3.11",
    ),
)


def cause_of(output: str, here: str) -> str:
    """Return one line that says why pip failed, from its output, and what to do. `here` is this Python, e.g. 3.12."""
    for texts, cause in CAUSES:
        if any(text in output for text in texts):
            return cause
    missing = [line for line in output.splitlines() if "No matching distribution found for" in line]
    if missing:
        package = missing[0].rpartition(" for ")[2]
        if here != ".".join(map(str, TESTED)):
            return f"{package} has no wheel for Python {here}; FKS is tested on 3.11: make install PYTHON=python3.11"
        return f"the package index does not have {package}; a mirror may be behind: check PIP_INDEX_URL"
    return "the install failed: see the lines above"


def has_hashes(here: str, machine: str) -> bool:
    """Return whether the hashes of this Python's wheels are known. Nothing that an index sends changes the answer."""
    return here in HASHED_PYTHONS and machine in HASHED_MACHINES and sys.platform == "linux"


def pip_commands(python: str, extras: Iterable[str], root: Path, *, hashed: bool) -> list[list[str]]:
    """Return the commands that install the build backend, the packages and FKS itself, in this order."""
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--prefer-binary", "--quiet"]
    names = list(extras)
    if not hashed:
        text = f"[{','.join(names)}]" if names else ""
        return [[*pip, "-c", str(root / "constraints.txt"), "-e", f"{root}{text}"]]
    lists = [["-r", str(root / "deploy" / "hashes" / f"{name}.txt")] for name in ("build", "fks", *names)]
    # without build isolation nothing is built by a package that was not checked before
    checked = [*pip, "--require-hashes", "--no-build-isolation"]
    return [
        [*checked, *lists[0]],
        [*checked, *(part for one in lists[1:] for part in one)],
        [*pip, "--no-build-isolation", "--no-deps", "-e", str(root)],
    ]


def add_shims(python: Path, folder: Path) -> None:
    """Put the modules of the replaced services (data_sync_service, db_utils) on the virtualenv's import path."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    place = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    (Path(place) / "fks_shims.pth").write_text(f"{folder}\n")


def main() -> None:
    venv = Path(sys.argv[1])
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if sys.version_info < MINIMUM:
        fail(f"FKS needs Python 3.11 or newer, this is {here}; install one and run: make install PYTHON=python3.11")
    if shutil.disk_usage(".").free < 3 * 10**9:
        fail("less than 3 GB free on this disk, and the packages need about 2 GB; make room and run make install again")
    python = venv / "bin" / "python"
    if not python.exists():
        print(f"making {venv} with Python {here}")
        if subprocess.run([sys.executable, "-m", "venv", str(venv)]).returncode != 0:
            fail("cannot make a virtualenv: install the venv package of your Python (Debian: python3-venv)")
    wanted = [*os.environ.get("FKS_EXTRAS", "ai").split(","), *sys.argv[2:3]]  # FKS_EXTRAS= leaves all of them out
    extras = [name.strip() for name in wanted if name.strip()]
    root = Path(__file__).resolve().parents[1]
    print(f"installing the pinned packages{', also of tests and linters' if sys.argv[2:] else ''} (about a minute)")
    if not (hashed := has_hashes(here, platform.machine())):
        print(f"no hashes are known for Python {here} on this machine: versions alone are checked")
    for command in pip_commands(str(python), extras, root, hashed=hashed):
        status, output = run(command)
        if status != 0:
            fail(cause_of(output, here))
    add_shims(python, root / "shims")
    subprocess.run([str(python), str(Path(__file__).with_name("web_assets.py"))])  # says itself what it left out
    print("compiling the engine of backtests (some seconds)")
    loops = ("fks.research.backtest.kernel", "fks.research.backtest.curve", "fks.indicators.exact")
    code = f"import importlib\nfor name in {loops!r}: importlib.import_module(name).load()"
    code += f"\nimportlib.import_module({loops[0]!r}).load_orders()"
    subprocess.run([str(python), "-c", code])  # what fails here is compiled at its first use


if __name__ == "__main__":
    main()
