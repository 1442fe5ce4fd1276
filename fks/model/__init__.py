"""Shared values and ports: frozen types that every other package uses, and the rules that belong to a value alone
(calendars, futures contracts, accounting). Imports the standard library and numpy; a calendar loads
exchange_calendars on first use."""
