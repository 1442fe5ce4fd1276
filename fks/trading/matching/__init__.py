"""The one fill and cost model that backtest and paper share: G6's written rule, pure and exact.

The rule, on a tape of bars, with `t` the bar whose close a decision was made on:

1. A market order decided on bar t fills entirely at the open of the next bar on the tape. Event time: that bar's open
time.
2. Every other order rests and is matched once per bar, when the bar completes, against the bar's open, high and low.
   Event time: that bar's open time. Sell stop: open <= stop → at open, else low <= stop → at stop. Sell limit (a take
   profit): open >= limit → at open, else high >= limit → at limit. Buys are the mirror image.
3. In the bar that filled its entry a protection meets, instead of the open, that entry's own price before slippage:
   the open, if it filled there; the limit of an order that filled inside the bar; the price of a stop; of a stop-limit
   its trigger or its limit. So a stop loss that the market has gapped through closes the position at once, at the
   entry's price as a taker, and a take profit that it has passed fills at that price; neither fills at a price that the
   bar never had. The first level of a trailing stop is a stop loss. Of several entries each one's protections meet its
   own price in its bar; those of the entries before meet the open.
4. An OCO pair (stop loss and take profit) hit on both sides in one bar: the stop wins, unless the first price that the
   pair meets is already through the take profit, and not through the stop as well.
   An entry by a limit order that filled inside a bar, not at its open: of that bar its take profit fills only where the
   close is at or beyond it, at its price, as the price may have been there before. Its stop loss is looked at. Of a
   stop order both are. This is the pessimistic reading of a bar; how often it decided is counted.
   An entry whose stop triggered inside a bar that opened beyond the stop loss (a buy at 110 with a stop loss at 105 in
   a bar that opens at 100): each such bar reaches the stop loss, whether the price came back to it or not. A close at
   or beyond the stop loss fills it at that close; any other close leaves it in place. On average this is neither better
   nor worse than the path of the price. It is counted, as well.
   A stop-limit that is triggered at a price beyond its limit rests as a limit from then on. It fills in the bar of the
   trigger where the close is at its limit or better, at the limit, as a limit that filled inside the bar.
5. A fill makes or takes. Market and stop orders take. A limit order makes, unless it fills at the open of the first bar
   that it meets: then it was marketable when it came, and takes. A stop-limit that fills at its trigger takes.
6. Slippage (`Slippage`): a taker's price is worse than the rule's by whole ticks, by basis points of that price or by a
   share of the range (high less low) of the bar it fills in, rounded up to whole ticks. A limit is never exceeded, and
   a maker has no slippage. The bar's range does not bound it.
7. Fee = money(quantity × price-or-1 × rate) in the asset received (base for buys, quote for sells), 1e-8 half-even; the
   rate is the maker's or the taker's. No partial fills.
8. A trailing stop moves at the close of each bar, from the bar that its entry filled in on, and never inside one: to
   the close less its distance (for a short: plus), rounded away from the close onto the tick grid (`behind`), where
   that is nearer to the market than the stop is; it never moves back. The new price counts from the next bar's open
   on. It begins at the stop loss of the entry or, without one, that far from the price by which the entry is sized:
   the deciding bar's close, or its order's limit, else stop.
9. A market entry whose exits the venue holds (`venue.entry_protection`) has a collar (`collar`): the price by which it
   was decided, the deciding bar's close, plus or less `risk.slippage_max_pct` of it, rounded towards it onto the tick
   grid. It takes the open of the next bar, slipped. Is that price beyond the collar, it expires (`SLIPPAGE_GUARD`). An
   order that fills at once or expires (FOK) takes no other price of the bar.
10. An entry with several targets has an OCO pair for each, over its part of the quantity and at one stop. Each pair is
   matched by itself, as in 4; such an entry has no collar. Break-even moves the stops of the pairs that are left, only
   nearer to the market: at the end of the bar in which its target fills, or whose close has come its multiple of the
   risk (the distance between the entry's average price and its first stop). It counts from the next bar's open on.
11. A buy that is paid for, not held on margin, fills for no more than the cash that no other order holds back, its fee
   included; else it ends without a fill (`BALANCE`).

API: `BarRange`, `Resting`, `after_entry`, `comes_inside`, `stop_after_trigger`, `match_market`, `match_resting`,
`match_take_profit`, `match_oco`, `match_legs`, `rests_as_limit` (stop-limits), `behind`, `collar`, `is_accepted`,
`CostModel.fee` and `Slippage.apply`. Prices are `int` ticks or `Decimal`, never float: the rule only compares and
returns them, so both give the same answer. `range_of(bar)` makes Decimals of a float bar's shortest decimals; the
backtest uses ticks.
"""

from fks.trading.matching.costs import Borrow, Commission, CostModel, Fee, Slippage
from fks.trading.matching.rule import (
    BarRange,
    Leg,
    Resting,
    after_entry,
    behind,
    collar,
    comes_inside,
    is_accepted,
    match_legs,
    match_market,
    match_oco,
    match_resting,
    match_take_profit,
    range_of,
    rests_as_limit,
    stop_after_trigger,
)

__all__ = [
    "BarRange",
    "Borrow",
    "Commission",
    "CostModel",
    "Fee",
    "Leg",
    "Resting",
    "Slippage",
    "after_entry",
    "behind",
    "collar",
    "comes_inside",
    "is_accepted",
    "match_legs",
    "match_market",
    "match_oco",
    "match_resting",
    "match_take_profit",
    "range_of",
    "rests_as_limit",
    "stop_after_trigger",
]
