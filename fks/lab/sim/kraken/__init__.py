"""Kraken's wire of the local exchange: the same market, account and engine as Binance's, by Kraken's protocol.

`rest` and `publisher` are market data, `account` and `user_stream` orders and the account, `orders` translates them.
Source: docs.kraken.com (REST, WebSocket v2, Book checksum v2, the guides to client ids, amends, rate limits, errors),
read 2026-11; ccxt 4.5.90. docs/local-exchange.md lists what the documents leave open.
"""
