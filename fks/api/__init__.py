"""The gateway: HTTP and websocket in front of the journal. It authenticates, parses exactly, asks the rooms below and
answers; it decides nothing about money. Requests enter, rows and `application/problem+json` leave. It never imports
Ray: `serve_app.py` wraps what `create_app` returns."""
