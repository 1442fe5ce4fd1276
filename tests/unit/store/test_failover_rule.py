"""The rule by which a PostgreSQL may lack committed rows, from the record that the order manager keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fks.model.errors import ConfigError
from fks.store.failover import LastServer, Origin, check_durable, difference, load_record, save_record

HERE = Origin(system_id=11, timeline=1, epoch=4, has_past=True, fsync="on", synchronous_commit="on")
SEEN = LastServer(system_id=11, timeline=1, epoch=4, ask_before_ns=0, process="one")


@pytest.mark.parametrize(
    ("origin", "epoch", "process", "reason"),
    [
        (HERE, 5, "two", None),
        (HERE, 4, "one", None),  # a start that was tried again within one process
        (HERE, 4, "two", "epoch"),  # the first raise to 4 was lost
        (HERE, 3, "two", "epoch"),
        (replace(HERE, timeline=2), 5, "two", "timeline"),
        (replace(HERE, system_id=12), 5, "two", "system identifier"),
    ],
)
def test_other_history_is_a_change(origin: Origin, epoch: int, process: str, reason: str | None) -> None:
    found = difference(SEEN, origin, epoch=epoch, process=process)
    assert found is None if reason is None else reason in (found or "")


def test_no_record_is_a_change_unless_the_journal_is_new() -> None:
    assert difference(None, HERE, epoch=1, process="one") is not None
    assert difference(None, replace(HERE, has_past=False), epoch=1, process="one") is None


@pytest.mark.parametrize("name", ["fsync", "synchronous_commit"])
def test_live_needs_durable_commits(name: str) -> None:
    check_durable(HERE)
    check_durable(replace(HERE, synchronous_commit="local"))
    with pytest.raises(ConfigError, match=f"{name} = off"):
        check_durable(replace(HERE, **{name: "off"}))  # type: ignore[arg-type]


def test_record_is_read_back_and_a_damaged_one_counts_as_none(tmp_path: Path) -> None:
    file = tmp_path / "database.json"
    assert load_record(file) is None
    save_record(file, SEEN)
    assert load_record(file) == SEEN
    file.write_text('{"system_id": 11')
    assert load_record(file) is None
