"""The agent of MetaTrader 5: it runs beside the terminal and speaks the wire of `fks.bridge.peer`."""
