"""Orders to NinjaTrader 8, over rows that the link `ninja:<group>` sends and answers."""
