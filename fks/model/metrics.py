"""The table of metrics: name, kind, labels and help text. Docs, the exporter and the meter read this one table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One row. `kind` is counter, gauge or histogram; every series also has the label `component`."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


METRICS: dict[str, Metric] = {
    row.name: row
    for row in (
        Metric("fks_bars_sealed_total", "counter", ("symbol", "timeframe"), "bars sealed and handed on"),
        Metric("fks_market_trades_total", "counter", ("symbol",), "public trades received"),
        Metric("fks_feed_age_seconds", "gauge", ("symbol",), "age of the last market data message"),
        Metric("fks_feed_reconnects_total", "counter", ("exchange",), "market data sockets dialled again"),
        Metric("fks_feed_outages_total", "counter", ("cause",), "feeds that were not live for a while and are again"),
        Metric(
            "fks_market_dropped_total",
            "counter",
            ("channel",),
            "market data dropped: a reader was slow (trades are fetched again), or the symbol left (`left`)",
        ),
        Metric(
            "fks_market_conflated_total",
            "counter",
            ("channel",),
            "prices, quotes, books and open bars that a newer one replaced before they were taken",
        ),
        Metric(
            "fks_market_unknown_total",
            "counter",
            ("kind",),
            "unknown messages and fields of exchanges; they do no harm, but a protocol has changed",
        ),
        Metric(
            "fks_missing_bars", "gauge", ("exchange",), "bars missing in series that are kept whole, when last looked"
        ),
        Metric(
            "fks_forecasts_late_total", "counter", (), "bars that a version in shadow or live did not predict in time"
        ),
        Metric("fks_model_state", "gauge", ("model", "state"), "1 for the state that a deployed model is in, else 0"),
        Metric("fks_model_replicas", "gauge", ("model",), "processes that a deployed model is to have"),
        Metric("fks_model_replicas_ready", "gauge", ("model",), "those of them that answer"),
        Metric(
            "fks_model_requests_open",
            "gauge",
            ("model", "stage"),
            "requests that a process of a deployed model has: working, waiting",
        ),
        Metric(
            "fks_model_requests_total",
            "counter",
            ("model", "state"),
            "requests to a process of a deployed model by outcome: answered, busy, late, failed, cancelled",
        ),
        Metric("fks_model_tokens_total", "counter", ("model",), "tokens that a process of a language model wrote"),
        Metric("fks_forecasts_failed_total", "counter", (), "bars of which a deployed model made no finite number"),
        Metric("fks_alert_deliveries_total", "counter", ("channel", "state"), "attempts to deliver alerts, by outcome"),
        Metric(
            "fks_monitor_faults_total", "counter", ("kind",), "faults in a part of the monitor, which go on being tried"
        ),
        Metric("fks_signals_total", "counter", ("state",), "signals by outcome"),
        Metric("fks_orders_total", "counter", ("state",), "orders by state entered"),
        Metric("fks_denials_total", "counter", ("code",), "intents denied, by code"),
        Metric("fks_fills_total", "counter", ("symbol",), "fills booked"),
        Metric("fks_orders_open", "gauge", ("state",), "open orders by state"),
        Metric("fks_order_send_seconds", "histogram", (), "claim of a signal to the first byte at the venue"),
        Metric("fks_order_answer_seconds", "histogram", ("venue",), "first byte at the venue to its answer, committed"),
        Metric("fks_order_commit_seconds", "histogram", (), "the one durable statement before a send"),
        Metric("fks_reconcile_seconds", "histogram", ("venue",), "one reconciliation of a venue"),
        Metric("fks_strategy_eval_seconds", "histogram", ("strategy_instance",), "one evaluation of a strategy"),
        Metric("fks_strategy_errors_total", "counter", ("strategy_instance",), "strategy evaluations that raised"),
        Metric(
            "fks_strategy_worker_crashes_total",
            "counter",
            ("strategy_instance",),
            "workers that died while an instance was evaluated",
        ),
        Metric(
            "fks_challenger_decisions_total",
            "counter",
            ("strategy_instance",),
            "changes of a challenger's target that were recorded; nothing is sent for them",
        ),
        Metric("fks_challengers", "gauge", ("stage",), "challengers of strategies: in shadow, proposed, waiting"),
        Metric("fks_actor_up", "gauge", ("child",), "1 while the child runs; its mean over time is its uptime"),
        Metric("fks_actor_starts_total", "counter", ("child",), "children that came up"),
        Metric(
            "fks_actor_exits_total", "counter", ("child", "how"), "children that ended: normal, crash, hung, unwell, …"
        ),
        Metric(
            "fks_actor_restarts_total",
            "counter",
            ("child", "how"),
            "restarts by the supervisor, by what ended the child",
        ),
        Metric("fks_serve_restarts", "gauge", ("child",), "times that Ray Serve replaced a replica or HTTP proxy"),
        Metric("fks_actor_adoptions_total", "counter", ("child",), "living children a new supervisor took over"),
        Metric(
            "fks_actor_escalations_total",
            "counter",
            ("child",),
            "children that died too often in a row and are started once a minute",
        ),
        Metric(
            "fks_actor_detection_seconds", "histogram", ("how",), "a child's last proof of life to its end being noted"
        ),
        Metric(
            "fks_actor_recovery_seconds",
            "histogram",
            ("how",),
            "a child's end being noted to its successor being ready",
        ),
        Metric("fks_actor_heartbeat_age_seconds", "gauge", ("child",), "age of the child's last beat"),
        Metric("fks_database_up", "gauge", (), "1 when PostgreSQL answers"),
        Metric("fks_redis_up", "gauge", (), "1 when Redis answers"),
        Metric("fks_http_requests_total", "counter", ("route", "status"), "gateway requests"),
        Metric("fks_http_request_seconds", "histogram", ("route",), "gateway request durations"),
        Metric(
            "fks_auth_failures_total",
            "counter",
            ("code",),
            "callers refused (401, 403, 421, 429), by problem code",
        ),
        Metric(
            "fks_rate_limited_total",
            "counter",
            ("bucket",),
            "requests past a rate limit, by what was used up; `anonymous`: without a token",
        ),
        Metric("fks_websocket_clients", "gauge", (), "open websockets of a gateway replica"),
        Metric("fks_account_pnl_day", "gauge", ("account",), "profit or loss of the day, in the account's currency"),
        Metric("fks_account_exposure", "gauge", ("account",), "value of what is held, long and short added up"),
        Metric(
            "fks_queue_depth",
            "gauge",
            ("queue",),
            "work that waits: signals, jobs, rows to be stored, lines of the side journal",
        ),
        Metric("fks_build_info", "gauge", ("version",), "1; its label is the build that the process runs"),
        Metric("fks_loop_lag_seconds", "gauge", (), "longest delay of the event loop since the last snapshot"),
        Metric("fks_process_cpu_seconds_total", "counter", (), "processor time of the process"),
        Metric("fks_process_memory_bytes", "gauge", (), "resident memory of the process"),
        Metric(
            "fks_process_files_ratio", "gauge", (), "open files and sockets of the process, as a share of its limit"
        ),
        Metric("fks_snapshots_total", "counter", (), "snapshots that the process has published"),
        Metric("fks_disk_free_bytes", "gauge", (), "free space where FKS_HOME is, on the head"),
        Metric(
            "fks_database_connections_ratio", "gauge", (), "connections to the database server, as a share of its limit"
        ),
        Metric("fks_backup_age_seconds", "gauge", (), "age of the newest backup, when last looked"),
        Metric("fks_certificate_days", "gauge", (), "days until the certificate that ends first, when last looked"),
        Metric(
            "fks_clock_offset_seconds",
            "gauge",
            ("source",),
            "a venue's or the NTP server's clock minus that of the head",
        ),
        Metric("fks_signal_copies_total", "counter", (), "signals repeated for other accounts at NinjaTrader"),
        Metric(
            "fks_copy_difference",
            "gauge",
            ("account", "symbol"),
            "contracts that a follower holds above what its rule gives; 0 is right",
        ),
        Metric(
            "fks_ninja_connected",
            "gauge",
            ("group",),
            "1 while the bridge of a group is connected; mt5:GROUP at MetaTrader 5",
        ),
        Metric(
            "fks_ninja_ready", "gauge", ("group",), "1 while a group of NinjaTrader or MetaTrader 5 is able to trade"
        ),
        Metric("fks_ninja_disconnects_total", "counter", ("group",), "connections to a bridge that were lost"),
        Metric("fks_ninja_events_total", "counter", ("group", "kind"), "events of the bridges' logs"),
        Metric("fks_ninja_requests_total", "counter", ("group", "state"), "requests to a bridge, by state entered"),
        Metric("fks_ninja_round_trip_seconds", "histogram", ("group",), "ping to pong of a bridge"),
        Metric("fks_ninja_send_seconds", "histogram", ("group",), "a request asked for to its bytes on the socket"),
        Metric("fks_kill_engaged", "gauge", (), "1 while the kill switch is engaged"),
        Metric("fks_jobs_total", "counter", ("state",), "durable jobs by end state"),
    )
}
