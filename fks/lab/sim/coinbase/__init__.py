"""Coinbase Advanced Trade's wire of the local exchange: the same market, account and engine, by Coinbase's REST.

`market` is public data and `publisher` its websocket, `account` orders and the account, `orders` translates them,
`front` reads requests. There is no channel of the account.
Source: ccxt 4.5.90, whose comments quote bodies of Advanced Trade, and docs.cdp.coinbase.com/advanced-trade, read
2026-11. docs/local-exchange.md lists what the documents leave open.
"""
