"""The command that shows the rules of prop firms, copies a shipped file and writes the add-on's form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fks.interfaces.cli import cli
from fks.interfaces.cli.base import run


def shown(capsys: pytest.CaptureFixture[str], home: Path, *arguments: str) -> tuple[int, str, str]:
    code = run(cli, ["--home", str(home), "ninja", "rules", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_each_rule_is_shown_with_its_source_and_age(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = shown(capsys, tmp_path, "--group", "topstep-50k", "--json")
    assert code == 0
    (group,) = json.loads(out)["items"]
    assert [rule["rule"] for rule in group["rules"]] == ["max_loss", "daily_loss", "max_lots", "flat_by", "automation"]
    assert all(rule["source"].startswith("https://") and rule["age_days"] is None for rule in group["rules"])
    assert (group["mode_at_most"], group["required_action"]) == ("relay", None)
    code, out, _ = shown(capsys, tmp_path)
    assert code == 0
    assert "custom" in out
    assert "fxify-starter (shipped): mode off at most: max_lots is missing; flat_by is missing" in out


def test_own_file_replaces_the_shipped_group(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert shown(capsys, tmp_path, "--group", "apex-50k", "--copy")[0] == 0
    file = tmp_path / "prop_rules" / "apex-50k.toml"
    file.write_text(file.read_text().replace("value = 2500", "value = 2400"))
    group = one(capsys, tmp_path, "--group", "apex-50k")
    assert (group["file"], group["rules"][0]["limit"]) == (str(file), "2400")
    assert shown(capsys, tmp_path, "--group", "apex-50k", "--copy")[0] == 2, "an edited file is not replaced"
    file.write_text(file.read_text().replace("value = 2400", "value = 0"))
    code, _, error = shown(capsys, tmp_path)
    assert code == 2
    assert "apex-50k.toml: rules.max_loss.value" in error


def one(capsys: pytest.CaptureFixture[str], home: Path, *arguments: str) -> dict[str, Any]:
    code, out, _ = shown(capsys, home, *arguments, "--json")
    assert code == 0
    (group,) = json.loads(out)["items"]
    assert isinstance(group, dict)
    return group


def test_values_of_an_account_give_distances(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    state.write_text(
        '{"equity": 49400.5, "highest": 50800, "holdings": [{"root": "MES", "quantity": 3}], "entries": '
        '[{"root": "ES", "quantity": 1, "worst_loss": 200}], "best_day": 600, "total_profit": 2000}'
    )
    group = one(capsys, tmp_path, "--group", "topstep-50k", "--state", str(state))
    found = {rule["rule"]: (rule["used"], rule["left"], rule["unit"]) for rule in group["rules"]}
    assert found["max_loss"] == ("1399.5", "600.5", "USD")
    assert found["daily_loss"] == (None, None, "USD")
    assert found["max_lots"] == ("4", "1", "lots")
    for text, message in (
        ('{"equtiy": 1}', "unknown key 'equtiy'"),
        ("{", "state.json"),
        ('{"equity": "x"}', "equity"),
    ):
        state.write_text(text)
        code, _, error = shown(capsys, tmp_path, "--state", str(state))
        assert code == 2
        assert message in error


def test_addons_form_is_written_of_complete_groups_only(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "rules.json"
    assert shown(capsys, tmp_path, "--group", "custom", "--export", str(target))[0] == 0
    document = json.loads(target.read_text())
    assert (document["group"], document["rules"]["max_lots"]["micro_factor"]) == ("custom", 0.1)
    code, _, error = shown(capsys, tmp_path, "--group", "fxify-expert", "--export", str(tmp_path / "no.json"))
    assert (code, (tmp_path / "no.json").exists()) == (2, False)
    assert "incomplete: max_lots, flat_by missing" in error
    assert shown(capsys, tmp_path, "--export", str(target))[0] == 2
    assert shown(capsys, tmp_path, "--group", "none-such")[0] == 2
