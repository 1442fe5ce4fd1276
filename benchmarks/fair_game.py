"""Ticks that orders earn or lose on walks without drift: the cost of the readings of a bar.

    python benchmarks/fair_game.py [--tapes 200] [--write]

No order can earn on such a walk, without costs. Where a bar does not show which of two prices came first, the fill rule
takes the worse reading, and the mean profit of a trade is below 0 by that cost. Some fills are compared with the
reference engine's. Exits 1 when they differ, or where a mean is more than three standard errors above 0. All walks are
seeded: the same numbers each time. `--write` puts the table into docs/backtest.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._results import run, same
from fks.research.backtest import Result
from tests.support.fair_game import ENTRIES, EXITS, Edge, edges_of, games, results, trades_of

T_MOST = 3.0
PAGE = Path(__file__).resolve().parents[1] / "docs" / "backtest.md"
BEGIN, END = "<!-- fair game -->\n", "<!-- end of fair game -->"


def table(edges: Iterable[tuple[str, str, Edge]]) -> list[str]:
    """Return the rows of a Markdown table: the mean of a trade and its standard error, in ticks."""
    means = {(entry, exits): f"{edge.mean:+.2f} ± {edge.error:.2f}" for entry, exits, edge in edges}
    rows = [" | ".join(["| Exits", *ENTRIES, ""]).rstrip(), "|---" * (len(ENTRIES) + 1) + "|"]
    for exits in EXITS:
        rows.append(f"| {exits} | {' | '.join(means[entry, exits] for entry in ENTRIES)} |")
    return rows


def compare(made: list[Result], entry: str, exits: str) -> None:
    """Compare the fills of one walk with those of the reference engine."""
    (other,) = results(entry, exits, 1, engine="reference")
    same(f"the fills of {entry}, {exits}", made[0].fills_hash, other.fills_hash)


def write(rows: list[str]) -> None:
    """Put the table into the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + "\n".join(rows) + "\n" + END + after)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tapes", type=int, default=200)
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    edges, fills = list[tuple[str, str, Edge]](), dict[tuple[str, str], list[float]]()
    for entry, exits in games():
        made = results(entry, exits, chosen.tapes)
        compare(made, entry, exits)
        edges.append((entry, exits, trades_of(made)))
        for kind, ticks in edges_of(made, entry).items():
            fills.setdefault(kind, []).extend(ticks)
    print("\n".join(table(edges)))
    print("\nFills against the close of their bar:")
    of_fills = [(*kind, Edge.of(ticks)) for kind, ticks in fills.items()]
    for role, kind, edge in of_fills:
        print(f"{role:8} {kind:36} {edge.count:>9,} {edge.mean:+7.3f} ticks, t {edge.t:+6.1f}")
    if chosen.write:
        write(table(edges))
    best = max((edge for *_, edge in (*edges, *of_fills)), key=lambda edge: edge.t)
    print(f"the best t is {best.t:+.1f}, the limit {T_MOST:+.1f}")
    return int(best.t > T_MOST)


if __name__ == "__main__":
    run(main)
