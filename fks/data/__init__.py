"""Sync, gaps, import and export of market data, and the shipped sample."""
