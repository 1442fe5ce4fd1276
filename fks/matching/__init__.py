"""The one fill and cost model that backtest and paper share: pure, on exact values."""
