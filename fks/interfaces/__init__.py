"""Interfaces to people and programs: the command line, the gateway, the pages, chat, and tools for agents.

Each of them parses, asks and shows. A request that may lead to an order is a use case of `entry`, which journals it
before it answers; reads and administration go from a route to the store. The gateway is stateless: "accepted" means
committed. The pages and the tools are clients of the gateway and open no database.

- entry: use cases of callers: enter, close, approve, settle, stop all trading, log in, explain a decision
- api: HTTP and websocket; mcp: tools for agents; web: the pages; chat: Telegram and Discord
- cli: the `fks` command, a table of commands

Imported by: no district
Begin with: `cli/__init__.py`
Most important: `entry/order_entry.py`, `api/app.py`, `cli/base.py`
"""
