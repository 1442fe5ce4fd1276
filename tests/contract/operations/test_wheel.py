"""Wheels: fit or refused, and one made of the installed files that leads back to them. Real zip files, a real
installation."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from fks.cli.base import USAGE
from fks.cli.wheel import check_place, check_wheel, keep, repack
from fks.model.errors import InputError
from tests.support.api_fixtures import Fks

FILES = {"fks/__init__.py": '__version__ = "9.9.9"\n', "fks/a.sql": "SELECT 1;\n", "serve_app.py": "x = 1\n"}


def wheel(
    folder: Path,
    *,
    name: str = "fks",
    version: str = "9.9.9",
    python: str = ">=3.11",
    needs: tuple[str, ...] = ("click>=8",),
    tamper: bool = False,
) -> Path:
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: {python}\n"
    metadata += "".join(f"Requires-Dist: {need}\n" for need in needs) + 'Requires-Dist: pandas<0; extra == "frames"\n'
    files = {
        **FILES,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [f"{path},sha256={digest(text.encode())},{len(text)}" for path, text in files.items()]
    file = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text + ("# more\n" if tamper and path == "serve_app.py" else ""))
        archive.writestr(f"{info}/RECORD", "\n".join([*lines, f"{info}/RECORD,,"]) + "\n")
    return file


def digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def test_a_wheel_that_fits_is_known_by_version_and_content(tmp_path: Path) -> None:
    found = check_wheel(wheel(tmp_path))
    assert found.version == "9.9.9"
    assert found.name.startswith("fks-9.9.9-0")
    kept = keep(found, tmp_path / "kept")
    assert kept.read_bytes() == found.file.read_bytes()
    assert keep(found, tmp_path / "kept") == kept


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"needs": ("ray[serve]==1.0",)}, "WHEEL_UNFIT", "it needs ray==1.0"),
        ({"needs": ("no-such-library>=1",)}, "WHEEL_UNFIT", "which is not installed"),
        ({"python": ">=4"}, "WHEEL_UNFIT", "it needs Python >=4"),
        ({"name": "other"}, "WHEEL_WRONG", "not fks"),
        ({"version": "9.9.9+dirty"}, "WHEEL_WRONG", "nobody kept"),
        ({"version": "9 9"}, "WHEEL_WRONG", "has no version"),
        ({"tamper": True}, "WHEEL_WRONG", "serve_app.py is not what"),
    ],
)
def test_a_wheel_that_does_not_fit_is_refused(
    tmp_path: Path, change: dict[str, object], code: str, message: str
) -> None:
    with pytest.raises(InputError) as found:
        check_wheel(wheel(tmp_path, **change))  # type: ignore[arg-type]
    assert found.value.code == code
    assert message in found.value.message
    assert found.value.remedy


def test_something_else_is_no_wheel(tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_text("hello")
    with pytest.raises(InputError, match="is no wheel"):
        check_wheel(tmp_path / "x.whl")


def test_a_checkout_is_not_overwritten_by_a_wheel() -> None:
    with pytest.raises(InputError) as found:
        check_place()
    assert found.value.code == "NOT_INSTALLED"


def test_installed_build_is_packed_and_installs_the_same(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    _install(wheel(tmp_path), first)
    found = next(metadata.distributions(name="fks", path=[str(first)]))
    packed = repack(found, tmp_path / "wheels")
    assert check_wheel(packed).version == "9.9.9"
    _install(packed, second)
    for path, text in FILES.items():
        assert (second / path).read_text() == text
    assert repack(next(metadata.distributions(name="fks", path=[str(second)])), tmp_path / "wheels") == packed


def _install(file: Path, target: Path) -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--no-deps",
            "--no-index",
            "--quiet",
            "--disable-pip-version-check",
            "--target",
            str(target),
            str(file),
        ],
        check=True,
        timeout=60,
    )


@pytest.mark.parametrize("more", [["--install-only"], []])
async def test_wheel_of_other_tables_is_not_installed_on_any_node(fks: Fks, tmp_path: Path, more: list[str]) -> None:
    """It has no migrations, so that it knows none of the tables: a child that starts again from it would fail."""
    code, out, err = await fks("deploy", "--wheel", str(wheel(tmp_path)), *more)
    assert (code, out) == (USAGE, "")
    assert re.search(r"cannot be rolled out: migration 0048(, \d{4})* renames or removes columns", err)
    assert "fks down" in err
