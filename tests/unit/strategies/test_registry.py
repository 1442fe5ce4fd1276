"""Finding strategies: built-in ones, a user's files, installed packages; a broken one spoils only itself."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from fks.market.files.sample import sample_tape
from fks.model.errors import InputError
from fks.strategies.check import check_strategy
from fks.strategies.registry import NarrowCatalogue, load_catalogue, source_hash
from fks.strategies.template import TEMPLATE, TEST

OWN = TEMPLATE.format(title="Mine", kind="Mine", name="mine")


def test_the_template_is_a_strategy_that_passes_its_check(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    catalogue = load_catalogue(tmp_path)
    entry = catalogue.entries["mine"]
    assert (entry.origin, entry.error) == ("file", "")
    assert "highest high" in entry.summary
    minutes = sample_tape().bars()[:3000]
    for params in ({}, {"entry": 5}, {"entry": 5, "leave": 3}):  # in the second the low is known after the high
        assert check_strategy(catalogue.make("mine", params), [minutes]) == []


def test_the_tests_of_the_template_pass_and_find_a_mistake(tmp_path: Path) -> None:
    test = tmp_path / "tests" / "test_mine.py"
    test.parent.mkdir()
    test.write_text(TEST.format(name="mine", file=test))
    for text, failed in ((OWN, []), (OWN.replace("bars.close > top", "bars.close >= top"), ["buys a new high"])):
        (tmp_path / "mine.py").write_text(text)
        names: dict[str, Any] = {"__file__": str(test), "__name__": "test_mine"}
        exec(compile(test.read_text(), str(test), "exec"), names)
        found = []
        for name, call in names.items():
            if name.startswith("test_"):
                try:
                    call()
                except AssertionError:
                    found.append(name)
        assert len(found) == len(failed)
        assert all(what in name.replace("_", " ") for what, name in zip(failed, found, strict=True))


def test_changed_file_is_loaded_again_and_has_another_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file, second = tmp_path / "mine.py", (1_767_225_600, 1_767_225_600)
    file.write_text(OWN)
    os.utime(file, second)
    before = load_catalogue(tmp_path).kind("mine")
    file.write_text(OWN.replace("20, ge=2", "30, ge=2"))
    os.utime(file, second)  # for Python's loader of the same age and size: it would take the compiled form of before
    after = load_catalogue(tmp_path).kind("mine")
    assert (before().model_dump()["entry"], after().model_dump()["entry"]) == (20, 30)
    assert load_catalogue(tmp_path).kind("mine") is after
    assert source_hash(after) != source_hash(load_catalogue().kind("rsi"))
    assert source_hash(before) != source_hash(after)
    assert source_hash(before) == hashlib.sha256(OWN.encode()).hexdigest(), "of the code that runs, not of the file now"


def test_a_file_is_compiled_by_its_own_rules_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN.replace("from __future__ import annotations\n", "") + "\n\nseen: int = 1\n")
    module = sys.modules[load_catalogue(tmp_path).kind("mine").__module__]
    assert module.__annotations__["seen"] is int, "the future import of the loader is not the file's"


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("syntax", "def (:\n", r"SyntaxError: invalid syntax .*line 1"),
        ("raises", "raise RuntimeError('no\\nway')\n", "RuntimeError: no"),
        ("missing", "import nowhere_at_all\n", "No module named 'nowhere_at_all'"),
        ("empty", "x = 1\n", "defines no class derived from Strategy"),
        ("sma_cross", OWN.replace('"mine"', '"sma_cross"'), "the name sma_cross is taken by fks.strategies.sma_cross"),
    ],
)
def test_a_broken_file_spoils_only_itself(tmp_path: Path, name: str, text: str, error: str) -> None:
    (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "_private.py").write_text("raise SystemExit")
    catalogue = load_catalogue(tmp_path)
    (entry,) = [e for e in catalogue.entries.values() if e.origin == "file"]
    assert catalogue.make("sma_cross").name == "sma_cross"
    with pytest.raises(InputError, match=error) as caught:
        catalogue.make(entry.name)
    assert "\n" not in str(caught.value)


def test_installed_packages_add_strategies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site"
    info = package / "ideas-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ideas\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[fks.strategies]\nidea = ideas_of_mine:Mine\nlost = ideas_of_mine:Nothing\n"
    )
    (package / "ideas_of_mine.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(package))
    entries = load_catalogue().entries
    assert entries["mine"].origin == "package"
    assert "Nothing" in entries["lost"].error


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"fst": 2},
            "strategy sma_cross has no parameter 'fst'; parameters: sl_pct=None tp_pct=None trail_pct=None fast=20 slow=50",
        ),
        ({"fast": "x"}, "fast: input should be a valid integer.*not 'x'"),
        ({"fast": 0}, "fast: input should be greater than or equal to 1, not 0"),
        ({"fast": 50}, r"fast \(50\) must be smaller than slow \(50\)"),
        ({"sl_pct": float("nan")}, "sl_pct"),
        ({"sl_pct": -1}, "sl_pct: input should be greater than 0"),
    ],
)
def test_wrong_parameters_are_one_clear_line(params: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_catalogue().make("sma_cross", params)
    assert "\n" not in str(caught.value)
    assert caught.value.code == "PARAM_WRONG"


def test_an_unknown_strategy_names_those_there_are() -> None:
    with pytest.raises(
        InputError,
        match="unknown strategy 'x'; known: atr_trend bollinger buy_and_hold combination dca donchian ema_cross grid macd",
    ):
        load_catalogue().make("x")


def test_text_from_the_command_line_becomes_numbers() -> None:
    made = load_catalogue().make("rsi", {"period": "7", "low": "25.5", "short": "true", "sl_pct": None})
    assert made.model_dump() == {
        "sl_pct": None,
        "tp_pct": None,
        "trail_pct": None,
        "period": 7,
        "low": 25.5,
        "high": 70.0,
        "leave": 50.0,
        "short": True,
    }


NAMED = 'name: ClassVar[str] = "mine"'
DEADLY = "from pathlib import Path\nPath(__file__).with_name('run').write_text('x')\nraise SystemExit(7)\n"


@pytest.mark.parametrize(
    ("file", "text", "name"),
    [
        ("mine.py", OWN, "mine"),
        ("other.py", OWN, "mine"),  # named in its text
        ("plain.py", OWN.replace(NAMED, ""), "plain"),  # without a name it has its file's
        ("dynamic.py", OWN.replace("Mine", "Own").replace(NAMED, 'name: ClassVar[str] = "mi" "ne"'), "mine"),
    ],
)
def test_a_narrow_catalogue_finds_what_the_whole_one_does(tmp_path: Path, file: str, text: str, name: str) -> None:
    assert NAMED in OWN
    (tmp_path / file).write_text(text)
    assert NarrowCatalogue(tmp_path).make(name, {"entry": 5}) == load_catalogue(tmp_path).make(name, {"entry": 5})


def test_a_narrow_catalogue_runs_no_file_of_another_strategy(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "deadly.py").write_text(DEADLY)
    members = {"members": [{"strategy": "mine"}, {"strategy": "rsi"}]}
    for name, params in (("mine", {}), ("sma_cross", {}), ("combination", members)):
        assert NarrowCatalogue(tmp_path).make(name, params).name == name
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="cannot be loaded"):
        NarrowCatalogue(tmp_path).make("deadly")
    with pytest.raises(InputError, match="unknown strategy"):
        NarrowCatalogue(tmp_path).make("none_of_these")
