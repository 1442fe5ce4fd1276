"""Fills to positions and profit: pure arithmetic on Decimal."""
