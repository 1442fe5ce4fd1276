"""Recovery times after faults: writes the table of docs/recovery.md, of which README.md shows some rows.

    python benchmarks/recovery.py [--repeat 3] [--only NAME …] [--json FILE] [--home RUNNING] [--write]

A whole demo system with its defaults, trading on the local exchange, in a temporary FKS_HOME; every fault is injected
`repeat` times, from outside, and timed by observers that are no part of it. Detected and serving are seconds from the
fault; p50 and the worst are shown beside the limit, and the worst decides. At the end of each system the auditor
compares it with a baseline from before the first fault. Exit 1 when a limit is missed, when the auditor finds
something, or when it could recompute no decision of a strategy.

--write replaces the measured rows in docs/recovery.md; then `python scripts/readme.py --write` for README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.faults import actors, nodes, parts
from benchmarks.faults.rig import ACTORS, Missed, Rig, Sample
from fks.lab.chaos.auditor import Audit, audit_evidence
from fks.lab.chaos.evidence import Baseline, collect, take_baseline
from fks.model.errors import OutageError

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "recovery.md"
BEGIN, END = "<!-- figures -->", "<!-- end -->"
SETTLE_S = 20.0  # rows that are younger may still be under way
HEARTBEAT_S = 1.0  # the default; three missed ones are a hang
UNWELL_S = 130.0  # bars may wait for 10 s, and the check may fail for 120 s
Fault = Callable[[Rig], Awaitable[dict[str, Sample]]]


@dataclass(frozen=True)
class Row:
    """One fault. Limits in seconds, None where there is none; `lines` overrides them per line it returns."""

    run: Fault
    detected: float | None = None
    serving: float | None = None
    lines: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    place: str = "demo"

    def limits(self, line: str) -> tuple[float | None, float | None]:
        return self.lines.get(line, (self.detected, self.serving))


def table() -> dict[str, Row]:
    """Return every row, in the order in which they do the least harm to each other."""
    hung = (3 * HEARTBEAT_S, 3 * HEARTBEAT_S + 2.0)
    rows = {
        f"kill-{name.split(':')[0]}": Row(partial(actors.killed, name=name), 0.5, 2.0)
        for name in ACTORS
        if not name.startswith("collector")
    }
    return rows | {
        "kill-collector": Row(actors.collector, 0.5, 2.0, {"  its feeds live": (None, 4.0)}),
        "feed-away": Row(actors.feed_away, 0.5, actors.AWAY_S + 8.0),
        "stop-strategy": Row(partial(actors.stopped, name="strategy:0"), *hung),
        "stop-orders": Row(partial(actors.stopped, name="orders"), *hung),
        "blocked": Row(actors.blocked, *hung),
        "stop-starting": Row(actors.stopped_starting, 7.0, 10.0),
        "locked": Row(partial(actors.locked, name="its writes wait for a lock"), 15.0, 20.0),
        "unwell": Row(
            partial(actors.locked, name="self-check failed"), UNWELL_S + 5.0, UNWELL_S + 10.0, place="locked"
        ),
        "memory": Row(actors.memory, 3.0, 6.0, place="ceiling"),
        "supervisor": Row(actors.supervisor, None, 5.0),
        "replica": Row(parts.replica),
        "proxy": Row(parts.proxy, None, 5.0),
        "controller": Row(parts.controller, None, 0.0),
        "postgres": Row(parts.postgres, 2.0, 3.0),
        "redis": Row(parts.cache, 2.0, None),
        "keeper": Row(parts.keeper, None, None),
        "gcs-stored": Row(parts.gcs_stored, 1.0, 5.0),
        "gcs": Row(parts.gcs, 1.0, 40.0, place="memory"),
        "raylet": Row(nodes.raylet, 4.0, 8.0, place="cluster"),
        "kill-apart": Row(partial(nodes.apart, how="kill"), 2.0, 6.0, place="apart"),
        "stop-apart": Row(partial(nodes.apart, how="stop"), 3.5, 10.0, place="apart"),
        "raylet-apart": Row(partial(nodes.apart, how="raylet"), 4.0, 8.0, place="apart"),
        "orders-1000": Row(actors.orders_full, 0.5, 3.0, place="markets"),
    }


#: What a row's system is started with beyond the defaults: a home of its own each.
PLACES = {
    "demo": {},
    "memory": {"FKS_RAY_STORAGE": "none"},  # the GCS in memory: its death is the node's
    "ceiling": {"FKS_SUPERVISION_MEMORY_MAX_MB": "800"},  # the default, 2048, is more than a shared machine spares
    "locked": {"FKS_SUPERVISION_LEASE_LOST_S": "600"},  # else the lease is found first
    "cluster": {},
    "apart": {},  # as "cluster", with each worker in namespaces of its own: as root
    "markets": {"FKS_DATA_SYMBOLS": "BTCUSDT,ETHUSDT,SOLUSDT,AVAXUSDT,SUIUSDT"},  # each holds 200 orders
}


@dataclass
class Line:
    """A line of the table: every sample of it, and the result against the limits."""

    name: str
    key: str
    limits: tuple[float | None, float | None]
    samples: list[Sample] = field(default_factory=list)
    load: float = 0.0  # of the machine, the highest seen: on 2 cores a load of 10 makes a start five times as long

    def verdict(self) -> str:
        """Return "ok", or what is wrong with it."""
        wrong = [text for sample in self.samples for text in sample.wrong]
        for limit, values in zip(self.limits, self.values(), strict=True):
            if limit is not None and any(value > limit for value in values):
                wrong.append("over the limit")
        return "; ".join(dict.fromkeys(wrong)) or "ok"

    def cells(self, day: str) -> str:
        """Return the row of docs/recovery.md: p50 (worst) of each and its limit, when and how it was measured."""
        found = []
        for limit, values in zip(self.limits, self.values(), strict=True):
            text = f"{statistics.median(values):.2f} ({max(values):.2f})" if values else "-"
            found.append(f"{text} | {shown(limit)}")
        measured = f"{day}, {len(self.samples)} at load {self.load:.1f}"
        measured += "" if (verdict := self.verdict()) == "ok" else f": {verdict.replace('|', '/')}"
        return f"| {self.name.strip()} | `{self.key}` | {' | '.join(found)} | {measured} |"

    def values(self) -> tuple[list[float], list[float]]:
        """Return the detection times and the serving times."""
        detected = [s.detected for s in self.samples if s.detected is not None]
        return detected, [s.serving for s in self.samples if s.serving is not None]

    def text(self) -> str:
        cells = [f"{self.name:<46}{len(self.samples):>3}"]
        for limit, values in zip(self.limits, self.values(), strict=True):
            cells += [f"{statistics.median(values):8.2f}{max(values):8.2f}" if values else f"{'-':>8}{'-':>8}"]
            cells += [f"{limit:7.1f}" if limit is not None else f"{'-':>7}"]
        return "".join(cells) + f"{self.load:6.1f}  {self.verdict()}"


def shown(limit: float | None) -> str:
    """Return a limit as docs/recovery.md shows it."""
    return "-" if limit is None else f"{limit:g}"


def written(page: str, lines: Iterable[Line], day: str) -> str:
    """Return docs/recovery.md with the rows of these faults replaced; the others stay as they were measured."""
    before, _, rest = page.partition(f"{BEGIN}\n")
    body, _, after = rest.partition(END)
    head, places = body.splitlines()[:2], list(table())
    rows = [(row.split("|")[2].strip(" `"), row) for row in body.splitlines()[2:]]
    new = [(line.key, line.cells(day)) for line in lines]
    kept = [(key, row) for key, row in rows if key in places and key not in {key for key, _ in new}]
    ordered = sorted([*kept, *new], key=lambda item: places.index(item[0]))
    return "\n".join([f"{before}{BEGIN}", *head, *(row for _, row in ordered), f"{END}{after}"])


def write(page: Path, lines: Iterable[Line]) -> None:
    """Replace the rows of these faults in docs/recovery.md, as measured today."""
    page.write_text(written(page.read_text(), lines, f"{datetime.now(UTC):%Y-%m-%d}"))


HEAD = (
    f"{'fault':<46}{'n':>3}{'detect':>8}{'max':>8}{'limit':>7}{'serving':>8}{'max':>8}{'limit':>7}{'load':>6}  verdict"
)


async def measure(rig: Rig, names: list[str], repeat: int, page: Path | None) -> dict[str, Line]:
    """Run the rows, printing each line, and writing it into the page, as soon as it is complete."""
    lines: dict[str, Line] = {}
    rows = table()
    for name in names:
        mine: list[str] = []
        for _ in range(repeat):
            try:
                await rig.healthy()
                found = await rows[name].run(rig)
            except Missed as error:
                found = {name: Sample(wrong=[str(error)])}
            for line, sample in found.items():
                row = lines.setdefault(line, Line(line, name, rows[name].limits(line)))
                row.samples.append(sample)
                row.load = max(row.load, os.getloadavg()[0])
                mine += [line] if line not in mine else []
        for line in mine:
            print(lines[line].text(), flush=True)
            if note := next((s.note for s in reversed(lines[line].samples) if s.note), ""):
                print(f"{'':<6}{note}", flush=True)
        if page is not None:
            write(page, [lines[line] for line in mine])
    return lines


def problems(found: Audit, *, is_cluster: bool) -> list[str]:
    """Return what an audit found, and what keeps it from being a proof. The processes of a cluster's other machines
    are none of this one's table, so what leaked is not compared there."""
    wrong = [f"{v.check}: {v.text}" for v in found.violations if v.check != "leaked" or not is_cluster]
    wrong += [] if found.is_whole else ["no proof: an execution is on its way, so positions could not be compared"]
    return wrong + ([] if found.decisions else ["no proof: no decision was recomputed"])


async def sound(rig: Rig, baseline: Baseline) -> list[str]:
    """Return the problems that the auditor finds at the end, once all is settled."""
    wrong: list[str] = []
    try:
        await rig.healthy()
        for _ in range(30):
            found = audit_evidence(await collect(rig.outside, baseline), settle_s=SETTLE_S)
            if not (wrong := problems(found, is_cluster=rig.cluster is not None)):
                break
            await asyncio.sleep(1.0)
    except (Missed, OutageError) as error:
        print(f"at the end: {error}", flush=True)
        return [str(error)]
    print(
        f"audit: {found.orders} orders, {found.fills} fills, {found.signals} signals, {found.bars} bars, "
        f"{found.positions} positions, {found.decisions} decisions recomputed: {'; '.join(wrong) or 'sound'}",
        flush=True,
    )
    return wrong


async def at_place(
    place: str, names: list[str], repeat: int, home: Path | None, page: Path | None, **settings: str
) -> tuple[dict[str, Line], list[str]]:
    """Run rows on one system: the one that runs in `home`, else a new one that is taken down afterwards."""
    with tempfile.TemporaryDirectory(prefix="fks-rec-") as made:
        os.chmod(made, 0o755)  # the database's own user must come through
        if home is None and place in ("cluster", "apart"):
            cluster = await asyncio.to_thread(partial(nodes.up, Path(made), is_apart=place == "apart"))
            rig = Rig(cluster.head, cluster)
        else:
            rig = Rig.at(home or Path(made) / "home", **settings)
        try:
            if home is None and rig.cluster is None:
                await asyncio.to_thread(rig.system.up)
            await rig.healthy()
            baseline = await take_baseline(rig.outside)
            lines = await measure(rig, names, repeat, page)
            return lines, await sound(rig, baseline)
        finally:
            await rig.close()
            if rig.cluster is not None:
                await asyncio.to_thread(rig.cluster.stop)
            elif home is None:
                await asyncio.to_thread(rig.system.down)


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(table()), help="these faults alone")
    parser.add_argument("--json", type=Path, help="write every sample there")
    parser.add_argument("--write", action="store_true", help="replace the measured rows in docs/recovery.md")
    parser.add_argument("--home", type=Path, help="use what runs in this FKS_HOME, and leave it running")
    parser.add_argument("--list", action="store_true", help="print the names of the faults and end")
    options = parser.parse_args()
    if options.list:
        print("\n".join(table()))
        return 0
    task, page = asyncio.current_task(), PAGE if options.write else None
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # what it started ends with it
    names, rows = options.only or list(table()), table()
    lines: dict[str, Line] = {}
    wrong: list[str] = []
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n{HEAD}", flush=True)
    for place, settings in PLACES.items():
        if here := [name for name in names if rows[name].place == place]:
            found, here_wrong = await at_place(place, here, options.repeat, options.home, page, **settings)
            lines |= found
            wrong += here_wrong
    if options.json:
        options.json.write_text(json.dumps({name: asdict(line) for name, line in lines.items()}, indent=1))
    return 1 if wrong or any(line.verdict() != "ok" for line in lines.values()) else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
