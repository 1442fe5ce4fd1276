-- name: unmade
-- Give entries that were denied, expired or declined in a span, oldest first, with the sizing of their instance and the
-- next decision of that instance that ends a position: an exit, or an entry to the other side.
SELECT s.id, s.created_at, s.ts_event, s.source, s.instance, s.venue, s.exchange, s.symbol, s.timeframe, s.kind, s.side,
       s.type, s.size, s.limit_price, s.stop_price, s.stop_loss, s.take_profit, s.reference_price, s.size_share, s.valid_until, s.state,
       s.code, i.sizing, i.size AS instance_size, n.ts_event AS left_event, n.timeframe AS left_timeframe
  FROM signals s
  LEFT JOIN strategy_instances i ON i.id = s.instance
  LEFT JOIN LATERAL (
       SELECT x.ts_event, x.timeframe FROM signals x
        WHERE s.instance <> '' AND x.instance = s.instance AND x.symbol = s.symbol AND x.ts_event > s.ts_event
          AND (x.kind = 'exit' OR (x.kind = 'enter' AND x.side <> s.side))
        ORDER BY x.ts_event LIMIT 1) n ON true
 WHERE s.state IN ('denied', 'expired', 'declined') AND s.kind IN ('enter', 'order')
   AND s.created_at >= $1 AND s.created_at < $2 AND ($3::text IS NULL OR s.instance = $3)
 ORDER BY s.created_at LIMIT $4;
