"""Kraken's wire of the local exchange: `rest` and `publisher` show the same market as Binance's, by Kraken's protocol.

Public market data only. Source: docs.kraken.com/api (REST market data, WebSocket v2, Book checksum v2), read 2026-11.
"""
