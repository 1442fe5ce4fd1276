"""Accounting of accounts and portfolios: values, lots, attribution, the trade journal, reports. Pure."""
