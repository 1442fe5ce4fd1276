"""The collector process: live market data of one exchange, through connections and gap filling into the store."""
