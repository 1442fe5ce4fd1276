"""Response to a strategy's crashes: properties of the pure decision, and the mark that outlives a process."""

from __future__ import annotations

import os
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fks.system.process.crash_marker import CrashMarker
from fks.system.supervision.containment import SHARED_MAX, SOLO_MAX, Count, Disable, Isolate, respond_to_crash

WINDOW_S = 100.0
#: seconds between one crash and the next
gaps = st.lists(st.floats(0, 300, allow_nan=False), min_size=1, max_size=30)


def _run(between: list[float]) -> list[tuple[str, bool]]:
    """Return (verdict, was it alone) of crashes that far apart, until it is switched off."""
    crashes, is_isolated, found = 0, False, []
    since: float | None = None
    for gap in between:
        verdict = respond_to_crash(crashes=crashes, is_isolated=is_isolated, since_last_s=since, window_s=WINDOW_S)
        found.append((type(verdict).__name__, is_isolated))
        crashes, since = verdict.crashes, gap
        is_isolated = is_isolated or isinstance(verdict, Isolate)
        if isinstance(verdict, Disable):
            break
    return found


@given(gaps)
def test_isolated_before_disabled_and_never_after_one_crash(between: list[float]) -> None:
    found = _run(between)
    verdicts = [verdict for verdict, _ in found]
    assert verdicts[0] == "Count"
    assert verdicts.count("Isolate") <= 1
    assert verdicts.count("Disable") <= 1
    if "Disable" in verdicts:
        assert "Isolate" in verdicts[: verdicts.index("Disable")]
    for place, (verdict, was_alone) in enumerate(found):
        assert (verdict == "Disable") <= was_alone
        assert (verdict == "Isolate") <= (not was_alone)
        if verdict in ("Isolate", "Disable"):  # two within the window brought it about, and both of this stage
            assert between[place - 1] <= WINDOW_S
            assert found[place - 1] == ("Count", was_alone)


@given(st.integers(SHARED_MAX + SOLO_MAX, 12))
def test_quick_crashes_take_exactly_this_many(count: int) -> None:
    assert [verdict for verdict, _ in _run([1.0] * count)] == ["Count", "Isolate", "Count", "Disable"]


@given(st.lists(st.floats(101, 1e6), min_size=1, max_size=20))
def test_rare_crashes_are_only_counted(between: list[float]) -> None:
    assert {verdict for verdict, _ in _run(between)} == {"Count"}


@given(st.integers(0, 100), st.booleans(), st.one_of(st.none(), st.floats(-1e6, 1e6)))
def test_every_input_has_a_response(crashes: int, is_isolated: bool, since: float | None) -> None:
    verdict = respond_to_crash(crashes=crashes, is_isolated=is_isolated, since_last_s=since, window_s=WINDOW_S)
    assert isinstance(verdict, Count | Isolate | Disable)
    assert verdict.crashes >= 1


@given(st.text(min_size=1, max_size=100), st.integers(0, 2**62), st.integers(0, 2**62), st.integers(0, 2**62))
def test_a_mark_is_read_as_it_was_set(name: str, at_ns: int, bar_ns: int, epoch: int) -> None:
    path = Path(f"/tmp/fks-inhand-{os.getpid()}")
    try:
        hand = CrashMarker(path)
        hand.set(name, at_ns=at_ns, bar_ns=bar_ns, epoch=epoch)
        found = CrashMarker(path).left()
        assert found is not None
        assert (found.at_ns, found.bar_ns, found.epoch) == (at_ns, bar_ns, epoch)
        assert name.startswith(found.instance.rstrip("\ufffd"))
        hand.clear()
        assert CrashMarker(path).left() is None
        hand.close()
    finally:
        path.unlink(missing_ok=True)


def test_invalid_mark_attributes_no_crash(tmp_path: Path) -> None:
    for content in (b"", b"x", bytes(512), b"FKS1" + b"\xff" * 40, os.urandom(512)):
        (tmp_path / "m").write_bytes(content)
        assert CrashMarker(tmp_path / "m").left() is None
    assert CrashMarker(None).left() is None
    assert CrashMarker(tmp_path / "missing").left() is None


def test_a_disk_that_takes_nothing_costs_no_evaluation(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    hand = CrashMarker(tmp_path / "file" / "below")  # a folder that cannot be made
    with hand.holding("a", at_ns=1, bar_ns=2, epoch=3):
        pass


def test_a_mark_costs_microseconds(tmp_path: Path) -> None:
    hand = CrashMarker(tmp_path / "m")
    best = min(_batch(hand) for _ in range(5))
    assert best < 20e-6, f"{best * 1e6:.1f} us"


def _batch(hand: CrashMarker) -> float:
    start = time.perf_counter()
    for number in range(500):
        hand.set("sma-btc", at_ns=number, bar_ns=number, epoch=1)
        hand.clear()
    return (time.perf_counter() - start) / 1000
