"""`fks logs`: merging, filtering and following, across turns of the files and programs with lines of their own."""

from __future__ import annotations

import json

import click
import pytest

from fks.interfaces.cli import cli
from fks.interfaces.cli.base import run
from fks.interfaces.cli.logs import Restarts, seamed
from fks.system.monitor.logs import FolderReader, Line, LogFilter, parse


def write(folder, name, *entries):
    with (folder / name).open("a") as file:
        for time, level, event, *fields in entries:
            component = name.partition(".")[0]
            extra = fields[0] if fields else {}
            file.write(
                json.dumps(
                    {"ts": f"2026-01-01T00:00:{time:09.6f}Z", "level": level, "component": component, "event": event}
                    | extra
                )
                + "\n"
            )


def _last(lines: list[Line], wanted: LogFilter, count: int) -> list[Line]:
    return [line for _, line in seamed(lines, wanted)[-count:] if line is not None]


@pytest.fixture
def folder(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    return logs


def test_files_are_merged_by_time(folder):
    write(folder, "orders.jsonl", (1, "INFO", "a"), (3, "INFO", "c"))
    write(folder, "collector-binance.jsonl", (2, "INFO", "b"))
    assert [line.event for line in _last(FolderReader(folder).drain(), LogFilter(), 10)] == ["a", "b", "c"]


def test_only_the_last_lines_are_shown_in_order(folder):
    write(folder, "orders.jsonl", *((n, "INFO", f"e{n}") for n in range(9)))
    assert [line.event for line in _last(FolderReader(folder).drain(), LogFilter(), 2)] == ["e7", "e8"]


def test_level_component_and_trace_choose(folder):
    write(folder, "orders.jsonl", (1, "INFO", "a", {"trace_id": "t"}), (2, "ERROR", "b"), (3, "INFO", "c"))
    write(folder, "strategy-0.jsonl", (4, "INFO", "d", {"trace_id": "t"}))
    lines = FolderReader(folder).drain()
    assert [line.event for line in _last(lines, LogFilter(level="WARNING"), 9)] == ["b"]
    assert [line.event for line in _last(lines, LogFilter(trace="t"), 9)] == ["a", "d"]
    assert [line.event for line in _last(lines, LogFilter(components=("strategy",)), 9)] == ["d"]
    assert [line.event for line in _last(lines, LogFilter(components=("strategy:0",)), 9)] == ["d"]


def test_following_reads_on_across_a_turn_of_the_file(folder):
    write(folder, "orders.jsonl", (1, "INFO", "a"))
    reader = FolderReader(folder)
    reader.drain()
    write(folder, "orders.jsonl", (2, "INFO", "b"))
    (folder / "orders.jsonl").rename(folder / "orders.jsonl.1")
    write(folder, "orders.jsonl", (3, "INFO", "c"))
    write(folder, "monitor.jsonl", (4, "INFO", "new file"))
    assert sorted(line.event for line in reader.drain()) == ["b", "c", "new file"]
    assert reader.drain() == []


def test_a_line_being_written_waits_until_it_is_whole(folder):
    file = folder / "postgres.log"
    file.write_text("2026-01-01 00:00:01.000 UTC [1] LOG:  half")
    reader = FolderReader(folder)
    assert reader.drain() == []
    with file.open("a") as stream:
        stream.write(" whole\n")
    assert [line.raw for line in reader.drain()] == ["2026-01-01 00:00:01.000 UTC [1] LOG:  half whole"]


def test_other_programs_lines_get_a_time_and_a_level():
    line = parse("2026-01-01 10:00:00.123 UTC [7] FATAL:  no", "postgres")
    assert (line.time, line.level) == ("2026-01-01T10:00:00.123", "ERROR")
    assert parse("no time here", "ray", "2026-01-01T10:00:00").time == "2026-01-01T10:00:00"
    assert parse('{"not": "ours"}', "sim").raw == '{"not": "ours"}'


def test_an_unknown_component_is_one_clear_line(tmp_path, capsys, folder):
    write(folder, "orders.jsonl", (1, "INFO", "a"))
    assert run(cli, ["--home", str(tmp_path), "logs", "order"]) == 2
    assert "did you mean 'orders'" in click.unstyle(capsys.readouterr().err)


def test_json_lines_can_be_read_by_programs(tmp_path, capsys, folder):
    write(folder, "orders.jsonl", (1, "INFO", "a", {"n": 1}))
    assert run(cli, ["--home", str(tmp_path), "logs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 1


def _seams(lines: list[Line], *names: str) -> list[str]:
    return [seam for seam, _ in seamed(lines, LogFilter(names), Restarts()) if seam]


def test_restart_is_shown_between_the_lines_with_its_reason(folder):
    end = {"child": "orders", "reason": "died: worker exit", "how": "crash", "signal": 9}
    write(
        folder,
        "orders.jsonl",
        (1, "INFO", "a", {"pid": 12}),
        (4, "INFO", "b", {"pid": 34}),
        (5, "INFO", "late", {"pid": 12}),
    )
    write(folder, "supervisor.jsonl", (2, "WARNING", "child.exited", {"pid": 1, **end}))
    write(folder, "guardian.jsonl", (1, "INFO", "a", {"pid": 5}), (4, "INFO", "b", {"pid": 6}))
    lines = FolderReader(folder).drain()
    assert _seams(lines, "orders") == ["── orders restarted: pid 12 → 34, signal 9 (SIGKILL) ──"]
    shown = seamed(lines, LogFilter(("orders",)), Restarts())
    assert [(bool(seam), line.event) for seam, line in shown] == [(False, "a"), (True, "b"), (False, "late")]


def test_a_move_to_another_node_says_where_its_lines_are(folder):
    """Only the supervisor's node has the record of it; the lines themselves are written where the child runs."""
    own = {"component": "strategy:0"}
    write(folder, "strategy-0.jsonl", (1, "INFO", "a", {"pid": 12, **own}), (9, "INFO", "b", {"pid": 34, **own}))
    starts = ((0, "n1"), (3, "w1"), (5, "w1"), (8, "n1"))
    write(
        folder,
        "supervisor.jsonl",
        *((time, "INFO", "child.started", {"pid": 1, "child": "strategy:0", "node": node}) for time, node in starts),
    )
    hint = "where 'fks logs -f strategy:0' shows its lines ──"
    assert _seams(FolderReader(folder).drain(), "strategy:0") == [
        f"── strategy:0 moved: n1 → w1, {hint}",
        f"── strategy:0 moved: w1 → n1, {hint}",
    ]
    assert _seams(FolderReader(folder).drain(), "orders") == []


def test_restarts_of_foreign_programs_come_from_the_keeper(folder):
    died = "postgres (pid 1) died, signal 9"
    (folder / "postgres.log").write_text("2026-01-01 00:00:01.000 UTC [1] LOG:  ready\n")
    write(
        folder,
        "keeper.jsonl",
        (0, "INFO", "service.started", {"service": "postgres", "service_pid": 1}),
        (2, "WARNING", "child.exited", {"child": "postgres", "how": "crash", "signal": 9} | {"reason": died}),
        (3, "INFO", "service.started", {"service": "postgres", "service_pid": 2}),
    )
    assert _seams(FolderReader(folder).drain(), "postgres") == [
        "── postgres restarted: pid 1 → 2, signal 9 (SIGKILL) ──"
    ]
    assert _seams(FolderReader(folder).drain(), "orders") == []


def test_report_of_an_end_follows_the_lines_of_the_ended_process(folder):
    """The first line of a new process may be read only when the line about the old one's end has been written."""
    for name in ("supervisor.jsonl", "keeper.jsonl", "zebra.jsonl"):
        write(folder, name, (1, "INFO", name.partition(".")[0]))
    assert [line.event for line in FolderReader(folder).drain()] == ["zebra", "keeper", "supervisor"]
