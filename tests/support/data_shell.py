"""`fks …` in this process, on a store and an exchange that run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from fks.interfaces.cli import cli
from fks.interfaces.cli.base import OK, run


class Shell:
    """Runs `fks …` on a store and an exchange that run."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self._capsys = home, capsys

    async def __call__(self, *arguments: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(run, cli, ["--home", str(self.home), *arguments])
        out, err = self._capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    async def json(self, *arguments: str) -> Any:
        code, out, err = await self(*arguments, "--json")
        assert code == OK, err
        return orjson.loads(out)
