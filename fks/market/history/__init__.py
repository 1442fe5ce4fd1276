"""Stored market data: sync from an exchange, gaps, quality, assets, deletion."""
