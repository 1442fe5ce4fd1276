"""Use cases of callers: enter, close, approve and settle orders, stop all trading, log in, explain a decision. The
gateway, chat and the pages call them; they journal what is asked and answer it. Calls enter as values, rows and signals
leave. Errors: InputError and Problem for the caller, OutageError while PostgreSQL or Redis is away."""
