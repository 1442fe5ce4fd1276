"""The kinds of fault: effect, targets, duration, frequency. One table; the docs print it."""

from __future__ import annotations

from dataclasses import dataclass, field

ACTORS, SERVICES, ANSWERING = "actors", "services", "answering"  # answering: services that hang when they are stopped
ORDERS_PATH = "/api/v3/order"


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One kind of fault. `on`: a group of targets, or their names; `seconds`: how long it lasts, from and to.

    `amount` is the range of the kind's own number (a clock's jump in seconds). `is_alone`: no other fault is injected
    until this one is over, because it stops the whole system. `is_seen`: the system is expected to notice and to record
    it; a fault that it heals silently (a cut connection) has no moment of detection.
    """

    name: str
    help: str
    weight: float
    on: str | tuple[str, ...]
    seconds: tuple[float, float] = (0.0, 0.0)
    amount: tuple[float, float] = (0.0, 0.0)
    is_alone: bool = False
    is_seen: bool = True


KINDS: dict[str, FaultKind] = {
    kind.name: kind
    for kind in (
        FaultKind("kill", "kill -9 of an actor", 30, ACTORS),
        FaultKind("kill-service", "kill -9 of PostgreSQL, Redis or the exchange", 9, SERVICES),
        FaultKind("kill-replica", "kill -9 of a gateway replica", 4, ("gateway:first", "gateway:last")),
        FaultKind("kill-serve", "kill -9 of Serve's proxy or controller", 3, ("proxy", "controller"), is_seen=False),
        FaultKind("kill-ray", "kill -9 of the GCS or the raylet", 1, ("gcs", "raylet"), is_alone=True),
        FaultKind(
            "kill-keeper",
            "kill -9 of the keeper; `fks up` after the time given",
            1,
            ("keeper",),
            (1, 4),
            is_alone=True,
            is_seen=False,
        ),
        FaultKind(
            "power-cut",
            "kill -9 of every process at once; `fks up` after the time given",
            0.5,
            ("node",),
            (0.5, 2),
            is_alone=True,
            is_seen=False,
        ),
        FaultKind(
            "stop",
            "SIGSTOP of an actor, SIGCONT after the time given: a zombie when it was replaced",
            8,
            ACTORS,
            (2, 9),
        ),
        FaultKind("stop-service", "SIGSTOP of Redis or the exchange", 3, ANSWERING, (2, 8), is_seen=False),
        FaultKind("restart", "an orderly restart of a service", 5, SERVICES),
        FaultKind("flush-redis", "FLUSHALL: every cache is gone", 3, ("redis",), is_seen=False),
        FaultKind("cut-database", "pg_terminate_backend of a component's connections", 6, ACTORS, is_seen=False),
        FaultKind("cut-redis", "CLIENT KILL of everybody", 4, ("redis",), is_seen=False),
        FaultKind("pause-redis", "Redis answers nobody for a while", 3, ("redis",), (1, 6), is_seen=False),
        FaultKind("cut-streams", "every websocket to the exchange is cut", 5, ("sim",), is_seen=False),
        FaultKind(
            "freeze-streams", "the exchange's sockets stay open and say nothing", 3, ("sim",), (3, 12), is_seen=False
        ),
        FaultKind("half-open", "the exchange's open sockets never answer again", 3, ("sim",), (3, 10), is_seen=False),
        FaultKind("refuse", "every request to the exchange is dropped", 4, ("sim",), (1, 8), is_seen=False),
        FaultKind("no-space", "the journal cannot be written: disk full", 4, ("postgres",), (1, 6), is_seen=False),
        FaultKind(
            "clock",
            "the clock jumps, the exchange's or everybody else's",
            5,
            ("sim", "node"),
            (2, 8),
            (-8, 8),
            is_seen=False,
        ),
        FaultKind(
            "order-fault",
            "an order's answer or report goes wrong",
            12,
            (
                "accept_then_cut",
                "truncate",
                "answer_after",
                "http_500",
                "503",
                "504_1007",
                "html_502",
                "429",
                "busy_1008",
                "drop",
                "latency",
                "hide_order",
                "lose_report",
                "duplicate_report",
                "reorder_reports",
                "trade_gap",
            ),
            (5, 12),
            is_seen=False,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """Weights of kinds, their targets (kind -> names; else the kind's own), and fixed injections.

    `fixed` holds (at_s, kind, target, seconds, amount) lines that are injected exactly as written, beside the drawn
    ones.
    """

    name: str
    help: str
    weights: dict[str, float]
    targets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    fixed: tuple[tuple[float, str, str, float, float], ...] = ()


def _of(*names: str) -> dict[str, float]:
    return {name: KINDS[name].weight for name in names}


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("all", "everything there is, Ray, keeper and power cuts rarely", _of(*KINDS)),
        Scenario(
            "short",
            "what heals in seconds: for a run of a minute or two",
            {name: kind.weight for name, kind in KINDS.items() if not kind.is_alone},
        ),
        Scenario(
            "kills", "kill -9 of actors, services, replicas", _of("kill", "kill-service", "kill-replica", "kill-serve")
        ),
        Scenario("zombies", "SIGSTOP and SIGCONT: what was replaced wakes up", _of("stop", "stop-service")),
        Scenario(
            "partitions",
            "sockets cut, frozen, half open, refused",
            _of("cut-database", "cut-redis", "pause-redis", "cut-streams", "freeze-streams", "half-open", "refuse"),
        ),
        Scenario(
            "storage",
            "PostgreSQL and Redis: killed, restarted, full, flushed",
            _of("restart", "flush-redis", "no-space", "cut-database", "cut-redis") | {"kill-service": 9},
            {"restart": ("postgres", "redis"), "kill-service": ("postgres", "redis")},
        ),
        Scenario(
            "exchange",
            "the exchange dies, lies, repeats itself and loses its clock",
            _of("order-fault", "clock", "refuse", "cut-streams", "freeze-streams", "half-open")
            | {"kill-service": 3, "stop-service": 2},
            {"kill-service": ("sim",), "stop-service": ("sim",)},
        ),
        Scenario(
            "ray",
            "the GCS, the raylet, Serve, the supervisor, the keeper, the whole machine",
            _of("kill-ray", "kill-serve", "kill-keeper", "power-cut") | {"kill": 2},
            {"kill": ("supervisor",)},
        ),
    )
}
