"""Wheels of FKS: check one for this Python, install it here, and keep the one for a rollback.

Only the running virtual environment is changed, offline and without touching any dependency: a wheel that needs another
Ray or Python is refused, because such an upgrade is no rolling one.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path

from fks.model.errors import FksError, InputError
from fks.store import migrate

PIP_S = 120.0
#: files of an installed distribution that belong to its installation, not to the wheel
_OF_INSTALLATION = ("INSTALLER", "REQUESTED", "direct_url.json", "RECORD")


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel that is fit to be installed here. `name` is its file name here: two builds of a version differ in it."""

    file: Path
    version: str
    name: str


def check_wheel(file: Path) -> Wheel:
    """Return the wheel. Errors: InputError when it is damaged, is not FKS, or has requirements that are not installed
    here."""
    try:
        with zipfile.ZipFile(file) as archive:
            _check_content(archive, file)
            metadata_fields = HeaderParser().parsestr(archive.read(_member(archive, "METADATA")).decode())
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError, OSError) as error:
        raise InputError(
            f"{file} is no wheel ({error})", code="WHEEL_WRONG", remedy="build it with 'pip wheel . --no-deps'"
        ) from None
    if metadata_fields["Name"] != "fks":
        raise InputError(
            f"{file} is {metadata_fields['Name']}, not fks", code="WHEEL_WRONG", remedy="give a wheel of FKS"
        )
    if not re.fullmatch(r"[A-Za-z0-9.+!_-]+", str(metadata_fields["Version"])):  # it becomes part of a file's name
        raise InputError(
            f"{file} has no version ({metadata_fields['Version']!r})", code="WHEEL_WRONG", remedy="build it again"
        )
    if "dirty" in str(metadata_fields["Version"]):
        raise InputError(
            f"{file.name} was built from a checkout with changes that nobody kept",
            code="WHEEL_WRONG",
            remedy="commit them and build it again",
        )
    problems = list(_unmet(metadata_fields.get("Requires-Python", ""), metadata_fields.get_all("Requires-Dist") or []))
    if problems:
        raise InputError(
            f"{file.name} does not fit what is installed: {'; '.join(problems)}",
            code="WHEEL_UNFIT",
            remedy="such a change is no rolling one: 'fks down', install it with its dependencies, 'fks up'",
        )
    return Wheel(file, str(metadata_fields["Version"]), _kept_as(str(metadata_fields["Version"]), file.read_bytes()))


def migrations_of(wheel: Path | None) -> list[str]:
    """Return the texts of a wheel's migrations; None: of the installed package. Errors: InputError for a file that is
    no wheel."""
    if wheel is None:
        folder = Path(migrate.__file__).parent / "migrations" / "versions"
        return [file.read_text() for file in sorted(folder.glob("[0-9]*.py"))]
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith(f"{migrate.VERSIONS}/")]
            return [archive.read(name).decode() for name in names if name.endswith(".py")]
    except (zipfile.BadZipFile, UnicodeDecodeError, OSError) as error:
        raise InputError(
            f"{wheel} is no wheel ({error})", code="WHEEL_WRONG", remedy="build it with 'pip wheel . --no-deps'"
        ) from None


def check_place() -> metadata.Distribution:
    """Return the installed FKS. Errors: InputError when it runs from a checkout, or its files were edited after it was
    installed."""
    import fks

    try:
        found = next(d for d in metadata.distributions(name="fks", path=[str(Path(fks.__file__).parent.parent)]))
        recorded = found.read_text("RECORD")
    except StopIteration:
        recorded = None
    if recorded is None or "fks/__init__.py" not in recorded:
        raise InputError(
            f"FKS runs from a checkout ({Path(fks.__file__).parent.parent})",
            code="NOT_INSTALLED",
            remedy="change the checkout (git pull) and run 'fks deploy' without --wheel",
        )
    edited = [str(file) for file in found.files or [] if _is_edited(file)]
    if edited:
        raise InputError(
            f"installed files were edited by hand: {', '.join(edited[:5])}",
            code="DIRTY",
            remedy="they would be lost, and no way would lead back: put the change into a wheel first",
        )
    return found


def install(wheel: Path) -> None:
    """Replace the installed FKS by a wheel, without any dependency. Errors: FksError with pip's last line."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--force-reinstall",
        "--quiet",
        "--disable-pip-version-check",
        str(wheel),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_S, check=False)
    except subprocess.TimeoutExpired:
        raise FksError(
            f"pip did not end within {PIP_S:g} s", remedy="install the wheel by hand, then 'fks deploy'"
        ) from None
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise FksError(f"pip failed: {lines[-1] if lines else done.returncode}", remedy="nothing was restarted")


def keep(wheel: Wheel, folder: Path) -> Path:
    """Return the wheel's copy in `folder`, made unless it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / wheel.name
    if not kept.exists():
        shutil.copyfile(wheel.file, kept.with_suffix(".part"))
        kept.with_suffix(".part").replace(kept)
    return kept


def repack(found: metadata.Distribution, folder: Path) -> Path:
    """Return a wheel made of the installed FKS, so that a rollback is possible however it was installed."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "installed.part"
    info = next(file.parent.name for file in found.files or [] if file.name == "RECORD")
    lines = []
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(found.files or [], key=str):
            is_ours = ".." not in file.parts and "__pycache__" not in file.parts
            if not is_ours or (file.parent.name == info and file.name in _OF_INSTALLATION):
                continue
            content = file.read_binary()
            archive.writestr(zipfile.ZipInfo(str(file)), content, zipfile.ZIP_DEFLATED)
            lines.append(f"{file},sha256={_digest(content)},{len(content)}")
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD"), "\n".join([*lines, f"{info}/RECORD,,"]) + "\n")
    kept = folder / _kept_as(found.version, partial.read_bytes())
    partial.replace(kept)
    return kept


def _check_content(archive: zipfile.ZipFile, file: Path) -> None:
    """Refuse a wheel whose files differ from its own list."""
    for line in archive.read(_member(archive, "RECORD")).decode().splitlines():
        name, _, rest = line.partition(",")
        kind, _, digest = rest.partition(",")[0].partition("=")
        if kind == "sha256" and _digest(archive.read(name)) != digest:
            raise InputError(
                f"{file}: {name} is not what the wheel's RECORD says", code="WHEEL_WRONG", remedy="build it again"
            )


def _member(archive: zipfile.ZipFile, name: str) -> str:
    return next((found for found in archive.namelist() if re.fullmatch(rf"[^/]+\.dist-info/{name}", found)), name)


def _unmet(python: str, requirements: list[str]) -> list[str]:
    """Return what the wheel needs and this environment does not have."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    here = ".".join(map(str, sys.version_info[:3]))
    found = [] if SpecifierSet(python).contains(here) else [f"it needs Python {python}, this is {here}"]
    for text in requirements:
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            has = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            found.append(f"it needs {needed.name}{needed.specifier}, which is not installed")
            continue
        if not needed.specifier.contains(has, prereleases=True):
            found.append(f"it needs {needed.name}{needed.specifier}, {has} is installed")
    return found


def _is_edited(file: metadata.PackagePath) -> bool:
    """Return whether an installed file was edited; compiled ones carry no hash."""
    if file.hash is None or ".." in file.parts:
        return False
    try:
        return _digest(file.read_binary()) != file.hash.value
    except OSError:
        return True


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _kept_as(version: str, content: bytes) -> str:
    """Return a wheel's file name with a build tag of its content (a build tag begins with a digit)."""
    return f"fks-{version}-0{hashlib.sha256(content).hexdigest()[:10]}-py3-none-any.whl"
