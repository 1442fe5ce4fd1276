"""The dashboard and the alert rules use only metrics and labels that exist, and every metric is on one of them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fks.model.metrics import METRICS
from fks.system.process.metrics import family_of
from tests.support.programs import require

ROOT = Path(__file__).resolve().parents[2]
BOARDS = sorted((ROOT / "deploy" / "grafana").glob("*.json"))
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
#: counted nowhere yet, so a panel would be empty
NOT_SHOWN = {"fks_jobs_total"}
_NAME = re.compile(r"\bfks_[a-z_]+")


def expressions() -> Iterator[str]:
    for file in BOARDS:
        board = json.loads(file.read_text())
        for panel in board["panels"]:
            yield from (target["expr"] for target in panel.get("targets", ()))
        yield from (note["expr"] for note in board["annotations"]["list"])
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def test_every_metric_named_exists_with_the_suffix_its_kind_has() -> None:
    for text in expressions():
        for name in _NAME.findall(text):
            row = family_of(name)
            assert row is not None, f"{name} in {text}"
            assert (name != row.name) == (row.kind == "histogram"), f"{name} is a {row.kind}"


def test_every_metric_is_shown() -> None:
    shown = {row.name for text in expressions() for name in _NAME.findall(text) if (row := family_of(name))}
    assert set(METRICS) - shown == NOT_SHOWN


def test_no_metric_has_a_label_that_prometheus_sets_itself() -> None:
    assert [row.name for row in METRICS.values() if {"instance", "job"} & set(row.labels)] == []


@pytest.mark.parametrize("text", list(expressions()))
def test_labels_belong_to_their_metric_and_parentheses_close(text: str) -> None:
    known = {"component", "le", "job"}.union(*(row.labels for name in _NAME.findall(text) if (row := family_of(name))))
    grouped = [label.strip() for group in re.findall(r"\bby \(([^)]*)\)", text) for label in group.split(",")]
    matched = re.findall(r"[{,]\s*(\w+)\s*(?:=~|!~|!=|=)", text)
    assert set(grouped + matched) <= known
    assert text.count("(") == text.count(")")


@pytest.mark.parametrize("board", BOARDS, ids=lambda file: file.stem)
def test_panels_have_ids_titles_and_places_of_their_own(board: Path) -> None:
    panels: list[dict[str, Any]] = json.loads(board.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] for panel in panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells), "two panels lie over each other"
    assert max(x for x, _ in cells) == 23


def test_prometheus_scrapes_the_gateway_and_loads_the_rules() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert config["rule_files"] == [RULES.name]
    assert config["scrape_configs"][0]["job_name"] == "fks"
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        assert all(
            rule["labels"]["severity"] in ("page", "warning") and rule["annotations"]["summary"]
            for rule in group["rules"]
        )


def test_boards_differ_in_uid_and_title_and_hold_the_owners_panels() -> None:
    boards = [json.loads(file.read_text()) for file in BOARDS]
    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == len(boards)
    titles = {panel["title"] for board in boards if board["uid"] == "fks-services" for panel in board["panels"]}
    assert {"uptime, 24 h", "average response time", "requests per second", "error rate"} <= titles


def test_every_label_of_a_metric_is_bounded_by_something_of_the_system() -> None:
    """No metric carries an id, an address, a path or any other text that a caller chooses."""
    bounded = {"symbol", "exchange", "venue", "account", "timeframe", "child", "strategy_instance", "route", "queue"}
    bounded |= {"state", "status", "code", "cause", "channel", "kind", "how", "stage", "version", "source"}
    bounded |= {"group", "bucket"}  # of the settings: [ninja.groups]; of the rate limits' own table
    bounded |= {"model"}  # a deployment, which an administrator makes
    assert {label for row in METRICS.values() for label in row.labels} <= bounded


def test_alert_rules_pass_the_tests_of_a_real_prometheus() -> None:
    require("promtool")
    for argv in (
        ("check", "rules", str(RULES)),
        ("check", "config", str(RULES.with_name("prometheus.yml"))),
        ("test", "rules", str(RULES.with_name("alerts.test.yml"))),
    ):
        done = subprocess.run(["promtool", *argv], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    text = RULES.with_name("alerts.test.yml").read_text()
    names = [rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    assert sorted(set(names) - set(re.findall(r"\w+", text))) == []
