"""The guardian's waits, as they follow from the settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from fks.config.settings import Settings
from fks.trading.orders.absence import AbsenceRule


@dataclass(frozen=True, slots=True)
class Timing:
    """The guardian's waits, in seconds.

    `settle_s`: how long all must stay quiet before a kill counts as done (an order that was on its way when the switch
    was engaged shows up in that time). `watch_max_s`: the longest wait between rounds once it is done; a round costs
    Binance a weight of 100 (open orders 80, balances 20), and the guardian's own share of the budget is 600 a minute.
    `retry_s`, `retry_max_s`: the first and the longest wait after a flattening order that closed nothing; it doubles in
    between. `vain_page`: so many of them in a row page. `attribute_s`: how long a symbol's positions wait for the
    database to say whose a just executed order is; it is more than `refresh_s` and `database_s` together. `page_s`: a
    kill that is not done for so long pages. `takeover_s`: how long the order manager's process must be proven gone
    before stops are placed in its stead: no venue takes a request of it any more (`venue.recv_window_ms`).
    `absence`: C5.
    """

    refresh_s: float = 1.0
    database_s: float = 2.0
    save_s: float = 0.3
    skew_s: float = 30.0
    reply_s: float = 10.0
    round_s: float = 0.25
    round_max_s: float = 3.0
    settle_s: float = 6.0
    watch_max_s: float = 15.0
    history_s: float = 120.0
    attribute_s: float = 4.0
    page_s: float = 60.0
    retry_s: float = 1.0
    retry_max_s: float = 15.0
    vain_page: int = 5
    absence: AbsenceRule = field(default_factory=AbsenceRule)
    lease_ttl_s: float = 2.0
    lease_renew_s: float = 0.5
    answer_s: float = 1.0
    takeover_s: float = 11.0

    @staticmethod
    def of(settings: Settings) -> Timing:
        """Return the waits that follow from the settings."""
        venue, supervision = settings.venue, settings.supervision
        return Timing(
            settle_s=venue.order_timeout_s + 1.0,
            absence=AbsenceRule.from_settings(venue),
            lease_ttl_s=supervision.lease_ttl_s,
            lease_renew_s=supervision.lease_renew_s,
            takeover_s=max(venue.recv_window_ms / 1000, supervision.lease_ttl_s) + 1.0,
        )
