"""No order earns on walks without drift."""

from __future__ import annotations

from tests.support.fair_game import Edge, edges_of, games, results, trades_of

TAPES = 8
T_MOST = 3.0


def test_no_order_earns_on_walks_without_drift() -> None:
    """The mean profit of trades, and of fills against the close of their bar, in standard errors."""
    trades, fills = {}, dict[tuple[str, str], list[float]]()
    for entry, exits in games():
        made = results(entry, exits, TAPES)
        trades[entry, exits] = trades_of(made)
        for kind, ticks in edges_of(made, entry).items():
            fills.setdefault(kind, []).extend(ticks)
    edges = trades | {kind: Edge.of(ticks) for kind, ticks in fills.items()}
    assert {kind: edge for kind, edge in edges.items() if edge.t > T_MOST} == {}
    assert min(edge.count for edge in edges.values()) > 150, edges
    assert min(edges[kind].error for kind in fills) < 0.25


def test_fills_that_are_two_ticks_too_good_are_found() -> None:
    ticks = edges_of(results("limit", "stop 5, target 5", 5 * TAPES), "limit")["entry", "limit"]
    assert abs(Edge.of(ticks).t) < T_MOST
    assert Edge.of([one + 2.0 for one in ticks]).t > T_MOST
