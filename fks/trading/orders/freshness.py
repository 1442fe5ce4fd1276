"""Age of a decision (docs/write-a-strategy.md): an old decision is not traded. Pure.

The age counts from the decision: the end of its bar, the arrival of a request, or a person's approval. It is measured
on the exchange's clock. An exit has no age.
"""

from __future__ import annotations

from fks.config.risk import Risk
from fks.model.signal import Kind, Signal
from fks.model.timeframe import NS, bar_end

#: A decision is never called old before this: a bar is sealed up to 1.5 s after its end, and a busy machine adds to
#: that.
AGE_LEAST_S = 5.0


def max_age_of(signal: Signal, approved_ns: int | None, limits: Risk) -> tuple[int, float | None]:
    """Return when the signal was decided (ns UTC), and for how many seconds it may be traded; None = for ever.

    Default: one bar of its timeframe, at least AGE_LEAST_S and at most `limits.decision_age_max_s`;
    `limits.request_age_max_s` for requests without `valid_until`, which bounds the others. A person's approval, at
    `approved_ns`, counts as the decision.
    """
    if signal.kind is Kind.EXIT:
        return signal.ts_event_ns, None
    if signal.timeframe is None:
        return (
            approved_ns or signal.ts_event_ns,
            None if signal.valid_until_ns is not None else limits.request_age_max_s,
        )
    ended_ns = bar_end(signal.ts_event_ns, signal.timeframe)
    max_age_s = min(max((ended_ns - signal.ts_event_ns) / NS, AGE_LEAST_S), limits.decision_age_max_s)
    return approved_ns or ended_ns, max_age_s
