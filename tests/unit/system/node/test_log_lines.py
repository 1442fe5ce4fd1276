"""JSON log lines: their shape, the secrets they may not show, and the guarantees for several writers of one file."""

from __future__ import annotations

import json
import logging
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.config.paths import Paths
from fks.config.settings import LogSettings
from fks.system.process.log import TEXT_MAX, Redactor, SharedRotatingHandler, last_output, log_file, open_log, tail

SECRET = "hK3mZ0-not-to-be-seen-anywhere-91"


@pytest.fixture
def paths(tmp_path):
    return Paths.of(tmp_path)


def lines_of(paths, component="orders"):
    return [json.loads(line) for line in log_file(paths, component).read_text().splitlines()]


def test_line_has_time_level_component_event_and_fields(paths):
    log = open_log("orders", paths, LogSettings(), (SECRET,))
    log.info("order.sent", symbol="BTCUSDT", trace_id="t-1", attempt=2)
    (line,) = lines_of(paths)
    assert {
        "level": "INFO",
        "component": "orders",
        "event": "order.sent",
        "symbol": "BTCUSDT",
        "attempt": 2,
    }.items() <= line.items()
    assert line["ts"].endswith("Z")
    assert len(line["ts"]) == len("2026-01-01T00:00:00.000000Z")  # a fixed width sorts as text


def test_an_event_without_fields_is_no_foreign_line(paths):
    open_log("orders", paths, LogSettings()).info("orders.ready")
    assert "message" not in lines_of(paths)[0]


def test_the_file_is_for_its_owner_only(paths):
    open_log("orders", paths, LogSettings()).info("x")
    assert stat.S_IMODE(log_file(paths, "orders").stat().st_mode) == 0o600


def test_lower_levels_are_not_written(paths):
    log = open_log("orders", paths, LogSettings(level="WARNING"))
    log.info("quiet")
    log.warning("loud")
    assert [line["event"] for line in lines_of(paths)] == ["loud"]


def test_an_error_in_an_except_block_carries_its_traceback(paths):
    log = open_log("orders", paths, LogSettings())
    try:
        raise ValueError("boom")
    except ValueError:
        log.error("orders.crashed")
    assert "ValueError: boom" in lines_of(paths)[0]["traceback"]


def test_warnings_of_libraries_go_to_the_components_file(paths):
    open_log("orders", paths, LogSettings(), (SECRET,))
    logging.getLogger("aiohttp.client").warning("cannot connect with %s", SECRET)
    (line,) = lines_of(paths)
    assert (line["event"], line["logger"]) == ("log", "aiohttp.client")
    assert SECRET not in json.dumps(line)


def test_opening_a_log_twice_does_not_double_its_lines(paths):
    open_log("orders", paths, LogSettings())
    open_log("orders", paths, LogSettings()).info("once")
    assert len(lines_of(paths)) == 1


def test_replicas_of_the_gateway_share_a_file(paths):
    assert log_file(paths, "gateway:3f2a") == log_file(paths, "gateway:77aa") == paths.logs / "gateway.jsonl"
    assert log_file(paths, "collector:binance") == paths.logs / "collector-binance.jsonl"


@pytest.mark.parametrize(
    "text",
    [
        f"value {SECRET} inside",
        "Authorization: Bearer abcdefgh12345678",
        "postgresql://fks:hunter2hunter2@/fks?host=%2Ftmp",
        "unix://:hunter2hunter2@/tmp/redis.sock",
        "GET /api/v3/order?symbol=BTCUSDT&signature=deadbeefdeadbeef",
        '{"apiKey": "abcdef0123456789"}',
        "password=hunter2hunter2 rest",
    ],
)
def test_text_that_holds_a_secret_is_cleaned(text):
    cleaned = Redactor((SECRET,)).text(text)
    for secret in (SECRET, "hunter2", "abcdefgh12345678", "deadbeefdeadbeef", "abcdef0123456789"):
        assert secret not in cleaned
    assert "***" in cleaned


def test_fields_named_like_secrets_are_hidden_at_every_depth(paths):
    log = open_log("orders", paths, LogSettings())
    log.info("x", api_key="k-value", nested={"password": "p-value", "list": [{"token": "t-value"}]}, symbol="BTC")
    text = log_file(paths, "orders").read_text()
    assert not any(secret in text for secret in ("k-value", "p-value", "t-value"))
    assert lines_of(paths)[0]["symbol"] == "BTC"


@given(st.text(max_size=40), st.text(max_size=40))
def test_known_secret_is_removed_from_any_text(before, after):
    assert SECRET not in Redactor((SECRET,)).text(before + SECRET + after)


@pytest.mark.parametrize("shown", [4, 20, len(SECRET) - 1])
def test_a_secret_where_a_text_is_cut_is_removed(paths, shown):
    before = "x " * (TEXT_MAX // 2)
    log = open_log("orders", paths, LogSettings(), (SECRET,))
    log.info("order.sent", detail=before[:-shown] + SECRET)
    logging.getLogger().warning(before[:-shown] + SECRET)
    try:
        raise ValueError(before[: -shown - len("ValueError: ")] + SECRET + before)
    except ValueError:
        logging.getLogger().exception("order failed")
    assert SECRET[:4] not in log_file(paths, "orders").read_text()


def test_a_full_file_is_turned_over_and_older_ones_are_kept(tmp_path):
    file = tmp_path / "x.jsonl"
    handler = SharedRotatingHandler(file, bytes_max=1000, files_kept=2)
    for number in range(100):
        handler.emit(logging.makeLogRecord({"msg": f"line {number:03} {'.' * 40}"}))
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"x.jsonl", "x.jsonl.1", "x.jsonl.2"}
    assert max(sizes.values()) <= 1000
    assert "line 099" in file.read_text()


def test_two_writers_of_one_file_turn_it_over_once_and_lose_nothing(tmp_path):
    file = tmp_path / "x.jsonl"
    writers = [SharedRotatingHandler(file, bytes_max=2000, files_kept=9) for _ in range(2)]
    for number in range(120):
        writers[number % 2].emit(logging.makeLogRecord({"msg": f"line {number:03} {'.' * 60}"}))
    text = "".join(path.read_text() for path in tmp_path.iterdir())
    assert sorted(int(line.split()[1]) for line in text.splitlines()) == list(range(120))


def test_a_writer_follows_when_its_file_was_moved_away(tmp_path):
    file = tmp_path / "x.jsonl"
    handler = SharedRotatingHandler(file)
    handler.emit(logging.makeLogRecord({"msg": "one"}))
    file.rename(tmp_path / "moved")
    handler.emit(logging.makeLogRecord({"msg": "two"}))
    assert file.read_text() == "two\n"


def test_tail_shows_the_last_lines_without_secrets(tmp_path):
    file = tmp_path / "x.log"
    file.write_text("old\n" * 50 + f"token {SECRET}\nlast\n")
    assert tail(file, 2, Redactor((SECRET,))) == ["token ***", "last"]
    assert tail(file, 5, Redactor(), since=file.stat().st_size - 5) == ["last"]
    assert tail(tmp_path / "none", 5, Redactor()) == []


def test_last_output_leaves_the_traceback_out(tmp_path):
    file = tmp_path / "x.log"
    file.write_text(
        'starting\nTraceback (most recent call last):\n  File "/x.py", line 1, in <module>\n    import y\n    '
        "^^^^^^^^\n"
        f"ModuleNotFoundError: No module named 'y' {SECRET}\n"
    )
    assert last_output(file, 5, Redactor((SECRET,))) == "    starting\n    ModuleNotFoundError: No module named 'y' ***"
    assert last_output(tmp_path / "none", 5, Redactor()) == ""
