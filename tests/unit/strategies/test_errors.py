"""Wrong strategies in users' files: one line that names the bar and the line of the file to correct."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fks.interfaces.cli import cli
from fks.model.errors import InputError
from fks.strategies.base import StrategyError, evaluate
from fks.strategies.check import check_strategy, ensure_checked, synthetic
from fks.strategies.registry import load_catalogue

FILE = """\
from typing import ClassVar

import numpy as np
from pydantic import Field, field_validator

from fks.indicators import cross_side
from fks.model.bar import Bars
from fks.strategies.base import Decisions, Strategy


class Mine(Strategy):
    \"\"\"Long above the average.\"\"\"

    name: ClassVar[str] = "mine"
    period: int = Field(10, ge=2, description="bars")

    def warmup(self) -> int:
        return self.period

    def decide(self, bars: Bars) -> Decisions:
        target = np.maximum(cross_side(bars.close, 1, self.period), 0.0)
        return Decisions(target)
"""
DECIDE, WARMUP = "        return Decisions(target)\n", "        return self.period\n"


def written(folder: Path, old: str = "", new: str = "") -> Path:
    assert old in FILE
    file = folder / "mine.py"
    file.write_text(FILE.replace(old, new) if old else FILE)
    return file


def line_of(file: Path, text: str) -> int:
    return next(number for number, line in enumerate(file.read_text().splitlines(), 1) if text in line)


WRONG = {
    "not a number": (
        DECIDE,
        "        target[30] = np.nan\n        return Decisions(target)\n",
        r"strategy mine: target is nan at bar 30 \(2026-01-01T00:30:00Z\); it may be -1, 0 or 1; "
        r"correct decide\(\) in mine.py, line 20",
    ),
    "a size of its own": (DECIDE, "        return Decisions(target * -2.5)\n", r"target is -2.5 at bar \d+ \(2026-"),
    "one value too few": (DECIDE, "        return Decisions(target[1:])\n", r"target has shape \(599,\) for 600 bars"),
    "no decisions": (
        DECIDE,
        "        return target\n",
        r"returned ndarray, not Decisions; correct decide\(\) in mine.py",
    ),
    "an error of its own": (
        DECIDE,
        "        return Decisions(1 / len([]))\n",
        r"decide\(\) with 600 bars raised ZeroDivisionError: division by zero; "
        r"correct mine.py line 22: `return Decisions\(1 / len\(\[\]\)\)`",
    ),
    "an error inside an indicator": (
        "cross_side(bars.close, 1",
        "cross_side(bars.nothing, 1",
        r"decide\(\) with 600 bars raised .*; correct mine.py line 21: `target = ",
    ),
    "a stop below zero": (
        DECIDE,
        "        return Decisions(target, stop_loss=bars.close - 1e6)\n",
        r"stop_loss is -\d+ at bar \d+ \(2026-.*Z\), where it enters; it may be a price above 0, or NaN for none",
    ),
    "the next bar": (
        DECIDE,
        "        return Decisions(np.append(target[1:], 0.0))\n",
        r"strategy mine is refused: it looks ahead: .*: at bar \d+ \(2026-.*Z\) of the SYNTHETIC tape target is \d and "
        r"should be \d; use only rows up to the bar that decides, in decide\(\) in mine.py, line 20",
    ),
    "a short warm-up": (
        WARMUP,
        "        return 3\n",
        r"strategy mine is refused: its warm-up of 3 bars is too short: .*: at bar \d+ \(2026-.*Z\) of the SYNTHETIC tape "
        r"target is \d and should be \d; declare a longer warm-up, in warmup\(\) in mine.py, line 17",
    ),
    "half a bar": (
        WARMUP,
        "        return self.period * 1.5\n",
        r"warmup\(\) returned 15.0, which is no number of bars; correct warmup\(\) in mine.py, line 17",
    ),
    "a negative warm-up": (WARMUP, "        return -1\n", r"warmup\(\) returned -1, which is no number of bars"),
    "a warm-up that raises": (
        WARMUP,
        "        return self.nothing\n",
        r"warmup\(\) raised AttributeError: .*; correct mine.py line 18: `return self.nothing`",
    ),
}


@pytest.mark.parametrize(("old", "new", "message"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_strategy_is_one_line_with_the_bar_and_the_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    written(tmp_path, old, new)
    with pytest.raises(StrategyError, match=message) as caught:
        ensure_checked(load_catalogue(tmp_path).make("mine"))
    assert "\n" not in str(caught.value)
    assert caught.value.code in ("STRATEGY_WRONG", "STRATEGY_RAISED", "STRATEGY_REFUSED")


def test_the_file_that_these_are_made_from_is_right(tmp_path: Path) -> None:
    file = written(tmp_path)
    made = load_catalogue(tmp_path).make("mine")
    assert check_strategy(made) == []
    assert evaluate(made, synthetic(50)).target.any()
    assert (line_of(file, "def warmup"), line_of(file, "def decide"), line_of(file, "return Decisions")) == (17, 20, 22)


def test_a_method_per_bar_is_the_one_to_correct(tmp_path: Path) -> None:
    text = (
        FILE[: FILE.index("    def decide")]
        .replace("Decisions, Strategy", "BarStrategy")
        .replace("(Strategy)", "(BarStrategy)")
    )
    (tmp_path / "mine.py").write_text(
        f"{text}    def on_bar(self, ctx, bar):\n        ctx.value('nothing' if bar.close else 1 // 0)\n"
    )
    with pytest.raises(StrategyError, match="there is no indicator 'nothing'"):
        ensure_checked(load_catalogue(tmp_path).make("mine"))
    (tmp_path / "mine.py").write_text(f"{text}    def on_bar(self, ctx, bar):\n        1 // 0\n")
    with pytest.raises(StrategyError, match=r"raised ZeroDivisionError: .*; correct mine\.py line 21: `1 // 0`"):
        ensure_checked(load_catalogue(tmp_path).make("mine"))


def test_a_file_that_cannot_be_loaded_names_its_line(tmp_path: Path) -> None:
    written(tmp_path, "class Mine", "raise RuntimeError('not today')\n\n\nclass Mine")
    with pytest.raises(InputError, match=r"RuntimeError: not today \(line 11\); correct .*mine\.py"):
        load_catalogue(tmp_path).make("mine")


def test_a_validator_that_raises_names_its_line(tmp_path: Path) -> None:
    validator = '    @field_validator("period")\n    @classmethod\n    def _odd(cls, period: int) -> int:\n        return period // 0\n\n'
    written(tmp_path, "    def warmup", validator + "    def warmup")
    with pytest.raises(
        StrategyError, match=r"making it raised ZeroDivisionError: .*; correct mine\.py line 20: `return"
    ):
        load_catalogue(tmp_path).make("mine", {"period": 5})


def test_an_exit_of_the_process_is_an_error_that_names_its_line(tmp_path: Path) -> None:
    written(tmp_path, DECIDE, "        raise SystemExit(3)\n")
    with pytest.raises(StrategyError, match=r"decide\(\) with 50 bars raised SystemExit: 3; correct mine\.py line 22"):
        evaluate(load_catalogue(tmp_path).make("mine"), synthetic(50))


def test_an_interrupt_of_a_person_ends_a_decision(tmp_path: Path) -> None:
    written(tmp_path, DECIDE, "        raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        evaluate(load_catalogue(tmp_path).make("mine"), synthetic(50))


def test_the_check_of_all_goes_on_after_a_broken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "strategies"
    folder.mkdir()
    written(folder, DECIDE, "        return Decisions(1 / len([]))\n")
    (folder / "worse.py").write_text("def (:\n")
    monkeypatch.setenv("FKS_HOME", str(tmp_path))
    done = CliRunner().invoke(cli, ["strategies", "check", "mine", "worse", "buy_and_hold", "--json"])
    found: Any = re.findall(r'"name": "(\w+)".*?"ok": (\w+)', done.output, flags=re.DOTALL)
    assert found == [("mine", "false"), ("worse", "false"), ("buy_and_hold", "true")]
    assert "mine.py line 22" in done.output
    assert done.exit_code != 0
