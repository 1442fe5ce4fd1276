"""The gateway: HTTP and websocket in front of the journal. It authenticates, parses exactly, calls other packages and
answers; it decides nothing about money. Requests enter, rows and `application/problem+json` leave. It never imports
Ray: `serve_app.py` wraps the result of `create_app`."""
