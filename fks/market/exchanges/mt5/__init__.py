"""Prices of MetaTrader 5, over a session of role `data` with the agent beside the terminal."""
